"""The record of a replicated topic as the rules of failover see it, and what they say it shall become.

A record is decided upon in one life of the registry (its generation: a registry that was wiped, or restarted from
an older snapshot, begins another one). A record that was not written in the present life is *unconfirmed*: it tells
where to look for a topic, and nothing more; of it follows neither an owner nor who is in sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pubsub.core.replication import Config, Membership, default_min_in_sync


class Record(Protocol):
    """A topic as it is registered."""

    @property
    def owner(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def in_sync(self) -> Sequence[str]: ...
    @property
    def replicas(self) -> Sequence[str]: ...
    @property
    def leaving(self) -> Sequence[str]:
        """Replicas that shall go as soon as the topic can do without them."""

    @property
    def policy(self) -> Mapping[str, Any]: ...
    @property
    def life(self) -> str:
        """The generation of the registry in which the ownership was decided."""

    @property
    def lossy(self) -> bool:
        """Its owner was made owner on an operator's word, and may have missed committed messages."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a record shall become, by compare-and-set; what is not named here stays as it is."""

    owner: str
    epoch: int
    in_sync: tuple[str, ...]
    replicas: tuple[str, ...]
    leaving: tuple[str, ...]
    life: str
    lossy: bool


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a peer that is alive, as the peer itself tells."""

    peer: str
    last_epoch: int
    """Of its log (`epochs.last_epoch`), not what it has heard of."""
    log_end: int
    committed: int
    """What it knows to be committed."""
    heard: int = 0
    """The newest epoch that it has heard of (`Bond.highest`): a new one must be greater, or the copy refuses it."""
    sound: bool = True
    """No damage was found in it."""

    @property
    def length(self) -> tuple[int, int]:
        """Of two copies the one with the greater length has everything committed that the other has."""
        return self.last_epoch, self.log_end


def changed(record: Record, **fields: Any) -> Change:
    """A change of these fields only."""
    kept: dict[str, Any] = {
        "owner": record.owner,
        "epoch": record.epoch,
        "in_sync": tuple(record.in_sync),
        "replicas": tuple(record.replicas),
        "leaving": tuple(record.leaving),
        "life": record.life,
        "lossy": record.lossy,
    }
    return Change(**{**kept, **fields})


def copies_wanted(record: Record) -> int:
    """On how many peers the topic shall live."""
    wanted = record.policy.get("replicas")
    if isinstance(wanted, int) and wanted > 0:
        return wanted
    return max(1, len(set(record.replicas) - set(record.leaving)))


def min_in_sync(record: Record) -> int:
    """How many copies must have a message before it is committed; never more than there shall be."""
    wanted, chosen = copies_wanted(record), record.policy.get("min_in_sync")
    return min(chosen, wanted) if isinstance(chosen, int) and chosen > 0 else default_min_in_sync(wanted)


def config_of(record: Record) -> Config:
    """The set of copies that a record names."""
    return Config(
        epoch=record.epoch,
        version=record.version,
        replicas=tuple(record.replicas),
        min_in_sync=min_in_sync(record),
    )


def membership_of(record: Record) -> Membership:
    """What the owner needs to know of its record."""
    return Membership(
        owner=record.owner,
        epoch=record.epoch,
        version=record.version,
        in_sync=tuple(record.in_sync),
        replicas=tuple(record.replicas),
        min_in_sync=min_in_sync(record),
    )


def is_replicated(record: Record) -> bool:
    """Whether others than the owner may hold what is committed."""
    return set(record.replicas) != {record.owner}


def is_confirmed(record: Record, life: str) -> bool:
    """Whether the record was decided upon in this life of the registry. A sole copy needs no confirmation."""
    return record.life == life or not is_replicated(record)
