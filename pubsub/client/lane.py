"""Publishing to one topic: batches in order, several in flight, each stored exactly once.

Concurrent `publish()` calls join the batch at the end of the queue; it is sealed when it is sent. Which numbers a batch
then has, and for how long, is `numbering`'s. That is what makes these rules right:

- connection lost: send all of it again under the same numbers; what was stored is recognised (core/sequence);
- rejected, retriable: wait, find the owner anew, go on with that batch. Most rejections say nothing of an earlier
  sending: whoever lacks copies, or does not own the topic, has not looked what is there;
- rejected for good: fail that batch, number those behind it anew and go on, above whatever may be stored;
- not acknowledged in time: fail it, with all others whose fate is unknown, and go on as a new producer,
  since nobody knows what the old one's next number is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from pubsub.client.numbering import Numbering
from pubsub.client.outgoing import UNCONDITIONAL, Columns, Conditions
from pubsub.client.outgoing_batch import MESSAGE_BYTES, BatchWaiter, OutgoingBatch, Waiter
from pubsub.client.owner_watch import OwnerWatch
from pubsub.client.routes import Route, Routes
from pubsub.client.telling import Telling
from pubsub.config import ClientSettings, Limits
from pubsub.errors import (
    ClosedError,
    ConnectionLostError,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    NotOwnerError,
    PubsubError,
    SequenceError,
    TimeoutExpiredError,
    TopicNotFoundError,
)
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")


SHARED_MESSAGES = 340
"""Single messages in one batch at most: of a thousand callers a third is told and publishes again, while a third is
stored and a third is there to be stored next."""


class Lane:
    """The way of one client's messages into one topic; all of them are acknowledged on the same condition."""

    def __init__(
        self, topic: str, routes: Routes, settings: ClientSettings, limits: Limits, acks: int = 0
    ) -> None:
        self.topic = topic
        self._acks = acks
        self._routes = routes
        self._settings = settings
        self._limits = limits
        self._shared_messages = min(SHARED_MESSAGES, limits.batch_messages)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[OutgoingBatch] = deque()
        self._in_flight: deque[OutgoingBatch] = deque()
        self._open: OutgoingBatch | None = None
        """The last of the queue, while single messages may still join it."""
        self._queued_bytes = 0
        self._numbering = Numbering()
        self._route: Route | None = None
        self._link: Link | None = None
        """Set while batches may be sent."""
        self._recovery: asyncio.Task[None] | None = None
        self._trouble: PubsubError | None = None
        """Why nothing is sent at the moment."""
        self._backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
        self._settled = asyncio.Event()
        """Set when no batch waits for a reply on a link."""
        self._settled.set()
        self._awaiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch = OwnerWatch(
            topic, routes, lambda: self._in_flight, lambda: self._route, self._leave_owner
        )
        self._attempt = 0
        """Counts the owners that were left without a reply: what they say later is not listened to."""
        self._telling = Telling()
        self._closed = False

    # Taking messages in

    def add(
        self,
        payload: bytes | None,
        key: str | None,
        headers: str | None,
        size_bytes: int,
        message_id: str | None = None,
    ) -> Waiter:
        """Queue one message; the future gets its offset."""
        batch = self._open
        if (
            batch is None
            or len(batch.payloads) >= self._shared_messages
            or batch.size_bytes + size_bytes > self._limits.batch_bytes
        ):
            batch = self._open = OutgoingBatch(self._loop.time() + self._settings.timeout_seconds)
            self._enqueue(batch)
        if key is not None or headers is not None or message_id is not None or not batch.bare:
            batch.add_cells(key, headers, message_id)
            if message_id is not None:
                size_bytes += len(message_id)
        batch.payloads.append(payload)
        size_bytes += MESSAGE_BYTES
        batch.size_bytes += size_bytes
        self._queued_bytes += size_bytes
        waiter: Waiter = self._loop.create_future()
        batch.waiters.append(waiter)
        return waiter

    def add_batch(self, columns: Columns, conditions: Conditions = UNCONDITIONAL) -> BatchWaiter:
        """Queue a batch that nothing joins; the future gets its offsets, or schedule ids."""
        batch = OutgoingBatch(self._loop.time() + self._settings.timeout_seconds, conditions)
        batch.fill(columns)
        batch.whole = self._loop.create_future()
        self._open = None
        self._queued_bytes += batch.size_bytes
        self._enqueue(batch)
        return batch.whole

    @property
    def full(self) -> bool:
        """Whether callers should wait in `room` before adding more."""
        return (
            self._queued_bytes > self._settings.pending_bytes
            or len(self._queue) >= 2 * self._settings.batches_in_flight
        )

    async def room(self) -> None:
        """Wait until the lane takes more."""
        while self.full and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise ClosedError("the client has been closed")

    def _enqueue(self, batch: OutgoingBatch) -> None:
        self._queue.append(batch)
        self._idle.clear()
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    # Sending

    def _flush(self) -> None:
        """Send what the window allows. Runs once in a turn of the loop, so that calls of one turn share a batch."""
        self._flushing = False
        link = self._link
        if link is None or not link.open or self._trouble is not None:
            if self._queue:
                self._start_recovery()
            self._watch_deadline()
            return
        while self._queue and len(self._in_flight) < self._settings.batches_in_flight:
            batch = self._queue.popleft()
            if batch is self._open:
                self._open = None
            self._queued_bytes -= batch.size_bytes
            try:
                self._send(link, batch)
            except (LocalProtocolError, InvalidRequestError) as error:  # it can never be sent; the others can
                batch.fail(error)
        if not self._queue and not self._in_flight:
            self._idle.set()
        if not self._room.is_set() and not self.full:
            self._room.set()
        self._watch_deadline()

    def _send(self, link: Link, batch: OutgoingBatch) -> None:
        assert self._route is not None
        request = link.next_id()
        frame = m.Publish(
            request,
            self.topic,
            self._route.topic_id,
            self._numbering.producer,
            self._numbering.number_for(batch),
            batch.keys,
            batch.headers,
            batch.payloads,
            batch.conditions.expect_offset,
            batch.message_ids,
            batch.conditions.deliver_us,
            batch.conditions.delay_us,
            self._acks,
        )
        encoded = encode_frame(frame)  # first: a batch that cannot be sent must not take numbers
        most_bytes = self._limits.frame_bytes if link.welcome is None else link.welcome.frame_bytes
        if len(encoded) > most_bytes:
            raise InvalidRequestError(
                f"a batch of {len(batch.payloads)} messages takes {len(encoded)} bytes in a frame; "
                f"{link.address} takes at most {most_bytes}; nothing of it was stored"
            )
        self._numbering.assign(batch)
        batch.is_sent()
        self._in_flight.append(batch)
        self._awaiting += 1
        self._settled.clear()
        attempt = self._attempt
        link.call(request, encoded, lambda reply: self._on_reply(batch, attempt, reply))
        if self._route.replicated:
            self._watch.watch(batch)

    def _on_reply(self, batch: OutgoingBatch, attempt: int, reply: m.Frame | PubsubError) -> None:
        if attempt != self._attempt:
            return
        self._awaiting -= 1
        if self._awaiting == 0:
            self._settled.set()
        if type(reply) is m.Published:
            batch.fate_unknown = False
            self._numbering.retire(batch)
            self._backoff.reset()
            if batch in self._in_flight:
                self._in_flight.remove(batch)  # the oldest, nearly always
                self._telling.tell(batch, reply)
            if self._in_flight or self._queue:
                self._flush_soon()
            else:
                self._idle.set()
            return
        error = (
            reply if isinstance(reply, PubsubError) else ConnectionLostError(f"unexpected reply {reply!r}")
        )
        batch.is_refused(error)
        if batch.rejection is None and isinstance(error, NotOwnerError):
            self._routes.forget(self.topic)
        if self._trouble is None:
            self._trouble = error
        self._start_recovery()

    # Recovering

    def _leave_owner(self, route: Route) -> None:
        """Another peer owns the topic, and this one does not answer: send to the other what it has not acknowledged."""
        if self._route is not route or not self._awaiting:
            return
        log.info("peer %s says nothing and does not own %s any more", route.owner, self.topic)
        self._expect_nothing()
        self._link = None
        self._trouble = ConnectionLostError(f"peer {route.owner} does not own {self.topic} any more")
        self._routes.forget(self.topic)
        self._start_recovery()

    def _expect_nothing(self) -> None:
        """Listen no more to what is said of what was sent."""
        self._attempt += 1
        self._awaiting = 0
        self._settled.set()

    async def _recover(self) -> None:
        """Get to a link on which batches may be sent again, or fail those that cannot be."""
        while (self._queue or self._in_flight) and not self._closed:
            await self._settled.wait()
            self._take_back()
            if not self._queue:
                return
            if self._trouble is None and self._link is not None and self._link.open:
                return
            if self._trouble is not None:
                await asyncio.sleep(self._backoff.next_seconds())
            if await self._reconnect():
                return

    def _start_recovery(self) -> None:
        if self._recovery is None and not self._closed:
            self._recovery = asyncio.create_task(
                self._recover(), name=f"pubsub: publish again to {self.topic}"
            )
            self._recovery.add_done_callback(self._recovered)

    def _recovered(self, recovery: asyncio.Task[None]) -> None:
        self._recovery = None
        if recovery.cancelled() or self._closed:
            return
        if recovery.exception() is not None:
            log.error("publishing to %s failed", self.topic, exc_info=recovery.exception())
            self._fail_all(InternalError(f"publishing to {self.topic} failed inside pubsub; see the log"))
        self._trouble = None
        if self._queue or self._in_flight:
            self._flush()
        else:
            self._idle.set()

    def _take_back(self) -> None:
        """Everything in flight has a reply, or lost its link: put back into the queue what must be sent again."""
        batches = list(self._in_flight)
        self._in_flight.clear()
        if not batches:
            return
        first = batches[0].rejection
        if isinstance(first, SequenceError):
            # The owner does not know our numbers, a restored file say. It stored nothing of these.
            self._numbering.begin()
        elif first is not None and not first.retriable and not isinstance(first, TopicNotFoundError):
            refused = batches.pop(0)
            if refused.fate_unknown:
                self._numbering.retire(refused)
            refused.fail(first)
            self._trouble = None
        if isinstance(first, TopicNotFoundError | NotOwnerError):
            self._routes.forget(self.topic)
            self._route = None
        self._open = None
        self._numbering.renumber(batches)
        for batch in reversed(batches):
            self._queue.appendleft(batch)
            self._queued_bytes += batch.size_bytes

    async def _reconnect(self) -> bool:
        """Find the owner and connect. False: not yet, try again. What cannot succeed is failed."""
        before = self._route
        try:
            route = await self._routes.find(self.topic, self._patience_seconds())
            link = await self._routes.link(route)
        except PubsubError as error:
            self._trouble = error
            self._routes.forget(self.topic)
            if not error.retriable:
                self._fail_all(error)
            return False
        if before is not None and before.topic_id != route.topic_id:
            # Deleted and created anew: what the old one had is gone, so nothing can be doubled in the new one.
            self._numbering.begin()
        self._route, self._trouble = route, None
        if link is not self._link:
            self._link = link
            link.when_lost(lambda: self._on_link_lost(link))
        return True

    def _on_link_lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._routes.forget(self.topic)

    def _patience_seconds(self) -> float:
        """How long to ask for the owner: so that the reason is known before the oldest batch is given up."""
        left_seconds = self._seconds_left()
        return max(left_seconds - 1.0, left_seconds / 2)

    def _seconds_left(self) -> float:
        deadlines = [queue[0].deadline for queue in (self._in_flight, self._queue) if queue]
        return max(0.1, min(deadlines) - self._loop.time()) if deadlines else 0.1

    # Deadlines

    def _watch_deadline(self) -> None:
        """Have a timer for the oldest batch. One that is set stays set: it looks again when it fires."""
        if self._timer is None and (self._queue or self._in_flight):
            self._timer = self._loop.call_later(self._seconds_left(), self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = [b for b in (*self._in_flight, *self._queue) if b.deadline <= now]
        if late:
            self._expire(late)
        self._watch_deadline()

    def _expire(self, late: list[OutgoingBatch]) -> None:
        reason = f": {self._trouble}" if self._trouble is not None else ""
        seconds = f"{self._settings.timeout_seconds:g} s"
        if any(batch.fate_unknown for batch in late):
            late = [b for b in (*self._in_flight, *self._queue) if b in late or b.fate_unknown]
            self._numbering.begin()
            self._expect_nothing()
            self._leave_silent_link()
        for batch in late:
            fate = "whether they were stored is unknown" if batch.fate_unknown else "they were not stored"
            batch.fail(
                TimeoutExpiredError(
                    f"messages to {self.topic} not acknowledged within {seconds} ({fate}){reason}"
                )
            )
        self._drop(late)
        if self._queue:
            self._flush_soon()

    def _leave_silent_link(self) -> None:
        """Where the other end says nothing to anybody, its link ends."""
        link = self._link
        if link is not None and self._loop.time() - link.heard_at >= self._settings.timeout_seconds:
            link.abort()  # others on it will come back at once on a new one

    def _drop(self, batches: list[OutgoingBatch]) -> None:
        gone = set(map(id, batches))
        self._queued_bytes -= sum(b.size_bytes for b in self._queue if id(b) in gone)
        self._queue = deque(b for b in self._queue if id(b) not in gone)
        self._in_flight = deque(b for b in self._in_flight if id(b) not in gone)
        if self._open is not None and id(self._open) in gone:
            self._open = None
        if not self._queue and not self._in_flight:
            self._idle.set()
        self._room.set()

    def _fail_all(self, error: PubsubError) -> None:
        batches = [*self._in_flight, *self._queue]
        if any(batch.fate_unknown for batch in batches):
            self._numbering.begin()
        for batch in batches:
            batch.fail(error)
        self._drop(batches)

    async def close(self, drain_seconds: float) -> None:
        """Wait until everything is acknowledged, for so long at most; fail the rest. Idempotent."""
        try:
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("closing with unacknowledged messages to %s", self.topic)
        self._closed = True
        self._telling.finish()
        self._fail_all(ClosedError("the client was closed before the message was acknowledged"))
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
