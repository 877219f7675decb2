"""One measurement in its order: topic, subscribers, publishers, the time in between, the rest, the end of it all."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from pubsub.cli.bench_histogram import merged
from pubsub.cli.bench_messages import STREAM_NUMBERS, sum_up
from pubsub.cli.bench_processes import Worker, end_all
from pubsub.cli.bench_result import Finding, Latency, Result
from pubsub.cli.bench_talk import Await, Begin, Delivered, Published, Stop, Task, count_streams
from pubsub.cli.bench_view import View
from pubsub.cli.run import first_error, note
from pubsub.client.client import Client
from pubsub.errors import InvalidRequestError, PubsubError, TopicExistsError, TopicNotFoundError
from pubsub.model import TopicInfo

R = TypeVar("R")

LEAD_SECONDS = 0.05
"""From the order to begin to the beginning, so that all begin at once."""

LEAST_PROCESSES = 4
"""So many publishers, or subscribers, have a process each, also where there are fewer processors."""

DELETE_SECONDS = 30.0
"""How long to try to delete the topic: the more was published, the longer it may take."""

_LOOK_SECONDS = 0.1


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure."""

    index: str
    topic: str | None
    on: str | None
    keep_topic: bool
    publishers: int
    subscribers: int
    size_bytes: int
    seconds: float
    rate: int | None
    timeout_seconds: float
    verbose: int


class Bench:
    """One measurement."""

    def __init__(self, terms: Terms, view: View) -> None:
        self.unclean = False
        """Whether the topic could not be deleted."""
        self._terms = terms
        self._view = view
        self._first_stream = secrets.randbelow(STREAM_NUMBERS // 2)
        self._publishers: list[Worker] = []
        self._subscribers: list[Worker] = []
        self._stoppable: list[Worker] = []
        """Those that would come to an end by themselves, and may be told to do it now."""
        self._stopped = False

    def stop(self) -> bool:
        """Come to the end: of publishing if that is under way, else of waiting for what has not been delivered.

        Returns: whether there will be a result. Else nothing has been published yet, or nobody wants to wait.
        """
        workers, self._stoppable = self._stoppable, []
        for worker in workers:
            worker.order(Stop())
        self._stopped = True
        return bool(workers)

    async def run(self) -> Finding:
        """Measure.

        Raises:
            PubsubError: it could not be done. Processes and topic are gone in any case.
        """
        terms = self._terms
        async with Client(terms.index, timeout_seconds=terms.timeout_seconds) as client:
            topic, made = await self._find_or_create(client)
            try:
                with self._view.shown(terms.seconds):
                    return await self._measure(topic)
            except* PubsubError as group:
                raise first_error(group) from None
            finally:
                await end_all([*self._publishers, *self._subscribers])
                if made and not terms.keep_topic:
                    await self._delete(topic.topic)

    # The topic

    async def _find_or_create(self, client: Client) -> tuple[TopicInfo, bool]:
        """Returns: the topic, and whether it was made."""
        on, name = self._terms.on, self._terms.topic
        if name is None:
            return await client.create_topic(f"bench-{secrets.token_hex(4)}", on=on), True
        try:
            return await client.create_topic(name, on=on), True
        except TopicExistsError:
            topic = await client.topic(name)
        if on not in (None, topic.owner):
            raise InvalidRequestError(
                f"topic {name} is owned by {topic.owner}, not by {on}: leave out --on, or take another topic"
            )
        return topic, False

    async def _delete(self, topic: str) -> None:
        self._view.phase("deleting the topic")
        try:
            async with Client(self._terms.index, timeout_seconds=DELETE_SECONDS) as client:
                await client.delete_topic(topic)
        except TopicNotFoundError:
            pass  # somebody else has done it
        except (PubsubError, asyncio.CancelledError) as error:
            self.unclean = True
            why = str(error) or "stopped"
            note(f"topic {topic} is still there ({why}); pubsub topic delete {topic} removes it")
            if isinstance(error, asyncio.CancelledError):
                raise

    # Measuring

    async def _measure(self, topic: TopicInfo) -> Finding:
        terms = self._terms
        self._subscribers = self._workers(topic.topic, terms.subscribers, publish=False)
        self._publishers = self._workers(topic.topic, terms.publishers, publish=True)
        # Subscribers first: what is published before they are there would not come to them.
        for workers in (self._subscribers, self._publishers):
            await _all(worker.start() for worker in workers)
            await _all(worker.ready() for worker in workers)
        began_ns = time.monotonic_ns() + round(LEAD_SECONDS * 1e9)
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(self._show(began_ns), name="pubsub: bench show")
            # From now on, so that a subscriber that fails ends it all.
            receiving = [
                tasks.create_task(worker.reported(Delivered), name=f"pubsub: bench wait for {worker.name}")
                for worker in self._subscribers
            ]
            published = await self._publish(began_ns)
            delivered = await self._await_rest(published, receiving)
            showing.cancel()
        return self._result(topic, began_ns, published, delivered)

    def _workers(self, topic: str, members: int, *, publish: bool) -> list[Worker]:
        """Processes for so many publishers or subscribers, who are dealt out among them."""
        terms = self._terms
        processes = min(members, max(LEAST_PROCESSES, os.cpu_count() or 1))
        workers = []
        for process in range(processes):
            own = list(range(process, members, processes))
            word = "publisher" if publish else "subscriber"
            name = f"{word} {own[0] + 1}" if len(own) == 1 else f"a process of {len(own)} {word}s"
            task = Task(
                publish=publish,
                members=own,
                index=terms.index,
                topic=topic,
                size_bytes=terms.size_bytes,
                seconds=terms.seconds,
                rate=terms.rate,
                publishers=terms.publishers,
                first_stream=self._first_stream,
                timeout_seconds=terms.timeout_seconds,
                verbose=terms.verbose,
            )
            workers.append(Worker(name, task))
        return workers

    async def _publish(self, began_ns: int) -> list[Published]:
        self._view.phase("publishing")
        for worker in self._publishers:
            worker.order(Begin(began_ns))
        self._stoppable = self._publishers
        reports = await _all(worker.reported(Published) for worker in self._publishers)
        self._stoppable = []
        return reports

    async def _await_rest(
        self, published: Sequence[Published], receiving: Sequence[asyncio.Task[Delivered]]
    ) -> list[Delivered]:
        self._view.phase("waiting for the rest")
        counts = {stream: count for report in published for stream, count in report.counts.items()}
        streams = range(count_streams(self._terms.publishers))
        for worker in self._subscribers:
            worker.order(Await([counts.get(stream, 0) for stream in streams]))
        self._stoppable = self._subscribers
        reports = await asyncio.gather(*receiving)
        self._stoppable = []
        return reports

    async def _show(self, began_ns: int) -> None:
        while True:
            self._view.progress(
                (time.monotonic_ns() - began_ns) / 1e9,
                sum(worker.count for worker in self._publishers),
                sum(worker.count for worker in self._subscribers),
            )
            await asyncio.sleep(_LOOK_SECONDS)

    def _result(
        self, topic: TopicInfo, began_ns: int, published: Sequence[Published], delivered: Sequence[Delivered]
    ) -> Finding:
        terms = self._terms
        came = sum_up(report.came for report in delivered)
        count = sum(sum(report.counts.values()) for report in published)
        ended_ns = [max(report.ended_ns for report in reports) for reports in (published, delivered)]
        publishing, delivering = (max(0, end - began_ns) / 1e9 for end in ended_ns)
        acks = merged(report.latency for report in published)
        deliveries = merged(report.latency for report in delivered)
        result = Result(
            topic=topic.topic,
            owner=topic.owner,
            publishers=terms.publishers,
            subscribers=terms.subscribers,
            size_bytes=terms.size_bytes,
            rate=terms.rate,
            seconds=round(publishing, 3),
            published=count,
            delivered=came.received,
            published_per_second=round(count / publishing) if publishing else 0,
            delivered_per_second=round(came.received / delivering) if delivering else 0,
            ack_ms=Latency.of(acks),
            delivery_ms=Latency.of(deliveries),
            lost=came.lost,
            doubled=came.doubled,
            out_of_order=came.out_of_order,
            undelivered=came.undelivered,
            interrupted=self._stopped,
        )
        return Finding(result, acks, deliveries)


async def _all(work: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Do all of it at once; the first error ends the rest."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(coroutine, name="pubsub: bench worker") for coroutine in work]
    return [task.result() for task in started]
