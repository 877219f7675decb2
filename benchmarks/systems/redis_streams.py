"""Redis Streams: one `redis-server` with an append-only file, used through redis-py with hiredis.

Used well means here: commands packed and replies parsed by hiredis; XADD in pipelines of 1,000; the one blocking XREAD
of a subscriber takes all there is, and its reply stays the lists that hiredis made, without redis-py's dictionaries.
Many callers at once share pipelines. `two pipelines`: not what redis-py offers, but what its connections can be made
to do by hand, so that server and publisher need not wait for each other: the next pipeline is sent before the
replies to the one before are read.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from typing import Any

from benchmarks.readings import RunFailedError
from benchmarks.stage import READY_SECONDS, Stage, free_port
from benchmarks.systems.names import Running

STREAM = "bench"
FIELD = b"p"
PIPELINE = 1000
HALF_PIPELINE = 500
"""Of two that are under way."""
READ_COUNT = 10_000
BLOCK_MS = 100
"""How long an XREAD waits: so soon does a subscriber notice that it is to stop."""
POLL_SECONDS = 0.02


class System:
    """A `redis-server` that syncs its append-only file as told."""

    share = 0.4

    def __init__(self, name: str, appendfsync: str, promise: str, *, two_pipelines: bool = False) -> None:
        self.name = name
        self.promise = promise
        self._appendfsync = appendfsync
        self._two_pipelines = two_pipelines

    def missing(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not installed"
        return None if find_spec("redis") and find_spec("hiredis") else "redis-py or hiredis is not installed"

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        port = free_port()
        data = stage.directory / "redis"
        data.mkdir()
        store = await start_server(
            stage, port, appendonly="yes", appendfsync=self._appendfsync, dir=str(data)
        )
        where = {"port": port, "stream": STREAM, "two_pipelines": self._two_pipelines}
        return Running(system="redis", where=where, store=store)


async def start_server(stage: Stage, port: int, **settings: str) -> Any:
    """Start a `redis-server` and wait until it answers."""
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    child = await stage.command(
        "redis-server", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *words
    )
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await _answers(port):
                if child.process.returncode is not None:
                    raise RunFailedError(f"redis-server ended: {child.said()}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise RunFailedError(f"redis-server was not ready in {READY_SECONDS:g} s") from None
    return child


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"PING\r\n")
    answer = await reader.readline()
    writer.close()
    return answer.startswith(b"+PONG")


_ALWAYS = "on disk (append-only file, fsync) before the reply"
_EVERYSEC = "in memory, and in a file that is fsynced each second: a crash of the machine loses the last second or two"

ALWAYS = System("Redis Streams, fsync always", "always", _ALWAYS)
EVERYSEC = System("Redis Streams, everysec", "everysec", _EVERYSEC)
TWO_PIPELINES = (
    System("Redis Streams, fsync always, two pipelines by hand", "always", _ALWAYS, two_pipelines=True),
    System("Redis Streams, everysec, two pipelines by hand", "everysec", _EVERYSEC, two_pipelines=True),
)


class Driver:
    """redis-py's connections, with its commands packed and read by hiredis."""

    def __init__(self, port: int, stream: str, two_pipelines: bool) -> None:
        self._port = port
        self._two_pipelines = two_pipelines
        self._stream = stream
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._more = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._positions: dict[bytes, bytes] = {}
        self._stop: list[Any] = []

    def _connect(self) -> Any:
        from redis.connection import Connection

        connection: Any = Connection(  # type: ignore[no-untyped-call]
            host="127.0.0.1", port=self._port, socket_read_size=1 << 18
        )
        connection.connect()
        return connection

    async def open(self) -> None:
        import redis
        from redis.asyncio.connection import Connection

        self._client = redis.Redis(host="127.0.0.1", port=self._port)
        self._connection = self._connect()
        self._shared: Any = Connection(host="127.0.0.1", port=self._port)
        await self._shared.connect()
        self._sending = asyncio.create_task(self._send_pending(), name="benchmark: redis pipelines")

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        await self._shared.disconnect()
        self._connection.disconnect()
        self._client.close()

    async def publish_many(self, payloads: list[bytes]) -> None:
        self._add(("XADD", self._stream, "*", FIELD, payload) for payload in payloads)

    async def publish_round_robin(self, payloads: list[bytes], topics: int) -> None:
        names = [self._topic(number) for number in range(topics)]
        self._add(
            ("XADD", names[number % topics], "*", FIELD, payload) for number, payload in enumerate(payloads)
        )

    def _topic(self, number: int) -> bytes:
        return f"{self._stream}.{number}".encode()

    def _add(self, commands: Iterable[tuple[Any, ...]]) -> None:
        remaining = iter(commands)
        if self._two_pipelines:
            self._add_by_hand(remaining)
            return
        while part := list(islice(remaining, PIPELINE)):
            pipeline: Any = self._client.pipeline(transaction=False)
            for command in part:
                pipeline.execute_command(*command)
            pipeline.execute()

    def _add_by_hand(self, commands: Iterator[tuple[Any, ...]]) -> None:
        connection = self._connection
        waiting: deque[int] = deque()
        while True:
            if pipeline := list(islice(commands, HALF_PIPELINE)):
                connection.send_packed_command(connection.pack_commands(pipeline))
                waiting.append(len(pipeline))
            elif not waiting:
                return
            if len(waiting) == 2 or not pipeline:
                for _ in range(waiting.popleft()):
                    connection.read_response()

    def publish(self, payload: bytes) -> Awaitable[object]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((payload, done))
        self._more.set()
        return done

    async def _send_pending(self) -> None:
        """All that callers want while one pipeline is under way goes with the next."""
        shared = self._shared
        while True:
            await self._more.wait()
            self._more.clear()
            taken, self._pending = self._pending, []
            commands = [("XADD", self._stream, "*", FIELD, payload) for payload, _ in taken]
            await shared.send_packed_command(shared.pack_commands(commands))
            for _, done in taken:
                await shared.read_response()
                done.set_result(None)

    async def subscribe(self, *, from_start: bool) -> None:
        self._read_from([self._stream.encode()], from_start)

    async def subscribe_topics(self, topics: int, *, from_start: bool) -> None:
        self._read_from([self._topic(number) for number in range(topics)], from_start)

    def _read_from(self, streams: list[bytes], from_start: bool) -> None:
        self._positions = dict.fromkeys(streams, b"0-0")
        if not from_start:
            connection = self._connection
            for stream in streams:  # "$" in each XREAD would miss what comes between two of them
                connection.send_command("XREVRANGE", stream, "+", "-", "COUNT", 1)
                for last_id, _ in connection.read_response():
                    self._positions[stream] = last_id

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        stopped: list[bool] = []
        try:
            await asyncio.to_thread(self._receive, take, count, stopped)
        finally:
            stopped.append(True)

    def _receive(self, take: Callable[[bytes], object], count: int, stopped: list[bool]) -> None:
        connection, positions = self._connection, self._positions
        left = count
        while left > 0 and not stopped:
            most = min(left, READ_COUNT)
            connection.send_command(
                "XREAD", "COUNT", most, "BLOCK", BLOCK_MS, "STREAMS", *positions, *positions.values()
            )
            reply = connection.read_response()
            for stream, entries in reply.items() if isinstance(reply, dict) else reply or ():
                for _, fields in entries:
                    take(fields[1])
                positions[stream] = entries[-1][0]
                left -= len(entries)
