"""What the topics of this peer have besides messages, on its way to their copies: groups, cursors and so on.

A copy that begins to follow is sent all of it, then what each transaction changes; until it has the first, it counts
for nothing. Who changes something is answered once all copies that are in sync have it, like a publish. What is
shipped, and how it is stored, is in `storage.beside`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pubsub.errors import ConflictError, NotOwnerError, PubsubError
from pubsub.peer.feeding import Feeding
from pubsub.peer.owning import Owned
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.storage.beside import Row, snapshot
from pubsub.storage.topic import Topic
from pubsub.storage.work import Change, Committed

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

TOPICS_AT_ONCE = 200
FRAME_BYTES = 1024 * 1024
RETRY_SECONDS = 0.5

Done = Callable[[PubsubError | None], None]


class Shipping:
    """See the module's text."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wanting: dict[Feeding, Owned] = {}
        """Followers that are to be sent everything, and the topics."""
        self._wake = asyncio.Event()

    def on_committed(self, committed: Committed) -> None:
        """Rows of replicated topics have changed; what was appended with them has not been told yet."""
        appended: dict[int, int] = {}
        for part in committed.appended:
            appended[part.topic_id] = appended.get(part.topic_id, 0) + len(part.payloads)
        for topic_id, rows in committed.beside.items():
            topic = self._node.store.by_id.get(topic_id)
            owned = None if topic is None else self._node.replicas.find(topic)
            if owned is None:
                continue
            owned.beside_number += 1
            begin = owned.topic.next_offset
            at = begin + appended.get(topic_id, 0)
            for feeding in list(owned.feedings.values()):
                feeding.add_rows(begin, m.Beside(feeding.number, owned.beside_number, at, rows))
                feeding.pump()

    # Who waits

    def hold(self, change: Change) -> None:
        """Answer a change of rows once the copies of the topics that it touched have it."""
        left = len(change.touched)
        failure: PubsubError | None = None

        def done(error: PubsubError | None) -> None:
            nonlocal left, failure
            left -= 1
            failure = failure or error
            if left == 0:
                change.done(failure)

        for topic_id in change.touched:
            topic = self._node.store.by_id.get(topic_id)
            if topic is None:
                done(None)
            else:
                self.wait(topic, done)

    def wait(self, topic: Topic, done: Done) -> None:
        """Call `done` once the copies in sync have what has been changed of a topic up to now."""
        owned = self._node.replicas.find(topic)
        if owned is not None:
            owned.wait_beside(done)
        elif topic.owned and not topic.replicas:
            done(None)
        else:
            error = NotOwnerError(f"peer {self._node.name} does not own topic {topic.name} any more")
            error.data["fate"] = "unknown"
            done(error)

    def acknowledged(self, owned: Owned, feeding: Feeding, number: int) -> None:
        """A copy has what was shipped up to this change."""
        owned.beside_acked[feeding.name] = number
        if feeding.snapshot_number is not None and number >= feeding.snapshot_number:
            feeding.synced = True

    # All there is

    def ship_all(self, owned: Owned, feeding: Feeding) -> None:
        """Send a follower everything that its topic has besides messages."""
        owned.beside_acked.pop(feeding.name, None)
        self._wanting[feeding] = owned
        self._wake.set()

    async def run(self) -> None:
        """Send what is wanted until cancelled; many topics are read at once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanting:
                some = list(self._wanting.items())[:TOPICS_AT_ONCE]
                for feeding, _ in some:
                    del self._wanting[feeding]
                await self._ship(some)

    async def _ship(self, some: list[tuple[Feeding, Owned]]) -> None:
        numbers = {
            owned: owned.beside_number for _, owned in some
        }  # what changes meanwhile is sent behind it
        try:
            found = await self._node.store.look(snapshot, [owned.topic.id for owned in numbers])
        except PubsubError as error:
            log.warning("followers wait for what topics have besides messages: %s", error)
            for feeding, _ in some:
                feeding.end(ConflictError("what the topic has besides messages cannot be read; follow again"))
            await asyncio.sleep(RETRY_SECONDS)
            return
        for feeding, owned in some:
            if owned.feedings.get(feeding.name) is not feeding or owned.topic.id not in found:
                continue
            end, rows = found[owned.topic.id]
            self._send(feeding, numbers[owned], end, rows)

    def _send(self, feeding: Feeding, number: int, end: int, rows: list[Row]) -> None:
        part: list[Row] = []
        size_bytes = 0
        for row in rows:
            part.append(row)
            size_bytes += len(row[1]) + len(row[2] or b"")
            if size_bytes > FRAME_BYTES:
                feeding.connection.send(
                    encode_frame(m.Beside(feeding.number, number, end, part, reset=True, more=True))
                )
                part, size_bytes = [], 0
        feeding.connection.send(encode_frame(m.Beside(feeding.number, number, end, part, reset=True)))
        feeding.snapshot_number = number
        feeding.pump()
