"""The embedded registry as redis-cli sees it, and its life in the process."""

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from pubsub.errors import SettingsError
from pubsub.registry import EmbeddedRegistry, Event, Heartbeat, PeerRecord, TopicRecord

NOW = 1_700_000_000_000_000
ALICE = PeerRecord(
    name="alice", address="h:1", incarnation="aa.1", version="0", started_at=NOW, heartbeat_at=NOW, load={}
)
TOPIC = TopicRecord(name="sensors.temp", id=7, owner="alice", epoch=1, created_at=NOW)


@pytest.fixture
async def registry() -> AsyncIterator[EmbeddedRegistry]:
    registry = EmbeddedRegistry("127.0.0.1:0")
    await registry.open()
    yield registry
    await registry.close()


async def redis_cli(registry: EmbeddedRegistry, *command: str) -> list[str]:
    if shutil.which("redis-cli") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-cli is not installed, and CI must not skip the tests that need it")
        pytest.skip("redis-cli is not installed (Debian: apt-get install redis-tools)")
    process = await asyncio.create_subprocess_exec(
        *("redis-cli", "-h", registry.address.host, "-p", str(registry.address.port), *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().splitlines()


async def test_redis_cli_shows_what_the_registry_holds(registry: EmbeddedRegistry) -> None:
    await registry.generation(NOW)
    await registry.register_peer(ALICE, 6.0, NOW)
    await registry.restore_topics([TOPIC])
    await registry.announce_copies("alice", ["sensors.temp"], [])
    assert sorted(await redis_cli(registry, "keys", "*")) == [
        "pubsub:peer:alice",
        "pubsub:peer:alice:topics",
        "pubsub:peers",
        "pubsub:registry",
        "pubsub:topic:sensors.temp",
        "pubsub:topics",
    ]
    topic = await redis_cli(registry, "hgetall", "pubsub:topic:sensors.temp")
    assert dict(zip(topic[::2], topic[1::2], strict=True))["owner"] == "alice"
    assert await redis_cli(registry, "zrange", "pubsub:peers", "0", "-1", "withscores") == [
        "alice",
        str(NOW // 1000 + 6000),
    ]
    assert await redis_cli(registry, "smembers", "pubsub:peer:alice:topics") == ["sensors.temp"]
    (ttl,) = await redis_cli(registry, "ttl", "pubsub:peer:alice")
    assert 0 < int(ttl) <= 6
    assert await redis_cli(registry, "type", "pubsub:topics") == ["zset"]
    assert sorted(await redis_cli(registry, "--scan", "--pattern", "pubsub:topic*")) == [
        "pubsub:topic:sensors.temp",
        "pubsub:topics",
    ]


async def test_redis_cli_speaks_either_protocol_version(registry: EmbeddedRegistry) -> None:
    await registry.register_peer(ALICE, 6.0, NOW)
    assert "address h:1" in await redis_cli(registry, "-3", "hgetall", "pubsub:peer:alice")
    assert "h:1" in await redis_cli(registry, "-2", "hgetall", "pubsub:peer:alice")


async def test_flushall_by_redis_cli_wipes_the_registry(registry: EmbeddedRegistry) -> None:
    first = await registry.generation(NOW)
    await registry.register_peer(ALICE, 6.0, NOW)
    assert await redis_cli(registry, "flushall") == ["OK"]
    beat = Heartbeat(name="alice", incarnation="aa.1")
    assert await registry.heartbeat([beat], 6.0, NOW) == ["missing"]
    assert (await registry.generation(NOW)).id != first.id


async def test_event_published_by_redis_cli_reaches_watchers(registry: EmbeddedRegistry) -> None:
    watching = registry.watch()
    async with asyncio.timeout(10):
        assert await anext(watching) == [Event(kind="resync")]
        await redis_cli(registry, "publish", "pubsub:events", '{"kind":"topic","name":"t"}')
        assert await anext(watching) == [Event(kind="topic", name="t")]
    await watching.aclose()


async def test_large_answers_reach_redis_cli_whole(registry: EmbeddedRegistry) -> None:
    records = [
        TopicRecord(name=f"t{i:05}" + "x" * 150, id=i, owner="a", epoch=1, created_at=NOW)
        for i in range(5000)
    ]
    await registry.restore_topics(records)
    assert len(await redis_cli(registry, "zrange", "pubsub:topics", "0", "-1")) == 5000


async def test_port_in_use_is_a_clear_error_and_closing_then_is_harmless() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        registry = EmbeddedRegistry(address)
        with pytest.raises(SettingsError, match=rf"cannot listen on {address}: .*in use"):
            await registry.open()
        await registry.close()


async def test_closing_ends_its_threads_and_cuts_off_those_still_connected(
    registry: EmbeddedRegistry,
) -> None:
    threads = {thread.name for thread in threading.enumerate()} - {"embedded-registry"}
    reader, writer = await asyncio.open_connection(registry.address.host, registry.address.port)
    writer.write(b"*1\r\n$4\r\nPING\r\n")
    assert await reader.readexactly(7) == b"+PONG\r\n"
    await registry.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    left = {thread.name for thread in threading.enumerate()} - threads
    assert not [name for name in left if name == "embedded-registry" or "process_request" in name]


async def test_connection_cut_by_the_other_end_goes_unnoticed(
    registry: EmbeddedRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    for garbage in (b"", b"hello\r\n", b"*1\r\n$999\r\nx", b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n"):
        _, writer = await asyncio.open_connection(registry.address.host, registry.address.port)
        writer.write(garbage)
        await writer.drain()
        writer.transport.abort()
    await registry.close()
    assert capfd.readouterr().err == ""


async def test_same_port_can_be_used_again_at_once(registry: EmbeddedRegistry) -> None:
    await registry.close()
    again = EmbeddedRegistry(str(registry.address))
    await again.open()
    assert await again.topics() == []
    await again.close()
