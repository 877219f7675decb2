"""The parts of those who talk to an index: many peers that live, and many clients that look up.

They speak the protocol over links as peers and clients do, without being peers or clients: so that what is measured
is the index, not they.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.pacing import Pace
from benchmarks.readings import RunFailedError
from benchmarks.worker import Cue
from pubsub.config import Limits
from pubsub.errors import PubsubError
from pubsub.model import parse_address
from pubsub.net.link import Link, connect
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.handshake import hello
from pubsub.registry import PeerRecord, TopicRecord
from pubsub.registry.redis import RedisRegistry

LOAD = {"messages_per_second": 1000.0, "bytes": 1e9, "subscribers": 3.0, "topics": 10.0}
TTL_SECONDS = 60.0
"""Of the peers that only stand in the registry: longer than a measurement."""
AT_ONCE = 500
CONNECTS_AT_ONCE = 50
REQUEST_SECONDS = 60.0


def peer_name(number: int) -> str:
    return f"peer-{number:05}"


def topic_name(number: int) -> str:
    return f"site-{number % 100}.line-{number % 1000}.sensor-{number}"


def incarnation(number: int) -> str:
    return f"{number:016x}.1"


async def fill_registry(cue: Cue, *, url: str, peers: int, topics: int) -> dict[str, Any]:
    """Put peers and topics into an empty Redis."""
    await cue.ready()
    now = time.time_ns() // 1000
    registry = RedisRegistry(url)
    await registry.open()
    await registry.generation(now - round(10 * TTL_SECONDS * 1e6))
    for first in range(0, peers, AT_ONCE):
        records = (
            PeerRecord(
                name=peer_name(number),
                address=f"127.0.0.1:{10_000 + number}",
                incarnation=incarnation(number),
                version="bench",
                started_at=now,
                heartbeat_at=now,
                load=LOAD,
            )
            for number in range(first, min(peers, first + AT_ONCE))
        )
        await asyncio.gather(*(registry.register_peer(record, TTL_SECONDS, now) for record in records))
    for first in range(0, topics, AT_ONCE):
        await registry.restore_topics(
            [
                _topic(number, peer_name(number % peers), now)
                for number in range(first, min(topics, first + AT_ONCE))
            ]
        )
    await registry.close()
    return {}


def _topic(number: int, owner: str, now: int) -> TopicRecord:
    return TopicRecord(
        name=topic_name(number),
        id=number + 1,
        owner=owner,
        epoch=1,
        in_sync=[owner],
        replicas=[owner],
        created_at=now,
    )


async def open_links(index: str, count: int, role: str) -> list[Link]:
    address = parse_address(index)
    found: list[Link] = []
    while len(found) < count:
        part = range(min(CONNECTS_AT_ONCE, count - len(found)))
        found += await asyncio.gather(*(connect(address, hello(role), Limits()) for _ in part))
    return found


class _Asked:
    """Asks one question after the other on each of many links, and counts the answers."""

    def __init__(
        self, questions: Iterator[Callable[[int], m.Request]], check: Callable[[m.Frame], bool]
    ) -> None:
        self.answered = 0
        self.wrong = ""
        self._questions = questions
        self._check = check
        self._under_way = 0
        self._done = asyncio.Event()

    async def run(self, links: list[Link], under_way: int) -> None:
        """Until there are no more questions, with so many under way on each link."""
        for link in links:
            for _ in range(under_way):
                self._under_way += 1
                self._ask(link)
        async with asyncio.timeout(REQUEST_SECONDS):
            await self._done.wait()
        if self.wrong:
            raise RunFailedError(self.wrong)

    def _ask(self, link: Link) -> None:
        make = next(self._questions, None)
        if make is None:
            self._under_way -= 1
            if not self._under_way:
                self._done.set()
            return
        request = link.next_id()

        def answer(frame: m.Frame | PubsubError) -> None:
            link._pending.pop(request, None)
            self.answered += 1
            if isinstance(frame, PubsubError) or not self._check(frame):
                self.wrong = self.wrong or f"the index answered {frame!r}"[:500]
            self._ask(link)

        link.call(request, encode_frame(make(request)), answer)


async def beat(
    cue: Cue, *, index: str, peers: int, connections: int, under_way: int, count: int
) -> dict[str, Any]:
    """Heartbeats of all peers in turn."""
    links = await open_links(index, connections, "peer")
    await cue.ready()

    def beats() -> Iterator[Callable[[int], m.Request]]:
        for number in range(count):
            name, which = peer_name(number % peers), incarnation(number % peers)
            yield lambda request, name=name, which=which: m.Heartbeat(  # type: ignore[misc]
                id=request, name=name, incarnation=which, load=LOAD
            )

    began = time.perf_counter()
    await _Asked(beats(), _known).run(links, under_way)
    return {"seconds": time.perf_counter() - began}


async def look_up(
    cue: Cue, *, index: str, topics: int, connections: int, under_way: int, count: int
) -> dict[str, Any]:
    """Lookups of topics drawn by chance."""
    links = await open_links(index, connections, "client")
    names = [topic_name(number) for number in random.Random(1).choices(range(topics), k=count)]
    await cue.ready()
    questions = ((lambda request, name=name: m.Lookup(request, name)) for name in names)
    began = time.perf_counter()
    await _Asked(iter(questions), _found).run(links, under_way)
    return {"seconds": time.perf_counter() - began}


def _known(frame: m.Frame) -> bool:
    return isinstance(frame, m.HeartbeatReply) and frame.known


def _found(frame: m.Frame) -> bool:
    return isinstance(frame, m.TopicList) and len(frame.topics) == 1 and bool(frame.topics[0].owner)


async def look_up_open_loop(
    cue: Cue, *, index: str, topics: int, connections: int, per_second: int, seconds: float
) -> dict[str, Any]:
    """Lookups at a fixed rate; reports how long each took, from the instant when it was due."""
    links = await open_links(index, connections, "client")
    count = int(per_second * seconds)
    names = [topic_name(number) for number in random.Random(2).choices(range(topics), k=count)]
    await cue.ready()
    return {
        "seconds": await _open_loop(
            links, per_second, count, lambda number, request: m.Lookup(request, names[number]), _found
        )
    }


async def beat_open_loop(
    cue: Cue, *, index: str, peers: int, connections: int, per_second: int, seconds: float
) -> dict[str, Any]:
    """Heartbeats of all peers in turn, at a fixed rate."""
    links = await open_links(index, connections, "peer")
    await cue.ready()

    def heartbeat(number: int, request: int) -> m.Request:
        which = number % peers
        return m.Heartbeat(id=request, name=peer_name(which), incarnation=incarnation(which), load=LOAD)

    return {"seconds": await _open_loop(links, per_second, int(per_second * seconds), heartbeat, _known)}


async def _open_loop(
    links: list[Link],
    per_second: int,
    count: int,
    make: Callable[[int, int], m.Request],
    check: Callable[[m.Frame], bool],
) -> list[float]:
    """Ask at a fixed rate, on the links in turn; returns how long each took, from the instant when it was due."""
    took: list[float] = []
    wrong: list[str] = []
    done = asyncio.Event()

    def ask(number: int, due_ns: int) -> None:
        link = links[number % len(links)]
        request = link.next_id()

        def answer(frame: m.Frame | PubsubError) -> None:
            link._pending.pop(request, None)
            took.append((time.monotonic_ns() - due_ns) / 1e9)
            if isinstance(frame, PubsubError) or not check(frame):
                wrong.append(f"{frame!r}"[:500])
            if len(took) == count:
                done.set()

        link.call(request, encode_frame(make(number, request)), answer)

    with Pace(1.0 / per_second) as pace:
        number = 0
        while number < count:
            for due_ns in (await pace.due())[: count - number]:
                ask(number, due_ns)
                number += 1
    async with asyncio.timeout(REQUEST_SECONDS):
        await done.wait()
    if wrong:
        raise RunFailedError(f"{len(wrong)} of {count} answers were wrong, one of them {wrong[0]}")
    return took
