"""A subscription that goes on where it stopped: what has been processed is stored, now and then.

What the application has been handed and has not asked beyond is being processed, and is not stored as processed
unless the application says so. That costs nothing for a message: how far the application is shows in how much is
left of the batch that it iterates over, and is looked at by a timer.
"""

from __future__ import annotations

import asyncio
import logging
from operator import length_hint

from pubsub.client.cursor import Cursor
from pubsub.client.routes import Route, Routes
from pubsub.client.stream import REQUEST_SECONDS, end_stream
from pubsub.client.subscription import Start, Subscription
from pubsub.config import ClientSettings
from pubsub.errors import (
    ClosedError,
    InvalidRequestError,
    PubsubError,
    SubscriptionNotFoundError,
    SubscriptionTakenError,
    TimeoutExpiredError,
    shown,
)
from pubsub.model import Message
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

COMMIT_SECONDS = 0.1
"""How long what has been processed waits for its commit at most ..."""
COMMIT_MESSAGES = 1000
"""... and how much of it; a commit under way is waited for."""
AGAIN_SECONDS = 1.0
"""When a commit has failed, the next one waits so long."""
CLOSE_SECONDS = 2.0
"""How long closing tries to commit what has been processed."""

_NOT_OURS = (SubscriptionTakenError, SubscriptionNotFoundError)
"""Errors after which what was received is not ours to process, and nothing can be committed."""


class DurableSubscription(Subscription):
    """A durable subscription: see `Client.subscribe`.

    Besides what `Subscription` raises, from the iteration:
        SubscriptionTakenError: another subscriber has taken it up since, or it was reset.
        SubscriptionNotFoundError: it was deleted.
    """

    def __init__(
        self,
        topic: str,
        start: Start,
        routes: Routes,
        settings: ClientSettings,
        reconnect_seconds: float | None,
        name: str,
        *,
        until: Start | None = None,
        on_lost: str = "error",
        cursor: Cursor,
        auto_commit: bool,
    ) -> None:
        super().__init__(
            topic, start, routes, settings, reconnect_seconds, name, until=until, on_lost=on_lost
        )
        self.committed: int | None = None
        """Everything before this offset is stored as processed; None until connected."""
        self._owner: Link | None = None
        """The connection on which to commit; outlives the stream, so that the end of a stream can be committed."""
        self._cursor = cursor
        self._auto_commit = auto_commit
        self._taken: list[Message] = []
        """The batch that the application is at."""
        self._whole: int | None = None
        """First offset of what `next_batch` handed out at once."""
        self._asking = False
        """Whether the application has asked beyond `_taken`."""
        self._committing = False
        self._timer: asyncio.TimerHandle | None = None
        cursor.when_ended(self._end)

    # Connecting

    async def _attempt(self, left_seconds: float | None) -> None:
        first = not self.topic_id
        if first:
            self.position = None
            route = await self._routes.find(self.topic, left_seconds or REQUEST_SECONDS)
            self.position = await self._cursor.take(route)
        await super()._attempt(left_seconds)
        self._owner = self._link
        try:
            await self._cursor.begin(self._link)
        except BaseException:
            link, number = self._link, self._number
            self._leave()
            if link is not None:
                end_stream(link, number)
            if first:  # nothing of it has been handed out yet
                self.topic_id = self._held_messages = self._held_bytes = 0
                self._received.clear()
            raise
        if first:
            self.committed = self._cursor.answer.position

    def _request(self, link: Link, route: Route, number: int) -> m.Subscribe:
        return self._cursor.fill(super()._request(link, route, number))

    def _begin(self, link: Link, reply: m.Frame) -> int:
        topic_id = super()._begin(link, reply)
        if isinstance(reply, m.Subscribed):
            self._cursor.answer = reply
        return topic_id

    def _fail(self, error: PubsubError) -> None:
        if isinstance(error, _NOT_OURS):
            # What waits here is somebody else's to process.
            self._taken, self._current = [], iter(())
            self._received.clear()
        super()._fail(error)

    def _end(self, error: PubsubError) -> None:
        """It is somebody else's now, or was changed."""
        link, number = self._link, self._number
        self._leave()
        if link is not None:
            end_stream(link, number)
        self._fail(error)

    # How far the application is

    async def next_batch(self) -> list[Message]:
        messages = await super().next_batch()
        self._whole = messages[0].offset
        return messages

    async def _next_messages(self) -> list[Message]:
        self._asking, self._whole = True, None
        if self._auto_commit and self._taken:
            if self._processed() - (self.committed or 0) >= COMMIT_MESSAGES:
                self._commit_soon(0)
            else:
                self._commit_soon(COMMIT_SECONDS)
        self._taken = messages = await super()._next_messages()
        self._asking = False
        if self._auto_commit:
            self._commit_soon(COMMIT_SECONDS)
        return messages

    def _given(self) -> int:
        """How many messages of `_taken` the application has been handed, one by one."""
        return len(self._taken) - length_hint(self._current)

    def _processed(self) -> int:
        """The offset before which the application has processed everything, since it has asked for more."""
        if not self._taken:
            return self.committed or 0
        if self._asking:
            return self._taken[-1].offset + 1
        if self._whole is not None:
            return self._whole
        return self._taken[max(0, self._given() - 1)].offset

    def _handed_out(self) -> int:
        """The offset after the last message that the application was handed."""
        if not self._taken:
            return self.committed or 0
        if self._asking or self._whole is not None:
            return self._taken[-1].offset + 1
        return self._taken[max(0, self._given() - 1)].offset + 1

    # Committing

    async def commit(self, through: Message | None = None) -> None:
        """Store that everything handed out so far has been processed; or, of it, all up to and with a message.

        On disk when this returns. Whoever subscribes under this name later goes on behind it.

        Raises:
            InvalidRequestError: `through` is no message that this subscription has handed out.
            SubscriptionTakenError: another subscriber has taken it up since, or it was reset; nothing was stored.
            SubscriptionNotFoundError, TopicNotFoundError: it, or its topic, was deleted.
            TimeoutExpiredError: it could not be stored within the client's timeout.
        """
        if self._closed:
            raise ClosedError("the subscription has been closed")
        if isinstance(self._error, _NOT_OURS):
            raise self._error
        position = self._handed_out()
        if through is not None:
            if not isinstance(through, Message):
                raise InvalidRequestError(
                    f"commit takes a message that was handed out here, not {shown(through)}"
                )
            if through.topic != self.topic or through.offset >= position:
                raise InvalidRequestError(
                    f"message {through.offset} of topic {through.topic} has not been handed out here"
                )
            position = through.offset + 1
        await self._store_until(position, self._settings.timeout_seconds)

    async def _store_until(self, position: int, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        backoff = Backoff(self._settings.backoff_first_seconds, self._settings.backoff_most_seconds)
        while (self.committed or 0) < position:
            if isinstance(self._error, _NOT_OURS):
                raise self._error
            stored: asyncio.Future[None] = loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    if self._cursor.kept_by_owner and (self._owner is None or not self._owner.open):
                        route = await self._routes.find(self.topic, timeout_seconds)
                        self._owner = await self._routes.link(route)
                    self._store(position, stored)
                    await stored
                return
            except TimeoutError:
                raise TimeoutExpiredError(
                    f"the cursor of {self._cursor.name} could not be stored within {timeout_seconds:g} s"
                ) from None
            except PubsubError as error:
                self._routes.forget(self.topic)
                pause = backoff.next_seconds()
                if not error.retriable:
                    raise
                if loop.time() + pause >= deadline:
                    raise TimeoutExpiredError(
                        f"the cursor of {self._cursor.name} could not be stored within {timeout_seconds:g} s: {error}"
                    ) from error
            await asyncio.sleep(pause)

    def _store(self, position: int, stored: asyncio.Future[None] | None = None) -> None:
        def done(error: PubsubError | None) -> None:
            if error is None:
                self.committed = max(self.committed or 0, position)
            if stored is None:
                self._committed(error)
            elif not stored.done():
                if error is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(error)

        link = self._owner if self._owner is not None and self._owner.open else None
        self._cursor.commit(link, self.topic_id, position, done)

    def _commit_soon(self, seconds: float) -> None:
        """Look before long how far the application is."""
        if self._closed or self._error is not None:
            return
        if self._timer is not None:
            if seconds:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._commit_now)

    def _commit_now(self) -> None:
        self._timer = None
        position = self._processed()
        if self._committing:  # its answer brings us back
            return
        if position > (self.committed or 0):
            self._committing = True
            self._store(position)
        elif not self._asking:
            self._commit_soon(COMMIT_SECONDS)

    def _committed(self, error: PubsubError | None) -> None:
        """A commit of ours has been answered."""
        self._committing = False
        if error is None:
            self._commit_soon(COMMIT_SECONDS)
        elif error.retriable:
            log.debug("committing %s of %s again: %s", self._cursor.name, self.topic, error)
            self._commit_soon(AGAIN_SECONDS)
        elif not self._closed:
            self._end(error)

    # Closing

    async def close(self) -> None:
        """End the stream, after storing what has been processed. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            if self._auto_commit and not self._closed and self._error is None:
                await self._store_until(self._processed(), CLOSE_SECONDS)
        except PubsubError as error:
            log.warning(
                "what %s has processed of %s last will come again: %s", self._cursor.name, self.topic, error
            )
        finally:
            await super().close()
            self._cursor.close()
