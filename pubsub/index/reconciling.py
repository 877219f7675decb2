"""What becomes of announced copies of topics that have replicas: the fates are core's (`rebuild.fate_of`).

Rules: a record that is missing is made again by whoever holds a copy, unconfirmed. One that is confirmed tells the peer
what it is: a peer that knows less is told the record, one that is no replica any more is told to drop its copy. In an
unconfirmed one the owner's word goes before those of replicas; nobody becomes the owner by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from pubsub.core.announcement import OWNER
from pubsub.core.ownership import changed, is_confirmed
from pubsub.core.rebuild import fate_of
from pubsub.index.changing import Changing
from pubsub.index.copies import explicit, order, record_of
from pubsub.index.settling import Settling
from pubsub.protocol import messages as m
from pubsub.registry import Registry, TopicRecord

REPLICA = "replica"


class Outcome:
    """What an announcement has come to so far."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        """Names of the topics of which it holds a copy, or is to."""
        self.deleted: list[int] = []
        self.set_aside: list[int] = []
        self.create: list[TopicRecord] = []
        """Those that it shall hold as the record says."""
        self.unwanted: list[TopicRecord] = []
        """Those that live elsewhere now."""


class Reconciling:
    """Reconciles copies of topics that have replicas."""

    def __init__(self, registry: Registry, settling: Settling, changing: Changing) -> None:
        self._registry = registry
        self._settling = settling
        self._changing = changing

    async def reconcile(
        self,
        peer: str,
        copies: Sequence[m.CopyState],
        records: Mapping[str, TopicRecord | None],
        outcome: Outcome,
    ) -> list[m.CopyState]:
        """Bring the records in line; returns the copies for which somebody was faster."""
        life = self._settling.life
        restore: list[m.CopyState] = []
        replace: list[tuple[m.CopyState, TopicRecord, TopicRecord]] = []
        for copy in copies:
            record = records[copy.topic]
            fate = fate_of(peer, copy.role, copy.epoch, record, life=life)
            if record is None or fate == "restore":
                restore.append(copy)
                continue
            confirmed = is_confirmed(explicit(record), life)
            if fate == "set_aside" and confirmed and order(record) >= order(copy):
                if copy.role == OWNER:
                    outcome.set_aside.append(copy.id)
                else:
                    outcome.unwanted.append(record)
                continue
            if (newer := _replacement(peer, copy, record, confirmed)) is not None:
                replace.append((copy, record, newer))
                continue
            outcome.held.add(copy.topic)
            if order(copy) < order(record) and (confirmed or record.owner != peer):
                outcome.create.append(record)
        restored = await self._registry.restore_topics([record_of(copy, copy.owner) for copy in restore])
        replaced = await self._registry.compare_and_set_topics(
            [(record, newer) for _, record, newer in replace]
        )
        again: list[m.CopyState] = []
        for copy, result in zip(
            (*restore, *(copy for copy, _, _ in replace)), (*restored, *replaced), strict=True
        ):
            outcome.held.add(copy.topic) if result.applied else again.append(copy)
        return again

    async def take_out_of_sync(self, peer: str, records: Sequence[TopicRecord]) -> list[TopicRecord]:
        """The records, once the peer, which has lost its copies, is not in sync in them."""
        life = self._settling.life
        empty = [record for record in records if peer not in record.in_sync]
        wrong = [r for r in records if peer in r.in_sync and is_confirmed(explicit(r), life)]
        results = await self._changing.apply(
            [(r, changed(r, in_sync=tuple(other for other in r.in_sync if other != peer))) for r in wrong],
            known_to=[peer] * len(wrong),
        )
        return empty + [result.current for result in results if result.applied and result.current is not None]


def is_replicated_copy(copy: m.CopyState, record: TopicRecord | None, buried: Collection[int]) -> bool:
    """Whether others may hold what is committed in the topic of a copy; its name is not another topic's."""
    if (
        copy.id in buried
        or (record is not None and record.id != copy.id)
        or copy.role not in (OWNER, REPLICA)
    ):
        return False
    return len({copy.owner, *copy.replicas}) > 1 or (record is not None and len(record.holders) > 1)


def _replacement(peer: str, copy: m.CopyState, record: TopicRecord, confirmed: bool) -> TopicRecord | None:
    """The record in place of one that the copy knows better; None: it stands.

    A copy that is bound to a newer epoch than a record of this life knows of an ownership that the registry has
    forgotten: the record is no longer confirmed, and all is decided anew.
    """
    known = record_of(copy, copy.owner)
    if copy.epoch > record.epoch:
        return known
    if copy.role != OWNER or record.owner != peer or copy.epoch < record.epoch:
        return None
    if not confirmed:
        differs = order(copy) > order(record) or record.policy != copy.policy
        return known if differs else None
    return msgspec.structs.replace(record, policy=copy.policy) if record.policy != copy.policy else None
