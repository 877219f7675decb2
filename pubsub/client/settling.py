"""Settling: what became of a group's messages, told to the owner in as few frames as can be.

Everything settled in one turn of the loop goes into one frame of each kind, and so does everything settled while
frames are under way: the next ones are sent when those have been answered. The owner names what was late.

When the connection breaks, what has no answer is sent again on the next one, under the same offset and attempt.
Its fate is then unknown: the owner may have settled it before the connection broke, or may have given the message
out again since. Either way it says late, and so does the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pubsub.config import ClientSettings
from pubsub.errors import (
    ClosedError,
    ConnectionLostError,
    LateAcknowledgementError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
)
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame

OWN_BACKOFF = -1
"""As a delay: the one that the group's options say."""


class Settle:
    """One decision on its way."""

    __slots__ = ("answer", "attempt", "deadline", "delay_us", "how", "offset", "sent_before")

    def __init__(
        self,
        how: str,
        offset: int,
        attempt: int,
        delay_us: int,
        answer: asyncio.Future[None] | None,
        deadline: float,
    ) -> None:
        self.how = how
        self.offset = offset
        self.attempt = attempt
        self.delay_us = delay_us
        self.answer = answer
        """None: nobody waits for it."""
        self.deadline = deadline
        self.sent_before = False
        """On a connection that broke before the answer came."""

    def succeed(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: PubsubError) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen: who does not wait for an answer does not want to be told


class Settling:
    """The settles of one member of a group."""

    def __init__(self, topic: str, settings: ClientSettings, on_late: Callable[[int, int], None]) -> None:
        self._topic = topic
        self._timeout_seconds = settings.timeout_seconds
        self._backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
        self._on_late = on_late
        self.late = 0
        """How many that somebody asked for came late."""
        self._loop = asyncio.get_running_loop()
        self._queue: list[Settle] = []
        self._under_way: list[list[Settle]] = []
        """The content of each frame that has not been answered."""
        self._link: Link | None = None
        self._subscription = 0
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed: PubsubError | None = None

    def add(self, how: str, offset: int, attempt: int, delay_us: int = OWN_BACKOFF) -> asyncio.Future[None]:
        """Tell the owner; the future is done when it is on disk there."""
        answer: asyncio.Future[None] = self._loop.create_future()
        settle = Settle(how, offset, attempt, delay_us, answer, self._loop.time() + self._timeout_seconds)
        if self._closed is not None:
            settle.fail(self._closed)
        else:
            self._enqueue(settle)
        return answer

    def tell(self, how: str, deliveries: Iterable[tuple[int, int]]) -> None:
        """The same for many, each an (offset, attempt); nobody waits, and without a connection it is dropped."""
        deadline = self._loop.time() + self._timeout_seconds
        for offset, attempt in deliveries:
            self._enqueue(Settle(how, offset, attempt, OWN_BACKOFF, None, deadline))

    def _enqueue(self, settle: Settle) -> None:
        if settle.answer is None and self._link is None:
            return
        self._queue.append(settle)
        self._idle.clear()
        self._flush_soon()
        if self._timer is None:
            self._timer = self._loop.call_at(settle.deadline, self._on_deadline)

    # Connections

    def attach(self, link: Link, subscription: int) -> None:
        """Settles may be sent on this connection."""
        self._link, self._subscription = link, subscription
        self._flush_soon()

    def detach(self) -> None:
        """No settle may be sent until the next `attach`."""
        self._link = None
        self._queue = [settle for settle in self._queue if settle.answer is not None]
        self._note_idle()

    # Sending

    def _flush_soon(self) -> None:
        if self._flushing is None and self._link is not None and not self._under_way and self._queue:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush_later(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushing = self._loop.call_later(self._backoff.next_seconds(), self._flush)

    def _flush(self) -> None:
        self._flushing = None
        link = self._link
        if link is None or self._under_way:
            return
        frames: dict[tuple[str, int], dict[int, Settle]] = {}
        again: list[Settle] = []
        offsets: set[int] = set()
        for settle in self._queue:
            if settle.offset in offsets:  # of an earlier attempt, say: the answer names offsets only
                again.append(settle)
            else:
                offsets.add(settle.offset)
                frames.setdefault((settle.how, settle.delay_us), {})[settle.offset] = settle
        self._queue = again
        parts = [(*kind, list(settles.values())) for kind, settles in frames.items()]
        self._under_way = [settles for _, _, settles in parts]
        for how, delay_us, settles in parts:
            self._send(link, how, delay_us, settles)

    def _send(self, link: Link, how: str, delay_us: int, settles: list[Settle]) -> None:
        request = link.next_id()
        frame = m.Settle(
            id=request,
            subscription=self._subscription,
            how=how,
            offsets=[settle.offset for settle in settles],
            attempts=[settle.attempt for settle in settles],
            delay_us=delay_us,
        )
        link.call(request, encode_frame(frame), lambda reply: self._on_reply(settles, reply))

    def _on_reply(self, settles: list[Settle], reply: m.Frame | PubsubError) -> None:
        self._under_way.remove(settles)
        if isinstance(reply, m.Settled):
            self._backoff.reset()
            self._on_settled(settles, reply.late)
        else:
            error = (
                reply
                if isinstance(reply, PubsubError)
                else RemoteProtocolError(f"unexpected reply to settle: {type(reply).__name__}")
            )
            self._on_failure(settles, error)
        self._flush_soon()
        self._note_idle()

    def _on_settled(self, settles: list[Settle], late: list[int]) -> None:
        if not late:
            for settle in settles:
                settle.succeed()
            return
        these = set(late)
        for settle in settles:
            if settle.offset not in these:
                settle.succeed()
            else:
                self.late += settle.answer is not None
                self._on_late(settle.offset, settle.attempt)
                settle.fail(self._late(settle))

    def _late(self, settle: Settle) -> PubsubError:
        which = f"message {settle.offset} of {self._topic}, attempt {settle.attempt},"
        if settle.sent_before:
            return LateAcknowledgementError(
                f"the connection broke before the answer for {which} came: it was settled by then, "
                "or has been given out again",
                offset=settle.offset,
                attempt=settle.attempt,
                fate_unknown=True,
            )
        return LateAcknowledgementError(
            f"{which} was not this member's any more: it has been settled, or is given out again; "
            "nothing was changed",
            offset=settle.offset,
            attempt=settle.attempt,
            fate_unknown=False,
        )

    def _on_failure(self, settles: list[Settle], error: PubsubError) -> None:
        if not error.retriable:
            for settle in settles:
                settle.fail(error)
            return
        for settle in settles:
            settle.sent_before |= isinstance(error, ConnectionLostError)
        waiting = [s for s in settles if s.answer is not None and not s.answer.done()]
        self._queue[:0] = waiting
        if waiting and not isinstance(error, ConnectionLostError):
            self._flush_later()

    # Deadlines

    def _on_deadline(self) -> None:
        self._timer = None
        now = self._loop.time()
        unsent, self._queue = self._queue, []
        for settle in unsent:
            if settle.deadline > now:
                self._queue.append(settle)
            else:
                settle.fail(self._expired(settle, settle.sent_before))
        unanswered = False
        for settle in [settle for frame in self._under_way for settle in frame]:
            if settle.deadline <= now:
                unanswered = True
                settle.fail(self._expired(settle, True))
        left = [settle.deadline for frame in (self._queue, *self._under_way) for settle in frame]
        left = [deadline for deadline in left if deadline > now]
        if left:
            self._timer = self._loop.call_at(min(left), self._on_deadline)
        if unanswered and self._link is not None:
            self._link.abort()  # it does not answer; everybody on it comes back on a new one
        self._note_idle()

    def _expired(self, settle: Settle, sent: bool) -> PubsubError:
        fate = "whether it took effect is unknown" if sent else "it did not take effect"
        return TimeoutExpiredError(
            f"{settle.how} of message {settle.offset} of {self._topic} was not answered within "
            f"{self._timeout_seconds:g} s: {fate}"
        )

    # Closing

    def _note_idle(self) -> None:
        if not self._under_way and not self._queue:
            self._idle.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def drain(self, timeout_seconds: float) -> None:
        """Wait until everything has been answered, or the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return

    def close(self, error: PubsubError | None = None) -> None:
        """Fail what has no answer yet, and all that comes. Idempotent."""
        if self._closed is None:
            self._closed = error or ClosedError("the subscription has been closed")
            self._link = None
            for settle in [*self._queue, *(settle for frame in self._under_way for settle in frame)]:
                settle.fail(self._closed)
            self._queue.clear()
            for handle in (self._timer, self._flushing):
                if handle is not None:
                    handle.cancel()
            self._timer = self._flushing = None
            self._note_idle()
