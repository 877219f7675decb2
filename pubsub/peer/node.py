"""A peer as its parts see it: its name and file, the topics that it holds, and what it answers of them.

What else a peer serves lies in parts of their own, each with its table of handlers: publishing, reading,
forwarding to the index.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pubsub.client.directory import Directory
from pubsub.config import Limits, PeerSettings
from pubsub.errors import NotOwnerError, PubsubError, TopicNotFoundError
from pubsub.model import TopicInfo, iso_from_us
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.cursors import Cursors
from pubsub.peer.dead_letters import DeadLetters
from pubsub.peer.deliveries import Deliveries
from pubsub.peer.following import Following
from pubsub.peer.forwarding import Forwarding
from pubsub.peer.group_members import Members
from pubsub.peer.group_requests import GroupRequests
from pubsub.peer.groups import Groups
from pubsub.peer.handing_over import HandingOver
from pubsub.peer.holding import Holding
from pubsub.peer.orphaned import Orphaned
from pubsub.peer.policies import Policies
from pubsub.peer.proposing import Proposing
from pubsub.peer.publishing import Publishing
from pubsub.peer.reading import Reading
from pubsub.peer.replicas import Replicas
from pubsub.peer.retention import Retention
from pubsub.peer.schedule import Schedule
from pubsub.peer.scrubbing import Scrubbing
from pubsub.peer.shipping import Shipping
from pubsub.peer.subscription_numbers import SubscriptionNumbers
from pubsub.protocol import messages as m
from pubsub.storage.cursors import load_cursors
from pubsub.storage.remains import DAMAGED
from pubsub.storage.store import Appended, Store
from pubsub.storage.topic import Topic
from pubsub.version import __version__

log = logging.getLogger("pubsub.peer")

TOPICS_IN_A_FRAME = 1000


class Node:
    """The service of a peer. See `net.server` for how its tables are used."""

    def __init__(
        self, name: str, store: Store, directory: Directory, settings: PeerSettings, limits: Limits
    ) -> None:
        self.name = name
        self.store = store
        self.directory = directory
        self.limits = limits
        self.deliveries = Deliveries(store, settings, limits)
        self.address = ""
        """Where others reach this peer."""
        self.zone = ""
        self.registered = False
        self.warning = ""
        """What is wrong with the registration, for people; empty when nothing is."""
        self.files_aside = store.files_aside
        """Names of damaged files that were set aside, in the data directory."""
        self.published_messages = 0
        self.started_us = time.time_ns() // 1000
        self.connections: Callable[[], int] = lambda: 0
        self.start_again = asyncio.Event()
        """Set when this peer can only be mended by a new start: see `Peer.serve_until`."""
        self.announce_soon: Callable[[], None] = lambda: None
        """Called when a topic was made or changed here without the index; set by whoever announces."""
        store.on_append = self.on_append
        store.on_beside = lambda committed: self.shipping.on_committed(committed)
        store.hold_change = lambda change: self.shipping.hold(change)
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {
            m.Held: self.on_held,
            m.Status: self.on_status,
        }
        self.changing_hands: set[int] = set()
        """Ids of topics of which the role is being changed, until all that they have has been read from the file."""
        self.orphaned_messages = 0
        """Messages cut off copies since the start."""
        self.replicas = Replicas(self)
        self.proposing = Proposing(self)
        self.following = Following(self)
        self.shipping = Shipping(self)
        self.holding = Holding(self)
        self.handing_over = HandingOver(self)
        self.cursors = Cursors(self)
        self.dead_letters = DeadLetters(self)
        self.members = Members()
        self.numbers = SubscriptionNumbers(self.deliveries, self.members, limits.subscriptions)
        self.groups = Groups(self)
        self.publishing = Publishing(self)
        self.schedule = Schedule(self)
        self.retention = Retention(self, settings)
        self.retention.group_floors.append(self.groups.floor)
        self.retention.when_trimmed.append(self.groups.on_first_offset)
        self.retention.when_trimmed.append(self.on_trimmed)
        self.scrubbing = Scrubbing(self, settings)
        self.side_tasks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "retention": self.retention.run,
            "replication": self.replicas.run,
            "what topics have besides messages": self.shipping.run,
            "scrub": self.scrubbing.run,
        }
        """What runs beside the requests for as long as the peer does."""
        for part in (
            *(self.publishing, self.schedule, Reading(self), self.cursors, GroupRequests(self)),
            *(self.replicas, self.holding, Orphaned(self), self.scrubbing),
            *(Policies(self), Forwarding(self, directory)),
        ):
            self.immediate |= part.immediate
            self.requests |= part.requests

    def welcome(self) -> m.Welcome:
        return m.Welcome(
            major=m.PROTOCOL_MAJOR,
            minor=m.PROTOCOL_MINOR,
            software=f"pubsub {__version__}",
            role="peer",
            name=self.name,
            incarnation=self.store.incarnation,
            frame_bytes=self.limits.frame_bytes,
            message_bytes=self.limits.message_bytes,
        )

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit added messages to a topic."""
        self.deliveries.on_append(topic, appended)
        if topic.replicas:  # groups have it once it is committed
            self.replicas.on_append(topic, appended)
        else:
            self.groups.on_append(topic, appended)
        self.retention.on_append(topic)

    async def on_trimmed(self, topic: Topic) -> None:
        """Retention has moved the first kept offset of a topic: its copies are told."""
        self.replicas.tell_first_offset(topic)

    def kept_from(self, topic: Topic, first_offset: int) -> None:
        """The owner of a copy keeps nothing below this offset any more."""
        if first_offset > topic.keep_from:
            topic.keep_from = first_offset

    def check_served(self, topic: Topic) -> None:
        """After a wait: whether this peer still owns a topic that it had.

        Raises:
            TopicNotFoundError, NotOwnerError: as `served`.
        """
        if self.served(topic.name, topic.id) is not topic:
            raise NotOwnerError(f"topic {topic.name} has changed hands; ask for its owner again")

    def served(self, name: str, topic_id: int = 0) -> Topic:
        """The topic of this name, if this peer owns it and knows all that it has besides messages.

        Raises:
            TopicNotFoundError, NotOwnerError: as `owned`; also while it changes hands.
        """
        topic = self.owned(name, topic_id)
        if topic.id in self.changing_hands:
            raise NotOwnerError(f"topic {name} is changing hands; ask for its owner again")
        return topic

    def owned(self, name: str, topic_id: int = 0) -> Topic:
        """The topic of this name, if this peer may append to it.

        Raises:
            TopicNotFoundError: it does not hold it, or another one by that name.
            NotOwnerError: it holds a copy, but is not the owner.
        """
        topic = self.store.topic(name, topic_id)
        if topic.role != "owner":
            raise NotOwnerError(f"peer {self.name} does not own topic {name}", owner=topic.owner)
        if topic.promised > topic.epoch:
            raise NotOwnerError(f"an owner of topic {name} is being looked for; ask for it again")
        return topic

    # What this peer holds

    def info(self, topic: Topic) -> TopicInfo:
        """A topic that this peer holds, as users see it."""
        return TopicInfo(
            topic=topic.name,
            id=topic.id,
            owner=topic.owner,
            address=self.address if topic.role == "owner" else None,
            epoch=topic.epoch,
            online=True,
            replicas=topic.replicas or [topic.owner],
            in_sync=topic.in_sync or [topic.owner],
            next_offset=topic.latest,
            first_offset=topic.first_offset,
            created_at=iso_from_us(topic.created_us),
            policy=topic.policy,
            read_only=self.store.fault,
            scheduled=self.schedule.count(topic),
            messages=topic.messages,
            bytes=topic.size_bytes,
        )

    def state(self, topic: Topic) -> m.CopyState:
        """A topic that this peer holds, as it is announced."""
        return m.CopyState(
            id=topic.id,
            topic=topic.name,
            role=topic.role,
            owner=topic.owner,
            epoch=topic.epoch,
            next_offset=topic.next_offset,
            created_us=topic.created_us,
            policy=topic.policy,
            replicas=topic.replicas,
            in_sync=topic.in_sync,
            version=topic.version,
            owner_address=topic.owner_address,
        )

    async def on_held(self, connection: ServerConnection, frame: m.Held) -> m.Frame | list[m.Frame]:
        names = self.store.topics if frame.topics is None else frame.topics
        held = [self.info(topic) for name in names if (topic := self.store.topics.get(name)) is not None]
        return topic_lists(frame.id, held)

    def start(self) -> None:
        """Take up what the copies in the file are there for; the address is known by now."""
        for topic in list(self.store.topics.values()):
            self.holding.begin(topic)

    async def drop_copy(self, topic_id: int) -> None:
        """Delete a topic, on the index's word; one that is not held is fine."""
        await self.holding.drop(topic_id)

    async def serve_topic(self, topic: Topic) -> None:
        """This peer owns a topic from now on, of which it had a copy."""
        cursors = await self.store.look(load_cursors, topic.id)
        self.store.cursors.forget(topic.id)
        self.store.cursors.load(cursors)
        await self.groups.take_topic(topic)
        await self.schedule.take_topic(topic)

    def leave_topic(self, topic: Topic, error: PubsubError) -> None:
        """Another peer owns it: whoever is served here goes there."""
        self.deliveries.end_topic(topic, error)
        self.groups.leave_topic(topic, error)
        self.schedule.leave_topic(topic)

    async def drop_topic(self, topic: Topic) -> None:
        """Delete a copy and all that goes with it."""
        await self.store.drop(topic)
        self.store.cursors.forget(topic.id)
        self._end_topic(topic, TopicNotFoundError(f"topic {topic.name} was deleted"))
        await self.groups.count_dead(topic)

    async def damaged(self, topic: Topic, why: str) -> None:
        """A copy cannot be right: it is kept for people to look at, and never served or chosen."""
        log.error("the copy of topic %s is damaged: %s", topic.name, why)
        await self.set_aside(topic, f"{DAMAGED}{why}")
        if await self.store.beyond_mending():
            log.warning(
                "other peers have all that is in %s: this peer starts again, without it", self.store.path
            )
            self.start_again.set()

    async def set_aside(self, topic: Topic, why: str) -> None:
        """Keep a topic's rows but serve it no more."""
        log.warning("topic %s (%d) is kept in the file but served no more: %s", topic.name, topic.id, why)
        error = TopicNotFoundError(f"topic {topic.name} is served no more: {why}")
        async with self.holding.changing.hold(topic.id):
            if topic.owned:
                self.replicas.end(topic, error)
            else:
                self.following.end(topic)
            try:
                await self.store.set_aside(topic, why)
            except PubsubError:
                self.holding.begin(topic)
                raise
            self._end_topic(topic, error)

    def _end_topic(self, topic: Topic, error: PubsubError) -> None:
        self.deliveries.end_topic(topic, error)
        self.groups.end_topic(topic, error)

    def subscribers(self) -> dict[str, dict[str, int]]:
        """Topic -> name of a subscription, or of a member of a group -> since when, for the registry."""
        found = self.deliveries.by_topic()
        for topic, members in self.members.by_topic().items():
            found.setdefault(topic, {}).update(members)
        return found

    async def on_status(self, connection: ServerConnection, frame: m.Status) -> m.Frame:
        return m.StatusReport(frame.id, self.status())

    def status(self) -> dict[str, Any]:
        """This peer in figures."""
        return {
            "peer": self.name,
            "address": self.address,
            "incarnation": self.store.incarnation,
            "version": __version__,
            "data": str(self.store.directory),
            "registered": self.registered,
            "warning": self.warning,
            "read_only": self.store.fault,
            "topics": len(self.store.topics),
            "connections": self.connections(),
            "subscriptions": self.deliveries.count() + self.members.count(),
            "published": self.published_messages,
            "not_following": self.following.behind(),
            "orphaned": self.orphaned_messages,
            **self.scrubbing.status(),
            "files_aside": self.files_aside,
            "queued_bytes": self.store.queued_bytes,
            "started_at": iso_from_us(self.started_us),
            "sqlite": sqlite3.sqlite_version,
        }


def topic_lists(request: int, topics: list[TopicInfo]) -> list[m.Frame]:
    """A list of topics as the frames of one reply."""
    parts = [topics[i : i + TOPICS_IN_A_FRAME] for i in range(0, len(topics), TOPICS_IN_A_FRAME)] or [[]]
    return [m.TopicList(request, part, number < len(parts)) for number, part in enumerate(parts, 1)]
