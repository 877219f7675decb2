"""One framed connection, either end: bytes in become frames, frames out become bytes.

Rules: `send` is the one door for writes. What is sent after the first write of a turn of the event loop goes out
together at the turn's end: one system call for a thousand replies, and none delayed that is alone. What the other end
does not read is bounded: past `Limits.write_buffer_bytes` the connection is not `writable` and, until it is again, not
read from either, so that nobody can make us pile up replies by asking and never reading. A malformed frame is answered
by an error frame (id 0) and the connection is closed. What frames mean is left to the subclasses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import cast

from pubsub.config import KIB, Limits
from pubsub.errors import ConnectionLostError, InternalError, ProtocolError, PubsubError
from pubsub.model import Address
from pubsub.protocol.codec import FrameReader, decode_frame, encode_frame
from pubsub.protocol.messages import Failure, Frame

log = logging.getLogger("pubsub.net")

HELD_BYTES = 64 * KIB
"""As much of one turn is kept back; more goes out at once."""

KEEPALIVE_IDLE_SECONDS = 10
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 3


class Connection(asyncio.Protocol):
    """A framed connection; subclasses say what a frame means (`on_frame`)."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.remote = "?"
        """The other end's address, for messages."""
        self.writable = True
        """False while the other end does not read what it was sent."""
        self.open = False
        self.error: PubsubError | None = None
        """Why it closed, where it was not asked to."""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        """When something came from the other end last, by the loop's clock."""
        self._turn_open = False
        """Something was written in this turn of the loop."""
        self._held: list[bytes] = []
        """What was sent after it."""
        self._held_bytes = 0
        self._reader = FrameReader(limits.frame_bytes)
        self._read_holds: set[str] = set()
        self._on_lost: list[Callable[[], None]] = []
        self._awaiting_writable: list[asyncio.Future[None]] = []

    # What subclasses do

    def on_frame(self, frame: Frame) -> None:
        """Take one frame.

        Raises:
            ProtocolError: it is not one that may come now; the connection is then closed with an error frame.
        """
        raise NotImplementedError

    def on_writable(self) -> None:
        """The other end reads again."""

    def on_lost(self) -> None:
        """The connection is gone; `error` may say why."""

    # For everybody

    def send(self, *parts: bytes) -> None:
        """Send the bytes of one or more frames; does nothing once the connection has closed."""
        if self._transport is None or not self.open:
            return
        if self._turn_open:
            self._held += parts
            self._held_bytes += sum(map(len, parts))
            if self._held_bytes > HELD_BYTES:
                self._write_held()
            return
        self._turn_open = True
        self._loop.call_soon(self._end_turn)
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def _end_turn(self) -> None:
        self._turn_open = False
        self._write_held()

    def _write_held(self) -> None:
        if self._held and self._transport is not None and self.open:
            held, self._held, self._held_bytes = self._held, [], 0
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def send_frame(self, frame: Frame) -> None:
        """Encode and send one frame."""
        self.send(encode_frame(frame))

    def hold_reading(self, reason: str) -> None:
        """Stop reading until `release_reading` has been called for every reason to hold."""
        if not self._read_holds and self.open and self._transport is not None:
            self._transport.pause_reading()
        self._read_holds.add(reason)

    def release_reading(self, reason: str) -> None:
        """Take a reason to hold away; without any left, reading goes on."""
        if reason in self._read_holds:
            self._read_holds.remove(reason)
            if not self._read_holds and self.open and self._transport is not None:
                self._transport.resume_reading()

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the connection is gone; at once if it is already."""
        if self._transport is not None and not self.open and not self._on_lost:
            callback()
        else:
            self._on_lost.append(callback)

    def forget_when_lost(self, callback: Callable[[], None]) -> None:
        """Take back a `when_lost`."""
        with contextlib.suppress(ValueError):
            self._on_lost.remove(callback)

    async def closed(self) -> None:
        """Wait until the connection is gone, or has failed."""
        if self.open:
            gone = asyncio.Event()
            self.when_lost(gone.set)
            await gone.wait()

    async def until_writable(self) -> None:
        """Wait until the other end has read what it was sent, or the connection is gone."""
        while self.open and not self.writable:
            waiting = asyncio.get_running_loop().create_future()
            self._awaiting_writable.append(waiting)
            await waiting

    def _wake_writers(self) -> None:
        waiting, self._awaiting_writable = self._awaiting_writable, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Close after what was sent has been written. Idempotent."""
        if self._transport is not None:
            self._write_held()
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what has not been written is dropped. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: PubsubError, request: int = 0) -> None:
        """Say what the other end did wrong, then close. Nothing that still comes is looked at."""
        self.error = self.error or error
        self.send_frame(Failure(request, error.code, error.message, error.data))
        self._write_held()
        self.open = False
        self._end_after_failure()

    def _end_after_failure(self) -> None:
        self.close()

    @property
    def unsent_bytes(self) -> int:
        """Bytes sent that the operating system has not taken yet."""
        if self._transport is None or not self.open:
            return 0
        return self._transport.get_write_buffer_size() + self._held_bytes

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape only
        self.open = True
        transport.set_write_buffer_limits(high=self.limits.write_buffer_bytes)
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.remote = str(Address(peername[0], peername[1]))
        _keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        if not self.open:  # it failed, and the rest is thrown away
            return
        self.heard_at = self._loop.time()
        try:
            for frame in self._reader.feed(data):
                self.on_frame(decode_frame(frame))
                if self._transport is None or self._transport.is_closing():
                    return
        except ProtocolError as error:
            log.info("closing %s: %s", self.remote, error)
            self.fail(error)
        except Exception:
            log.exception("a frame from %s could not be handled; closing the connection", self.remote)
            self.fail(InternalError("a frame could not be handled; see the log of the other end"))

    def pause_writing(self) -> None:
        self.writable = False
        self.hold_reading("unread")

    def resume_writing(self) -> None:
        self.writable = True
        self.release_reading("unread")
        self.on_writable()
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if exc is not None and self.error is None:
            self.error = ConnectionLostError(f"the connection to {self.remote} broke: {exc}")
        self.on_lost()
        self._wake_writers()
        callbacks, self._on_lost = self._on_lost, []
        for callback in callbacks:
            callback()


def _keep_alive(sock: socket.socket | None) -> None:
    """Have the operating system find out that a silent host is gone: no frames of ours are needed for it."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):  # not every platform has all three
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
