"""Feeding a follower: the stream of a topic's log to a peer that holds a copy of it.

It is a delivery like a subscriber's, from the same tail and the same disk, by credit; what differs is that it reaches
to the end of the log and not to what is committed, and that it carries the marks of batches. A follower is given whole
pieces: its window is a bound on what it holds in memory, not on what an application wants, so one piece may exceed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from pubsub.config import MIB
from pubsub.core.credit import Window
from pubsub.errors import ConflictError, DamagedFileError, InternalError, PubsubError
from pubsub.peer.delivery import Delivery, Feed, Subscriber
from pubsub.peer.tail import Piece
from pubsub.protocol.batch import batch_bytes, slice_batch
from pubsub.protocol.codec import encode_copy, encode_frame, replicate_head
from pubsub.protocol.messages import Batch, Beside
from pubsub.storage.copying import read_encoded
from pubsub.storage.marks import Marks, slice_marks
from pubsub.storage.store import Store

log = logging.getLogger("pubsub.peer")


PACE_MESSAGES, PACE_BYTES = 110_000, 32 * MIB
"""What a copy that is far behind is sent in a second while others publish: it costs more than the reading, which is all
that this peer sees of it. Its own peer stores it, and may share a disk or processors with this one."""
MOST_ROWS_BYTES = 8 * MIB
"""Changes besides messages that wait for a follower; beyond it, it begins anew."""


class Feeding(Delivery):
    """One follower of one topic, in one epoch."""

    def __init__(
        self,
        subscriber: Subscriber,
        number: int,
        feed: Feed,
        position: int,
        window: Window,
        name: str,
        store: Store,
        epoch: int,
    ) -> None:
        super().__init__(subscriber, number, feed, position, window, name, store, None, "")
        self.epoch = epoch
        self.follows = True
        self.sound = True
        """Whether the copy says that it has lost nothing."""
        self.synced = False
        """Whether the copy has what the topic has besides messages; before, it counts for nothing."""
        self._paced_to = 0.0
        """When what has been read is due, by the pace."""
        self.reported = (position, (0, 0))
        """The end and the config that it has reported last."""
        self.snapshot_number: int | None = None
        """Of what it was sent as all there is besides messages; None: not yet."""
        self._rows: deque[tuple[int, bytes]] = deque()
        """(offset from which on it is to be sent, frame) of what has changed since, besides messages."""
        self._rows_bytes = 0

    def add_rows(self, begin: int, frame: Beside) -> None:
        """A transaction that appended from `begin` on has changed rows besides messages."""
        encoded = encode_frame(frame)
        self._rows.append((begin, encoded))
        self._rows_bytes += len(encoded)
        if self._rows_bytes > MOST_ROWS_BYTES:
            self.end(ConflictError(f"the follower {self.name} is too far behind; follow again"))

    def _send_rows(self) -> None:
        """What is to be stored with the next messages goes before them."""
        while self._rows and self._rows[0][0] <= self.position and self.snapshot_number is not None:
            _, encoded = self._rows.popleft()
            self._rows_bytes -= len(encoded)
            self.connection.send(encoded)

    @property
    def stop(self) -> int:
        return self.feed.topic.next_offset

    def pump(self) -> None:
        """Send whatever may be sent now."""
        topic = self.feed.topic
        if self._rows and not self._ended:
            self._send_rows()
        while (
            self.position < topic.next_offset
            and self._window.messages > 0
            and self._window.bytes > 0
            and self._reading is None
            and self.connection.writable
            and not self._ended
        ):
            piece = self.feed.tail.find(self.position)
            if piece is None or piece.marks is None:
                if not self._start_reading():
                    break
            elif piece.first == self.position:
                self._send_piece(piece)
            else:
                start, count = self.position - piece.first, piece.stop - piece.first
                marks = slice_marks(piece.marks, start, count)
                self._send_copy(slice_batch(piece.batch, start, count), marks, piece.stop)

    def _send_piece(self, piece: Piece) -> None:
        assert piece.marks is not None
        if piece.encoded_marks is None:
            piece.encoded_marks = encode_copy(piece.marks)
        self._put(piece.encoded, piece.encoded_marks, piece.stop, piece.stop - piece.first, piece.size_bytes)

    def _send_copy(self, batch: Batch | None, marks: Marks, stop: int) -> None:
        messages, size_bytes = (0, 0) if batch is None else (len(batch.payloads), batch_bytes(batch))
        self._put(encode_copy(batch), encode_copy(marks), stop, messages, size_bytes)

    def _put(self, batch: bytes, marks: bytes, stop: int, messages: int, size_bytes: int) -> None:
        topic = self.feed.topic
        head = replicate_head(
            self.number, self.epoch, self.position, stop, topic.committed, len(batch) + len(marks)
        )
        self.connection.send(head, batch, marks)
        self._window.spend(messages, size_bytes)
        self.sent_messages += messages
        self.position = stop
        if self._rows:
            self._send_rows()

    async def _keep_pace(self, began: float, seconds: float) -> None:
        """What was read from then on is for so long."""
        self._paced_to = max(self._paced_to, began) + seconds
        await asyncio.sleep(max(0.0, self._paced_to - asyncio.get_running_loop().time()))

    async def _read(self) -> None:
        """Read a chunk from disk, check it, and send it."""
        topic, limits = self.feed.topic, self.connection.limits
        stop = next((begin for begin, _ in self._rows if begin > self.position), topic.next_offset)
        settings = self._store.settings
        began = asyncio.get_running_loop().time()
        try:
            found = await self._store.look(
                read_encoded,
                topic.name,
                topic.id,
                self.position,
                stop,
                min(settings.read_messages, max(1, self._window.messages)),
                min(settings.read_bytes, limits.batch_bytes),
            )
            if self._gives_way() and found is not None:
                _, _, _, messages, size_bytes = found
                await self._keep_pace(began, max(messages / PACE_MESSAGES, size_bytes / PACE_BYTES))
            if self._ended:
                return
            if self.position < topic.first_offset:
                raise ConflictError(f"retention has overtaken the follower {self.name} of {topic.name}")
            if found is None:  # everything up to the end, as it was then, has been compacted away
                self._send_copy(None, [], stop)
                return
            self._put(*found)
        except PubsubError as error:
            if isinstance(error, DamagedFileError):
                self._store.on_damage(topic, self.position, error.message)
            self.end(error)
        except Exception:
            log.exception("reading %s for the follower %s failed", topic.name, self.name)
            self.end(InternalError(f"reading topic {topic.name} failed inside the peer; see its log"))
