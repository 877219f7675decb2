"""Owners change their records: who is in sync, and whom they hand their topic to.

Rules: a proposal is applied if the record still is the one that the owner knows, and was decided upon in the present
life of the registry. Otherwise nothing is changed, and the answer says what the record is: so a proposal of a version
that never was is a question. Those that come while others are under way share round trips.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pubsub.core.epochs import next_epoch
from pubsub.core.failover import hand_over
from pubsub.core.ownership import Change, changed, is_confirmed
from pubsub.errors import InvalidRequestError, PeerNameTakenError
from pubsub.index.changing import Changing
from pubsub.index.clock import Clock
from pubsub.index.coalescing import Coalescer
from pubsub.index.copies import copy_state, explicit
from pubsub.index.peer_table import PeerTable
from pubsub.index.settling import Settling
from pubsub.model import check_peer_name, check_topic_name
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Registry, TopicRecord

_MOST_IN_SYNC = 64


class Proposing:
    """Serves Propose. `proposals.run` must be running."""

    def __init__(
        self, registry: Registry, peers: PeerTable, settling: Settling, changing: Changing, clock: Clock
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._changing = changing
        self._clock = clock
        self.proposals: Coalescer[m.Propose, tuple[bool, TopicRecord | None]] = Coalescer(self._decide_all)

    async def propose(self, connection: ServerConnection, frame: m.Propose) -> m.Proposed:
        """Change a record, or say what it is."""
        check_topic_name(frame.topic)
        check_peer_name(frame.name)
        if len(frame.in_sync) > _MOST_IN_SYNC:
            raise InvalidRequestError(f"a topic has {_MOST_IN_SYNC} copies in sync at most")
        await self._peers.fresh()
        holder = self._peers.standing(frame.name)
        if holder.alive and holder.incarnation != frame.incarnation:
            raise PeerNameTakenError(
                f"the peer name {frame.name} is held by another process, at {holder.address}; this one must stop",
                holder=holder.incarnation,
                address=holder.address,
            )
        applied, record = await self.proposals.ask(frame)
        if record is None:
            await self._settling.check_absence(frame.topic)
            return m.Proposed(frame.id, False, None)
        if record.owner == frame.name and not is_confirmed(explicit(record), self._settling.life):
            # Who owns it is not decided: nothing that the owner does not know already, so that nobody begins to own it.
            known = {"epoch": frame.epoch, "version": max(frame.version, 0)}
            record = msgspec.structs.replace(record, **known)
        address = self._peers.standing(record.owner).address or ""
        return m.Proposed(frame.id, applied, copy_state(record, frame.name, address))

    async def _decide_all(self, frames: Sequence[m.Propose]) -> Sequence[tuple[bool, TopicRecord | None]]:
        names = list(dict.fromkeys(frame.topic for frame in frames))
        records = dict(zip(names, await self._registry.lookup(names), strict=True))
        answers: list[tuple[bool, TopicRecord | None]] = []
        changes: list[tuple[TopicRecord, Change]] = []
        places: list[int] = []
        for place, frame in enumerate(frames):
            record = records[frame.topic]
            if record is not None and record.id != frame.topic_id:
                record = None
            answers.append((False, record))
            change = self._change(record, frame) if record is not None else None
            if record is not None and change is not None:
                changes.append((record, change))
                places.append(place)
        results = await self._changing.apply(changes, known_to=[frames[place].name for place in places])
        for place, result in zip(places, results, strict=True):
            answers[place] = (result.applied, result.current)
        return answers

    def _change(self, record: TopicRecord, frame: m.Propose) -> Change | None:
        """What the proposal makes of the record; None: nothing."""
        life = self._settling.life
        known = (record.owner, record.epoch, record.version) == (frame.name, frame.epoch, frame.version)
        if not known or not is_confirmed(record, life):
            return None
        if frame.owner:
            epoch = next_epoch([record.epoch], self._clock())
            leaving = frame.name not in frame.in_sync
            return hand_over(explicit(record), frame.owner, epoch=epoch, life=life, leaving=leaving)
        wanted = set(frame.in_sync)
        if record.owner not in wanted or not wanted <= set(record.replicas):
            return None
        in_sync = (record.owner, *(peer for peer in record.replicas if peer in wanted - {record.owner}))
        return changed(record, in_sync=in_sync, life=life)
