"""RabbitMQ quorum queues, used through pika on an event loop.

Used well means here: publisher confirms that are counted, with a bounded number under way; a subscriber with a
callback, a large prefetch and acknowledgements of many messages at once. Each subscriber has a quorum queue of its
own, bound to one exchange, so that each gets everything; what was published before that queue was there is not to be
had: there is no replay.
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

IN_FLIGHT = 4000
PREFETCH = 5000
ACK_EVERY = 500
ACK_SECONDS = 0.05
"""What has been received is acknowledged so often, or when it is as many."""
CONFIRM_SECONDS = 60


class System:
    """An exchange of a RabbitMQ node, to which each subscriber binds a quorum queue."""

    name = "RabbitMQ quorum queue"
    promise = (
        "on disk (write-ahead log, fsync) before the confirm; gone when its subscriber has acknowledged it"
    )
    share = 0.1

    def missing(self) -> str | None:
        return rabbitmq.missing() or (None if find_spec("pika") else "pika is not installed")

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        node, ports = await rabbitmq.node(stage, fresh=fresh)
        where = {"port": ports["amqp_port"], "exchange": rabbitmq.new_name()}
        return Running(system="rabbitmq-queue", where=where, store=node, fresh=fresh or stage.kept is None)


class Driver:
    """pika's AsyncioConnection, with one channel to publish and one to receive."""

    def __init__(self, port: int, exchange: str) -> None:
        self._port = port
        self._exchange = exchange
        self._inbox = Inbox()
        self._published = 0
        self._confirmed = 0
        self._refused = False
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._room = asyncio.Event()
        self._queue = ""
        self._last_tag = self._acked_tag = 0
        self._acking: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        import pika
        from pika.adapters.asyncio_connection import AsyncioConnection

        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        self._closed = asyncio.Event()
        self._connection = AsyncioConnection(
            pika.ConnectionParameters("127.0.0.1", self._port),
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _, error: opened.set_exception(error),
            on_close_callback=lambda *_: self._closed.set(),
            custom_ioloop=loop,
        )
        await opened
        self._sender = await self._channel()
        await _answered(
            self._sender.exchange_declare,
            exchange=self._exchange,
            exchange_type="fanout",
            durable=True,
            auto_delete=True,
        )
        await _answered(self._sender.confirm_delivery, ack_nack_callback=self._on_confirm)
        self._properties = pika.BasicProperties(delivery_mode=2)

    async def _channel(self) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection.channel(on_open_callback=opened.set_result)
        return await opened

    async def close(self) -> None:
        if self._acking is not None:
            self._acking.cancel()
        if self._queue:  # the node serves others after this
            await _answered(self._sender.queue_delete, queue=self._queue)
        self._connection.close()
        await self._closed.wait()

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        self._refused = self._refused or method.NAME != "Basic.Ack"
        first = self._confirmed + 1 if method.multiple else method.delivery_tag
        for tag in range(first, method.delivery_tag + 1) if self._waiting else ():
            if waiting := self._waiting.pop(tag, None):
                waiting.set_result(None)
        self._confirmed = max(self._confirmed, method.delivery_tag)
        self._room.set()

    def _send(self, payload: bytes) -> int:
        self._sender.basic_publish(self._exchange, "", payload, self._properties)
        self._published += 1
        return self._published

    async def publish_many(self, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            self._send(payload)
            if number % 100 == 0:
                await asyncio.sleep(0)
                await self._until(self._published - IN_FLIGHT)
        await self._until(self._published)

    async def _until(self, confirmed: int) -> None:
        async with asyncio.timeout(CONFIRM_SECONDS):
            while self._confirmed < confirmed:
                self._room.clear()
                await self._room.wait()
        if self._refused:
            raise RunFailedError("rabbitmq-server refused a message")

    def publish(self, payload: bytes) -> Awaitable[object]:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[self._send(payload)] = waiting
        return waiting

    async def subscribe(self, *, from_start: bool) -> None:
        if from_start:
            raise RunFailedError("a queue has no replay")
        queue = self._queue = rabbitmq.new_name()
        receiver = self._receiver = await self._channel()
        await _answered(
            receiver.queue_declare, queue=queue, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await _answered(receiver.queue_bind, queue=queue, exchange=self._exchange)
        await _answered(receiver.basic_qos, prefetch_count=PREFETCH)
        await _answered(receiver.basic_consume, queue=queue, on_message_callback=self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, payload: bytes) -> None:
        self._inbox.put(payload)
        self._last_tag = method.delivery_tag
        if self._last_tag - self._acked_tag >= ACK_EVERY:
            self._acknowledge()
        elif self._acking is None:
            self._acking = asyncio.get_running_loop().call_later(ACK_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        if self._last_tag > self._acked_tag and self._receiver.is_open:
            self._receiver.basic_ack(self._last_tag, multiple=True)
            self._acked_tag = self._last_tag

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        await self._inbox.receive(take, count)


async def _answered(call: Callable[..., Any], **arguments: Any) -> None:
    """Call something of pika's and wait for the server's answer."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call(callback=done.set_result, **arguments)
    await done
