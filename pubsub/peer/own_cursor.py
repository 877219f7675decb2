"""The cursor of a peer's own durable subscription to a topic of another peer: in the peer's own file.

So it is known, and goes on, while the owner is away. The owner is told how far it is, after that is on disk here:
its note may be behind, never ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pubsub.client.cursor import Cursor, Done
from pubsub.client.routes import Route
from pubsub.errors import PubsubError
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")


class OwnCursor(Cursor):
    """A cursor in the file of this peer."""

    kept_by_owner = False

    def __init__(self, node: Node, topic: str, name: str) -> None:
        super().__init__(topic, name)
        self._node = node
        self._topic_id = 0
        self._end: Callable[[PubsubError], None] = lambda error: None

    def when_ended(self, end: Callable[[PubsubError], None]) -> None:
        self._end = end

    async def take(self, route: Route) -> int | None:
        self.generation = 0
        kept = self._node.store.cursors.find(route.topic_id, self.name)
        if kept is None:
            return None
        return await self._take(route.topic_id, kept.position)

    def fill(self, request: m.Subscribe) -> m.Subscribe:
        return request  # to the owner it is a subscription like any other

    async def begin(self, link: Link | None) -> None:
        topic_id = self.answer.topic_id
        if not self.generation:
            await self._take(topic_id, self.answer.position)
        kept = self._node.store.cursors.find(topic_id, self.name)
        if kept is not None:
            self._tell(link, topic_id, kept.position)

    async def _take(self, topic_id: int, position: int) -> int:
        kept = await self._node.store.cursors.take(topic_id, self.topic, self.name, position)
        self.generation, self._topic_id = kept.generation, topic_id
        self._node.cursors.hold(kept, self._end)
        return kept.position

    def commit(self, link: Link | None, topic_id: int, position: int, done: Done) -> None:
        def stored(error: PubsubError | None) -> None:
            if error is None:
                self._tell(link, topic_id, position)
            done(error)

        self._node.store.cursors.commit(topic_id, self.name, self.generation, position, stored)

    def _tell(self, link: Link | None, topic_id: int, position: int) -> None:
        """Tell the owner, if it is there; if not, the next time."""
        if link is None or not link.open:
            return

        def answered(reply: m.Frame | PubsubError) -> None:
            if isinstance(reply, PubsubError):
                log.debug("the owner of %s did not note where %s is: %s", self.topic, self.name, reply)

        request = link.next_id()
        frame = self._frame(request, f"{self.name}@{self._node.name}", topic_id, position)
        link.call(request, encode_frame(frame), answered)

    def close(self) -> None:
        self._node.cursors.let_go(self._topic_id, self.name, self._end)
