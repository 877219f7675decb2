"""Where a durable subscription has got to, as its subscriber sees it.

`Cursor` is kept by the owner of the topic, in the owner's file. A peer has its own kind (`peer.own_cursor`), kept
in the peer's file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from pubsub.client.routes import Route
from pubsub.errors import ConnectionLostError, PubsubError
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame

Done = Callable[[PubsubError | None], None]


class Cursor:
    """A cursor kept by the owner. Its generation names this taking of it; the owner refuses commits under another."""

    kept_by_owner: ClassVar[bool] = True
    """Whether the owner must be there to commit."""

    def __init__(self, topic: str, name: str) -> None:
        self.topic = topic
        self.name = name
        self.generation = 0
        self.answer: m.Subscribed
        """What the owner last said to a request to subscribe."""

    def when_ended(self, end: Callable[[PubsubError], None]) -> None:
        """Call `end` if it is taken over or changed. This kind hears of that as the end of its stream."""

    async def take(self, route: Route) -> int | None:
        """Take it up before the first connection: the offset to begin at, None where the owner or `start` says it."""
        return None

    def fill(self, request: m.Subscribe) -> m.Subscribe:
        """What a request to subscribe says of it."""
        return msgspec.structs.replace(request, durable=self.name, generation=self.generation)

    async def begin(self, link: Link | None) -> None:
        """The owner has begun to deliver, as its answer says."""
        self.generation = self.answer.generation

    def commit(self, link: Link | None, topic_id: int, position: int, done: Done) -> None:
        """Store that everything before `position` has been processed; `done` is called once, with what went wrong."""
        if link is None:
            done(ConnectionLostError(f"the owner of topic {self.topic} is not connected"))
            return
        request = link.next_id()
        frame = self._frame(request, self.name, topic_id, position)
        link.call(
            request,
            encode_frame(frame),
            lambda reply: done(reply if isinstance(reply, PubsubError) else None),
        )

    def close(self) -> None:
        """The subscription has been closed."""

    def _frame(self, request: int, name: str, topic_id: int, position: int) -> m.CommitCursor:
        return m.CommitCursor(
            id=request,
            topic=self.topic,
            topic_id=topic_id,
            name=name,
            generation=self.generation,
            position=position,
        )
