"""Telling the index that this peer lives and what it holds, for as long as the peer runs.

Nothing here is needed to serve: with no index the peer goes on, and registers when one appears. Everything is
announced on each new connection, and again when the index says that it does not know the peer (its registry
was wiped), so the registry is whole again within one heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from pubsub.config import PeerSettings
from pubsub.errors import (
    PeerNameTakenError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
)
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.peer.node import Node
from pubsub.protocol import messages as m
from pubsub.version import __version__

log = logging.getLogger("pubsub.peer")

REQUEST_SECONDS = 5.0
COPIES_IN_A_FRAME = 1000
ANNOUNCE_SECONDS = 0.5
"""The least time from one announcement to the next on a connection."""
MEASURE_SECONDS = 0.1
"""The least time over which a rate is measured: two heartbeats may meet in one millisecond, and uvloop's clock has none
that are smaller."""


class Registration:
    """The life of a peer in the registry."""

    def __init__(self, node: Node, settings: PeerSettings) -> None:
        self._node = node
        self._settings = settings
        self._ttl_seconds = 6.0
        self._link: Link | None = None
        self._published = 0
        self._measured_at = 0.0
        self._rate = 0.0
        self._wake = asyncio.Event()
        """Set when there is something to do before the next heartbeat is due."""
        self._announced_at = 0.0
        self._changed = False
        """Whether something is to be announced."""
        node.announce_soon = self._announce_soon
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done after the first attempt: with PeerNameTakenError if the name belongs to another."""

    async def run(self) -> None:
        """Register, announce, send heartbeats; again from the start whenever the index is lost. Never returns."""
        backoff = Backoff(self._settings.backoff_first_seconds, self._settings.backoff_most_seconds)
        said = ""
        while True:
            try:
                self._link = await self._node.directory.link()
                await self._register(self._link)
                await self._announce(self._link)
                self._node.registered = True
                if said:
                    log.warning(
                        "peer %s is registered with the index at %s", self._node.name, self._link.address
                    )
                    said = ""
                backoff.reset()
                self._settle(None)
                await self._beat(self._link)
            except PubsubError as error:
                self._node.registered = False
                self._node.warning = error.message
                told = self._settle(error)
                if error.message != said and not told:
                    said = error.message
                    log.warning("peer %s is not registered, trying on: %s", self._node.name, error)
                if isinstance(error, TimeoutExpiredError) and self._link is not None:
                    self._node.directory.distrust(self._link)
            await asyncio.sleep(backoff.next_seconds())

    def _settle(self, error: PubsubError | None) -> bool:
        """The first attempt is over; True if whoever waits for it is told of the error."""
        if self.first.done():
            return False
        if isinstance(error, PeerNameTakenError):
            self.first.set_exception(error)
            return True
        self.first.set_result(None)
        return False

    async def _register(self, link: Link) -> None:
        node = self._node
        reply = await link.request(
            m.Register(
                id=link.next_id(),
                name=node.name,
                address=node.address,
                incarnation=node.store.incarnation,
                software=__version__,
                started_us=node.started_us,
                zone=node.zone,
            ),
            REQUEST_SECONDS,
        )
        if not isinstance(reply, m.Registered):
            raise RemoteProtocolError(f"unexpected reply to register: {type(reply).__name__}")
        self._ttl_seconds = reply.ttl_seconds
        if reply.warning and reply.warning != node.warning:
            log.warning("%s", reply.warning)
        node.warning = reply.warning

    def _announce_soon(self) -> None:
        """What this peer holds has changed without the index."""
        self._changed = True
        self._wake.set()

    async def _announce(self, link: Link) -> None:
        self._changed = False
        self._announced_at = asyncio.get_running_loop().time()
        with self._node.holding.announcing():
            await self._reconcile_beating(link, await self._send_announcement(link))

    async def _send_announcement(self, link: Link) -> m.Reconciled:
        node = self._node
        copies = [node.state(topic) for topic in node.store.topics.values()]
        parts = [copies[i : i + COPIES_IN_A_FRAME] for i in range(0, len(copies), COPIES_IN_A_FRAME)] or [[]]
        for number, part in enumerate(parts, 1):
            announce = m.Announce(
                id=link.next_id(),
                name=node.name,
                incarnation=node.store.incarnation,
                copies=part,
                more=number < len(parts),
            )
            if announce.more:
                link.send_frame(announce)
        reply = await link.request(announce, REQUEST_SECONDS * 6)
        if not isinstance(reply, m.Reconciled):
            raise RemoteProtocolError(f"unexpected reply to announce: {type(reply).__name__}")
        return reply

    async def _reconcile_beating(self, link: Link, reply: m.Reconciled) -> None:
        """Carry out an answer, which may take longer than the ttl: this peer lives meanwhile."""
        beating = asyncio.create_task(self._beat_on(link), name="pubsub: heartbeats during an announcement")
        try:
            await self._reconcile(reply)
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            if not beating.cancelled():
                beating.result()

    async def _beat_on(self, link: Link) -> None:
        """Send heartbeats until cancelled. If the index has lost this peer, `_beat` hears of it afterwards."""
        while link.open:
            with contextlib.suppress(PubsubError):
                await self._heartbeat(link)
            await asyncio.sleep(self._ttl_seconds / 3)

    async def _reconcile(self, reply: m.Reconciled) -> None:
        """Carry out what the registry says of what this peer holds."""
        node = self._node
        for topic_id in reply.deleted:
            log.info("topic %d was deleted while this peer was away", topic_id)
            await node.drop_copy(topic_id)
        for topic_id in reply.set_aside:
            topic = node.store.by_id.get(topic_id)
            if topic is not None and topic.set_aside is None:
                await node.set_aside(topic, "the registry has another topic of this name")
        for copy in reply.unwanted:
            await node.holding.unwanted(copy)
        await node.holding.take_announced(reply.create)

    async def _beat(self, link: Link) -> None:
        """Send heartbeats until the index is lost or has lost us."""
        link.when_lost(self._wake.set)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ttl_seconds / 3):
                    await self._wake.wait()
            self._wake.clear()
            if self._changed:
                # One announcement tells of everything: what changes again and again is told together.
                await asyncio.sleep(self._announced_at + ANNOUNCE_SECONDS - asyncio.get_running_loop().time())
                await self._announce(link)
            if not await self._heartbeat(link):
                log.info("the registry lost peer %s: registering again", self._node.name)
                await self._register(link)
                await self._announce(link)

    async def _heartbeat(self, link: Link) -> bool:
        """Tell the index that this peer lives; False: the registry does not know it."""
        node = self._node
        heartbeat = m.Heartbeat(
            id=link.next_id(),
            name=node.name,
            incarnation=node.store.incarnation,
            load=self._load(),
            subscribers=node.subscribers(),
        )
        reply = await link.request(heartbeat, max(1.0, self._ttl_seconds / 3))
        return not isinstance(reply, m.HeartbeatReply) or reply.known

    def _load(self) -> dict[str, float]:
        """Figures by which the index places new topics, and people see who is busy."""
        node = self._node
        now = asyncio.get_running_loop().time()
        seconds = now - self._measured_at
        if seconds >= MEASURE_SECONDS:
            self._rate = (node.published_messages - self._published) / seconds if self._measured_at else 0.0
            self._measured_at, self._published = now, node.published_messages
        return {
            "topics": float(len(node.store.topics)),
            "subscriptions": float(node.deliveries.count()),
            "connections": float(node.connections()),
            "messages_per_second": round(self._rate, 1),
        }

    async def say_goodbye(self, timeout_seconds: float) -> None:
        """Tell the index that this peer leaves on purpose; quietly give up if it cannot be told."""
        if self._link is None or not self._link.open:
            return
        leave = m.Leave(
            id=self._link.next_id(), name=self._node.name, incarnation=self._node.store.incarnation
        )
        try:
            await self._link.request(leave, timeout_seconds)
        except PubsubError as error:
            log.info("the index was not told that peer %s leaves: %s", self._node.name, error)
