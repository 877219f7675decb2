"""A read of all topics that a pattern means: what comes from each, in the order in which it arrives."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from pubsub.client.directory import Directory
from pubsub.client.gathering import Gathering
from pubsub.client.routes import Routes
from pubsub.client.subscription import Start, Subscription, messages_of
from pubsub.config import ClientSettings
from pubsub.errors import InvalidRequestError, PubsubError
from pubsub.model import Message
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes

BATCH_MESSAGES = 1000
"""Small batches of several topics are given to the application as one, up to about so many messages."""


class PatternSubscription(Subscription):
    """The messages of many topics: `async with client.subscribe("sensors.>") as messages: async for …`.

    Order is that of each topic. Topics that are created later are read from their beginning; those that are deleted
    leave quietly. Ends quietly when it, or its client, is closed. Raises from the iteration:
        OffsetOutOfRangeError: of one topic, say, whose owner no longer has the position. That topic is left;
            iterating again goes on with the others.
    """

    def __init__(
        self,
        pattern: str,
        start: Start,
        routes: Routes,
        settings: ClientSettings,
        name: str,
        *,
        on_lost: str,
        directory: Directory,
        pool: LinkPool,
    ) -> None:
        super().__init__(pattern, start, routes, settings, None, name, on_lost=on_lost)
        if not isinstance(start, str | datetime):
            raise InvalidRequestError(
                f'the start of a pattern is "latest", "earliest", or an aware datetime, not {start!r}'
            )
        self._arrived: deque[tuple[str, m.Batch] | PubsubError] = deque()
        self._holding = False
        self._gathering = Gathering(
            pattern,
            self._wanted,
            directory=directory,
            routes=routes,
            pool=pool,
            settings=settings,
            take=self._take_of,
            skipped=self._count_skipped,
            fail=self._on_failure,
        )

    @property
    def topics(self) -> list[str]:
        """The topics that it knows of, by name; of those whose owner is away too."""
        return sorted(self._gathering.members)

    async def open(self) -> None:
        """Connect to the owners, so that every message published from now on will be seen.

        Raises:
            PubsubError: no index, or an owner that is said to be alive, answered within the client's timeout.
        """
        await self._gathering.open(self._settings.timeout_seconds)

    # What comes

    def _take_of(self, topic: str, batch: m.Batch) -> None:
        self._arrived.append((topic, batch))
        self._held_messages += len(batch.payloads)
        self._held_bytes += batch_bytes(batch)
        self._more.set()
        if not self._holding and self._too_much(1):
            self._holding = True
            self._gathering.hold()

    def _too_much(self, part: int) -> bool:
        """Whether so much is untaken, in parts of the window, that no more should be read."""
        return (
            self._held_messages * part > self._settings.window_messages
            or self._held_bytes * part > self._settings.window_bytes
        )

    def _count_skipped(self, messages: int) -> None:
        self.skipped += messages

    def _on_failure(self, error: PubsubError, final: bool) -> None:
        if final:
            self._fail(error)
        else:
            self._arrived.append(error)
            self._more.set()

    async def _next_messages(self) -> list[Message]:
        self._give_back()
        while not self._arrived:
            if self._closed:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._more.clear()
            await self._more.wait()
        if self._closed:
            raise StopAsyncIteration
        first = self._arrived.popleft()
        if isinstance(first, PubsubError):
            raise first
        topic, batch = first
        messages, size_bytes = messages_of(topic, batch), batch_bytes(batch)
        while len(messages) < BATCH_MESSAGES and self._arrived:
            following = self._arrived[0]
            if isinstance(following, PubsubError):
                break
            self._arrived.popleft()
            topic, batch = following
            messages += messages_of(topic, batch)
            size_bytes += batch_bytes(batch)
        self._current_size = (len(messages), size_bytes)
        return messages

    def _give_back(self) -> None:
        messages, size_bytes = self._current_size
        self._current_size = (0, 0)
        self._held_messages -= messages
        self._held_bytes -= size_bytes
        if self._holding and not self._too_much(2):
            self._holding = False
            self._gathering.release()

    async def close(self) -> None:
        """End the streams; iterating ends quietly. Idempotent."""
        if not self._closed:
            await super().close()
            self._arrived.clear()
            await self._gathering.close()
