"""Topics get owners: those whose owner died, and those whose records the registry has lost.

The decisions are core's (failover, rebuild). This asks the copies, many topics at a time, and proposes what follows by
compare-and-set. Any index may do so at any time: the others find the record changed. A topic for which nothing could be
decided is looked at again by the controller.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from pubsub.core.epochs import next_epoch
from pubsub.core.failover import fail_over, hand_over
from pubsub.core.ownership import Candidate, Change
from pubsub.core.rebuild import Promise, Short, rebuild
from pubsub.index.changing import Changing
from pubsub.index.clock import Clock
from pubsub.index.copies import candidate_of, explicit, promise_of
from pubsub.index.ends import Ends
from pubsub.registry import TopicRecord

log = logging.getLogger("pubsub.index")

_ROUNDS = 3
"""Of a rebuild: more of them where copies knew of newer epochs, or of other replicas."""


class Electing:
    """Finds owners. Each call returns the names of the topics for which none was found, or somebody was faster."""

    def __init__(self, changing: Changing, ends: Ends, clock: Clock) -> None:
        self._changing = changing
        self._ends = ends
        self._clock = clock

    async def fail_over(self, records: Sequence[TopicRecord], alive: Collection[str], life: str) -> set[str]:
        """Give topics of which the owner is dead to copies that are in sync."""
        candidates = await self.candidates(records, alive)
        changes: list[tuple[TopicRecord, Change]] = []
        for record in records:
            found = candidates.get(record.id, [])
            epoch = next_epoch([record.epoch, *(c.heard for c in found)], self._clock())
            staying = set(alive) - {record.owner}
            change = fail_over(explicit(record), found, alive=staying, epoch=epoch, life=life)
            if change is not None:
                changes.append((record, change))
        return await self._apply(records, changes, "owned by a dead peer")

    async def candidates(
        self, records: Sequence[TopicRecord], alive: Collection[str], *also: str
    ) -> dict[int, list[Candidate]]:
        """The live copies in sync that answer, but for those of the owners; and those of `also`: by topic id."""
        asked: dict[str, list[int]] = {}
        for record in records:
            for peer in (set(record.in_sync) - {record.owner}) | set(also):
                if peer in alive:
                    asked.setdefault(peer, []).append(record.id)
        found: dict[int, list[Candidate]] = {}
        for (peer, topic_id), end in (await self._ends.ask(asked)).items():
            found.setdefault(topic_id, []).append(candidate_of(peer, end))
        return found

    async def rebuild(self, records: Sequence[TopicRecord], alive: Collection[str], life: str) -> set[str]:
        """Decide upon topics of which the record is of another life of the registry."""
        left = {record.id: record for record in records}
        changes: list[tuple[TopicRecord, Change]] = []
        heard = max(record.epoch for record in records)
        for _ in range(_ROUNDS):
            epoch = next_epoch([heard], self._clock())
            promises = await self._promises(left.values(), alive, epoch)
            for topic_id, record in list(left.items()):
                told = promises.get(topic_id, [])
                heard = max(heard, *(promise.promised for promise in told), epoch)
                change = rebuild(explicit(record), told, epoch=epoch, life=life)
                if not isinstance(change, Short):
                    changes.append((record, change))
                    del left[topic_id]
            if not left:
                break
        return await self._apply(records, changes, "of an earlier life of the registry")

    async def _promises(
        self, records: Iterable[TopicRecord], alive: Collection[str], epoch: int
    ) -> dict[int, list[Promise]]:
        """Ask the replicas that the records name, then those that they themselves name."""
        found: dict[int, list[Promise]] = {}
        wanted = {record.id: set(record.replicas) for record in records}
        was_asked: set[tuple[str, int]] = set()
        for _ in range(2):
            asked: dict[str, list[int]] = {}
            for topic_id, peers in wanted.items():
                for peer in peers:
                    if peer in alive and (peer, topic_id) not in was_asked:
                        asked.setdefault(peer, []).append(topic_id)
                        was_asked.add((peer, topic_id))
            if not asked:
                break
            for (peer, topic_id), end in (await self._ends.promise(asked, epoch)).items():
                promise = promise_of(peer, end)
                found.setdefault(topic_id, []).append(promise)
                if promise.config is not None:
                    wanted[topic_id].update(promise.config.replicas)
        return found

    async def renew(self, record: TopicRecord, heard: int, life: str) -> set[str]:
        """Give a topic a newer epoch under the same owner: copies have promised one, and nobody was given it."""
        epoch = next_epoch([record.epoch, heard], self._clock())
        change = hand_over(explicit(record), record.owner, epoch=epoch, life=life, leaving=False)
        changes = [(record, change)] if change is not None else []
        return await self._apply([record], changes, "of which copies have promised a newer epoch")

    async def _apply(
        self, records: Sequence[TopicRecord], changes: Sequence[tuple[TopicRecord, Change]], what: str
    ) -> set[str]:
        undecided = {record.name for record in records}
        for (record, change), result in zip(changes, await self._changing.apply(changes), strict=True):
            if result.applied:
                undecided.discard(record.name)
                log.info("topic %s: %s owns it in epoch %d", record.name, change.owner, change.epoch)
        if len(records) > len(undecided):
            log.warning("%d topics %s have owners again", len(records) - len(undecided), what)
        return undecided
