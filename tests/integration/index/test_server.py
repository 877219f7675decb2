import asyncio
import os
import signal
from collections.abc import Callable

import pytest

import pubsub
from pubsub.config import IndexSettings, Limits
from pubsub.errors import (
    InternalError,
    RegistryUnavailableError,
    SettingsError,
    UnsupportedVersionError,
)
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.protocol import messages as m
from pubsub.protocol.codec import FrameReader, decode_frame, encode_frame
from pubsub.protocol.handshake import ACCEPTED, hello
from pubsub.registry import EmbeddedRegistry, RedisRegistry
from tests.integration.index.asking import ask, create, lookup, peers, registry_of
from tests.integration.index.conftest import Connect, StartIndex, StartPeer
from tests.ports import choose_free_port
from tests.redis_process import RedisProcess
from tests.waiting import wait_until


def an_index(registry: RedisRegistry | None = None, port: int = 0) -> IndexServer:
    registry = registry or EmbeddedRegistry("127.0.0.1:0")
    return IndexServer(registry, listen=Address("127.0.0.1", port))


async def test_every_frame_that_an_index_accepts_is_handled() -> None:
    index = an_index()
    assert index.immediate.keys() | index.requests.keys() == ACCEPTED["index"]
    assert not index.immediate.keys() & index.requests.keys()
    await index.close()


async def exchange(index: IndexServer, *sent: bytes) -> list[m.Frame]:
    """Send bytes, and return what comes back until the index closes the connection."""
    reader, writer = await asyncio.open_connection(index.address.host, index.address.port)
    received = b""
    try:
        for part in sent:
            writer.write(part)
        async with asyncio.timeout(5):
            while data := await reader.read(65536):
                received += data
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return [decode_frame(frame) for frame in FrameReader(1 << 24).feed(received)]


HELLO = encode_frame(hello("client"))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([b"GET / HTTP/1.1\r\n\r\n"], id="another protocol"),
        pytest.param([HELLO, b"\x00\x00\x00\x00"], id="an empty frame"),
        pytest.param([HELLO, b"\x7f\xff\xff\xff"], id="an oversized frame"),
        pytest.param([HELLO, b"\x00\x00\x00\x03\xc1\xc1\xc1"], id="no msgpack"),
        pytest.param([HELLO, b"\x00\x00\x00\x02\x91\x7f"], id="an unknown type"),
        pytest.param([HELLO, b"\x00\x00\x00\x03\x92\x1e\x01"], id="a lookup without a topic"),
        pytest.param([HELLO, b"\x00\x00\x00\x05\x93\x1e\x01\x05\x05"], id="a field of another type"),
        pytest.param([HELLO, HELLO], id="a second hello"),
        pytest.param([encode_frame(m.Status(1))], id="a request before hello"),
        pytest.param([HELLO, encode_frame(m.Done(1))], id="a reply"),
        pytest.param([HELLO, encode_frame(m.Credit(1, 1, 1))], id="what only a peer accepts"),
    ],
)
async def test_what_is_malformed_or_out_of_order_gets_an_error_frame_and_the_connection_closes(
    index: IndexServer, start_peer: StartPeer, open_link: Connect, sent: list[bytes]
) -> None:
    last = (await exchange(index, *sent))[-1]
    assert isinstance(last, m.Failure)
    assert (last.id, last.code) == (0, "remote_protocol")
    await start_peer("alice", index)
    assert set(await peers(await open_link(index))) == {"alice"}  # the others go on


async def test_another_major_version_is_refused_naming_both(index: IndexServer) -> None:
    strange = m.Hello(major=99, minor=0, software="pubsub 99.0", role="client")
    (failure,) = await exchange(index, encode_frame(strange))
    assert isinstance(failure, m.Failure)
    assert failure.code == UnsupportedVersionError.code
    assert "99.0" in failure.message


async def test_a_client_that_says_nothing_is_closed(start_index: StartIndex) -> None:
    index = await start_index(limits=Limits(hello_seconds=0.1))
    (failure,) = await exchange(index)
    assert isinstance(failure, m.Failure)
    assert "no hello within 0.1 s" in failure.message


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_a_port_in_use_is_named(index: IndexServer) -> None:
    with pytest.raises(SettingsError, match=rf"cannot listen on {index.address}: it is in use"):
        await an_index(port=index.address.port).start()


async def test_a_port_of_the_embedded_registry_in_use_is_named() -> None:
    async with an_index() as first:
        assert isinstance(first._registry, EmbeddedRegistry)
        taken = EmbeddedRegistry(str(first._registry.address))
        with pytest.raises(SettingsError, match=str(first._registry.address)):
            await an_index(taken).start()


async def test_status_tells_how_the_index_is(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await start_peer("bob", index)
    await create(link, "t")
    fields = (await ask(link, m.Status)).fields
    assert fields["role"] == "index"
    assert fields["address"] == str(index.address)
    assert fields["registry"] == index._registry.where
    assert (fields["registry_ok"], fields["registry_error"]) == (True, None)
    assert (fields["peers"], fields["peers_alive"], fields["topics"]) == (2, 2, 1)
    assert fields["ttl_seconds"] == 6.0
    assert fields["connections"] == 3
    assert fields["uptime_seconds"] >= 0
    assert fields["generation"]
    assert await alice.beat()


async def test_with_the_registry_down_requests_fail_retriably_and_it_works_again_by_itself(
    redis_process: RedisProcess, start_peer: StartPeer, open_link: Connect
) -> None:
    registry = RedisRegistry(redis_process.url, reply_seconds=0.5)
    async with IndexServer(
        registry, listen=Address("127.0.0.1", 0), settings=IndexSettings(ttl_seconds=1.5)
    ) as index:
        alice, link = await start_peer("alice", index), await open_link(index)
        topic = await create(link, "t")
        redis_process.stop()
        await unavailable(lambda: alice.beat())
        for kind, fields in (
            (m.Lookup, {"topic": "t"}),
            (m.Topics, {}),
            (m.CreateTopic, {"topic": "u"}),
            (m.DeleteTopic, {"topic": "t"}),
        ):
            with pytest.raises(
                RegistryUnavailableError, match=f"the registry at {registry.where} is unavailable"
            ) as caught:
                await ask(link, kind, **fields)
            assert caught.value.retriable
        report = (await ask(link, m.Status)).fields
        assert not report["registry_ok"]
        assert "is unavailable" in report["registry_error"]

        redis_process.start()  # empty: it kept nothing

        async def known() -> bool:
            try:
                return not await alice.beat()
            except RegistryUnavailableError:
                return False

        await wait_until(known)
        await alice.register()
        await alice.announce()
        assert (await lookup(link, "t")).id == topic.id
        assert (await ask(link, m.Status)).fields["registry_ok"]


async def unavailable(request: Callable[[], object]) -> None:
    with pytest.raises(RegistryUnavailableError):
        await request()  # type: ignore[misc]


async def test_an_index_starts_without_its_registry_and_finds_it_later(
    redis_process: RedisProcess, start_peer: StartPeer, open_link: Connect
) -> None:
    redis_process.stop()
    registry = RedisRegistry(redis_process.url, reply_seconds=0.5)
    async with IndexServer(registry, listen=Address("127.0.0.1", 0)) as index:
        link = await open_link(index)
        with pytest.raises(RegistryUnavailableError):
            await lookup(link, "t")
        redis_process.start()

        async def back() -> bool:
            return bool((await ask(link, m.Status)).fields["registry_ok"])

        await wait_until(back)
        await start_peer("alice", index)
        assert set(await peers(link)) == {"alice"}


async def test_a_wrong_registry_url_is_named_in_the_status_and_shows_no_password(open_link: Connect) -> None:
    registry = RedisRegistry(f"redis://:secret@127.0.0.1:{choose_free_port()}/0", reply_seconds=0.5)
    async with an_index(registry) as index:
        fields = (await ask(await open_link(index), m.Status)).fields
    assert not fields["registry_ok"]
    assert "secret" not in str(fields)
    assert "127.0.0.1" in fields["registry"]


async def test_a_side_task_that_fails_stops_the_index_loudly(
    open_link: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = an_index()

    async def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(index._links, "run", fail)
    await index.start()
    with pytest.raises(InternalError, match="a bug"):
        await index.serve_forever()
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection(index.address.host, index.address.port)


async def test_serving_ends_when_it_is_told_to_stop(open_link: Connect) -> None:
    index = an_index()
    await index.start()
    stop = asyncio.Event()
    serving = asyncio.create_task(index.serve_until(stop))
    link = await open_link(index)
    stop.set()
    await serving
    await wait_until(lambda: not link.open)


async def test_closing_twice_at_once_and_again_is_closing_once() -> None:
    index = an_index()
    await index.start()
    await asyncio.gather(index.close(), index.close())
    await index.close()


async def test_an_index_that_was_never_started_can_be_closed() -> None:
    await an_index().close()


async def test_a_closing_index_answers_what_is_under_way(start_peer: StartPeer, open_link: Connect) -> None:
    index = an_index()
    await index.start()
    alice, link = await start_peer("alice", index), await open_link(index)
    alice.gate.clear()
    creating = asyncio.create_task(create(link, "t"))

    async def claimed() -> bool:
        return await registry_of(index).count_topics() == 1

    await wait_until(claimed)
    closing = asyncio.create_task(index.close())
    await wait_until(lambda: index._server._server is None or not index._server._server.is_serving())
    alice.gate.set()
    assert (await creating).owner == "alice"
    await closing


async def test_a_registry_that_hangs_is_named_to_clients_and_in_the_status(
    redis_process: RedisProcess,
) -> None:
    registry = RedisRegistry(redis_process.url)  # with the deadline that users have
    async with (
        IndexServer(registry, listen=Address("127.0.0.1", 0)) as index,
        pubsub.Client(str(index.address), timeout_seconds=5.0) as client,
    ):
        assert await client.topics() == []
        os.kill(redis_process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(RegistryUnavailableError, match="redis"):
                await client.topics()
        finally:
            os.kill(redis_process.pid, signal.SIGCONT)
