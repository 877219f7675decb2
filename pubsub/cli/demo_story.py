"""The demo in its order: start, publish, kill one peer and bring it back, count, end."""

from __future__ import annotations

import asyncio
import platform
import re
import shlex
from pathlib import Path

from pubsub.cli.demo_load import Load, percentile
from pubsub.cli.demo_processes import DemoProcess, end_all
from pubsub.cli.demo_readings import SOURCES, describe
from pubsub.cli.demo_subscriber import Tally, decode_tallies
from pubsub.cli.demo_view import Row, Summary, View
from pubsub.cli.run import first_error
from pubsub.client.client import Client
from pubsub.errors import PubsubError, TopicExistsError
from pubsub.model import parse_address

OWNERS = dict(zip(SOURCES, ("alice", "bob", "carol"), strict=True))
"""Topic -> the peer that owns it."""

RESTARTED = "carol"
SUBSCRIBERS = ("subscriber-1", "subscriber-2")
PUBLISH_SECONDS = 8
KILL_AT_SECONDS, AWAY_SECONDS = 2.2, 3.0
TTL_SECONDS = 2
"""So short that the table shows the killed peer's topic offline."""
DELIVERY_SECONDS = 5.0
"""How long the last readings may take to the subscribers, before they count as lost."""
_LOOK_SECONDS = 0.1


class Demo:
    """One run of the demo.

    Args:
        directory: For data and logs.
        keep: Leave all processes running after a run that went to its end.
    """

    def __init__(self, directory: Path, keep: bool) -> None:
        self._directory = directory
        self._keep = keep
        self._view = View()
        self._processes: dict[str, DemoProcess] = {}
        self._index = ""
        self._registry = ""
        self._online: dict[str, bool] = {}
        self._away_seconds = 0.0
        self._finished = False

    async def tell(self) -> Summary:
        """Do it all, but for ending the processes."""
        with self._view.shown():
            summary = await self._tell()
        self._finished = True
        return summary

    async def end(self) -> None:
        """End every process, unless they are to be kept and nothing has failed."""
        if not (self._finished and self._keep):
            await end_all(list(self._processes.values()))

    async def _tell(self) -> Summary:
        await self._start_servers()
        async with Client(self._index) as client:
            starts = await self._make_topics(client)
            await self._start_subscribers(starts)
            key = platform.node() or "here"
            loads = [Load(client, topic, read, key) for topic, read in SOURCES.items()]
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                async with asyncio.TaskGroup() as tasks:
                    showing = tasks.create_task(self._show(loads, began), name="demo: show")
                    looking = tasks.create_task(self._look(client), name="demo: look at the index")
                    working = [tasks.create_task(self._kill_and_restart(), name="demo: kill and restart")]
                    for load in loads:
                        run = load.run(PUBLISH_SECONDS)
                        working.append(tasks.create_task(run, name=f"demo: publish to {load.topic}"))
                    await asyncio.wait(working)
                    await self._delivered(loads)
                    seconds = loop.time() - began
                    showing.cancel()
                    looking.cancel()
            except* PubsubError as group:
                raise first_error(group) from None
            self._view.progress(seconds, self._rows(loads))
        return self._summary(loads, seconds)

    # Processes

    def _start(self, name: str, *arguments: str) -> DemoProcess:
        process = DemoProcess(name, list(arguments), self._directory / f"{name}.log")
        self._processes[name] = process
        process.start()
        return process

    async def _start_servers(self) -> None:
        anywhere = "127.0.0.1:0"
        index = self._start(
            "index",
            *("pubsub", "index", "serve", "--listen", anywhere, "--registry-listen", anywhere),
            *("--ttl", str(TTL_SECONDS)),
        )
        line = await index.ready()
        addresses = re.findall(r"[\w.:\[\]]+:\d+", line)
        self._index, self._registry = addresses[0], addresses[1]
        self._view.event(line)
        peers = [self._start_peer(name) for name in OWNERS.values()]
        for peer in peers:
            self._view.event(await peer.ready())

    def _start_peer(self, name: str) -> DemoProcess:
        data = str(self._directory / name)
        return self._start(name, "pubsub", "peer", "serve", name, "--data", data, "--index", self._index)

    async def _make_topics(self, client: Client) -> dict[str, int]:
        """Returns: from which offset on each topic holds what this run publishes."""
        starts: dict[str, int] = {}
        for topic, owner in OWNERS.items():
            try:
                await client.create_topic(topic, on=owner)
                starts[topic] = 0
            except TopicExistsError:  # of an earlier run in this directory
                starts[topic] = (await client.topic(topic)).next_offset or 0
        return starts

    async def _start_subscribers(self, starts: dict[str, int]) -> None:
        texts = [f"{topic}={offset}" for topic, offset in starts.items()]
        module = "pubsub.cli.demo_subscriber"
        subscribers = [self._start(name, module, self._index, *texts) for name in SUBSCRIBERS]
        for subscriber in subscribers:
            await subscriber.ready()
            self._view.event(f"{subscriber.name} follows {', '.join(starts)}")

    async def _kill_and_restart(self) -> None:
        await asyncio.sleep(KILL_AT_SECONDS)
        loop = asyncio.get_running_loop()
        peer = self._processes[RESTARTED]
        self._view.event(f"kill -9 {peer.pid}: {RESTARTED} is gone; who publishes to its topic tries on")
        died_at = loop.time()
        await peer.kill()
        await asyncio.sleep(AWAY_SECONDS)
        await self._start_peer(RESTARTED).ready()
        self._away_seconds = loop.time() - died_at
        self._view.event(f"{RESTARTED} is back with all its messages, after {self._away_seconds:.1f} s")

    # Counting

    def _tallies(self, subscriber: str) -> dict[str, Tally]:
        reports = [line for line in self._processes[subscriber].lines() if line.startswith("{")]
        return decode_tallies(reports[-1]) if reports else {}

    async def _delivered(self, loads: list[Load]) -> None:
        """Wait until each subscriber has everything, but not for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DELIVERY_SECONDS
        while loop.time() < deadline:
            tallies = [self._tallies(name) for name in SUBSCRIBERS]
            if all(tally[load.topic].received >= load.published for tally in tallies for load in loads):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _summary(self, loads: list[Load], seconds: float) -> Summary:
        tallies = [tally for name in SUBSCRIBERS for tally in self._tallies(name).values()]
        published = sum(load.published for load in loads)
        delivered = sum(tally.received for tally in tallies)
        doubled = sum(tally.doubled for tally in tallies)
        latencies_ms = [latency for load in loads for latency in load.latencies_ms]
        burst_seconds = sum(load.burst_seconds for load in loads)
        return Summary(
            published=published,
            delivered=delivered,
            lost=published * len(SUBSCRIBERS) - (delivered - doubled),
            doubled=doubled,
            rate=round(published / seconds),
            burst_rate=round(sum(load.burst_messages for load in loads) / burst_seconds)
            if burst_seconds
            else 0,
            p50_ms=round(percentile(latencies_ms, 0.50), 3),
            p99_ms=round(percentile(latencies_ms, 0.99), 3),
            subscribers=len(SUBSCRIBERS),
            peers=len(OWNERS),
            seconds=round(seconds, 1),
            restarted=RESTARTED,
            away_seconds=round(self._away_seconds, 1),
        )

    # Showing

    async def _look(self, client: Client) -> None:
        """Keep asking the index which topics are online."""
        while True:
            self._online = {topic.topic: topic.online for topic in await client.topics("machine.*")}
            await asyncio.sleep(_LOOK_SECONDS)

    async def _show(self, loads: list[Load], began: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._view.progress(loop.time() - began, self._rows(loads))
            await asyncio.sleep(_LOOK_SECONDS)

    def _rows(self, loads: list[Load]) -> list[Row]:
        tallies = [self._tallies(name) for name in SUBSCRIBERS]
        return [
            Row(
                topic=load.topic,
                owner=OWNERS[load.topic],
                state="online" if self._online.get(load.topic, True) else "offline",
                published=load.published,
                received=tuple(tally[load.topic].received if tally else 0 for tally in tallies),
                reading=describe(load.newest),
            )
            for load in loads
        ]

    def hints(self, removed: bool) -> list[str]:
        """How to look around, and how to end what is left.

        Args:
            removed: The directory is gone.
        """
        port = parse_address(self._registry).port
        files = [
            f"  sqlite3 -readonly {shlex.quote(str(self._directory / owner / 'peer.db'))} "
            f'"select * from topic_messages order by offset desc limit 5"'
            for owner in OWNERS.values()
        ]
        registry = [
            f"  redis-cli -p {port} hgetall pubsub:topic:machine.load",
            f"  redis-cli -p {port} ttl pubsub:peer:{RESTARTED}",
            f"  redis-cli -p {port} --scan",
        ]
        commands = [f"  pubsub index topics --index {self._index}"]
        if self._keep:
            pids = " ".join(str(process.pid) for process in self._processes.values())
            end = [f"End it: kill {pids}", f"Then:   rm -r {shlex.quote(str(self._directory))}"]
            return ["Everything is still running. Look around:", *registry, *files, *commands, *end]
        if removed:
            return [
                "It is all gone now. With --keep it stays, to look around like this:",
                *registry,
                *files,
                *commands,
            ]
        return ["The files are still there:", *files, "With --keep the rest is, too:", *registry, *commands]
