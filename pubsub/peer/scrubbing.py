"""The scrub: this peer's copies are read over and over, slowly, and compared with their checksums and their owner's.

Rules for a copy that is damaged:
- Of a topic that others have: it says so at once, so that it is not chosen. If this peer owns it, it gives it to a copy
  that is in sync. Then it is taken back to where it can be believed, and follows its owner anew from there.
- Of a topic that this peer alone has, or of which no other copy is in sync: it is said, and what can be read is served.
- One from which nothing can be taken away, because the file is too damaged, is set aside.

What a start can read soon is checked before this peer takes part in anything. Serves Verify too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from pubsub.config import MIB, PeerSettings
from pubsub.errors import ClosedError, NotOwnerError, PubsubError, ReadOnlyError
from pubsub.model import check_topic_name, iso_from_us
from pubsub.net.backoff import Backoff
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.protocol import messages as m
from pubsub.storage.digests import Range
from pubsub.storage.refilling import take_back
from pubsub.storage.scrub import Scrubbed, scrub
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

RANGE = 1000
"""Ranges by which copies are compared end at multiples of it."""
CHUNK_BYTES = MIB
REPLY_BYTES = 8 * MIB
"""Read for one Verify, about."""
ROW_BYTES = 100
"""What a message costs to be looked at besides what it carries, for what can be read soon."""
RETRY_SECONDS = 1.0
MOST_RETRY_SECONDS = 30.0
COMPARE_SECONDS = 10.0
FOLLOW_SECONDS = 5
"""How long the first scrub waits for owners to be found."""


class Damage(msgspec.Struct, kw_only=True):
    """What is wrong with a copy."""

    offset: int
    why: str
    state: str
    found_us: int


class Scrubbing:
    """See the module's text."""

    def __init__(self, node: Node, settings: PeerSettings) -> None:
        self._node = node
        self._pace = settings.scrub_bytes
        self._every = settings.scrub_seconds
        self._wake = asyncio.Event()
        self._todo: dict[int, Damage] = {}
        """By topic id: damage of which something can be done."""
        self.damage: dict[int, Damage] = {}
        """By topic id: what was found since the start, and what has become of it."""
        self.differing: dict[int, str] = {}
        """By topic id: which range is not as the owner's, where nobody can tell who is right."""
        self.refilled = 0
        self.scrubbed_bytes = 0
        self._finished_us = 0
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {m.Verify: self.on_verify}
        self._noting: set[asyncio.Task[None]] = set()
        node.store.on_damage = self._on_damage

    # Finding

    async def check_at_start(self, most_bytes: int) -> None:
        """Look at the replicated topics, the small ones first, as far as that is soon done."""
        topics = [t for t in self._node.store.topics.values() if t.replicas]
        for topic in sorted(topics, key=_cost):
            most_bytes -= _cost(topic)
            if most_bytes < 0:
                break
            await self._scrub(topic, paced=False)

    async def run(self) -> None:
        """Scrub, and mend, until cancelled."""
        mending = asyncio.create_task(self._mend_all(), name="pubsub: mend damaged copies")
        try:
            for _ in range(FOLLOW_SECONDS):  # copies that follow are compared with their owners'
                if self._node.following.behind():
                    await asyncio.sleep(1)
            while True:
                began = time.monotonic()
                self.differing.clear()
                for topic in list(self._node.store.topics.values()):
                    if self._node.store.topics.get(topic.name) is topic:
                        await self._scrub(topic, paced=True)
                self._finished_us = time.time_ns() // 1000
                await asyncio.sleep(max(1.0, self._every - (time.monotonic() - began)))
        finally:
            mending.cancel()
            await asyncio.gather(mending, return_exceptions=True)

    async def _scrub(self, topic: Topic, *, paced: bool) -> None:
        """Look at a topic from its beginning on, up to its first damage."""
        position, begun = topic.first_offset, None
        while position < topic.next_offset and topic.set_aside is None and topic.id not in self._todo:
            try:
                found = await self._look(topic, position, topic.next_offset, begun)
            except ClosedError:
                return
            except PubsubError as error:
                log.warning("topic %s cannot be scrubbed: %s", topic.name, error)
                return
            self.scrubbed_bytes += found.size_bytes
            if topic.first_offset > position and found.damaged_at is not None:
                position, begun = topic.first_offset, None  # retention was faster
                continue
            if found.damaged_at is not None:
                await self.found(topic, found.damaged_at, found.why)
                return
            position, begun = found.stop, _begun(found)
            if paced:
                await self._compare(topic, found.ranges[:-1] if begun is not None else found.ranges)
                await asyncio.sleep(found.size_bytes / self._pace)

    async def _compare(self, topic: Topic, ranges: list[Range]) -> None:
        """Compare ranges of a copy that follows with its owner's, as far as they are committed."""
        own = {(r.start, r.stop): r for r in ranges if r.stop <= topic.committed and r.stop % RANGE == 0}
        link = self._node.following.link(topic)
        if not own or link is None or not topic.sound:
            return
        start, end = min(own)[0], max(own)[1]
        while start < end and link.open:
            frame = m.Verify(id=link.next_id(), topic=topic.name, topic_id=topic.id, start=start, stop=end)
            try:
                reply = await link.request(frame, COMPARE_SECONDS)
            except PubsubError as error:
                log.debug("topic %s is not compared with its owner's: %s", topic.name, error)
                return
            if not isinstance(reply, m.Verified) or not reply.ranges:
                return
            if not reply.compacted:
                for theirs in reply.ranges:
                    await self._differs(topic, own.get(theirs[:2]), Range(*theirs))
            start = reply.ranges[-1][1]

    async def _differs(self, topic: Topic, own: Range | None, theirs: Range) -> None:
        """Compare one range; retention may have gone on between the two."""
        if own is None or own == theirs or theirs.digest < 0 or own.start < topic.first_offset:
            return
        if own.messages < theirs.messages == own.stop - own.start:
            lacking = theirs.messages - own.messages
            await self.found(topic, own.start, f"{lacking} messages are missing below offset {own.stop}")
            return
        text = f"topic {topic.name} is another one here than at {topic.owner} from {own.start} to {own.stop}"
        log.error("%s; pubsub topic verify %s says what the others have", text, topic.name)
        self.differing[topic.id] = text

    async def _look(self, topic: Topic, start: int, stop: int, begun: Range | None) -> Scrubbed:
        return await self._node.store.look(scrub, topic.id, start, stop, RANGE, CHUNK_BYTES, begun)

    def _on_damage(self, topic: Topic, offset: int, why: str) -> None:
        """Somebody has met it."""
        task = asyncio.create_task(self.found(topic, offset, why), name=f"pubsub: damage of {topic.name}")
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def found(self, topic: Topic, offset: int, why: str) -> None:
        """A copy is damaged from an offset on."""
        known = self._todo.get(topic.id) if topic.replicas else self.damage.get(topic.id)
        if topic.set_aside is not None or (known is not None and known.offset <= offset):
            return
        log.error("the copy of topic %s is damaged from offset %d on: %s", topic.name, offset, why)
        damage = Damage(offset=offset, why=why, state="damaged", found_us=time.time_ns() // 1000)
        self.damage[topic.id] = damage
        if not topic.replicas:
            damage.state = "damaged; no other peer has a copy, and what can be read is served"
            return
        self._todo[topic.id] = damage
        self._wake.set()  # now: whoever has found it may go away while that is written down
        try:
            await self._node.store.copies.set_unsound(topic)
        except PubsubError as error:
            log.warning("that topic %s is damaged is not written down: %s", topic.name, error)

    # Mending

    async def _mend_all(self) -> None:
        backoff = Backoff(RETRY_SECONDS, MOST_RETRY_SECONDS)  # each time an owner tries, publishers wait
        while True:
            await self._wake.wait()
            self._wake.clear()
            for topic_id, damage in list(self._todo.items()):
                topic = self._node.store.by_id.get(topic_id)
                ended = topic is None or topic.set_aside is not None or await self._mend(topic, damage)
                if ended and self._todo.get(topic_id) is damage:  # more may have been found meanwhile
                    del self._todo[topic_id]
            if self._todo:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_seconds()):
                        await self._wake.wait()
                self._wake.set()
            else:
                backoff.reset()

    async def _mend(self, topic: Topic, damage: Damage) -> bool:
        """Returns whether nothing is left to do."""
        node = self._node
        if topic.owned:
            owned = node.replicas.find(topic)
            damage.state = "damaged; no other copy is in sync, and what can be read is served"
            if owned is None or not owned.progress.in_sync - {node.name}:
                return False
            try:
                await node.handing_over.hand_over(topic, leaving=True)
            except PubsubError as error:
                log.info("topic %s, which is damaged, is not handed over yet: %s", topic.name, error)
                return False
            if topic.owned:  # it hears of it in a moment
                return False
        node.following.end(topic)
        try:
            removed = await take_back(node.store, topic, damage.offset)
        except (NotOwnerError, ReadOnlyError, ClosedError):  # it has changed hands, or the disk is full
            return False
        except PubsubError as error:
            try:
                await node.damaged(topic, f"{damage.why}; its rows cannot be taken away: {error}")
            except PubsubError as failure:
                log.warning("topic %s, which is damaged, is not set aside yet: %s", topic.name, failure)
                return False
            damage.state = (
                "set aside; this peer starts again to have it filled anew"
                if node.start_again.is_set()
                else "set aside; start this peer with --set-damaged-aside to have it filled anew"
            )
            return True
        finally:
            node.following.end(topic)  # of an epoch that came meanwhile: it asks for what is there now
            node.holding.begin(topic)
        self.refilled += removed
        damage.state = f"taken back to offset {damage.offset}; filled again by {topic.owner}"
        log.warning(
            "topic %s: %d messages from offset %d on, which were damaged or behind the damage, come anew from %s",
            *(topic.name, removed, damage.offset, topic.owner),
        )
        return True

    # Asked by others

    async def on_verify(self, connection: ServerConnection, frame: m.Verify) -> m.Frame:
        check_topic_name(frame.topic)
        store = self._node.store
        topic = store.topics.get(frame.topic) or next(
            (t for t in store.by_id.values() if t.name == frame.topic and t.id == frame.topic_id), None
        )
        if topic is None or topic.set_aside is None:
            topic = store.topic(frame.topic, frame.topic_id)
        known = self._todo.get(topic.id)
        damage = [] if known is None else [(known.offset, known.why)]
        if topic.set_aside is not None:
            damage.append((topic.first_offset, f"it is set aside: {topic.set_aside}"))
        ranges: list[tuple[int, int, int, int]] = []
        position, stop = max(frame.start, topic.first_offset), min(frame.stop, topic.next_offset)
        begun: Range | None = None
        left = REPLY_BYTES
        while (position < stop and left > 0) or begun is not None:
            found = await self._look(topic, position, stop, begun)
            left -= found.size_bytes
            begun = _begun(found) if found.stop < stop else None
            parts = found.ranges[:-1] if begun is not None else found.ranges
            ranges += [(part.start, part.stop, part.messages, part.digest) for part in parts]
            position = found.stop
            if found.damaged_at is not None:
                damage.append((found.damaged_at, found.why))
                if frame.start <= found.damaged_at:
                    await self.found(topic, found.damaged_at, found.why)
        return m.Verified(
            id=frame.id,
            topic_id=topic.id,
            role=topic.role,
            epoch=topic.epoch,
            first_offset=topic.first_offset,
            committed=topic.committed,
            sound=topic.set_aside is None and bool(topic.sound) and topic.id not in self._todo,
            ranges=ranges,
            damage=damage,
            compacted=topic.compacted_to != 0 or bool(topic.policy.get("compact")),
            next_offset=topic.next_offset,
        )

    # For people

    def status(self) -> dict[str, object]:
        """What was found, and what became of it."""
        store = self._node.store
        found: list[str] = []
        for topic_id, damage in self.damage.items():
            topic = store.by_id.get(topic_id)
            if topic is None:
                continue
            again = topic.sound and topic.id not in self._todo and topic.set_aside is None and topic.replicas
            state = "whole again" if again else damage.state
            found.append(f"{topic.name} at {damage.offset}: {damage.why} ({state})")
        found += [
            f"{topic.name}: set aside, {topic.set_aside}"
            for topic in store.by_id.values()
            if topic.set_aside is not None
            and topic.set_aside.startswith("damaged")
            and topic.id not in self.damage
        ]
        found += self.differing.values()
        return {
            "damage": found,
            "unsound": sorted(topic.name for topic in store.topics.values() if not topic.sound),
            "refilled": self.refilled,
            "scrubbed_bytes": self.scrubbed_bytes,
            "scrubbed_at": iso_from_us(self._finished_us) if self._finished_us else None,
        }


def _cost(topic: Topic) -> int:
    return topic.size_bytes + ROW_BYTES * topic.messages


def _begun(found: Scrubbed) -> Range | None:
    """The last range of a chunk, if it is not at its end."""
    last = found.ranges[-1] if found.ranges else None
    return last if last is not None and last.stop % RANGE and last.digest >= 0 else None
