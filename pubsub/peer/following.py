"""Following: the copies of this peer that are filled from other peers' logs, one connection for each of those.

Owns the connections, what is said on them for all topics at once, and when something that failed is tried again. What a
copy takes is `copying`'s. Any copy that is not the owner's is filled by this, whatever it is for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pubsub.core.replication import Config
from pubsub.errors import ClosedError, PeerUnavailableError, PubsubError
from pubsub.model import parse_address
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link, connect
from pubsub.peer.copying import Copying
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.handshake import hello
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

SIGN_SECONDS = 1.0
"""A follower is heard of at least so often."""
RETRY_SECONDS = 0.25
LOOK_SECONDS = 0.01
ASK_INDEX_SECONDS = 1.0
"""How often an index is asked who owns a topic that its owner does not."""
CONNECT_SECONDS = 3.0
NEVER_A_VERSION = -1
"""A proposal of it changes nothing, and is answered by what the record is."""


class Following:
    """The copies of this peer that follow; by their owners."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._sources: dict[str, Source] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._asked_at: dict[int, float] = {}
        self.leaving = False
        """This peer is about to stop."""

    def begin(self, topic: Topic) -> None:
        """Follow the owner of a copy."""
        if self.leaving or not topic.owner or topic.owner == self.node.name:
            return
        source = self._sources.get(topic.owner)
        if source is None:
            source = self._sources[topic.owner] = Source(self.node, topic.owner)
        source.add(topic)

    def end(self, topic: Topic) -> None:
        """Follow it no more."""
        source = self._sources.get(topic.owner)
        if source is not None and source.remove(topic):
            del self._sources[topic.owner]
            source.close()
        self._asked_at.pop(topic.id, None)

    def owner_moved(self, topic: Topic) -> None:
        """It was learned anew where the owner of a copy is."""
        source = self._sources.get(topic.owner)
        if source is not None:
            source.moved(topic.owner_address)

    def ask_index(self, topic: Topic) -> None:
        """Have an index asked who owns a topic; what it says is carried out.

        In a task of its own: the answer may end who asked.
        """
        now = asyncio.get_running_loop().time()
        if topic.id in self._asking or now - self._asked_at.get(topic.id, -1e9) < ASK_INDEX_SECONDS:
            return
        self._asked_at[topic.id] = now
        task = asyncio.create_task(self._ask_index(topic), name=f"pubsub: who owns {topic.name}")
        self._asking[topic.id] = task
        task.add_done_callback(lambda _: self._asking.pop(topic.id, None))

    async def _ask_index(self, topic: Topic) -> None:
        try:
            await self.node.proposing.propose(topic, NEVER_A_VERSION, [])
        except PubsubError as error:
            log.debug("nobody says who owns topic %s: %s", topic.name, error)

    def leave(self) -> None:
        """Follow nobody anew, and tell those that are followed not to wait: this peer will stop. Idempotent."""
        if not self.leaving:
            self.leaving = True
            for source in self._sources.values():
                source.report_soon()

    async def left(self, timeout_seconds: float) -> None:
        """After `leave`: wait until no owner that is followed has a copy of this peer in sync, for so long at most.

        Until then what is published there is waited for here, so it must go on being stored.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_seconds
        while loop.time() < give_up_at:
            if not any(source.counts_on_us for source in self._sources.values()):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def link(self, topic: Topic) -> Link | None:
        """The connection to the owner of a copy, while it follows."""
        source = self._sources.get(topic.owner)
        copying = None if source is None else source.copies.get(topic.id)
        return source.link if source is not None and copying is not None and copying.follows else None

    def behind(self) -> int:
        """How many copies do not follow at the moment."""
        return sum(not c.follows for source in self._sources.values() for c in source.copies.values())

    async def close(self) -> None:
        """Follow nobody any more. Idempotent."""
        self.leave()
        sources, self._sources = list(self._sources.values()), {}
        asking = list(self._asking.values())
        for source in sources:
            source.close()
        for task in asking:
            task.cancel()
        await asyncio.gather(*(source.task for source in sources), *asking, return_exceptions=True)


class Source:
    """A peer that is followed: the connection to it, and the copies of its topics."""

    def __init__(self, node: Node, owner: str) -> None:
        self.node = node
        self.name = node.name
        self.owner = owner
        self.link: Link | None = None
        self.copies: dict[int, Copying] = {}
        """By topic id."""
        self.by_number: dict[int, Copying] = {}
        self._address = ""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        """Set when there is something to do before the next retry is due."""
        self._again: dict[Copying, bool] = {}
        """Those to ask again -> whether to ask an index first."""
        self._ends: dict[int, list[int]] = {}
        self._configs: list[tuple[int, int, int]] = []
        self._beside: dict[int, int] = {}
        self._reporting = False
        self._reported_at = 0.0
        self.task = asyncio.create_task(self._run(), name=f"pubsub: follow {owner}")

    # Copies

    def add(self, topic: Topic) -> None:
        self.copies[topic.id] = copying = Copying(self, topic)
        if topic.owner_address:
            self.moved(topic.owner_address)
        if self.link is not None and self.link.open:
            copying.ask()

    def remove(self, topic: Topic) -> bool:
        """Returns whether none is left."""
        copying = self.copies.pop(topic.id, None)
        if copying is not None:
            copying.stop()
            self._again.pop(copying, None)
        return not self.copies

    def later(self, copying: Copying, *, outdated: bool, error: PubsubError) -> None:
        """Ask again in a moment; `outdated`: the topic has changed hands, it seems."""
        if isinstance(error, ClosedError):
            return
        log.debug("copy of %s does not follow %s: %s", copying.topic.name, self.owner, error)
        self._again[copying] = outdated

    @property
    def counts_on_us(self) -> bool:
        """Whether the owner waits for a copy of this peer before it takes a message as committed."""
        return any(c.follows and self.name in c.topic.in_sync for c in self.copies.values())

    # Reports

    def report(self, number: int, end: int, messages: int, size_bytes: int) -> None:
        """A copy has everything below `end` on disk, and room for so much more."""
        entry = self._ends.get(number)
        if entry is None:
            self._ends[number] = [end, messages, size_bytes]
        else:
            entry[0] = max(end, entry[0])
            entry[1] += messages
            entry[2] += size_bytes
        self.report_soon()

    def report_beside(self, number: int, shipped: int) -> None:
        """A copy has what its topic has besides messages, up to this change; `report` follows."""
        self._beside[number] = shipped

    def report_config(self, number: int, config: Config) -> None:
        """A copy has stored which copies there are."""
        copying = self.by_number.get(number)
        if copying is not None:
            self._configs.append((number, config.epoch, config.version))
            self.report(number, copying.topic.next_offset, 0, 0)

    def report_soon(self) -> None:
        """Report at the end of this turn of the event loop, also if there is nothing to say."""
        if not self._reporting:
            self._reporting = True
            self._loop.call_soon(self._report)

    def _report(self) -> None:
        self._reporting = False
        ends = [(number, *entry) for number, entry in self._ends.items() if number in self.by_number]
        configs, self._configs = self._configs, []
        self._ends.clear()
        beside, self._beside = list(self._beside.items()), {}
        if self.link is not None and self.link.open:
            self._reported_at = self._loop.time()
            frame = m.Progress(
                [(n, end, messages, size) for n, end, messages, size in ends],
                configs,
                beside,
                self.node.following.leaving,
            )
            self.link.send(encode_frame(frame))
            store, link = self.node.store, self.link
            if store.full:
                link.hold_reading("storage")
                store.when_room(lambda: link.release_reading("storage"))

    def _on_marks(self, frame: m.Marks) -> None:
        for number, committed, first_offset in frame.marks:
            copying = self.by_number.get(number)
            if copying is not None:
                copying.take_marks(committed, first_offset)
        for number in frame.sound:
            copying = self.by_number.get(number)
            if copying is not None and copying.follows:
                copying.is_sound()

    # The connection

    def moved(self, address: str) -> None:
        """The owner serves there."""
        if address and address != self._address:
            self._address = address
            self._wake.set()
            if self.link is not None and str(self.link.address) != address:
                self.link.close()

    async def _run(self) -> None:
        backoff = Backoff(0.1, 1.0)
        said = ""
        while True:
            try:
                link = await self._connect()
            except PubsubError as error:
                if error.message != said:
                    said = error.message
                    log.info("peer %s cannot be followed, trying on: %s", self.owner, error)
                for copying in list(self.copies.values())[
                    :1
                ]:  # it may serve elsewhere, or own nothing any more
                    self.node.following.ask_index(copying.topic)
                self._wake.clear()
                try:
                    async with asyncio.timeout(backoff.next_seconds()):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            backoff.reset()
            said = ""
            try:
                await self._follow(link)
            finally:
                self.link = None
                self._again.clear()
                for copying in self.copies.values():
                    copying.stop()
                link.close()

    async def _connect(self) -> Link:
        if not self._address:
            raise PeerUnavailableError(f"it is not known where peer {self.owner} serves")
        link = await connect(
            parse_address(self._address), hello("peer", self.name), self.node.limits, CONNECT_SECONDS
        )
        if link.welcome is None or link.welcome.name != self.owner:
            link.close()
            raise PeerUnavailableError(f"at {self._address} answers somebody else than peer {self.owner}")
        return link

    async def _follow(self, link: Link) -> None:
        """Follow everything on a connection until it is lost."""
        self.link = link
        self._ends.clear()
        link.on_marks = self._on_marks
        link.when_lost(self._wake.set)
        for copying in list(self.copies.values()):
            copying.ask()
        while link.open:
            self._wake.clear()
            try:
                async with asyncio.timeout(RETRY_SECONDS if self._again else SIGN_SECONDS / 2):
                    await self._wake.wait()
            except TimeoutError:
                pass
            again, self._again = self._again, {}
            for copying, outdated in again.items():
                if outdated:
                    self.node.following.ask_index(copying.topic)
                if self.copies.get(copying.topic.id) is copying and not copying.follows:
                    copying.ask()
            if self._loop.time() - self._reported_at >= SIGN_SECONDS:
                self.report_soon()

    def close(self) -> None:
        """Follow no more."""
        self.task.cancel()
        for copying in self.copies.values():
            copying.stop()
        if self.link is not None:
            self.link.close()
