"""A peer says what it holds; the registry is brought in line, and the peer told what follows.

The decisions are in core/announcement; topics that have replicas are for `reconciling`. This reads the records that
they need, in pages, and carries them out: records change by compare-and-set, so where somebody was faster, those
copies are looked at again.

Where one who is to own a topic with replicas has no copy of it any more, it is not told to make an empty one: others
have what it lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from pubsub.core.announcement import Plan, plan_announcement, plan_creations
from pubsub.core.topic_ids import MOST_ID
from pubsub.errors import (
    ConflictError,
    InvalidRequestError,
    PeerNameTakenError,
    PeerNotFoundError,
    PubsubError,
    RegistryUnavailableError,
)
from pubsub.index.clock import LATEST_US, Clock
from pubsub.index.coalescing import Coalescer
from pubsub.index.copies import copy_state, record_of
from pubsub.index.peer_table import PeerTable
from pubsub.index.reconciling import Outcome, Reconciling, is_replicated_copy
from pubsub.index.settling import Settling
from pubsub.index.tasks import Spawn, to_the_end
from pubsub.model import check_peer_name, check_topic_name
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Heartbeat, HeartbeatOutcome, Registry, TopicRecord

log = logging.getLogger("pubsub.index")

MOST_COPIES = 1_000_000
"""Copies that one peer may announce; what is kept of an announcement until its last part has come is bounded."""
MOST_CREATIONS = 20_000
"""Topics that one reply tells a peer to create, so that it fits a frame; the next announcement tells the others."""
_MOST_HOLDERS = 64
_PAGE = 1000
_ATTEMPTS = 5


class _Parts:
    """What has come of an announcement. One bad part spoils all of it; only the last one is answered."""

    def __init__(self) -> None:
        self.copies: list[m.CopyState] = []
        self.error: PubsubError | None = None

    def add(self, frame: m.Announce) -> None:
        try:
            _check_copies(frame)
            if len(self.copies) + len(frame.copies) > MOST_COPIES:
                raise InvalidRequestError(f"a peer may announce {MOST_COPIES} copies at most")
        except PubsubError as error:
            self.error = self.error or error
        if self.error is None:
            self.copies += frame.copies
        else:
            self.copies.clear()

    def take(self) -> list[m.CopyState]:
        """The whole announcement; what comes after it begins another one. Raises what was wrong with a part."""
        copies, self.copies = self.copies, []
        error, self.error = self.error, None
        if error is not None:
            raise error
        return copies


class Announcing:
    """Serves Announce."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        settling: Settling,
        reconciling: Reconciling,
        beats: Coalescer[Heartbeat, HeartbeatOutcome],
        ttl_seconds: float,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._reconciling = reconciling
        self._beats = beats
        self._ttl_seconds = ttl_seconds
        self._spawn = spawn
        self._clock = clock
        self._parts: dict[ServerConnection, _Parts] = {}
        self.on_lost_copy: Callable[[TopicRecord], None] = lambda record: None
        """Called when the owner of a topic that has replicas has no copy of it any more."""

    async def announce(self, connection: ServerConnection, frame: m.Announce) -> m.Reconciled | list[m.Frame]:
        """Keep a part; with the last one, reconcile all and answer."""
        # No await before a part is kept: parts are handled in the order in which they came.
        parts = self._parts.get(connection)
        if parts is None:
            parts = self._parts[connection] = _Parts()
            connection.when_lost(partial(self._forget, connection))
        parts.add(frame)
        if frame.more:
            return []
        copies = parts.take()
        return await to_the_end(
            self._spawn,
            self._reconcile_alive(connection, frame, copies),
            f"pubsub: announcement of {frame.name}",
        )

    def _forget(self, connection: ServerConnection) -> None:
        self._parts.pop(connection, None)

    async def _reconcile_alive(
        self, connection: ServerConnection, frame: m.Announce, copies: list[m.CopyState]
    ) -> m.Reconciled:
        """Reconcile; meanwhile believe the peer alive while its connection lasts.

        It waits for the answer before it sends heartbeats, and with very many copies that outlasts the ttl.
        """
        beating = asyncio.create_task(
            self._beat_for(connection, frame), name=f"pubsub: alive while it announces: {frame.name}"
        )
        try:
            return await self._reconcile(frame, copies)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat_for(self, connection: ServerConnection, frame: m.Announce) -> None:
        beat = Heartbeat(name=frame.name, incarnation=frame.incarnation)
        while connection.open:
            await asyncio.sleep(self._ttl_seconds / 3)
            try:
                await self._beats.ask(beat)
            except RegistryUnavailableError as error:
                log.debug("no heartbeat in place of peer %s: %s", frame.name, error)

    async def _reconcile(self, frame: m.Announce, copies: list[m.CopyState]) -> m.Reconciled:
        peer = frame.name
        await self._check_registered(peer, frame.incarnation)
        life = (await self._settling.look()).id
        known = await self._registry.topics_of(peer)
        outcome = Outcome()
        for first in range(0, len(copies), _PAGE):
            await self._reconcile_page(peer, copies[first : first + _PAGE], outcome)
        create = outcome.create + await self._creations(peer, copies, known, outcome.held)
        await self._registry.announce_copies(peer, outcome.held, known)
        self._settling.note_announced(peer, life)
        self._peers.doubt([peer])
        if create or outcome.unwanted:
            await self._peers.fresh()
        for topic_id in outcome.set_aside:
            log.warning(
                "peer %s sets its copy of topic id %d aside: the name or ownership is not its", peer, topic_id
            )
        if len(create) > MOST_CREATIONS:
            log.warning(
                "peer %s lacks %d topics of its own; it is told of the first %d",
                peer,
                len(create),
                MOST_CREATIONS,
            )
        return m.Reconciled(
            id=frame.id,
            create=[self._state(record, peer) for record in create[:MOST_CREATIONS]],
            deleted=outcome.deleted,
            set_aside=outcome.set_aside,
            unwanted=[self._state(record, peer) for record in outcome.unwanted[:MOST_CREATIONS]],
        )

    def _state(self, record: TopicRecord, peer: str) -> m.CopyState:
        return copy_state(record, peer, self._peers.standing(record.owner).address or "")

    async def _check_registered(self, peer: str, incarnation: str) -> None:
        state = await self._registry.peer(peer, self._clock())
        if state is None or state.record is None:
            raise PeerNotFoundError(
                f"peer {peer} is not registered (any more): register, then announce again"
            )
        if state.record.incarnation != incarnation:
            raise PeerNameTakenError(
                f"the peer name {peer} is held by another process, at {state.record.address}; this one must stop",
                holder=state.record.incarnation,
                address=state.record.address,
            )

    async def _reconcile_page(self, peer: str, copies: Sequence[m.CopyState], outcome: Outcome) -> None:
        for _ in range(_ATTEMPTS):
            names = list(dict.fromkeys(copy.topic for copy in copies))
            # Records first: who deletes a topic buries it and then removes the record, so one that is missing
            # for that reason is seen to be buried.
            records = dict(zip(names, await self._registry.lookup(names), strict=True))
            buried = await self._registry.buried([copy.id for copy in copies])
            plain = [copy for copy in copies if not is_replicated_copy(copy, records[copy.topic], buried)]
            replicated = [copy for copy in copies if is_replicated_copy(copy, records[copy.topic], buried)]
            plan = plan_announcement(peer, plain, records, buried)
            outcome.deleted += plan.deleted
            outcome.set_aside += plan.set_aside
            outcome.held.update(copy.topic for copy in plan.keep)
            copies = await self._carry_out(peer, plan, outcome)
            copies += await self._reconciling.reconcile(peer, replicated, records, outcome)
            if not copies:
                return
        raise ConflictError(
            f"the records of {len(copies)} topics of peer {peer} keep changing: announce again"
        )

    async def _carry_out(
        self, peer: str, plan: Plan[m.CopyState, TopicRecord], outcome: Outcome
    ) -> list[m.CopyState]:
        """Change the records; returns the copies for which somebody was faster."""
        again: list[m.CopyState] = []
        if plan.restore:
            results = await self._registry.restore_topics([record_of(copy, peer) for copy in plan.restore])
            for copy, result in zip(plan.restore, results, strict=True):
                outcome.held.add(copy.topic) if result.applied else again.append(copy)
        for record, copy in plan.advance:
            result = await self._registry.compare_and_set_topic(record.name, record, record_of(copy, peer))
            outcome.held.add(copy.topic) if result.applied else again.append(copy)
        for record, copy in plan.revise:
            revised = msgspec.structs.replace(record, policy=copy.policy)
            result = await self._registry.compare_and_set_topic(record.name, record, revised)
            outcome.held.add(copy.topic) if result.applied else again.append(copy)
        for record in plan.finish:  # if the record changed meanwhile, the next announcement sees to it
            await self._registry.compare_and_set_topic(record.name, record, None)
        return again

    async def _creations(
        self, peer: str, copies: Sequence[m.CopyState], known: set[str], held: set[str]
    ) -> list[TopicRecord]:
        """The topics that the registry says the peer is to hold, and that it did not announce; they join `held`."""
        announced = {copy.id for copy in copies}
        names = sorted(known.union(copy.topic for copy in copies) - held)
        found: list[TopicRecord] = []
        for first in range(0, len(names), _PAGE):
            records = await self._registry.lookup(names[first : first + _PAGE])
            found += [r for r in records if r is not None and peer in r.holders and r.id not in announced]
        buried = await self._registry.buried([record.id for record in found])
        found = [record for record in found if record.id not in buried]
        held.update(record.name for record in found)
        owned = plan_creations(peer, found, announced)
        lost = [record for record in owned if len(record.holders) > 1 and record.version > 1]
        for record in lost:
            self.on_lost_copy(record)
        followed = [record for record in found if record.owner != peer]
        return [r for r in owned if r not in lost] + await self._reconciling.take_out_of_sync(peer, followed)


def _check_copies(frame: m.Announce) -> None:
    check_peer_name(frame.name)
    for copy in frame.copies:
        check_topic_name(copy.topic)
        for name in (copy.owner, *copy.replicas, *copy.in_sync):
            check_peer_name(name)
        if len(copy.replicas) > _MOST_HOLDERS or len(copy.in_sync) > _MOST_HOLDERS:
            raise InvalidRequestError(f"the copy of topic {copy.topic} is announced with too many replicas")
        numbers = (copy.epoch, copy.version)
        if not (
            0 < copy.id <= MOST_ID
            and all(0 <= number <= MOST_ID for number in numbers)
            and 0 <= copy.created_us <= LATEST_US
        ):
            raise InvalidRequestError(
                f"the copy of topic {copy.topic} is announced with id {copy.id}, epoch {copy.epoch} and creation "
                f"time {copy.created_us}: one of them is out of range"
            )
