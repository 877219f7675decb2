"""What follows from a peer's announcement of the copies that it holds.

Rules: data is never deleted because metadata is missing, only because a tombstone says that this very topic was
deleted. A record that is missing is made again from the copy of its owner. Where a name has come to belong to
another topic, or a newer owner has taken over, the copy is set aside: its holder keeps it and serves it no more.
The policy of a topic is what its owner says.
Among owners of one topic the highest epoch wins; where epochs are equal, what the registry says stands.

Decides only: the records change by compare-and-set, so whoever carries a plan out may find that somebody was
faster, and plans again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

OWNER = "owner"
"""The role of the one copy that accepts publishes."""


class Copy(Protocol):
    """A copy as it is announced."""

    @property
    def id(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def policy(self) -> Mapping[str, Any]: ...


class Record(Protocol):
    """A topic as it is registered."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def policy(self) -> Mapping[str, Any]: ...


C = TypeVar("C", bound=Copy)
R = TypeVar("R", bound=Record)


class Plan(msgspec.Struct, Generic[C, R], frozen=True, kw_only=True):
    """What to do about the copies of one announcement; each copy is in exactly one of the first six lists."""

    keep: list[C]
    """Nothing to be done."""
    restore: list[C]
    """Their record is missing: make it, with the announcing peer as the owner."""
    advance: list[tuple[R, C]]
    """The copy's ownership is newer than the record: make the record say so."""
    revise: list[tuple[R, C]]
    """The owner has changed the topic's policy: make the record say so."""
    deleted: list[int]
    """Deleted while the peer was away: it shall drop them."""
    set_aside: list[int]
    """The name, or the ownership, is somebody else's now: the peer shall keep them, and serve them no more."""
    finish: list[R]
    """Records of deleted topics that still stand, because a deletion was left half done: delete them."""


def plan_announcement(
    peer: str, copies: Iterable[C], records: Mapping[str, R | None], buried: Collection[int]
) -> Plan[C, R]:
    """Compare copies that `peer` announces with the registry.

    Args:
        records: by topic name; what was read *before* `buried`, so that a deletion in between is seen.
        buried: ids of the topics that were deleted.
    """
    plan: Plan[C, R] = Plan(keep=[], restore=[], advance=[], revise=[], deleted=[], set_aside=[], finish=[])
    for copy in copies:
        record = records.get(copy.topic)
        if copy.id in buried:
            plan.deleted.append(copy.id)
            if record is not None and record.id == copy.id:
                plan.finish.append(record)
        elif record is None:
            # Only the owner's copy can tell what the record was; that of a replica waits for it.
            (plan.restore if copy.role == OWNER else plan.keep).append(copy)
        elif record.id != copy.id:
            plan.set_aside.append(copy.id)
        elif copy.role != OWNER or (record.owner == peer and record.epoch >= copy.epoch):
            if copy.role == OWNER and record.epoch == copy.epoch and record.policy != copy.policy:
                plan.revise.append((record, copy))
            else:
                plan.keep.append(copy)
        elif copy.epoch > record.epoch:
            plan.advance.append((record, copy))
        else:
            plan.set_aside.append(copy.id)
    return plan


def plan_creations(
    peer: str, records: Iterable[R | None], announced: Collection[int], buried: Collection[int] = ()
) -> list[R]:
    """The registered topics that `peer` owns and did not announce: it shall create them, empty.

    Args:
        announced: ids of all the copies that it announced, in whatever role.
        buried: ids of those that were deleted; a record that still stands is no reason to create one.
    """
    return [
        record
        for record in records
        if record is not None
        and record.owner == peer
        and record.id not in announced
        and record.id not in buried
    ]
