"""Publish and query for a client that can reach only the index.

Rules: the frames of one connection for one topic keep their order, and are sent on without waiting for the
replies to those before them; a topic whose owner is slow or away holds up no other. Payloads are passed on
unread. What a connection may have under way here is bounded in bytes; beyond it the connection is not read from.
A frame that could not be sent on fails together with those behind it, since its owner would refuse them as out
of order. The client sends again, under the same sequence numbers, so nothing is doubled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

import msgspec

from pubsub.config import MIB
from pubsub.errors import (
    ConnectionLostError,
    InternalError,
    PeerUnavailableError,
    PubsubError,
    TimeoutExpiredError,
    TopicOfflineError,
)
from pubsub.index.directory import Directory
from pubsub.index.peer_links import PeerLinks
from pubsub.index.tasks import Spawn
from pubsub.model import Address, parse_address
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.batch import column_bytes
from pubsub.protocol.codec import encode_frame

QUERY_SECONDS = 4.0
"""How long an owner may take to answer a query; less than a client waits before it asks another index."""
CONNECTION_BYTES = 8 * MIB
"""What one connection may have under way: taken in, and not yet answered by the owner."""
_RESUME_BYTES = CONNECTION_BYTES // 2
_MESSAGE_BYTES = 16
"""What a message counts for besides its payload, so that empty ones are bounded too."""
_MOST_ROUTES = 10_000
_HOLD = "relay"


class _Route(msgspec.Struct, frozen=True):
    owner: str
    address: Address
    until: float


class _Publisher:
    """What a connection has under way."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.under_way_bytes = 0
        self.lanes: dict[str, deque[m.Publish]] = {}
        """Topic -> frames that have not been sent on yet; there while a task works on them."""

    def take(self, size_bytes: int) -> None:
        self.under_way_bytes += size_bytes
        if self.under_way_bytes > CONNECTION_BYTES:
            self.connection.hold_reading(_HOLD)

    def release(self, size_bytes: int) -> None:
        self.under_way_bytes -= size_bytes
        if self.under_way_bytes <= _RESUME_BYTES:
            self.connection.release_reading(_HOLD)


class Relay:
    """Serves Publish and Query."""

    def __init__(self, directory: Directory, links: PeerLinks, ttl_seconds: float, spawn: Spawn) -> None:
        self._directory = directory
        self._links = links
        self._route_seconds = ttl_seconds
        self._spawn = spawn
        self._routes: dict[str, _Route] = {}
        self._publishers: dict[ServerConnection, _Publisher] = {}

    # Routes

    def forget(self, topic: str) -> None:
        """The topic may have moved: look it up before it is used again."""
        self._routes.pop(topic, None)

    def forget_all(self) -> None:
        """Any topic may have moved."""
        self._routes.clear()

    async def _route(self, topic: str) -> _Route:
        now = asyncio.get_running_loop().time()
        route = self._routes.get(topic)
        if route is not None and route.until > now:
            return route
        info = await self._directory.find(topic)
        if info.address is None:
            raise TopicOfflineError(
                f"topic {topic} is offline: {(info.problem or '').removeprefix('offline: ')}",
                owner=info.owner,
            )
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        route = _Route(info.owner, parse_address(info.address), now + self._route_seconds)
        self._routes[topic] = route
        return route

    # Publishing

    def publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        """Queue a frame; the reply goes to the connection under the frame's own id."""
        publisher = self._publishers.get(connection)
        if publisher is None:
            publisher = self._publishers[connection] = _Publisher(connection)
            connection.when_lost(lambda: self._lost(connection))
        publisher.take(_size_bytes(frame))
        lane = publisher.lanes.get(frame.topic)
        if lane is not None:
            lane.append(frame)
        else:
            lane = publisher.lanes[frame.topic] = deque([frame])
            self._spawn(self._send_on(publisher, frame.topic, lane), f"pubsub: relay for {connection.remote}")

    def _lost(self, connection: ServerConnection) -> None:
        publisher = self._publishers.pop(connection, None)
        if publisher is not None:
            for lane in publisher.lanes.values():
                lane.clear()  # nobody waits for the answers, and the client sends again elsewhere

    async def _send_on(self, publisher: _Publisher, topic: str, lane: deque[m.Publish]) -> None:
        try:
            while lane:
                route = await self._route(topic)
                link = await self._links.get(route.owner, route.address)
                await link.until_writable()
                if lane:  # the connection may have been lost meanwhile
                    frame = lane.popleft()
                    request = link.next_id()
                    answered = partial(self._answered, publisher, topic, route, frame.id, _size_bytes(frame))
                    link.call(request, encode_frame(msgspec.structs.replace(frame, id=request)), answered)
        except PubsubError as error:
            self.forget(topic)
            while lane:
                frame = lane.popleft()
                publisher.release(_size_bytes(frame))
                publisher.connection.refuse(frame.id, error)
        finally:
            del publisher.lanes[topic]

    def _answered(
        self,
        publisher: _Publisher,
        topic: str,
        route: _Route,
        request: int,
        size_bytes: int,
        reply: m.Frame | PubsubError,
    ) -> None:
        publisher.release(size_bytes)
        connection = publisher.connection
        if isinstance(reply, m.Published):
            connection.send_frame(msgspec.structs.replace(reply, id=request))
            return
        self.forget(topic)
        if isinstance(reply, ConnectionLostError):
            # Still "connection lost": the client must know that its messages may have been stored.
            reply = ConnectionLostError(f"the index lost the owner {route.owner} of topic {topic}: {reply}")
        elif not isinstance(reply, PubsubError):
            reply = InternalError(f"peer {route.owner} answered a publish with {type(reply).__name__}")
        connection.refuse(request, reply)

    # Reading

    async def query(self, connection: ServerConnection, frame: m.Query) -> m.Frame:
        """Ask the owner, and pass on what it answers."""
        route = await self._route(frame.topic)
        try:
            replies = await self._links.request_all(
                route.owner,
                route.address,
                lambda request: msgspec.structs.replace(frame, id=request),
                QUERY_SECONDS,
            )
        except (ConnectionLostError, TimeoutExpiredError) as error:
            self.forget(frame.topic)
            raise PeerUnavailableError(
                f"the owner {route.owner} of topic {frame.topic} does not answer the index: {error}",
                peer=route.owner,
            ) from error
        except PubsubError:
            self.forget(frame.topic)
            raise
        result = replies[-1]
        if not isinstance(result, m.QueryResult):
            raise InternalError(f"peer {route.owner} answered a query with {type(result).__name__}")
        return msgspec.structs.replace(result, id=frame.id)


def _size_bytes(frame: m.Publish) -> int:
    size_bytes = column_bytes(frame.payloads) + column_bytes(frame.keys) + column_bytes(frame.headers)
    size_bytes += column_bytes(frame.message_ids)
    return size_bytes + _MESSAGE_BYTES * len(frame.payloads)
