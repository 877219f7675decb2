"""What a peer knows in memory of a copy that it holds: the row of `topics`, as of the last commit."""

from __future__ import annotations

from typing import Any

import msgspec

from pubsub.core.epochs import EpochStart
from pubsub.core.replication import Config, Proposal

OWNER = "owner"


class Topic(msgspec.Struct, kw_only=True):
    """A copy of a topic. 0 <= first_offset <= committed <= next_offset.

    Changed by the event loop only, after the transaction that it describes has been committed.
    """

    id: int
    name: str
    role: str
    owner: str
    epoch: int
    first_offset: int
    next_offset: int
    committed: int
    policy: dict[str, Any]
    created_us: int
    set_aside: str | None = None
    messages: int = 0
    """How many there are: fewer than the offsets span, where compaction has taken some away."""
    size_bytes: int = 0
    """What their payloads, keys and headers (as UTF-8) take."""
    replicas: list[str] = []
    """Peers on which the topic shall live, the owner among them; empty: on this one alone."""
    in_sync: list[str] = []
    """Of these, the ones that hold everything committed, as far as this peer knows."""
    version: int = 0
    """Of the registry's record, in this epoch, that this peer last knew."""
    owner_address: str = ""
    """Where the owner served when this peer last heard of it."""
    sound: int = 1
    """0: it has lost something, and its owner has not said since that it counts (core/follower)."""
    promised: int = 0
    """Nothing of an epoch below it is taken any more, whoever owns it."""
    configs: tuple[Config, ...] = ()
    """The sets of copies that count, the newest last, as far as an owner has told."""
    proposal: Proposal | None = None
    """As the owner: the change of the record that was proposed and of which the outcome is not known."""
    keep_from: int = 0
    """As a copy: what lies below it is kept by the owner no more, as far as it has told. Not in the file."""
    epochs: tuple[EpochStart, ...] = ()
    """At which offset each epoch of this log began, the oldest first; see `log_epochs`."""
    taken_up_at: int = 0
    """As the owner: where the log ended when this peer took it up, after a start or from another. Not in the file."""
    compacted_to: int = 0
    """Below it the compactor knows the latest message of each key; -1: compaction is off, what it knew is deleted."""

    @property
    def owned(self) -> bool:
        """Whether this peer may append to it."""
        return self.role == OWNER

    @property
    def latest(self) -> int:
        """Behind all that was committed until now: `committed`, or further as long as an owner cannot know that yet.

        What its log held when it took it up may have been committed, and been read. Copies say so within a moment; who
        asks for what is new meanwhile is not to get it again (as KIP-207 has it, where such a question is refused).
        """
        return max(self.committed, self.taken_up_at)

    @property
    def log_epochs(self) -> tuple[EpochStart, ...]:
        """As `epochs`; of a topic that only ever had this owner it is one epoch."""
        return self.epochs or ((EpochStart(self.epoch, 0, False, self.owner),) if self.owned else ())
