"""A real server against clients that break the rules, never read, or leave."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from pubsub.config import KIB
from pubsub.errors import ConnectionLostError, SettingsError
from pubsub.net.link import connect
from pubsub.net.server import Server, ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from tests.integration.net.conftest import ANYWHERE, GREETING, LIMITS, RawClient, TinyService, address_of
from tests.waiting import wait_until

Dial = Callable[..., Awaitable[RawClient]]


async def fails_and_closes(client: RawClient) -> m.Failure:
    """The one frame that the client gets before the server closes."""
    (failure,) = await client.received_until_closed()
    assert isinstance(failure, m.Failure)
    assert failure.id == 0
    return failure


# Hello


async def test_who_says_nothing_is_told_and_closed(server: Server, dial: Dial):
    client = await dial(greet=False)
    failure = await fails_and_closes(client)
    assert failure.message == f"no hello within {LIMITS.hello_seconds:g} s"
    client.writer.close()
    await wait_until(lambda: not server.connections)


async def test_half_a_hello_is_none(dial: Dial):
    client = await dial(greet=False)
    client.send(encode_frame(GREETING)[:-1])
    assert "no hello" in (await fails_and_closes(client)).message


async def test_who_said_hello_may_be_silent_for_longer(dial: Dial, service: TinyService):
    service.gate.set()
    client = await dial()
    other = await dial(greet=False)
    await fails_and_closes(other)  # the time allowed has passed
    client.send(m.Status(1))
    assert await client.receive() == m.StatusReport(1, {"n": 1})


@pytest.fixture
async def patient(service: TinyService) -> AsyncIterator[Server]:
    """A server that waits only briefly for the rest of a frame, and takes few connections."""
    limits = msgspec.structs.replace(LIMITS, frame_seconds=0.1, connections=2)
    server = Server(service, "peer", limits)
    await server.listen(ANYWHERE)
    yield server
    service.gate.set()
    await server.close(1.0)


Greet = Callable[[], Awaitable[RawClient]]


@pytest.fixture
async def greet(patient: Server) -> AsyncIterator[Greet]:
    """Connects a client that has said hello to the patient server, and has not read the answer."""
    clients: list[RawClient] = []

    async def greet() -> RawClient:
        address = address_of(patient)
        clients.append(RawClient(*await asyncio.open_connection(address.host, address.port)))
        clients[-1].send(GREETING)
        return clients[-1]

    yield greet
    for client in clients:
        client.writer.close()
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


@pytest.mark.parametrize("sent", [1, 4, 5], ids=["part of the length", "the length", "part of the frame"])
async def test_a_frame_that_is_never_finished_closes_the_connection(patient: Server, greet: Greet, sent: int):
    client = await greet()
    assert isinstance(await client.receive(), m.Welcome)
    client.send(encode_frame(m.Lookup(1, "a")), encode_frame(m.Lookup(2, "a"))[:sent])
    answer, failure = await client.received_until_closed()
    assert isinstance(answer, m.Failure)
    assert answer.id == 1
    assert isinstance(failure, m.Failure)
    assert (failure.id, failure.message) == (0, "a frame was not finished within 0.1 s")
    client.writer.close()
    await wait_until(lambda: not patient.connections)


async def unfinished(server: Server, client: RawClient, *frames: bytes) -> ServerConnection:
    """Send frames, and have the server receive them, the last without its end. No time passes for it by itself."""
    (connection,) = server.connections
    client.send(*frames)
    await wait_until(lambda: connection._reader.incomplete)
    assert connection._frame_timer is not None
    connection._frame_timer.cancel()
    return connection


async def test_of_many_frames_that_come_in_pieces_each_has_its_time(server: Server, dial: Dial):
    client = await dial()
    frame = encode_frame(m.Lookup(1, "a"))
    connection = await unfinished(server, client, frame[:5])
    before = connection._progress
    client.send(frame[5:], frame[:5])
    await wait_until(lambda: connection._progress > before)
    connection._on_frame_timer(before)  # another frame than when the timer was set
    assert connection.open
    assert connection._frame_timer is not None
    connection._frame_timer.cancel()
    connection._on_frame_timer(connection._progress)
    assert not connection.open


async def test_a_frame_may_be_unfinished_while_the_server_does_not_read(server: Server, dial: Dial):
    client = await dial()
    connection = await unfinished(server, client, encode_frame(m.Lookup(1, "a"))[:5])
    connection.hold_reading("test")
    then = connection._progress
    for _ in range(2):
        connection._on_frame_timer(then)
        assert connection.open
    connection.release_reading("test")
    connection._on_frame_timer(then)  # it has had no time to be read since
    assert connection.open
    client.send(encode_frame(m.Lookup(1, "a"))[5:])
    assert isinstance(await client.receive(), m.Failure)


async def test_a_connection_too_many_is_told_so_and_can_come_later(
    patient: Server, greet: Greet, caplog: pytest.LogCaptureFixture
):
    first, second = await greet(), await greet()
    for client in (first, second):
        assert isinstance(await client.receive(), m.Welcome)
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match="2 connections are open, which is the most"):
            await connect(address_of(patient), GREETING, LIMITS)
    assert caplog.messages.count("closing connections: 2 connections are open, which is the most") == 1
    first.writer.close()
    await wait_until(lambda: len(patient.connections) < 2)
    link = await connect(address_of(patient), GREETING, LIMITS)
    link.abort()
    await link.closed()


async def test_many_connections_too_many_are_just_closed(
    patient: Server, greet: Greet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pubsub.net.server.MOST_REFUSED", 1)
    clients = [await greet() for _ in range(5)]
    await wait_until(lambda: len(patient.connections) <= 3)
    for client in clients:
        client.writer.close()
    await wait_until(lambda: not patient.connections)


async def test_another_major_version_is_refused_and_both_are_named(dial: Dial):
    client = await dial(greet=False)
    client.send(msgspec.structs.replace(GREETING, major=9, minor=4, software="other 3"))
    failure = await fails_and_closes(client)
    assert failure.code == "unsupported_version"
    assert "other 3 speaks protocol 9.4" in failure.message
    assert f"speaks {m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}" in failure.message
    assert failure.data == {"theirs": "9.4", "ours": f"{m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}"}


async def test_a_frame_before_hello_is_refused_and_not_handled(dial: Dial, service: TinyService):
    client = await dial(greet=False)
    client.send(m.Publish(1, "a", 0, 1, 0, None, None, [b"x"]), GREETING)
    failure = await fails_and_closes(client)
    assert failure.code == "remote_protocol"
    assert "must be hello, not Publish" in failure.message
    assert service.published == []


async def test_requests_may_follow_hello_without_waiting_for_the_welcome(dial: Dial):
    client = await dial(greet=False)
    client.send(GREETING, m.Publish(1, "a", 0, 1, 0, None, None, [b"x"]))
    assert isinstance(await client.receive(), m.Welcome)
    assert await client.receive() == m.Published(1, 0)


# Frames that are none


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (struct.pack(">I", 0), "a frame of 0 bytes"),
        (struct.pack(">I", LIMITS.frame_bytes + 1), f"a frame of {LIMITS.frame_bytes + 1} bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
        (b"\x00\x00\x00\x01\xc1", "malformed"),
        (b"\x00\x00\x00\x05\x92\x63\x01\xc0\xc0", "malformed"),
        (b"\x00\x00\x00\x03\x92\x63\x01", "Invalid value 99"),
        (encode_frame(m.Done(1)), "does not accept the frame Done"),
        (encode_frame(GREETING), "does not accept the frame Hello"),
        (encode_frame(m.Status(0)), "Status has the id 0: ids are 1 to"),
        (encode_frame(m.Status(-3)), "Status has the id -3"),
        (encode_frame(m.Status(2**63)), "Status has the id 9223372036854775808"),
        (encode_frame(m.Publish(0, "a", 0, 1, 0, None, None, [b"x"])), "Publish has the id 0"),
        (encode_frame(m.Heartbeat(id=1, name="a", incarnation="x.1", load={})), "the frame Heartbeat"),
    ],
    ids=[
        "empty",
        "oversized",
        "http",
        "not-msgpack",
        "trailing",
        "unknown-type",
        "reply",
        "hello-again",
        "id-0",
        "id-negative",
        "id-huge",
        "publish-id-0",
        "index-only",
    ],
)
async def test_a_bad_frame_gets_an_error_frame_then_the_connection_closes(
    server: Server, dial: Dial, service: TinyService, bad: bytes, said: str
):
    client = await dial()
    publish = [m.Publish(n, "a", 0, 1, n, None, None, [b"x"]) for n in (1, 2)]
    client.send(publish[0], bad, publish[1])
    first, failure = await client.received_until_closed()
    assert first == m.Published(1, 1)
    assert isinstance(failure, m.Failure)
    assert said in failure.message
    assert service.published == [1]
    client.writer.close()
    await wait_until(lambda: not server.connections)


async def test_the_error_frame_arrives_though_the_client_goes_on_sending(server: Server, dial: Dial):
    client = await dial()
    client.send(struct.pack(">I", LIMITS.frame_bytes + 1), b"x" * 4 * KIB * KIB)
    assert "was announced" in (await fails_and_closes(client)).message


async def test_a_client_that_does_not_leave_after_its_error_is_dropped(
    server: Server, dial: Dial, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pubsub.net.server.FAREWELL_SECONDS", 0.05)
    client = await dial()
    client.send(b"\x00\x00\x00\x00")
    await wait_until(lambda: not server.connections)


async def test_a_frame_cut_off_by_the_end_of_the_connection_is_dropped(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.send(encode_frame(m.Publish(1, "a", 0, 1, 0, None, None, [b"x"]))[:-1])
    client.writer.close()
    await wait_until(lambda: not server.connections)
    assert service.published == []


async def test_one_bad_client_does_not_disturb_another(dial: Dial, service: TinyService):
    good, bad = await dial(), await dial()
    bad.send(b"\x00\x00\x00\x00")
    await fails_and_closes(bad)
    good.send(m.Publish(1, "a", 0, 1, 0, None, None, [b"x"]))
    assert await good.receive() == m.Published(1, 0)


# Requests


async def test_a_failed_request_leaves_the_connection_open(dial: Dial, caplog: pytest.LogCaptureFixture):
    client = await dial()
    client.send(m.Lookup(1, "a.b"), m.Peers(2), m.Publish(3, "a", 0, 1, 0, None, None, [b"x"]))
    replies = {frame.id: frame for frame in [await client.receive() for _ in range(3)] if frame is not None}  # type: ignore[union-attr]
    assert replies[1] == m.Failure(1, "topic_not_found", "no topic a.b", {"id": 7})
    assert isinstance(replies[2], m.Failure)
    assert replies[2].code == "internal"
    assert "ZeroDivisionError" in caplog.text
    assert replies[3] == m.Published(3, 0)


async def test_requests_run_together_up_to_the_limit_and_the_others_wait_unread(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.send(*(m.Status(n) for n in range(1, 11)))
    await wait_until(lambda: service.waiting == LIMITS.running_requests)
    (connection,) = server.connections
    await wait_until(lambda: "busy" in connection._read_holds)
    client.send(m.Publish(99, "a", 0, 1, 0, None, None, [b"x"]))
    other = await dial()
    other.send(m.Lookup(1, "a"))
    assert isinstance(await other.receive(), m.Failure)
    assert service.published == []
    service.gate.set()
    replies = [await client.receive() for _ in range(11)]
    assert [r for r in replies if r != m.Published(99, 0)] == [
        m.StatusReport(n, {"n": n}) for n in range(1, 11)
    ]
    assert service.most_waiting == LIMITS.running_requests
    assert not connection._read_holds


async def test_publishes_overtake_requests_that_run(dial: Dial, service: TinyService):
    client = await dial()
    client.send(m.Status(1), m.Publish(2, "a", 0, 1, 0, None, None, [b"x"]))
    assert await client.receive() == m.Published(2, 0)
    service.gate.set()
    assert await client.receive() == m.StatusReport(1, {"n": 1})


async def test_a_client_that_leaves_has_its_requests_cancelled(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.send(*(m.Status(n) for n in range(1, LIMITS.running_requests + 1)))
    await wait_until(lambda: service.waiting == LIMITS.running_requests)
    client.writer.transport.abort()
    await wait_until(lambda: service.waiting == 0)
    assert not server.connections


# Bounds


async def test_a_client_that_asks_and_never_reads_is_no_longer_read_from(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.writer.transport.set_write_buffer_limits(high=0)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = server.connections
    small = m.Publish(1, "a" * 1000, 0, 1, 0, None, None, [b"x"])
    request = encode_frame(small) * 20
    most = 0

    async def ask_for_ever() -> None:
        while True:
            client.send(request)
            await client.writer.drain()

    asking = asyncio.create_task(ask_for_ever())
    try:

        def given_up_on() -> bool:
            nonlocal most
            most = max(most, connection.unsent_bytes)
            return not connection.writable and "unread" in connection._read_holds

        await wait_until(given_up_on, timeout_seconds=20)
        before = len(service.published)
        other = await dial()  # the server goes on, and this takes it several turns of its loop
        other.send(m.Lookup(1, "a"))
        assert isinstance(await other.receive(), m.Failure)
        assert len(service.published) == before
        # at most what one read of requests makes over the limit
        assert max(most, connection.unsent_bytes) <= LIMITS.write_buffer_bytes + 256 * KIB
        asking.cancel()
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        while not connection.writable or connection._read_holds:
            assert isinstance(await client.receive(), m.Published)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_large_replies_are_made_one_at_a_time_for_who_does_not_read(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = server.connections
    asked = 400
    client.send(*(m.Query(id=n, topic="a", limit=1) for n in range(1, asked + 1)))
    await wait_until(lambda: not connection.writable)
    other = await dial()
    other.send(m.Lookup(1, "a"))
    assert isinstance(await other.receive(), m.Failure)
    assert service.large_replies < asked
    assert connection.unsent_bytes <= LIMITS.write_buffer_bytes + 61 * KIB
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    received = [await client.receive() for _ in range(asked)]
    assert [frame.id for frame in received if isinstance(frame, m.QueryResult)] == list(range(1, asked + 1))


async def test_many_tiny_requests_in_one_read_wait_in_bounded_memory(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.send(b"".join(encode_frame(m.Status(1)) for _ in range(100_000)))
    (connection,) = server.connections
    await wait_until(lambda: service.waiting == LIMITS.running_requests)
    # one read is 256 KiB at most, a request 7 bytes
    assert len(connection._backlog) <= 256 * KIB // 7 + 1
    assert connection._read_holds == {"busy"}
    service.gate.set()
    for _ in range(100_000):
        assert isinstance(await client.receive(), m.StatusReport)


# Listening and closing


async def test_a_port_in_use_is_named(server: Server, service: TinyService):
    with pytest.raises(
        SettingsError, match=rf"cannot listen on {address_of(server)}: it is in use.*--listen"
    ):
        await Server(service, "peer", LIMITS).listen(address_of(server))


async def test_closing_answers_what_is_under_way_before_it_closes(
    server: Server, dial: Dial, service: TinyService
):
    client = await dial()
    client.send(m.Status(1))
    await wait_until(lambda: service.waiting == 1)
    closing = asyncio.create_task(server.close(5.0))
    address = address_of(server)

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            return True
        writer.close()
        return False

    await wait_until(refused)  # first it stops to accept,
    assert not closing.done()
    service.gate.set()
    assert await client.receive() == m.StatusReport(1, {"n": 1})  # then what is under way is answered,
    assert await client.receive() is None  # and then the connection closes
    await closing
    assert not server.connections


async def test_closing_does_not_wait_for_ever_for_requests_or_for_those_who_do_not_read(
    server: Server, dial: Dial, service: TinyService
):
    stuck, deaf = await dial(), await dial()
    stuck.send(m.Status(1))
    deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
    deaf.send(*(m.Query(id=n, topic="a", limit=1) for n in range(1, 400)))
    await wait_until(lambda: service.waiting == 1 and any(not c.writable for c in server.connections))
    await server.close(0.05)
    assert not server.connections
    await wait_until(lambda: service.waiting == 0)
    await server.close(0.05)


async def test_a_server_that_never_listened_closes(service: TinyService):
    await Server(service, "peer", LIMITS).close(0.1)


async def test_a_closed_server_may_be_followed_by_another_on_its_port(
    server: Server, service: TinyService, dial: Dial
):
    await dial()
    address = address_of(server)
    await server.close(1.0)
    again = Server(service, "peer", LIMITS)
    assert await again.listen(address) == address
    await again.close(1.0)


async def test_port_0_takes_a_free_one(service: TinyService):
    server = Server(service, "peer", LIMITS)
    assert (await server.listen(ANYWHERE)).port != 0
    await server.close(1.0)
