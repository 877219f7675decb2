"""A worker process of `pubsub bench`: `python -m pubsub.cli.bench_worker TASK`, started by `bench_processes`.

It plays several publishers or several subscribers, each with a client of its own, and says how it goes on stdout, in
the words of `bench_talk`. It ends when it has reported, or when nobody holds the other end of its stdin any more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

from pubsub.cli.bench_histogram import merged
from pubsub.cli.bench_messages import sum_up
from pubsub.cli.bench_publisher import Publisher
from pubsub.cli.bench_subscriber import Subscriber
from pubsub.cli.bench_talk import (
    Answer,
    Await,
    Begin,
    Delivered,
    Failed,
    Progress,
    Published,
    Ready,
    Stop,
    Task,
    decode_order,
    decode_task,
    encode,
)
from pubsub.cli.logs import set_up_logging
from pubsub.cli.run import first_error, run
from pubsub.client.client import Client
from pubsub.errors import PubsubError

PROGRESS_SECONDS = 0.1


class Part(Protocol):
    """What a worker plays."""

    @property
    def count(self) -> int:
        """How many messages it has published, or received."""

    async def play(self, orders: Orders) -> Published | Delivered:
        """Play it to its end."""

    def stop(self) -> None:
        """Come to the end."""


class Orders:
    """What the measurement orders, as it arrives on stdin."""

    def __init__(self, part: Part) -> None:
        self._part = part
        loop = asyncio.get_running_loop()
        self.begin: asyncio.Future[Begin] = loop.create_future()
        self.rest: asyncio.Future[Await] = loop.create_future()

    async def take(self) -> None:
        """Take orders until the end of stdin."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = decode_order(line)
            if isinstance(order, Begin):
                self.begin.set_result(order)
            elif isinstance(order, Await):
                self.rest.set_result(order)
            elif isinstance(order, Stop):
                self._part.stop()


class Publishers:
    """The part of some publishers."""

    def __init__(self, task: Task, clients: Sequence[Client]) -> None:
        self._all = [Publisher(client, task, n) for client, n in zip(clients, task.members, strict=True)]

    @property
    def count(self) -> int:
        """How many messages they have published."""
        return sum(publisher.acknowledged for publisher in self._all)

    async def play(self, orders: Orders) -> Published:
        """Publish from the instant that is ordered on."""
        await _all_of(publisher.warm_up() for publisher in self._all)
        say(Ready())
        began_ns = (await orders.begin).at_ns
        await _all_of(publisher.run(began_ns) for publisher in self._all)
        reports = [publisher.report for publisher in self._all]
        return Published(
            counts={stream: count for report in reports for stream, count in report.counts.items()},
            latency=merged(report.latency for report in reports),
            ended_ns=max(report.ended_ns for report in reports),
        )

    def stop(self) -> None:
        """Publish no more."""
        for publisher in self._all:
            publisher.stop()


class Subscribers:
    """The part of some subscribers."""

    def __init__(self, task: Task, clients: Sequence[Client]) -> None:
        self._all = [Subscriber(client, task) for client in clients]

    @property
    def count(self) -> int:
        """How many messages they have received."""
        return sum(subscriber.received for subscriber in self._all)

    async def play(self, orders: Orders) -> Delivered:
        """Receive until all has come that is said to have been published."""
        await _all_of(subscriber.open() for subscriber in self._all)
        say(Ready())
        receiving = asyncio.create_task(
            _all_of(subscriber.receive() for subscriber in self._all), name="pubsub: bench receive"
        )
        finishing = asyncio.create_task(self._finish(orders), name="pubsub: bench finish")
        try:
            await asyncio.wait((receiving, finishing), return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
            return finishing.result()
        finally:
            receiving.cancel()
            finishing.cancel()
            await asyncio.gather(receiving, finishing, return_exceptions=True)

    async def _finish(self, orders: Orders) -> Delivered:
        published = (await orders.rest).published
        reports = await asyncio.gather(*(subscriber.finish(published) for subscriber in self._all))
        return Delivered(
            came=sum_up(report.came for report in reports),
            latency=merged(report.latency for report in reports),
            ended_ns=max(report.ended_ns for report in reports),
        )

    def stop(self) -> None:
        """Wait for nothing more."""
        for subscriber in self._all:
            subscriber.stop()


async def _all_of(work: Any) -> None:
    """Do all of it at once; the first error ends the rest.

    Raises:
        PubsubError: the first one.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for number, coroutine in enumerate(work):
                tasks.create_task(coroutine, name=f"pubsub: bench {number}")
    except* PubsubError as group:
        raise first_error(group) from None


def say(answer: Answer) -> None:
    """Tell the measurement."""
    sys.stdout.buffer.write(encode(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _tell_progress(part: Part) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        say(Progress(part.count))


async def _work(task: Task) -> None:
    """Do the task and report; give it up at the end of stdin."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(task.index, timeout_seconds=task.timeout_seconds))
            for _ in task.members
        ]
        part: Part = (Publishers if task.publish else Subscribers)(task, clients)
        orders = Orders(part)
        playing = asyncio.create_task(part.play(orders), name="pubsub: bench part")
        beside: list[Coroutine[Any, Any, None]] = [orders.take(), _tell_progress(part)]
        tasks = [playing, *(asyncio.create_task(c, name="pubsub: bench talk") for c in beside)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                say(playing.result())
        except PubsubError as error:
            say(Failed(error.message))
        except Exception as error:
            say(Failed(f"a fault in pubsub: {error!r}"))
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    its_task = decode_task(sys.argv[1])
    set_up_logging(its_task.verbose)
    run(_work(its_task))
