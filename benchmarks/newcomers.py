"""The part of peers that come to an index all at once.

Each listens, so that the index can dial it, registers, announces what it owns, and beats. There is nothing behind it:
what is measured is the index.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.indexing import LOAD, REQUEST_SECONDS, open_links, topic_name
from benchmarks.readings import RunFailedError
from benchmarks.worker import Cue
from pubsub.config import Limits
from pubsub.model import Address
from pubsub.net.link import Link
from pubsub.net.server import ImmediateHandler, RequestHandler, Server
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello


class _Newcomer:
    """A peer that comes: it listens, so that the index can dial it, registers, announces what it owns, and beats."""

    def __init__(self, number: int, topics: range) -> None:
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {}
        self.name = f"newcomer-{number:05}"
        self.incarnation = f"{1 << 60 | number:016x}.1"
        self._topics = topics
        self._server = Server(self, "peer", Limits())

    def welcome(self) -> m.Welcome:
        limits, greeting = Limits(), hello("peer", self.name)
        return m.Welcome(
            major=greeting.major,
            minor=greeting.minor,
            software=greeting.software,
            role="peer",
            name=self.name,
            incarnation=self.incarnation,
            frame_bytes=limits.frame_bytes,
            message_bytes=limits.message_bytes,
        )

    async def listen(self) -> None:
        self._address = await self._server.listen(Address("127.0.0.1", 0))

    async def come(self, link: Link) -> None:
        """Register and announce until a heartbeat is known: again, when the record was gone before it was believed."""
        while True:
            await self._register(link)
            await self._announce(link)
            beaten = await link.request(
                m.Heartbeat(id=link.next_id(), name=self.name, incarnation=self.incarnation, load=LOAD),
                REQUEST_SECONDS,
            )
            if not isinstance(beaten, m.HeartbeatReply):
                raise RunFailedError(f"the index answered {beaten}")
            if beaten.known:
                return

    async def _register(self, link: Link) -> None:
        registered = await link.request(
            m.Register(
                id=link.next_id(),
                name=self.name,
                address=str(self._address),
                incarnation=self.incarnation,
                software="bench",
                started_us=time.time_ns() // 1000,
            ),
            REQUEST_SECONDS,
        )
        if not isinstance(registered, m.Registered) or not registered.reachable:
            raise RunFailedError(f"the index answered {registered}")

    async def _announce(self, link: Link) -> None:
        copies = [
            m.CopyState(
                id=(1 << 40) + number,
                topic=f"new.{topic_name(number)}",
                role="owner",
                owner=self.name,
                epoch=1,
                created_us=time.time_ns() // 1000,
            )
            for number in self._topics
        ]
        announced = await link.request(
            m.Announce(id=link.next_id(), name=self.name, incarnation=self.incarnation, copies=copies),
            REQUEST_SECONDS,
        )
        if not isinstance(announced, m.Reconciled) or announced.deleted or announced.set_aside:
            raise RunFailedError(f"the index answered {announced}")

    async def leave(self) -> None:
        await self._server.close(0.0)


async def come(cue: Cue, *, index: str, peers: int, topics_each: int) -> dict[str, Any]:
    """Peers come, all at once; reports when the last one was registered, announced and heard."""
    newcomers = [
        _Newcomer(number, range(number * topics_each, (number + 1) * topics_each)) for number in range(peers)
    ]
    for newcomer in newcomers:
        await newcomer.listen()
    links = await open_links(index, peers, "peer")
    await cue.ready()
    began = time.perf_counter()
    await asyncio.gather(*(newcomer.come(link) for newcomer, link in zip(newcomers, links, strict=True)))
    seconds = time.perf_counter() - began
    await asyncio.gather(*(newcomer.leave() for newcomer in newcomers))
    return {"seconds": seconds}
