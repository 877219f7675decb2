"""Where copies go: peers that can take some, and the next step for a topic whose copies are not where they shall be.

The decisions are core's (placement); this finds out which peers can take a copy, and carries the steps out. A peer
that is being drained takes none, and its copies leave it; so do those of peers that are away for too long.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pubsub.core.ownership import copies_wanted
from pubsub.core.placement import Candidate, Step, next_step, with_leaving
from pubsub.errors import PubsubError
from pubsub.index.changing import Changing
from pubsub.index.clock import Clock
from pubsub.index.copies import explicit
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable, standing_of
from pubsub.model import parse_address
from pubsub.protocol import messages as m
from pubsub.registry import PeerState, TopicRecord

log = logging.getLogger("pubsub.index")

TRAFFIC = "messages_per_second"
"""The load figure of a heartbeat that counts when two peers hold equally many topics."""
HAND_OVER_SECONDS = 3.0
"""How long an owner may take to hand a topic over; it is asked again later."""


class Placing:
    """Knows who can take a copy; takes the steps."""

    def __init__(self, changing: Changing, peers: PeerTable, links: PeerLinks, clock: Clock) -> None:
        self._changing = changing
        self._peers = peers
        self._links = links
        self._clock = clock
        self.under_way: Counter[str] = Counter()
        """Peer -> copies being placed on it that its number of topics does not show yet."""

    @contextmanager
    def counted(self, peers: Sequence[str]) -> Iterator[None]:
        """Count these as having one copy more meanwhile, for placements at the same time."""
        self.under_way.update(peers)
        try:
            yield
        finally:
            self.under_way.subtract(peers)
            for peer in peers:
                if not self.under_way[peer]:
                    del self.under_way[peer]

    def candidates(self, states: Mapping[str, PeerState]) -> list[Candidate]:
        """Peers that are alive, can be reached and are not being drained."""
        now = self._clock()
        return [
            Candidate(
                peer=name,
                topics=state.topics + self.under_way[name],
                messages_per_second=state.record.load.get(TRAFFIC, 0.0),
                zone=state.record.zone,
            )
            for name, state in states.items()
            if state.record is not None
            and state.record.reachable
            and not state.record.draining
            and standing_of(state, now).alive
        ]

    def next_step(
        self, record: TopicRecord, states: Mapping[str, PeerState], gone: Collection[str], life: str
    ) -> Step | None:
        """What to do about the copies of a topic; None: they are where they shall be."""
        record = explicit(record)
        zones = {
            name: state.record.zone
            for name in record.holders
            if (state := states.get(name)) is not None and state.record is not None
        }
        return next_step(record, self.candidates(states), life=life, gone=gone, zones=zones)

    async def take(self, steps: Sequence[tuple[TopicRecord, Step]]) -> set[str]:
        """Make the changes of these steps; returns the topics for which somebody was faster."""
        changes = [(record, step.change) for record, step in steps if step.change is not None]
        results = await self._changing.apply(changes)
        for (record, step), result in zip(steps, results, strict=True):
            if result.applied:
                if step.kind == "add":
                    self._peers.count_topic(step.peer)
                log.info("topic %s: %s the copy on %s", record.name, step.kind, step.peer)
        return {record.name for (record, _), result in zip(steps, results, strict=True) if not result.applied}

    async def hand_over(self, record: TopicRecord, to: str) -> bool:
        """Ask the owner to resign in favour of another; returns whether it did."""
        try:
            await self._peers.fresh()
            address = self._peers.standing(record.owner).address
            if address is None:
                return False
            await self._links.request_all(
                record.owner,
                parse_address(address),
                lambda request: m.HandOver(request, record.id, to),
                HAND_OVER_SECONDS,
            )
        except PubsubError as error:
            log.info("topic %s is not handed over to %s yet: %s", record.name, to, error)
            return False
        return True


def surplus_step(record: TopicRecord, states: Mapping[str, PeerState], gone: Collection[str]) -> Step | None:
    """What to do about a topic that has more copies than it shall have; None: it has not.

    One replica more than wanted leaves: one that is not in sync before others, then the one with the most to do."""
    record = explicit(record)
    staying = [peer for peer in record.replicas if peer not in record.leaving and peer not in gone]
    others = [peer for peer in staying if peer != record.owner]
    if len(staying) <= copies_wanted(record) or not others:
        return None

    def rank(peer: str) -> tuple[bool, int, str]:
        state = states.get(peer)
        return peer in record.in_sync, -(state.topics if state is not None else 0), peer

    peer = min(others, key=rank)
    return Step(kind="remove", peer=peer, change=with_leaving(record, peer))
