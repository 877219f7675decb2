"""What a peer answers on its socket: publish, read, and the index's orders. Questions about the whole system
(where is a topic, which peers are there) are answered from what this peer holds where that is enough, and
passed on to the index otherwise.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pubsub.client.directory import Directory
from pubsub.config import Limits, PeerSettings
from pubsub.core.credit import Window
from pubsub.errors import (
    InvalidRequestError,
    NotOwnerError,
    OffsetOutOfRangeError,
    PubsubError,
    TopicNotFoundError,
)
from pubsub.model import TopicInfo, check_topic_name, iso_from_us
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.delivery import Deliveries
from pubsub.peer.publishing import check_publish
from pubsub.peer.tail import cut
from pubsub.peer.watching import SharedWatch
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position
from pubsub.protocol.codec import encode_frame
from pubsub.storage.store import Append, Store
from pubsub.storage.topic import Topic
from pubsub.version import __version__

log = logging.getLogger("pubsub.peer")


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
        self.registered = False
        self.warning = ""
        """What is wrong with the registration, for people; empty when nothing is."""
        self.published_messages = 0
        self.started_us = time.time_ns() // 1000
        self.connections: Callable[[], int] = lambda: 0
        self._watch = SharedWatch(directory)
        store.on_append = self.deliveries.on_append
        self._starting: set[tuple[ServerConnection, int]] = set()
        """Subscriptions whose first position is being looked for."""

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

    @property
    def immediate(self) -> Mapping[type, ImmediateHandler]:
        return {m.Publish: self.on_publish, m.Credit: self.on_credit}

    @property
    def requests(self) -> Mapping[type, RequestHandler]:
        return {
            m.Subscribe: self.on_subscribe,
            m.Unsubscribe: self.on_unsubscribe,
            m.Query: self.on_query,
            m.CreateCopy: self.on_create_copy,
            m.DropCopy: self.on_drop_copy,
            m.Held: self.on_held,
            m.Lookup: self.on_lookup,
            m.Topics: self.on_topics,
            m.Peers: self.on_peers,
            m.CreateTopic: self.on_create_topic,
            m.DeleteTopic: self.on_delete_topic,
            m.Watch: self.on_watch,
            m.Status: self.on_status,
        }

    # Publishing

    def owned(self, name: str, topic_id: int = 0) -> Topic:
        """The topic of this name, if this peer may append to it.

        Raises:
            TopicNotFoundError: it does not hold it, or another one by that name.
            NotOwnerError: it holds a copy, but is not the owner.
        """
        topic = self.store.topic(name, topic_id)
        if topic.role != "owner":
            raise NotOwnerError(f"peer {self.name} does not own topic {name}", owner=topic.owner)
        return topic

    def on_publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        try:
            size_bytes = check_publish(frame, self.limits.message_bytes)
            topic = self.owned(frame.topic, frame.topic_id)
        except PubsubError as error:
            connection.refuse(frame.id, error)
            return
        count = len(frame.payloads)

        def done(first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
            if error is not None:
                connection.refuse(frame.id, error)
                return
            if not duplicate:
                self.published_messages += count
            connection.send(encode_frame(m.Published(frame.id, first_offset, duplicate)))

        self.store.append(
            Append(
                topic.id,
                topic.epoch,
                frame.producer,
                frame.sequence,
                frame.keys,
                frame.headers,
                frame.payloads,
                size_bytes + QUEUED_MESSAGE_BYTES * count,
                done,
            )
        )
        if self.store.full:
            connection.hold_reading("storage")
            self.store.when_room(lambda: connection.release_reading("storage"))

    # Reading

    async def on_subscribe(self, connection: ServerConnection, frame: m.Subscribe) -> m.Frame | list[m.Frame]:
        if frame.window_messages < 0 or frame.window_bytes < 0:
            raise InvalidRequestError("a window is not negative")
        if not 0 <= frame.subscription < 2**32:
            raise InvalidRequestError("a subscription is numbered from 0 to 2^32 - 1")
        if self.deliveries.count(connection) >= self.limits.subscriptions:
            raise InvalidRequestError(f"at most {self.limits.subscriptions} subscriptions on one connection")
        topic = self.owned(frame.topic, frame.topic_id)
        mine = (connection, frame.subscription)
        if self.deliveries.find(*mine) is not None or mine in self._starting:
            raise InvalidRequestError(f"this connection has a subscription {frame.subscription} already")
        self._starting.add(mine)
        try:
            position = await self._position(topic, frame.start, frame.at_us)
            if mine not in self._starting:
                raise InvalidRequestError(f"subscription {frame.subscription} was ended before it began")
        finally:
            self._starting.discard(mine)
        if self.store.topics.get(topic.name) is not topic or not connection.open:
            raise TopicNotFoundError(f"topic {topic.name} was deleted")
        window = Window(frame.window_messages, frame.window_bytes)
        delivery = self.deliveries.start(connection, frame.subscription, topic, position, window, frame.name)
        connection.send_frame(
            m.Subscribed(id=frame.id, topic_id=topic.id, epoch=topic.epoch, position=position)
        )
        delivery.pump()
        return []

    async def _position(self, topic: Topic, start: int, at_us: int) -> int:
        """The offset that a start means.

        Raises:
            OffsetOutOfRangeError: it lies before the first kept offset or beyond the next one.
        """
        if start == m.LATEST:
            return topic.committed
        if start == m.EARLIEST:
            return topic.first_offset
        if start == m.AT_TIME:
            return await self.store.offset_at(topic, at_us)
        if not topic.first_offset <= start <= topic.committed:
            raise OffsetOutOfRangeError(
                f"topic {topic.name} has no offset {start}: it keeps {topic.first_offset} to "
                f"{topic.committed - 1}, and {topic.committed} is the next one",
                first_offset=topic.first_offset,
                next_offset=topic.committed,
            )
        return start

    def on_credit(self, connection: ServerConnection, frame: m.Credit) -> None:
        delivery = self.deliveries.find(connection, frame.subscription)
        if delivery is not None and 0 <= frame.messages < 2**40 and 0 <= frame.bytes < 2**50:
            delivery.credit(frame.messages, frame.bytes)

    async def on_unsubscribe(self, connection: ServerConnection, frame: m.Unsubscribe) -> m.Frame:
        self._starting.discard((connection, frame.subscription))
        self.deliveries.stop(connection, frame.subscription)
        return m.Done(frame.id)

    async def on_query(self, connection: ServerConnection, frame: m.Query) -> m.Frame:
        if frame.limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {frame.limit}")
        topic = self.owned(frame.topic, frame.topic_id)
        position = await self._position(topic, frame.start, frame.at_us)
        batch = await self.store.read(topic, position, frame.limit)
        if batch is not None:  # a read may overshoot, a frame must not
            batch = next(cut(batch, len(batch.payloads), self.limits.batch_bytes))
        return m.QueryResult(
            id=frame.id,
            topic_id=topic.id,
            batch=batch,
            position=topic.committed if batch is None else next_position(batch),
            next_offset=topic.committed,
        )

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
            replicas=[topic.owner],
            in_sync=[topic.owner],
            next_offset=topic.committed,
            first_offset=topic.first_offset,
            created_at=iso_from_us(topic.created_us),
            policy=topic.policy,
            read_only=self.store.fault,
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
        )

    async def on_held(self, connection: ServerConnection, frame: m.Held) -> m.Frame | list[m.Frame]:
        names = self.store.topics if frame.topics is None else frame.topics
        held = [self.info(topic) for name in names if (topic := self.store.topics.get(name)) is not None]
        return topic_lists(frame.id, held)

    async def on_create_copy(self, connection: ServerConnection, frame: m.CreateCopy) -> m.Frame:
        await self.create_copy(frame.copy)
        return m.Done(frame.id)

    async def create_copy(self, copy: m.CopyState) -> None:
        """Hold a topic, on the index's word.

        Raises:
            InvalidNameError: its name is illegal.
            InvalidRequestError: another topic has the name here.
        """
        check_topic_name(copy.topic)
        other = self.store.topics.get(copy.topic)
        if other is not None and other.id != copy.id:
            await self.set_aside(other, f"its name belongs to topic {copy.id} since then")
        await self.store.create(copy)

    async def on_drop_copy(self, connection: ServerConnection, frame: m.DropCopy) -> m.Frame:
        await self.drop_copy(frame.topic_id)
        return m.Done(frame.id)

    async def drop_copy(self, topic_id: int) -> None:
        """Delete a topic, on the index's word; one that is not held is fine."""
        topic = self.store.by_id.get(topic_id)
        if topic is not None and topic.set_aside is None:
            await self.store.drop(topic)
            self.deliveries.end_topic(topic, f"topic {topic.name} was deleted")

    async def set_aside(self, topic: Topic, why: str) -> None:
        """Keep a topic's rows but serve it no more."""
        log.warning("topic %s (%d) is kept in the file but served no more: %s", topic.name, topic.id, why)
        await self.store.set_aside(topic, why)
        self.deliveries.end_topic(topic, f"topic {topic.name} is served no more: {why}")

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
            "subscriptions": self.deliveries.count(),
            "published": self.published_messages,
            "queued_bytes": self.store.queued_bytes,
            "started_at": iso_from_us(self.started_us),
            "sqlite": sqlite3.sqlite_version,
        }

    # The directory: from here where that is enough, else from the index

    async def on_lookup(self, connection: ServerConnection, frame: m.Lookup) -> m.Frame | list[m.Frame]:
        topic = self.store.topics.get(frame.topic)
        if topic is not None and topic.role == "owner":
            return m.TopicList(frame.id, [self.info(topic)])
        return await self._ask_index(frame.id, lambda request: m.Lookup(request, frame.topic))

    async def on_topics(self, connection: ServerConnection, frame: m.Topics) -> m.Frame | list[m.Frame]:
        try:
            return await self._ask_index(
                frame.id, lambda request: m.Topics(request, frame.pattern, frame.offsets)
            )
        except PubsubError as error:
            topic = self.store.topics.get(frame.pattern)
            if topic is None or not error.retriable:
                raise
            return m.TopicList(frame.id, [self.info(topic)])  # asked for one that is here: no index needed

    async def on_peers(self, connection: ServerConnection, frame: m.Peers) -> m.Frame | list[m.Frame]:
        return await self._ask_index(frame.id, m.Peers)

    async def on_create_topic(
        self, connection: ServerConnection, frame: m.CreateTopic
    ) -> m.Frame | list[m.Frame]:
        return await self._ask_index(
            frame.id,
            lambda request: m.CreateTopic(
                id=request, topic=frame.topic, on=frame.on, policy=frame.policy, topic_id=frame.topic_id
            ),
        )

    async def on_delete_topic(
        self, connection: ServerConnection, frame: m.DeleteTopic
    ) -> m.Frame | list[m.Frame]:
        return await self._ask_index(frame.id, lambda request: m.DeleteTopic(request, frame.topic))

    async def _ask_index(self, request: int, make: Callable[[int], m.Request]) -> list[m.Frame]:
        """Pass a question on, once: whoever asked tries again."""
        link = await self.directory.link()
        replies = await link.request_all(make(link.next_id()), FORWARD_SECONDS)
        return [_with_id(reply, request) for reply in replies]

    async def on_watch(self, connection: ServerConnection, frame: m.Watch) -> m.Frame:
        await self._watch.add(connection, frame.id, frame.pattern)
        return m.Done(frame.id)


QUEUED_MESSAGE_BYTES = 16
"""What a message waiting for its commit counts for besides what it carries, so that empty ones are bounded too."""

FORWARD_SECONDS = 4.0
"""How long the index may take to answer what is passed on to it: less than a client waits for us."""

TOPICS_IN_A_FRAME = 1000


def topic_lists(request: int, topics: list[TopicInfo]) -> list[m.Frame]:
    """A list of topics as the frames of one reply."""
    parts = [topics[i : i + TOPICS_IN_A_FRAME] for i in range(0, len(topics), TOPICS_IN_A_FRAME)] or [[]]
    return [m.TopicList(request, part, number < len(parts)) for number, part in enumerate(parts, 1)]


def _with_id(reply: Any, request: int) -> m.Frame:
    changed: m.Frame = msgspec.structs.replace(reply, id=request)
    return changed
