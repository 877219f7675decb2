"""Topics are created and deleted.

Rules: a name is claimed in the registry before the copy is made, so two creators never both succeed. A creation
that fails half-way is undone, unless its client has asked again and that request has completed it; one whose index dies
half-way is completed by the owner's next announcement.
A topic with replicas is created on its owner; the others are told, and follow. Where there are too few peers it lives
on those that there are, and gets the others later (controller).
A deletion first buries the id, then removes the record, then the copy: whatever is left undone, no announcement
brings the topic back, and the owner is told to drop its copy the next time it announces.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping

import msgspec

from pubsub.core.epochs import FIRST_EPOCH
from pubsub.core.placement import Candidate, choose_peer, choose_replicas
from pubsub.core.topic_ids import MOST_ID, attempt_ids
from pubsub.errors import (
    ConflictError,
    InvalidRequestError,
    PeerNotFoundError,
    PeerUnavailableError,
    PubsubError,
    RegistryUnavailableError,
    TimeoutExpiredError,
    TopicExistsError,
)
from pubsub.index.clock import Clock
from pubsub.index.copies import copy_state
from pubsub.index.directory import Directory
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable, standing_of
from pubsub.index.placing import Placing
from pubsub.index.settling import Settling
from pubsub.index.tasks import Spawn, to_the_end
from pubsub.index.telling import Telling
from pubsub.model import check_new_topic_name, check_peer_name, parse_address
from pubsub.net.server import ServerConnection
from pubsub.policy import encode_policy, make_policy, stored_policy
from pubsub.protocol import messages as m
from pubsub.registry import PeerState, Registry, TopicRecord

log = logging.getLogger("pubsub.index")

CREATE_SECONDS = 4.0
"""How long a creation may take with all its attempts; less than a client waits before it asks another index."""
DROP_SECONDS = 2.0
"""How long a peer may take to drop a copy; otherwise it is told when it next announces."""
_ATTEMPTS = 3
"""Peers tried for one creation."""
_REMEMBERED_ATTEMPTS = 64
"""Failed attempts after which a client's own topic id is given up for a random one."""
_CLAIMED_VERSION = 1
"""Of a record as its creation has made it; that creation may undo it as long as it has this version."""


class Topics:
    """Serves CreateTopic and DeleteTopic."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        directory: Directory,
        settling: Settling,
        links: PeerLinks,
        placing: Placing,
        telling: Telling,
        ttl_seconds: float,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._directory = directory
        self._settling = settling
        self._links = links
        self._placing = placing
        self._telling = telling
        self._ttl_us = round(ttl_seconds * 1_000_000)
        self._spawn = spawn
        self._clock = clock
        self._undoing: set[int] = set()
        """Ids whose records are being removed, and which are buried then."""

    # Creating

    async def create(self, connection: ServerConnection, frame: m.CreateTopic) -> m.TopicList:
        """Create a topic on the peer asked for, or on the least loaded one."""
        frame = _checked(frame)
        deadline = asyncio.get_running_loop().time() + CREATE_SECONDS
        return await to_the_end(self._spawn, self._create(frame, deadline), f"pubsub: create {frame.topic}")

    async def _create(self, frame: m.CreateTopic, deadline: float) -> m.TopicList:
        record = await self._directory.lookups.ask(frame.topic)
        if record is not None:
            return await self._created_before(frame, record, deadline)
        await self._settling.check_absence(frame.topic)
        failed: set[str] = set()
        for topic_id in await self._usable_ids(frame.topic_id):
            states = await self._peers.loaded()
            owner = (
                await self._asked_for(frame.on)
                if frame.on is not None
                else self._least_loaded(states, failed)
            )
            try:
                return await self._create_on(owner, frame, topic_id, deadline)
            except PeerUnavailableError as error:
                log.warning("topic %s could not be created on %s: %s", frame.topic, owner.name, error)
                failed.add(owner.name)
                late = asyncio.get_running_loop().time() > deadline - 1.0
                if frame.on is not None or late or not self._has_candidate(states, failed):
                    raise
        raise PeerUnavailableError(
            f"topic {frame.topic} could not be created: none of the peers {', '.join(sorted(failed))} answers"
        )

    async def _created_before(
        self, frame: m.CreateTopic, record: TopicRecord, deadline: float
    ) -> m.TopicList:
        """The name is taken. If by an earlier request of the same client, that one succeeds once more."""
        if not frame.topic_id or record.id not in attempt_ids(frame.topic_id, _REMEMBERED_ATTEMPTS):
            raise TopicExistsError(
                f"topic {record.name} exists already: peer {record.owner} owns it", owner=record.owner
            )
        states = await self._peers.fresh()
        state = states.get(record.owner)
        if state is not None and standing_of(state, self._clock()).alive:
            await self._make_copy(state, record, deadline)
        elif len(record.holders) > 1:  # of a later version, it would look as if its owner had lost a copy
            return m.TopicList(frame.id, [self._directory.describe(record)])
        kept = await self._keep(record)
        if kept is None:
            return await self._create(frame, deadline)
        if kept is not record and len(kept.holders) > 1:
            self._telling.tell(kept)
        return m.TopicList(frame.id, [self._directory.describe(kept)])

    async def _keep(self, record: TopicRecord) -> TopicRecord | None:
        """The record with a later version, so that the request that made it does not undo it; None: it is undone.

        To be called once the copy is made: where that fails, too, the request that made the record shall undo it.
        """
        topic_id = record.id
        while record.version == _CLAIMED_VERSION:
            (result,) = await self._registry.compare_and_set_topics([(record, record)])
            if result.current is None or result.current.id != topic_id:
                return None
            record = result.current
        return record

    async def _usable_ids(self, topic_id: int) -> list[int]:
        """An id for each attempt; those of attempts that failed earlier are buried and must not be used."""
        if topic_id == 0:
            return [secrets.randbelow(MOST_ID) + 1 for _ in range(_ATTEMPTS)]
        ids = attempt_ids(topic_id, _ATTEMPTS)
        # Copied before we ask: what is not being undone by then any more is buried.
        gone = self._undoing.copy() | await self._registry.buried(ids[:1])
        if topic_id in gone:
            ids = attempt_ids(topic_id, _REMEMBERED_ATTEMPTS)
            gone = self._undoing.copy() | await self._registry.buried(ids)
        left = [one for one in ids if one not in gone][:_ATTEMPTS]
        return left or await self._usable_ids(0)

    async def _asked_for(self, name: str) -> PeerState:
        """The peer that was named, if it lives. Asked of the registry itself, so that the answer is never late."""
        now = self._clock()
        state = await self._registry.peer(name, now)
        if state is None:
            raise PeerNotFoundError(
                f"no peer {name} is registered; see pubsub index peers, or start it: "
                f"pubsub peer serve {name} --data DIR",
                peer=name,
            )
        if not standing_of(state, now).alive:
            ago_seconds = max(0.0, (now - state.deadline_at + self._ttl_us) / 1_000_000)
            raise PeerNotFoundError(
                f"peer {name} is not alive (last heartbeat {ago_seconds:.1f} s ago); start it again, or choose "
                "another one (pubsub index peers)",
                peer=name,
            )
        return state

    def _least_loaded(self, states: Mapping[str, PeerState], failed: set[str]) -> PeerState:
        chosen = choose_peer(self._placing.candidates(states), failed)
        if chosen is not None:
            return states[chosen]
        now = self._clock()
        away = sorted(name for name, state in states.items() if standing_of(state, now).alive)
        if away:
            raise PeerUnavailableError(
                f"no peer that is alive can be reached: {', '.join(away[:5])} registered an address that cannot be "
                "dialled, or is being drained; start one with --advertise HOST:PORT, or name one with --on"
            )
        raise PeerUnavailableError("no peer is alive; start one with: pubsub peer serve NAME --data DIR")

    def _has_candidate(self, states: Mapping[str, PeerState], failed: set[str]) -> bool:
        return choose_peer(self._placing.candidates(states), failed) is not None

    async def _replicas(self, owner: PeerState, wanted: int) -> tuple[list[str], str]:
        """Where the copies of a new topic go, and in which life of the registry that is decided."""
        if wanted == 1:
            return [owner.name], ""
        life = (await self._settling.look()).id
        candidates = self._placing.candidates(await self._peers.loaded())
        if owner.name not in {candidate.peer for candidate in candidates}:  # asked for by name: for its zone
            assert owner.record is not None
            candidates.append(Candidate(peer=owner.name, topics=owner.topics, zone=owner.record.zone))
        return choose_replicas(candidates, wanted, first=owner.name), life

    async def _create_on(
        self, owner: PeerState, frame: m.CreateTopic, topic_id: int, deadline: float
    ) -> m.TopicList:
        # Counted from before the first await on, so that creations at the same time spread.
        with self._placing.counted([owner.name]):
            replicas, life = await self._replicas(owner, stored_policy(frame.policy).replicas)
            record = TopicRecord(
                name=frame.topic,
                id=topic_id,
                owner=owner.name,
                epoch=FIRST_EPOCH,
                in_sync=[owner.name],
                replicas=replicas,
                policy=frame.policy,
                created_at=self._clock(),
                life=life,
            )
            with self._placing.counted(replicas[1:]):
                claim = await self._registry.compare_and_set_topic(frame.topic, None, record)
                if claim.applied:
                    for peer in replicas:
                        self._peers.count_topic(peer)
        if claim.current is None:
            raise ConflictError(
                f"the record of topic {frame.topic} is damaged in the registry, or keeps changing"
            )
        if not claim.applied:
            return await self._created_before(frame, claim.current, deadline)
        try:
            await self._make_copy(owner, claim.current, deadline)
        except PubsubError:
            await self._undo(owner, claim.current)
            raise
        if len(replicas) > 1:
            self._telling.tell(claim.current, but=owner.name)
        info = self._directory.describe(claim.current)
        return m.TopicList(frame.id, [msgspec.structs.replace(info, first_offset=0, next_offset=0)])

    async def _make_copy(self, owner: PeerState, record: TopicRecord, deadline: float) -> None:
        assert owner.record is not None
        address = owner.record.address
        left_seconds = max(0.5, deadline - asyncio.get_running_loop().time())
        try:
            await self._links.request_all(
                owner.name,
                parse_address(address),
                lambda request: m.CreateCopy(request, copy_state(record, owner.name, address)),
                left_seconds,
            )
        except PubsubError as error:
            if not error.retriable and not isinstance(error, TimeoutExpiredError):
                raise
            raise PeerUnavailableError(
                f"topic {record.name} could not be created on peer {owner.name}: {error}", peer=owner.name
            ) from error

    async def _undo(self, owner: PeerState, record: TopicRecord) -> None:
        """Release the name, and have the copy dropped if it was made all the same: now, or when its owner announces.

        Nothing is changed where the record is not the one any more that was claimed: somebody has completed it.
        """
        self._undoing.add(record.id)
        try:
            # Before the id is buried: a topic that somebody has been told of must never be.
            result = await self._registry.compare_and_set_topic(record.name, record, None)
            if not result.applied:
                return
            await self._bury(record)
        except RegistryUnavailableError:
            log.warning(
                "topic %s was half created; the next announcement of %s completes it", record.name, owner.name
            )
            raise
        finally:
            self._undoing.discard(record.id)
        self._spawn(self._drop_quietly(owner, record.id), f"pubsub: undo the creation of {record.name}")

    async def _bury(self, record: TopicRecord) -> TopicRecord:
        """Bury the id, then remove the record, also one that was made or changed meanwhile; returns the last one."""
        await self._registry.bury(record.id, self._clock())
        standing: TopicRecord | None = record
        while standing is not None and standing.id == record.id:
            record = standing
            result = await self._registry.compare_and_set_topic(record.name, record, None)
            standing = None if result.applied else result.current
        return record

    async def _drop_quietly(self, owner: PeerState, topic_id: int) -> None:
        try:
            await self._drop_copy(owner, topic_id)
        except PubsubError as error:
            log.info(
                "peer %s is told to drop topic id %d when it next announces: %s", owner.name, topic_id, error
            )

    # Deleting

    async def delete(self, connection: ServerConnection, frame: m.DeleteTopic) -> m.Done:
        """Delete a topic: nobody finds it any more when this returns."""
        record = await self._directory.record(frame.topic)
        return await to_the_end(self._spawn, self._delete(frame, record), f"pubsub: delete {frame.topic}")

    async def _delete(self, frame: m.DeleteTopic, record: TopicRecord) -> m.Done:
        record = await self._bury(record)  # it may have gained an owner or replica
        states = await self._peers.fresh()
        holders = sorted(record.holders, key=lambda peer: (peer != record.owner, peer))
        notes = await asyncio.gather(
            *(self._drop_of_deleted(states.get(peer), peer, record) for peer in holders)
        )
        return m.Done(frame.id, "; ".join(filter(None, notes)))

    async def _drop_of_deleted(self, state: PeerState | None, peer: str, record: TopicRecord) -> str:
        """Returns what a person should know."""
        who = f"its owner {peer}" if peer == record.owner else f"peer {peer}, which holds a copy,"
        if state is None or not standing_of(state, self._clock()).alive:
            return f"{who} is away: the copy there is removed when it returns"
        try:
            await self._drop_copy(state, record.id)
        except PubsubError as error:
            return f"{who} did not confirm ({error}): the copy there is removed when it next registers"
        return ""

    async def _drop_copy(self, owner: PeerState, topic_id: int) -> None:
        if owner.record is None:
            return
        await self._links.request_all(
            owner.name,
            parse_address(owner.record.address),
            lambda request: m.DropCopy(request, topic_id),
            DROP_SECONDS,
        )


def _checked(frame: m.CreateTopic) -> m.CreateTopic:
    """The request with its policy as it is stored, if nothing is wrong with it."""
    check_new_topic_name(frame.topic)
    if frame.on is not None:
        check_peer_name(frame.on)
    if not 0 <= frame.topic_id <= MOST_ID:
        raise InvalidRequestError(f"{frame.topic_id} is no topic id: it must be 1 to 2**53 - 1, or 0 for any")
    return msgspec.structs.replace(frame, policy=encode_policy(make_policy(frame.policy)))
