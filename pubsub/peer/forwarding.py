"""Questions about the whole system (where is a topic, which peers are there), asked of a peer.

Answered from what this peer holds where that is enough, and passed on to the index otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pubsub.client.directory import Directory
from pubsub.errors import PubsubError
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.watching import SharedWatch
from pubsub.protocol import messages as m

if TYPE_CHECKING:
    from pubsub.peer.node import Node

FORWARD_SECONDS = 4.0
"""How long the index may take to answer what is passed on to it: less than a client waits for us."""


class Forwarding:
    """Serves Lookup, Topics, Peers, CreateTopic, DeleteTopic, Watch, ChangeReplicas, Promote and Drain."""

    def __init__(self, node: Node, directory: Directory) -> None:
        self._node = node
        self._directory = directory
        self._watch = SharedWatch(directory)
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {
            m.Lookup: self.on_lookup,
            m.Topics: self.on_topics,
            m.Peers: self.on_peers,
            m.CreateTopic: self.on_create_topic,
            m.DeleteTopic: self.on_delete_topic,
            m.Watch: self.on_watch,
            m.ChangeReplicas: self.on_operator,
            m.Promote: self.on_operator,
            m.Drain: self.on_operator,
        }

    async def on_lookup(self, connection: ServerConnection, frame: m.Lookup) -> m.Frame | list[m.Frame]:
        topic = self._node.store.topics.get(frame.topic)
        if topic is not None and topic.role == "owner":
            return m.TopicList(frame.id, [self._node.info(topic)])
        return await self._ask_index(frame.id, lambda request: m.Lookup(request, frame.topic))

    async def on_topics(self, connection: ServerConnection, frame: m.Topics) -> m.Frame | list[m.Frame]:
        try:
            return await self._ask_index(
                frame.id, lambda request: m.Topics(request, frame.pattern, frame.offsets)
            )
        except PubsubError as error:
            topic = self._node.store.topics.get(frame.pattern)
            if topic is None or not error.retriable:
                raise
            return m.TopicList(
                frame.id, [self._node.info(topic)]
            )  # asked for one that is here: no index needed

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

    async def on_operator(
        self, connection: ServerConnection, frame: m.ChangeReplicas | m.Promote | m.Drain
    ) -> m.Frame | list[m.Frame]:
        """What an operator wants done, by the index."""
        return await self._ask_index(frame.id, partial(_with_id, frame))

    async def _ask_index(self, request: int, make: Callable[[int], m.Request]) -> list[m.Frame]:
        """Pass a question on, once: whoever asked tries again."""
        link = await self._directory.link()
        replies = await link.request_all(make(link.next_id()), FORWARD_SECONDS)
        return [_with_id(reply, request) for reply in replies]

    async def on_watch(self, connection: ServerConnection, frame: m.Watch) -> m.Frame:
        await self._watch.add(connection, frame.id, frame.pattern)
        return m.Done(frame.id)


def _with_id(frame: Any, request: int) -> Any:
    return msgspec.structs.replace(frame, id=request)
