"""Policies of topics are changed: here, at the owner, whose file has them; the index learns it from the owner.

The registry's record follows with the announcement that a change brings about; where no index can be reached, with
the next one. Where the two differ, the owner's file is right (core/announcement).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.policy import change_record
from pubsub.protocol import messages as m

if TYPE_CHECKING:
    from pubsub.peer.node import Node


class Policies:
    """Serves SetPolicy."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._turn = asyncio.Lock()
        """Each change starts from what the one before it has stored."""
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {m.SetPolicy: self.on_set_policy}

    async def on_set_policy(self, connection: ServerConnection, frame: m.SetPolicy) -> m.Frame:
        node = self._node
        async with self._turn:
            topic = node.owned(frame.topic, frame.topic_id)
            policy = change_record(topic.policy, frame.policy)
            if policy != topic.policy:
                await node.store.set_policy(topic, policy)
                node.retention.wake()
                node.announce_soon()
        return m.TopicList(frame.id, [node.info(topic)])
