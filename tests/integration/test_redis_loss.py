"""What a registry does while its Redis is away, slow, wiped, or replaced by another."""

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from pathlib import Path

import psutil
import pytest

from pubsub.errors import RegistryUnavailableError
from pubsub.registry import Event, Heartbeat, PeerRecord, RedisRegistry, TopicRecord
from tests.conformance.registry_backends import require_redis, run_cluster, run_redis, run_sentinel
from tests.ports import choose_free_port
from tests.redis_process import RedisProcess
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until

NOW = 1_700_000_000_000_000
TTL = 6.0
RESYNC = Event(kind="resync")
ALICE = PeerRecord(
    name="alice", address="h:1", incarnation="aa.1", version="0", started_at=NOW, heartbeat_at=NOW, load={}
)
BEAT = Heartbeat(name="alice", incarnation="aa.1", load={"topics": 1})
TOPIC = TopicRecord(name="t", id=1, owner="alice", epoch=1, created_at=NOW)


@pytest.fixture
async def open_registry() -> AsyncIterator[Callable[..., RedisRegistry]]:
    registries: list[RedisRegistry] = []

    def make(url: str, **settings: float) -> RedisRegistry:
        registries.append(RedisRegistry(url, **settings))
        return registries[-1]

    yield make
    for registry in registries:
        await registry.close()


@pytest.fixture
async def registry(redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]) -> RedisRegistry:
    registry = open_registry(redis_process.url)
    await registry.open()
    return registry


async def answers(registry: RedisRegistry) -> bool:
    try:
        await registry.lookup(["t"])
    except RegistryUnavailableError:
        return False
    return True


async def beat(registry: RedisRegistry) -> str:
    """Send a heartbeat as often as it takes; for what it brings say the outcome."""
    outcomes: list[str] = []

    async def sent() -> bool:
        try:
            outcomes[:] = await registry.heartbeat([BEAT], TTL, NOW)
        except RegistryUnavailableError:
            return False
        return True

    await wait_until(sent)
    return outcomes[0]


def redis_cli(server: RedisProcess, *command: str) -> None:
    subprocess.run(
        ["redis-cli", "-p", str(server.port), *command], check=True, capture_output=True, timeout=10
    )


async def test_redis_that_is_not_there_at_start_is_a_clear_error_within_two_seconds(
    open_registry: Callable[..., RedisRegistry],
) -> None:
    registry = open_registry(f"redis://:secret@127.0.0.1:{choose_free_port()}/3")
    await registry.open()
    watch = Stopwatch()
    with pytest.raises(
        RegistryUnavailableError, match=r"the registry at redis://127\.0\.0\.1:\d+/3"
    ) as caught:
        await registry.generation(NOW)
    assert watch.seconds < 2
    assert caught.value.retriable
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_sentinels_that_are_not_there_are_a_short_error(
    open_registry: Callable[..., RedisRegistry],
) -> None:
    registry = open_registry(f"redis+sentinel://127.0.0.1:{choose_free_port()}/main")
    await registry.open()
    with pytest.raises(RegistryUnavailableError, match=r"No master found for 'main'") as caught:
        await registry.generation(NOW)
    assert "<" not in str(caught.value)


async def test_redis_that_starts_later_is_found(
    redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]
) -> None:
    redis_process.stop()
    registry = open_registry(redis_process.url)
    await registry.open()
    with pytest.raises(RegistryUnavailableError):
        await registry.generation(NOW)
    redis_process.start()
    await wait_until(lambda: answers(registry))


async def test_wrong_password_is_a_clear_error(
    start_redis: Callable[..., RedisProcess], open_registry: Callable[..., RedisRegistry]
) -> None:
    server = start_redis()
    ask(server.port, "CONFIG", "SET", "requirepass", "right")
    registry = open_registry(f"redis://:wrong@127.0.0.1:{server.port}")
    await registry.open()
    with pytest.raises(RegistryUnavailableError, match=r"(?i)password"):
        await registry.generation(NOW)
    right = open_registry(f"redis://:right@127.0.0.1:{server.port}")
    await right.open()
    assert await right.generation(NOW)


async def test_killed_redis_that_comes_back_empty_is_noticed_by_generation_and_heartbeat(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    first = await registry.generation(NOW)
    await registry.register_peer(ALICE, TTL, NOW)
    assert await beat(registry) == "ok"
    redis_process.stop()
    with pytest.raises(RegistryUnavailableError):
        await registry.heartbeat([BEAT], TTL, NOW)
    redis_process.start()
    assert await beat(registry) == "missing"
    assert (await registry.generation(NOW)).id != first.id
    assert (await registry.register_peer(ALICE, TTL, NOW)).outcome == "registered"
    assert await beat(registry) == "ok"


async def test_restart_between_two_calls_is_not_noticed_at_all(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    await asyncio.gather(
        *(registry.lookup(["t"]) for _ in range(20))
    )  # opens all the connections it may have
    redis_process.stop()
    redis_process.start()
    for _ in range(20):
        assert await registry.lookup(["t"]) == [None]


async def test_flushall_between_heartbeats_leaves_no_half_record(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    await registry.register_peer(ALICE, TTL, NOW)
    ask(redis_process.port, "FLUSHALL")
    assert await registry.heartbeat([BEAT], TTL, NOW) == ["missing"]
    assert await registry.peers(NOW) == []
    (result,) = await registry.restore_topics([TOPIC])
    assert result.applied


async def test_scripts_forgotten_in_the_middle_of_a_large_call_are_loaded_again(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    async def flush_scripts() -> None:
        while True:
            await asyncio.to_thread(ask, redis_process.port, "SCRIPT", "FLUSH")

    flushing = asyncio.create_task(flush_scripts(), name="flush scripts")
    records = [
        TopicRecord(name=f"t{i}", id=i + 1, owner="alice", epoch=1, created_at=NOW) for i in range(5000)
    ]
    results = await registry.restore_topics(records)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    assert all(result.applied for result in results)


async def test_stopped_redis_fails_calls_in_time_and_works_again_when_it_goes_on(
    redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]
) -> None:
    registry = open_registry(redis_process.url, reply_seconds=0.3)
    await registry.open()
    await registry.register_peer(ALICE, TTL, NOW)
    os.kill(redis_process.pid, signal.SIGSTOP)
    try:
        watch = Stopwatch()
        results = await asyncio.gather(*(registry.lookup(["t"]) for _ in range(50)), return_exceptions=True)
        assert watch.seconds < 2
        assert all(isinstance(result, RegistryUnavailableError) for result in results)
    finally:
        os.kill(redis_process.pid, signal.SIGCONT)
    assert await beat(registry) == "ok"


async def test_replies_never_reach_the_wrong_call_after_timeouts(
    redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]
) -> None:
    registry = open_registry(redis_process.url, reply_seconds=0.2)
    await registry.open()
    topics = [TopicRecord(name=f"t{i}", id=i + 1, owner="alice", epoch=1, created_at=NOW) for i in range(20)]
    await registry.restore_topics(topics)
    os.kill(redis_process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RegistryUnavailableError):
            await registry.lookup(["t0"])
    finally:
        os.kill(redis_process.pid, signal.SIGCONT)

    async def each_is_answered() -> bool:
        """No reply is another's; on a busy machine one may come too late, and the round is asked again."""
        lookups = (registry.lookup([topic.name]) for topic in topics)
        replies = await asyncio.gather(*lookups, return_exceptions=True)
        late = [reply for reply in replies if isinstance(reply, RegistryUnavailableError)]
        found = [(t.id, reply[0].id) for t, reply in zip(topics, replies, strict=True) if reply not in late]
        assert all(asked == told for asked, told in found)
        return not late

    for _ in range(5):
        await wait_until(each_is_answered)


async def test_calls_fail_at_once_while_redis_is_known_to_be_away(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    redis_process.stop()
    watch = Stopwatch()
    for _ in range(1000):
        assert not await answers(registry)
    assert watch.seconds < 2


async def test_watcher_outlives_redis_and_is_told_to_look_again(
    redis_process: RedisProcess, registry: RedisRegistry
) -> None:
    async with aclosing(registry.watch()) as batches, asyncio.timeout(20):
        assert await anext(batches) == [RESYNC]
        redis_process.stop()
        waiting = asyncio.create_task(anext(batches), name="next events")
        redis_process.start()
        assert await waiting == [RESYNC]
        await registry.restore_topics([TOPIC])
        assert await anext(batches) == [Event(kind="topic", name="t")]


async def test_watcher_that_starts_before_redis_waits_for_it(
    redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]
) -> None:
    redis_process.stop()
    registry = open_registry(redis_process.url)
    await registry.open()
    async with aclosing(registry.watch()) as batches, asyncio.timeout(20):
        waiting = asyncio.create_task(anext(batches), name="next events")
        assert not await answers(registry)
        redis_process.start()
        assert await waiting == [RESYNC]


async def test_watcher_gives_up_a_silent_connection(
    redis_process: RedisProcess, registry: RedisRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pubsub.registry.events._SILENCE_SECONDS", 0.1)
    async with aclosing(registry.watch()) as batches, asyncio.timeout(20):
        assert await anext(batches) == [RESYNC]
        connections = own_connections(redis_process)
        waiting = asyncio.create_task(anext(batches), name="next events")
        os.kill(redis_process.pid, signal.SIGSTOP)
        try:
            await wait_until(lambda: not connections & own_connections(redis_process))
        finally:
            os.kill(redis_process.pid, signal.SIGCONT)
        assert await waiting == [RESYNC]


async def test_idle_watcher_keeps_its_connection(
    redis_process: RedisProcess, registry: RedisRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pubsub.registry.events._SILENCE_SECONDS", 0.5)
    async with aclosing(registry.watch()) as batches, asyncio.timeout(20):
        assert await anext(batches) == [RESYNC]
        ask(redis_process.port, "CONFIG", "RESETSTAT")
        waiting = asyncio.create_task(anext(batches), name="next events")
        await wait_until(lambda: "cmdstat_ping:calls=2" in ask(redis_process.port, "INFO", "commandstats"))
        assert not waiting.done()
        await registry.restore_topics([TOPIC])
        assert await waiting == [Event(kind="topic", name="t")]


async def test_closing_while_redis_is_stopped_does_not_hang(
    redis_process: RedisProcess, open_registry: Callable[..., RedisRegistry]
) -> None:
    registry = open_registry(redis_process.url)
    await registry.open()
    await registry.generation(NOW)
    os.kill(redis_process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            await registry.close()
    finally:
        os.kill(redis_process.pid, signal.SIGCONT)


async def test_registry_behind_sentinels_follows_a_failover(
    tmp_path: Path, open_registry: Callable[..., RedisRegistry]
) -> None:
    require_redis()
    with ExitStack() as stack:
        master = run_redis(stack)
        replica = run_redis(
            stack, "--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0"
        )
        sentinel = run_sentinel(stack, tmp_path, master.port)
        registry = open_registry(f"redis+sentinel://127.0.0.1:{sentinel}/main")
        await registry.open()
        await registry.register_peer(ALICE, 60.0, NOW)
        generation = await registry.generation(NOW)
        await wait_until(lambda: has_replicated(replica, "pubsub:registry"))
        await wait_until(lambda: knows_replica(sentinel))
        async with aclosing(registry.watch()) as batches, asyncio.timeout(30):
            assert await anext(batches) == [RESYNC]
            master.stop()
            assert await anext(batches) == [RESYNC]
        assert await beat(registry) == "ok"
        after = await registry.generation(NOW)  # the replica may have lagged behind: a new life
        assert after.id != generation.id
        assert await registry.generation(NOW) == after
        await registry.close()


async def test_registry_in_a_cluster_survives_a_restarted_node(
    open_registry: Callable[..., RedisRegistry],
) -> None:
    require_redis()
    with ExitStack() as stack:
        nodes = run_cluster(stack)
        registry = open_registry(f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}")
        await registry.open()
        names = [f"t{number}" for number in range(50)]  # enough for both nodes to have some
        topics = [TopicRecord(name=name, id=1, owner="alice", epoch=1, created_at=NOW) for name in names]
        await registry.restore_topics(topics)
        nodes[1].stop()
        with pytest.raises(RegistryUnavailableError):
            await registry.lookup(names)
        nodes[1].start()

        async def restored() -> bool:
            try:
                await registry.restore_topics(topics)
            except RegistryUnavailableError:
                return False
            return None not in await registry.lookup(names)

        await wait_until(restored, timeout_seconds=20)
        await registry.close()


async def test_watchers_of_a_cluster_outlive_each_of_its_nodes(
    open_registry: Callable[..., RedisRegistry],
) -> None:
    require_redis()
    with ExitStack() as stack:
        nodes = run_cluster(stack)
        registry = open_registry(f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}")
        await registry.open()
        seen: list[Event] = []

        async def follow() -> None:
            async with aclosing(registry.watch()) as batches:
                async for events in batches:
                    seen.extend(events)

        following = asyncio.create_task(follow(), name="follow events")
        await wait_until(lambda: seen == [RESYNC])
        changes = itertools.count(1)

        async def told_of_a_change() -> bool:
            name = f"t{next(changes)}"
            try:
                await registry.restore_topics(
                    [TopicRecord(name=name, id=1, owner="a", epoch=1, created_at=NOW)]
                )
            except RegistryUnavailableError:
                return False
            return any(event.kind == "topic" for event in seen)

        for node in nodes:
            node.stop()
            node.start()
            seen.clear()
            await wait_until(told_of_a_change, timeout_seconds=20)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await registry.close()


def own_connections(server: RedisProcess) -> set[int]:
    """The local ports of this process's connections to the server."""
    found = psutil.Process().net_connections("tcp")
    return {
        c.laddr.port for c in found if c.raddr and c.raddr.port == server.port and c.status == "ESTABLISHED"
    }


def has_replicated(replica: RedisProcess, key: str) -> bool:
    return ask(replica.port, "EXISTS", key) == "1"


def knows_replica(sentinel: int) -> bool:
    return "link-status\nok" in ask(sentinel, "SENTINEL", "replicas", "main").replace("master-", "")


def ask(port: int, *command: str) -> str:
    cli = ["redis-cli", "-p", str(port), *command]
    return subprocess.run(cli, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
