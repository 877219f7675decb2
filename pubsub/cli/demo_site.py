"""The demo's index, peers, topics and subscribers: who they are, how they start and end, how to look at them.

Three peers own a topic of one copy each; one more topic has a copy on each of them. A directory of an earlier run
is taken up: its topics go on where they were.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from pubsub.cli.demo_processes import DemoProcess, end_all
from pubsub.cli.demo_readings import SOURCES
from pubsub.cli.demo_schedule import DELIVERED_SECONDS, TTL_SECONDS, Schedule
from pubsub.cli.demo_subscriber import Tally, decode_tallies
from pubsub.client.client import Client
from pubsub.errors import InternalError, TopicExistsError
from pubsub.model import TopicInfo, parse_address

REPLICATED = "machine.activity"
"""The topic that has a copy on each peer."""
OWNERS = dict(
    zip((topic for topic in SOURCES if topic != REPLICATED), ("alice", "bob", "carol"), strict=True)
)
"""Topic of one copy -> the peer that owns it."""
PEERS = tuple(OWNERS.values())
SUBSCRIBERS = ("subscriber-1", "subscriber-2")


class DemoSite:
    """The processes of one run.

    Args:
        directory: For data and logs.
        say: Told what happens, a line each.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.index = ""
        self._registry = ""
        self._directory = directory
        self._say = say
        self._processes: dict[str, DemoProcess] = {}

    async def start_servers(self) -> None:
        """Start the index, then the peers, all on free ports."""
        anywhere = "127.0.0.1:0"
        index = self._start(
            "index",
            *("pubsub", "index", "serve", "--listen", anywhere, "--registry-listen", anywhere),
            *("--ttl", str(TTL_SECONDS)),
        )
        line = await index.ready()
        addresses = re.findall(r"[\w.:\[\]]+:\d+", line)
        self.index, self._registry = addresses[0], addresses[1]
        self._say(line)
        peers = [self.start_peer(name) for name in PEERS]
        for peer in peers:
            self._say(await peer.ready())

    def start_peer(self, name: str) -> DemoProcess:
        """Start a peer, also again."""
        data = str(self._directory / name)
        return self._start(name, "pubsub", "peer", "serve", name, "--data", data, "--index", self.index)

    async def make_topics(self, client: Client, schedule: Schedule) -> dict[str, int]:
        """Create the topics, and wait until each has all its copies.

        Returns: from which offset on each topic holds what this run publishes.
        """
        for topic, owner in (*OWNERS.items(), (REPLICATED, PEERS[-1])):
            policy = {"replicas": len(PEERS)} if topic == REPLICATED else None
            try:
                await client.create_topic(topic, on=owner, policy=policy)
            except TopicExistsError:  # of an earlier run in this directory
                continue
        found: dict[str, TopicInfo] = {}

        async def settled() -> bool:
            found.update({topic.topic: topic for topic in await client.topics("machine.*")})
            return all(topic in found and _complete(found[topic]) for topic in SOURCES)

        if not await schedule.until(settled, DELIVERED_SECONDS):
            lacking = ", ".join(name for name in SOURCES if name not in found or not _complete(found[name]))
            raise InternalError(f"the demo cannot go on: copies of {lacking} are not in sync")
        copies = found[REPLICATED]
        self._say(f"{REPLICATED} has copies on {', '.join(sorted(copies.in_sync))}; {copies.owner} owns it")
        return {name: found[name].next_offset or 0 for name in SOURCES}

    async def start_subscribers(self, starts: dict[str, int]) -> None:
        """Start them, each on all topics."""
        texts = [f"{topic}={offset}" for topic, offset in starts.items()]
        module = "pubsub.cli.demo_subscriber"
        subscribers = [self._start(name, module, self.index, *texts) for name in SUBSCRIBERS]
        for subscriber in subscribers:
            await subscriber.ready()
            self._say(f"{subscriber.name} follows {', '.join(starts)}")

    def process(self, name: str) -> DemoProcess:
        """The process of that peer or subscriber."""
        return self._processes[name]

    def tallies(self) -> list[dict[str, Tally]]:
        """What each subscriber has counted so far; empty as long as it has said nothing."""
        reports = [self._processes[name].last_line("{") for name in SUBSCRIBERS]
        return [decode_tallies(report) if report else {} for report in reports]

    async def end(self, seconds: float) -> None:
        """End every process; kill those that are still there after so many seconds."""
        await end_all(list(self._processes.values()), seconds)

    def _start(self, name: str, *arguments: str) -> DemoProcess:
        process = DemoProcess(name, list(arguments), self._directory / f"{name}.log")
        self._processes[name] = process
        process.start()
        return process

    # Looking around

    def hints(self, keep: bool, removed: bool) -> list[str]:
        """How to look around, and how to end what is left.

        Args:
            keep: All is still running.
            removed: The directory is gone.
        """
        port = parse_address(self._registry).port
        files = [
            f"  sqlite3 -readonly {shlex.quote(str(self._directory / owner / 'peer.db'))} "
            f'"select * from topic_messages order by offset desc limit 5"'
            for owner in PEERS
        ]
        registry = [
            f"  redis-cli -p {port} hgetall pubsub:topic:{REPLICATED}",
            f"  redis-cli -p {port} ttl pubsub:peer:{PEERS[-1]}",
            f"  redis-cli -p {port} --scan",
        ]
        commands = [
            f"  pubsub index topics --index {self.index}",
            f"  pubsub topic show {REPLICATED} --index {self.index}",
        ]
        if keep:
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


def _complete(topic: TopicInfo) -> bool:
    """Whether it is online, and all the copies that it shall have are in sync."""
    copies = len(PEERS) if topic.topic == REPLICATED else 1
    return topic.online and topic.next_offset is not None and len(topic.in_sync or [topic.owner]) >= copies
