"""Settling: what became of a member's messages, told to the owner in as few frames as can be.

Everything settled in one turn of the loop goes into one frame of each kind, and so does everything settled while
frames are under way: the next ones are sent when those have been answered. The owner names what was late.

A `Settling` belongs to one membership, that is to one join on one connection. When that is over the owner gives
its messages out again, so whatever is settled after it is late; of what was under way nobody knows whether it was
stored before.
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

OnLate = Callable[[int, int, bool], None]
"""Called with an offset, its attempt, and whether somebody had settled it, rather than this client by itself."""


class Settle:
    """One decision on its way."""

    __slots__ = ("answer", "attempt", "deadline", "delay_us", "how", "offset")

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

    def succeed(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: PubsubError) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen: who does not wait for an answer does not want to be told


class Settling:
    """The settles of one membership, which is the stream `subscription` on `link`."""

    def __init__(
        self, topic: str, link: Link, subscription: int, settings: ClientSettings, on_late: OnLate
    ) -> None:
        self._topic = topic
        self._link = link
        self._subscription = subscription
        self._timeout_seconds = settings.timeout_seconds
        self._backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._queue: list[Settle] = []
        self._under_way: list[list[Settle]] = []
        """The content of each frame that has not been answered."""
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = False
        self._closed = False

    def add(self, how: str, offset: int, attempt: int, delay_us: int = OWN_BACKOFF) -> asyncio.Future[None]:
        """Tell the owner; the future is done when it is on disk there."""
        answer: asyncio.Future[None] = self._loop.create_future()
        settle = Settle(how, offset, attempt, delay_us, answer, self._loop.time() + self._timeout_seconds)
        if self._ended:
            self._over(settle, under_way=False)
        else:
            self._enqueue(settle)
        return answer

    def tell(self, how: str, deliveries: Iterable[tuple[int, int]]) -> None:
        """The same for many, each an (offset, attempt), for nobody who waits."""
        deadline = self._loop.time() + self._timeout_seconds
        for offset, attempt in deliveries if not self._ended else ():
            self._enqueue(Settle(how, offset, attempt, OWN_BACKOFF, None, deadline))

    def _enqueue(self, settle: Settle) -> None:
        self._queue.append(settle)
        self._idle.clear()
        self._flush_soon()
        if self._timer is None:
            self._timer = self._loop.call_at(settle.deadline, self._on_deadline)

    # Sending

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._under_way and self._queue:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if self._ended or self._under_way:
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
            self._send(how, delay_us, settles)

    def _send(self, how: str, delay_us: int, settles: list[Settle]) -> None:
        request = self._link.next_id()
        frame = m.Settle(
            id=request,
            subscription=self._subscription,
            how=how,
            offsets=[settle.offset for settle in settles],
            attempts=[settle.attempt for settle in settles],
            delay_us=delay_us,
        )
        self._link.call(request, encode_frame(frame), lambda reply: self._on_reply(settles, reply))

    def _on_reply(self, settles: list[Settle], reply: m.Frame | PubsubError) -> None:
        if self._ended:
            return
        self._under_way.remove(settles)
        if isinstance(reply, m.Settled):
            self._backoff.reset()
            self._on_settled(settles, reply.late)
        elif isinstance(reply, ConnectionLostError):
            self._under_way.append(settles)  # `end` follows, and tells
            return
        elif isinstance(reply, PubsubError) and reply.retriable:
            self._queue[:0] = [s for s in settles if s.answer is not None and not s.answer.done()]
            if self._flushing is None:
                self._flushing = self._loop.call_later(self._backoff.next_seconds(), self._flush)
        else:
            kind = type(reply).__name__
            error = reply if isinstance(reply, PubsubError) else None
            for settle in settles:
                settle.fail(error or RemoteProtocolError(f"unexpected reply to settle: {kind}"))
        self._flush_soon()
        self._note_idle()

    def _on_settled(self, settles: list[Settle], late: list[int]) -> None:
        these = set(late)
        for settle in settles:
            if settle.offset not in these:
                settle.succeed()
                continue
            self._on_late(settle.offset, settle.attempt, settle.answer is not None)
            settle.fail(
                self._late(
                    settle, "was settled before, or its lease ran out and it is given out again", False
                )
            )

    def _late(self, settle: Settle, why: str, fate_unknown: bool) -> PubsubError:
        return LateAcknowledgementError(
            f"message {settle.offset} of {self._topic}, attempt {settle.attempt}, {why}",
            offset=settle.offset,
            attempt=settle.attempt,
            fate_unknown=fate_unknown,
        )

    # Deadlines

    def _on_deadline(self) -> None:
        self._timer = None
        now = self._loop.time()
        for settle in self._queue:
            if settle.deadline <= now:
                settle.fail(self._expired(settle, "it did not take effect"))
        self._queue = [settle for settle in self._queue if settle.deadline > now]
        under_way = [settle for settles in self._under_way for settle in settles]
        for settle in under_way:
            if settle.deadline <= now:
                settle.fail(self._expired(settle, "whether it took effect is unknown"))
        silent = now - self._link.heard_at >= self._timeout_seconds
        if silent and any(settle.deadline <= now for settle in under_way):
            self._link.abort()  # it says nothing to anybody: all on it come back on a new one
        elif left := [s.deadline for s in [*self._queue, *under_way] if s.deadline > now]:
            self._timer = self._loop.call_at(min(left), self._on_deadline)
        self._note_idle()

    def _expired(self, settle: Settle, fate: str) -> PubsubError:
        return TimeoutExpiredError(
            f"{settle.how} of message {settle.offset} of {self._topic} was not answered within "
            f"{self._timeout_seconds:g} s: {fate}"
        )

    # The end

    def _note_idle(self) -> None:
        if not self._under_way and not self._queue:
            self._idle.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def drain(self, timeout_seconds: float) -> None:
        """Wait until everything has been answered, the membership is over, or the time is."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return

    def end(self, *, closed: bool) -> None:
        """The membership is over: what has no answer yet, and all that still comes, is late. Idempotent.

        Args:
            closed: The application has closed the subscription; then the error says that.
        """
        if self._ended:
            return
        self._ended, self._closed = True, closed
        for handle in (self._timer, self._flushing):
            if handle is not None:
                handle.cancel()
        under_way, self._under_way = self._under_way, []
        queue, self._queue = self._queue, []
        for settles in under_way:
            for settle in settles:
                self._over(settle, under_way=True)
        for settle in queue:
            self._over(settle, under_way=False)
        self._idle.set()

    def _over(self, settle: Settle, *, under_way: bool) -> None:
        if settle.answer is None:
            return
        if self._closed:
            unknown = ": whether it took effect is unknown" if under_way else ""
            settle.fail(ClosedError(f"the subscription has been closed{unknown}"))
            return
        self._on_late(settle.offset, settle.attempt, True)
        why = (
            "was being settled when the connection to its owner broke: it was settled by then, or is given out again"
            if under_way
            else "is given out again: the connection to its owner broke, or its group was reset, since it came"
        )
        settle.fail(self._late(settle, why, under_way))
