"""One framed connection on a transport that only writes down what is done to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pubsub.config import Limits
from pubsub.errors import ConnectionLostError, RemoteProtocolError
from pubsub.net.connection import HELD_BYTES, Connection
from pubsub.protocol import messages as m
from pubsub.protocol.codec import decode_frame, encode_frame


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.high = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.1", 5) if name == "peername" else default

    def write(self, data: Any) -> None:
        self.writes += 1
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Recorder(Connection):
    """Takes any frame but Watch."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.frames: list[m.Frame] = []
        self.events: list[str] = []

    def on_frame(self, frame: m.Frame) -> None:
        if isinstance(frame, m.Watch):
            raise RemoteProtocolError("not this one")
        if isinstance(frame, m.Peers):
            raise ZeroDivisionError
        self.frames.append(frame)

    def on_writable(self) -> None:
        self.events.append("writable")

    def on_lost(self) -> None:
        self.events.append("lost")


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def connection(transport: FakeTransport) -> Recorder:
    connection = Recorder(Limits(write_buffer_bytes=100))
    connection.connection_made(transport)
    return connection


def failures_in(written: bytes) -> list[m.Frame]:
    frames = []
    while written:
        length = int.from_bytes(written[:4], "big")
        frames.append(decode_frame(written[4 : 4 + length]))
        written = written[4 + length :]
    return frames


async def test_it_knows_the_other_end_and_its_own_limit(connection: Recorder, transport: FakeTransport):
    assert connection.remote == "10.0.0.1:5"
    assert connection.open
    assert connection.writable
    assert transport.high == 100


async def test_frames_are_taken_in_order_however_they_are_cut(connection: Recorder):
    stream = b"".join(encode_frame(m.Status(n)) for n in range(5))
    for byte in stream:
        connection.data_received(bytes([byte]))
    assert connection.frames == [m.Status(n) for n in range(5)]


@pytest.mark.parametrize(
    "bad", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", encode_frame(m.Watch(1))]
)
async def test_a_bad_frame_is_answered_once_and_nothing_behind_it_is_taken(
    connection: Recorder, transport: FakeTransport, bad: bytes
):
    connection.data_received(encode_frame(m.Status(1)) + bad + encode_frame(m.Status(2)))
    connection.data_received(encode_frame(m.Status(3)) + bad)
    assert connection.frames == [m.Status(1)]
    (failure,) = failures_in(transport.written)
    assert isinstance(failure, m.Failure)
    assert (failure.id, failure.code) == (0, "remote_protocol")
    assert transport.closed
    assert isinstance(connection.error, RemoteProtocolError)


async def test_a_fault_of_our_own_is_answered_as_one_and_closes_this_connection_only(
    connection: Recorder, transport: FakeTransport, caplog: pytest.LogCaptureFixture
):
    connection.data_received(encode_frame(m.Peers(1)))
    (failure,) = failures_in(transport.written)
    assert isinstance(failure, m.Failure)
    assert (failure.id, failure.code) == (0, "internal")
    assert transport.closed
    assert "ZeroDivisionError" in caplog.text


async def test_frames_behind_the_one_at_which_we_closed_are_dropped(connection: Recorder):
    connection.frames = _ClosingList(connection)
    connection.data_received(encode_frame(m.Status(1)) + encode_frame(m.Status(2)))
    assert connection.frames == [m.Status(1)]


class _ClosingList(list[m.Frame]):
    """Closes the connection when a frame is appended."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def append(self, frame: m.Frame) -> None:
        super().append(frame)
        self._connection.close()


async def test_nothing_is_sent_before_it_opens_or_after_it_closed(transport: FakeTransport):
    connection = Recorder(Limits())
    connection.send(b"early")
    connection.connection_made(transport)
    connection.connection_lost(None)
    connection.send(b"late")
    assert transport.written == b""


async def test_what_is_sent_in_one_turn_of_the_loop_goes_out_in_two_writes(
    connection: Recorder, transport: FakeTransport
):
    for number in range(100):
        connection.send(b"%02d" % number)
    assert transport.written == b"00", "the first is not delayed"
    await asyncio.sleep(0)
    assert transport.written == b"".join(b"%02d" % number for number in range(100))
    assert transport.writes == 2
    connection.send(b"next")
    assert transport.written.endswith(b"next"), "nor is the first of the next turn"


async def test_what_is_kept_back_is_bounded_counts_as_unsent_and_goes_out_before_closing(
    connection: Recorder, transport: FakeTransport
):
    connection.send(b"a")
    connection.send(b"b" * HELD_BYTES)
    assert connection.unsent_bytes == 1 + HELD_BYTES
    assert len(transport.written) == 1
    connection.send(b"c")
    assert len(transport.written) == 2 + HELD_BYTES
    connection.send(b"d")
    connection.close()
    assert transport.written.endswith(b"cd")


async def test_what_is_kept_back_by_a_connection_that_breaks_is_dropped(
    connection: Recorder, transport: FakeTransport
):
    connection.send(b"a")
    connection.send(b"b")
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert transport.written == b"a"


async def test_reading_is_held_until_every_reason_is_gone(connection: Recorder, transport: FakeTransport):
    connection.hold_reading("a")
    connection.hold_reading("b")
    connection.hold_reading("a")
    connection.release_reading("a")
    assert not transport.reading
    connection.release_reading("unknown")
    assert not transport.reading
    connection.release_reading("b")
    assert transport.reading
    connection.release_reading("b")


async def test_an_end_that_does_not_read_is_not_read_from(connection: Recorder, transport: FakeTransport):
    connection.pause_writing()
    assert not connection.writable
    assert not transport.reading
    connection.resume_writing()
    assert connection.writable
    assert transport.reading
    assert connection.events == ["writable"]


async def test_who_waits_until_writable_goes_on_when_it_is(connection: Recorder):
    await connection.until_writable()
    connection.pause_writing()
    waiting = asyncio.create_task(connection.until_writable())
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.resume_writing()
    await waiting


async def test_who_waits_until_writable_or_closed_goes_on_when_the_connection_is_lost(connection: Recorder):
    connection.pause_writing()
    waiting = [asyncio.create_task(connection.until_writable()), asyncio.create_task(connection.closed())]
    await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.gather(*waiting)
    await connection.closed()


async def test_a_break_is_told_once_to_everyone_who_asked(connection: Recorder):
    told: list[str] = []
    first, taken_back = (lambda: told.append("first")), (lambda: told.append("taken back"))
    connection.when_lost(first)
    connection.when_lost(taken_back)
    connection.forget_when_lost(taken_back)
    connection.forget_when_lost(taken_back)
    connection.connection_lost(OSError("broken"))
    assert told == ["first"]
    assert connection.events == ["lost"]
    assert isinstance(connection.error, ConnectionLostError)
    assert "10.0.0.1:5 broke: broken" in connection.error.message
    connection.when_lost(first)
    assert told == ["first", "first"]


async def test_unsent_bytes_are_what_the_transport_holds(connection: Recorder):
    assert connection.unsent_bytes == 0
    connection.send_frame(m.Done(1))
    assert connection.unsent_bytes == len(encode_frame(m.Done(1)))
    connection.connection_lost(None)
    assert connection.unsent_bytes == 0


async def test_several_parts_are_one_write(connection: Recorder, transport: FakeTransport):
    connection.send(b"ab", b"cd")
    assert transport.written == b"abcd"
