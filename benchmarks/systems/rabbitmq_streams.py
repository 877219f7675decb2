"""RabbitMQ streams, used through rstream.

Used well means here: raw payloads, without an AMQP envelope; batches sent without waiting, with a bounded number of
unconfirmed messages; a subscriber with a callback and many credits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.readings import RunFailedError
from benchmarks.stage import Stage
from benchmarks.systems import rabbitmq
from benchmarks.systems.inbox import Inbox
from benchmarks.systems.names import Running

BATCH_BYTES = 200_000
IN_FLIGHT_BYTES = 8 * BATCH_BYTES
CREDITS = 100
CONFIRM_SECONDS = 60
GUEST = "guest"
"""User and password of a new node, for loopback only."""


class System:
    """A stream of a RabbitMQ node."""

    name = "RabbitMQ stream"
    promise = (
        "given to the kernel; never fsynced: a crash of the machine loses what it had not written by itself"
    )
    share = 0.5

    def missing(self) -> str | None:
        return rabbitmq.missing() or (None if find_spec("rstream") else "rstream is not installed")

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        from rstream import Producer

        node, ports = await rabbitmq.node(stage, fresh=fresh)
        stream = rabbitmq.new_name()
        async with Producer("127.0.0.1", ports["stream_port"], username=GUEST, password=GUEST) as producer:
            await producer.create_stream(stream)
        where = {"port": ports["stream_port"], "stream": stream}
        return Running(system="rabbitmq-stream", where=where, store=node, fresh=fresh or stage.kept is None)


class Driver:
    """rstream's producer and consumer."""

    def __init__(self, port: int, stream: str) -> None:
        self._port = port
        self._stream = stream
        self._inbox = Inbox()
        self._free = 0
        self._refused = ""
        self._confirmed = asyncio.Event()

    async def open(self) -> None:
        from rstream import Consumer, Producer

        self._producer = Producer("127.0.0.1", self._port, username=GUEST, password=GUEST)
        self._consumer = Consumer("127.0.0.1", self._port, username=GUEST, password=GUEST)
        await self._producer.start()
        await self._consumer.start()

    async def close(self) -> None:
        await self._producer.close()
        await self._consumer.close()

    async def publish_many(self, payloads: list[bytes]) -> None:
        batch = max(1, min(1000, BATCH_BYTES // len(payloads[0])))
        most = max(1, IN_FLIGHT_BYTES // BATCH_BYTES) * batch
        self._free = most
        for start in range(0, len(payloads), batch):
            part = payloads[start : start + batch]
            await self._room(len(part))
            self._free -= len(part)
            await self._producer.send_batch(self._stream, part, on_publish_confirm=self._on_confirm)
        await self._room(most)

    def _on_confirm(self, status: Any) -> None:
        if not status.is_confirmed:
            self._refused = f"code {status.response_code}"
        self._free += 1
        self._confirmed.set()

    async def _room(self, messages: int) -> None:
        async with asyncio.timeout(CONFIRM_SECONDS):
            while self._free < messages:
                self._confirmed.clear()
                await self._confirmed.wait()
        if self._refused:
            raise RunFailedError(f"rabbitmq-server refused a message: {self._refused}")

    def publish(self, payload: bytes) -> Awaitable[object]:
        return self._producer.send_wait(self._stream, payload, timeout=CONFIRM_SECONDS)

    async def subscribe(self, *, from_start: bool) -> None:
        from rstream import ConsumerOffsetSpecification, OffsetType

        await self._consumer.subscribe(
            self._stream,
            self._on_message,
            offset_specification=ConsumerOffsetSpecification(
                OffsetType.FIRST if from_start else OffsetType.NEXT, None
            ),
            initial_credit=CREDITS,
        )

    def _on_message(self, payload: Any, context: Any) -> None:
        self._inbox.put(payload)

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        await self._inbox.receive(take, count)
