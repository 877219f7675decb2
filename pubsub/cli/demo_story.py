"""The demo in its order: start, publish, kill a peer and bring it back, count, end."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

from pubsub.cli.demo_failover import Failover
from pubsub.cli.demo_load import Load
from pubsub.cli.demo_readings import SOURCES, describe
from pubsub.cli.demo_schedule import (
    DELIVERED_SECONDS,
    ENDED_SECONDS,
    OVER_SECONDS,
    PUBLISH_SECONDS,
    PUBLISHED_SECONDS,
    Schedule,
)
from pubsub.cli.demo_site import REPLICATED, DemoSite
from pubsub.cli.demo_summary import Summary, summarize
from pubsub.cli.demo_view import Row, View
from pubsub.cli.run import first_error
from pubsub.client.client import Client
from pubsub.errors import InternalError, PubsubError
from pubsub.model import TopicInfo

_LOOK_SECONDS = 0.1


class Demo:
    """One run of the demo.

    Args:
        directory: For data and logs.
        keep: Leave all processes running after a run that went to its end.
    """

    def __init__(self, directory: Path, keep: bool) -> None:
        self._keep = keep
        self._view = View()
        self._site = DemoSite(directory, self._view.event)
        self._topics: dict[str, TopicInfo] = {}
        self._schedule: Schedule | None = None
        self._finished = False

    async def tell(self) -> Summary:
        """Do it all, but for ending the processes."""
        self._schedule = Schedule()
        with self._view.shown():
            summary = await self._tell(self._schedule)
        self._finished = True
        return summary

    async def end(self) -> None:
        """End every process, unless they are to be kept and nothing has failed."""
        if self._schedule is not None and not (self._finished and self._keep):
            await self._site.end(self._schedule.left(ENDED_SECONDS))

    def hints(self, removed: bool) -> list[str]:
        """How to look around, and how to end what is left."""
        return self._site.hints(self._keep, removed)

    async def _tell(self, schedule: Schedule) -> Summary:
        await self._site.start_servers()
        # The replicated topic has a publisher that shares nothing with the others.
        async with (
            Client(self._site.index, timeout_seconds=OVER_SECONDS) as client,
            Client(self._site.index, timeout_seconds=OVER_SECONDS) as other,
        ):
            starts = await self._site.make_topics(client, schedule)
            await self._site.start_subscribers(starts)
            key = platform.node() or "here"
            loads = [
                Load(other if topic == REPLICATED else client, topic, read, key, acks=_acks(topic))
                for topic, read in SOURCES.items()
            ]
            failover = Failover(client, self._site, schedule, self._view.event)
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                async with asyncio.TaskGroup() as tasks:
                    showing = tasks.create_task(self._show(loads, began), name="demo: show")
                    looking = tasks.create_task(self._look(client), name="demo: look at the index")
                    await self._publish(tasks, loads, failover, schedule)
                    await self._delivered(loads, schedule)
                    seconds = loop.time() - began
                    showing.cancel()
                    looking.cancel()
            except* PubsubError as group:
                raise first_error(group) from None
            self._view.progress(seconds, self._rows(loads))
        in_sync = self._topics[REPLICATED].in_sync
        return summarize(loads, self._site.tallies(), failover, in_sync, seconds)

    async def _publish(
        self, tasks: asyncio.TaskGroup, loads: list[Load], failover: Failover, schedule: Schedule
    ) -> None:
        """Publish all the while that the failover takes, and not much longer.

        Beyond its time only to the replicated topic, as long as nobody has taken over.
        """
        loop = asyncio.get_running_loop()
        over, failed_over = asyncio.Event(), asyncio.Event()
        in_time = [loop.call_later(schedule.left(PUBLISHED_SECONDS), over.set)]
        working = [
            tasks.create_task(
                load.run(failed_over if load.topic == REPLICATED else over),
                name=f"demo: publish to {load.topic}",
            )
            for load in loads
        ]
        began = loop.time()
        schedule.publishing_begins()
        try:
            await asyncio.sleep(schedule.kill_after_seconds)
            await failover.kill_owner()
            in_time.append(loop.call_later(schedule.left(PUBLISHED_SECONDS), failed_over.set))
            await failover.bring_back()
            rest = began + PUBLISH_SECONDS - loop.time()
            await asyncio.sleep(max(0.0, min(rest, schedule.left(PUBLISHED_SECONDS))))
        finally:
            for timer in in_time:
                timer.cancel()
        over.set()
        failed_over.set()
        _, waiting = await asyncio.wait(working, timeout=schedule.left(DELIVERED_SECONDS))
        if waiting:
            names = ", ".join(sorted(task.get_name().rpartition(" ")[2] for task in waiting))
            raise InternalError(f"the demo cannot go on: {names} acknowledges nothing")

    async def _delivered(self, loads: list[Load], schedule: Schedule) -> None:
        """Wait until each subscriber has everything, but not for ever."""

        async def has_come() -> bool:
            tallies = self._site.tallies()
            return all(tally[load.topic].received >= load.published for tally in tallies for load in loads)

        await schedule.until(has_come, DELIVERED_SECONDS)

    # Showing

    async def _look(self, client: Client) -> None:
        """Keep asking the index who owns the topics, and which of them are online."""
        while True:
            self._topics = {topic.topic: topic for topic in await client.topics("machine.*")}
            await asyncio.sleep(_LOOK_SECONDS)

    async def _show(self, loads: list[Load], began: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._view.progress(loop.time() - began, self._rows(loads))
            await asyncio.sleep(_LOOK_SECONDS)

    def _rows(self, loads: list[Load]) -> list[Row]:
        tallies = self._site.tallies()
        return [
            Row(
                topic=load.topic,
                owner=topic.owner if topic else "",
                state="offline" if topic and not topic.online else "online",
                copies=f"{len(topic.in_sync)} of {len(topic.replicas)}" if topic else "",
                published=load.published,
                received=tuple(tally[load.topic].received if tally else 0 for tally in tallies),
                reading=describe(load.newest),
            )
            for load in loads
            for topic in (self._topics.get(load.topic),)
        ]


def _acks(topic: str) -> str | None:
    return "all" if topic == REPLICATED else None
