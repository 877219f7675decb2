"""Telling callers that their messages are stored: those of one batch in a turn of the event loop.

What they publish next is sent at the end of that turn. So the owner stores the messages of some callers while the
others are told.
"""

from __future__ import annotations

import asyncio
from collections import deque

from pubsub.client.outgoing_batch import OutgoingBatch
from pubsub.protocol.messages import Published


class Telling:
    """The batches of which nobody has been told yet."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answered: deque[tuple[OutgoingBatch, Published]] = deque()
        self._busy = False

    def tell(self, batch: OutgoingBatch, reply: Published) -> None:
        """Tell who waits for `batch`: at once, or in one of the next turns if this one's has had its share."""
        if batch.whole is not None:  # one waits for all of it
            batch.succeed(reply)
        elif self._busy:
            self._answered.append((batch, reply))
        else:
            batch.succeed(reply)
            self._busy = True
            self._loop.call_soon(self._tell_next)

    def _tell_next(self) -> None:
        self._busy = False
        if self._answered:
            self.tell(*self._answered.popleft())

    def finish(self) -> None:
        """Tell everyone who is left."""
        while self._answered:
            batch, reply = self._answered.popleft()
            batch.succeed(reply)
