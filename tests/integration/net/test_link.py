"""The client end: pipelining, what is lost with a connection, and servers that are not what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pubsub.errors import (
    ConnectionLostError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
    TopicNotFoundError,
    UnsupportedVersionError,
)
from pubsub.model import Address
from pubsub.net.link import Link, connect
from pubsub.net.server import Server
from pubsub.protocol import messages as m
from pubsub.protocol.codec import delivery_head, encode_batch, encode_frame
from tests.integration.net.conftest import GREETING, LIMITS, TinyService, address_of
from tests.waiting import wait_until

SECONDS = 10.0


async def test_the_welcome_says_who_answers(link: Link, service: TinyService):
    assert link.welcome == service.welcome()


async def test_requests_are_pipelined_and_replies_found_by_their_id(link: Link, service: TinyService):
    slow = [asyncio.create_task(link.request(m.Status(link.next_id()), SECONDS)) for _ in range(3)]
    with pytest.raises(TopicNotFoundError) as caught:
        await link.request(m.Lookup(link.next_id(), "a"), SECONDS)
    assert caught.value.data == {"id": 7}
    assert not any(task.done() for task in slow)
    service.gate.set()
    assert [(await task).fields for task in slow] == [{"n": n} for n in (1, 2, 3)]  # type: ignore[union-attr]


async def test_hundreds_of_requests_at_once_are_all_answered(link: Link, service: TinyService):
    service.gate.set()
    replies = await asyncio.gather(*(link.request(m.Status(link.next_id()), SECONDS) for _ in range(500)))
    assert [reply.id for reply in replies] == list(range(1, 501))  # type: ignore[union-attr]


async def test_a_reply_in_several_frames_is_given_whole(link: Link):
    replies = await link.request_all(m.Topics(link.next_id()), SECONDS)
    assert [reply.more for reply in replies] == [True, True, False]  # type: ignore[union-attr]
    assert link._pending == {}


async def test_a_lost_connection_fails_everything_under_way_and_what_comes_after(
    link: Link, server: Server, service: TinyService
):
    waiting = [asyncio.create_task(link.request(m.Status(link.next_id()), SECONDS)) for _ in range(3)]
    called: list[Any] = []
    link.call(request := link.next_id(), encode_frame(m.Status(request)), called.append)
    told: list[str] = []
    link.when_lost(lambda: told.append("lost"))
    await wait_until(lambda: service.waiting == 4)
    (connection,) = server.connections
    connection.abort()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLostError] * 3
    assert str(address_of(server)) in str(results[0])
    assert [type(result) for result in called] == [ConnectionLostError]
    assert told == ["lost"]
    await link.closed()
    with pytest.raises(ConnectionLostError):
        await link.request(m.Status(link.next_id()), SECONDS)


async def test_a_request_not_answered_in_time_says_who_did_not_answer_and_leaves_the_link_open(
    link: Link, server: Server, service: TinyService
):
    with pytest.raises(
        TimeoutExpiredError, match=rf"{address_of(server)} did not answer Status within 0\.05 s"
    ):
        await link.request(m.Status(link.next_id()), 0.05)
    service.gate.set()  # its late reply is dropped
    assert await link.request(m.Status(2), SECONDS) == m.StatusReport(2, {"n": 2})
    assert link._pending == {}


async def test_a_cancelled_request_leaves_nothing_behind(link: Link, service: TinyService):
    task = asyncio.create_task(link.request(m.Status(link.next_id()), SECONDS))
    await wait_until(lambda: service.waiting == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert link._pending == {}


async def test_streams_and_watchers_get_their_own_frames_and_others_are_dropped(link: Link, server: Server):
    (connection,) = server.connections
    streamed: list[m.Frame] = []
    watched: list[m.Frame] = []
    link.streams[5] = streamed.append
    link.watchers[6] = watched.append
    batch = m.Batch(0, None, 0, None, None, [b"x"])
    frames: list[m.Frame] = [
        m.Deliver(4, batch),
        m.Deliver(5, batch),
        m.Changes(7, []),
        m.Changes(6, [{"kind": "resync"}]),
        m.Ended(5, "closed", "over"),
        m.Done(1234),
    ]
    for frame in frames:
        connection.send_frame(frame)
    await wait_until(lambda: len(streamed) == 2)
    assert streamed == [m.Deliver(5, batch), m.Ended(5, "closed", "over")]
    assert watched == [m.Changes(6, [{"kind": "resync"}])]
    assert link.open


async def test_an_error_frame_without_a_request_is_why_everything_fails(
    link: Link, server: Server, service: TinyService
):
    task = asyncio.create_task(link.request(m.Status(link.next_id()), SECONDS))
    await wait_until(lambda: service.waiting == 1)
    (connection,) = server.connections
    connection.send_frame(m.Failure(0, "remote_protocol", "you did wrong"))
    with pytest.raises(RemoteProtocolError, match="you did wrong"):
        await task


@pytest.mark.parametrize(
    "bad",
    [b"\x00\x00\x00\x00", b"\x00\x00\x00\x01\xc1", encode_frame(GREETING), encode_frame(m.Credit(1, 1, 1))],
)
async def test_a_server_that_breaks_the_rules_is_left(link: Link, server: Server, bad: bytes):
    (connection,) = server.connections
    connection.send(bad)
    with pytest.raises(RemoteProtocolError):
        await link.request(m.Status(link.next_id()), SECONDS)
    await wait_until(lambda: not server.connections)


# Connecting

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def answering() -> AsyncIterator[Callable[[Answer], Awaitable[Address]]]:
    """Starts a server that does with each connection what it is told."""
    servers: list[asyncio.Server] = []

    async def start(answer: Answer) -> Address:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return Address("127.0.0.1", server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_nobody_there_is_said_with_the_address(free_port: int):
    with pytest.raises(ConnectionLostError, match=rf"cannot connect to 127\.0\.0\.1:{free_port}"):
        await connect(Address("127.0.0.1", free_port), GREETING, LIMITS)


async def test_a_name_that_does_not_resolve_is_said(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConnectionLostError, match=r"cannot connect to nowhere\.invalid:1"):
        await connect(Address("nowhere.invalid", 1), GREETING, LIMITS)


async def test_a_server_that_says_nothing_is_given_up(answering: Callable[[Answer], Awaitable[Address]]):
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    address = await answering(silence)
    with pytest.raises(ConnectionLostError, match=rf"{address} did not answer within 0\.1 s"):
        await connect(address, GREETING, LIMITS, timeout_seconds=0.1)


async def test_a_server_that_hangs_up_is_a_lost_connection(answering: Callable[[Answer], Awaitable[Address]]):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)

    address = await answering(hang_up)
    with pytest.raises(ConnectionLostError):
        await connect(address, GREETING, LIMITS)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b"-ERR unknown command\r\n", RemoteProtocolError, "was announced"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", RemoteProtocolError, "was announced"),
        (encode_frame(m.Done(1)), RemoteProtocolError, "the answer to hello must be welcome, not Done"),
        (
            encode_frame(
                m.Welcome(
                    major=9,
                    minor=1,
                    software="other 3",
                    role="peer",
                    name="",
                    incarnation="",
                    frame_bytes=1,
                    message_bytes=1,
                )
            ),
            UnsupportedVersionError,
            r"other 3 speaks protocol 9\.1",
        ),
        (
            encode_frame(m.Failure(0, "unsupported_version", "too old", {"theirs": "1.0"})),
            UnsupportedVersionError,
            "too old",
        ),
        (
            encode_frame(m.Deliver(1, m.Batch(0, None, 0, None, None, [])))[:9],
            ConnectionLostError,
            "was closed",
        ),
    ],
    ids=["redis", "http", "another-frame", "another-major", "refusal", "cut-off"],
)
async def test_a_server_that_cannot_be_talked_to_is_told_apart(
    answering: Callable[[Answer], Awaitable[Address]], answer: bytes, error: type[PubsubError], said: str
):
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(answer)

    with pytest.raises(error, match=said):
        await connect(await answering(reply), GREETING, LIMITS)


async def test_giving_up_while_connecting_leaves_no_connection(server: Server, service: TinyService):
    attempt = asyncio.create_task(connect(address_of(server), GREETING, LIMITS))
    await wait_until(lambda: bool(server.connections))
    attempt.cancel()
    result = (await asyncio.gather(attempt, return_exceptions=True))[0]
    if isinstance(result, Link):  # it was faster than we
        result.abort()
    await wait_until(lambda: not server.connections)


async def test_giving_up_in_the_moment_of_the_welcome_leaves_no_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    def give_up(link: Link, frame: m.Frame) -> None:
        on_first(link, frame)
        attempt.cancel()

    on_first = Link._on_first
    monkeypatch.setattr(Link, "_on_first", give_up)
    attempt = asyncio.create_task(connect(address_of(server), GREETING, LIMITS))
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await wait_until(lambda: not server.connections)


async def test_a_delivery_is_taken_as_the_server_writes_it(link: Link, server: Server):
    (connection,) = server.connections
    streamed: list[m.Frame] = []
    link.streams[3] = streamed.append
    batch = m.Batch(7, None, 1, ["k"], None, [b"x"])
    encoded = encode_batch(batch)
    connection.send(delivery_head(3, len(encoded)), encoded)
    await wait_until(lambda: streamed == [m.Deliver(3, batch)])
