"""One copy that follows its owner: asks, cuts what the owner has not got, and stores what comes.

It takes what continues it, in the epoch in which it follows, and whole batches only, so that whoever owns the topic
next has each batch whole or not at all. Every batch is checked against its checksum before it is stored. Anything that
does not fit makes it ask anew. The connection and its frames are `following`'s.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pubsub.core.epochs import EpochStart, plan_cut, reached
from pubsub.core.replication import Config
from pubsub.errors import DamagedFileError, NotOwnerError, PubsubError, error_from_wire
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes
from pubsub.protocol.codec import encode_frame
from pubsub.storage.beside import Row
from pubsub.storage.copying import check_batches
from pubsub.storage.marks import decode_mark
from pubsub.storage.topic import Topic
from pubsub.storage.work import Received

if TYPE_CHECKING:
    from pubsub.peer.following import Source

log = logging.getLogger("pubsub.peer")

WINDOW_MESSAGES = 50_000
WINDOW_BYTES = 8 * 1024 * 1024
"""Sent and not stored yet, of one topic."""
MESSAGE_BYTES = 48
"""What a message waiting for its commit counts for besides what it carries."""


class Copying:
    """See the module's text. Called in the event loop only."""

    __slots__ = (
        "_asked",
        "_backlog",
        "_beside",
        "_beside_at",
        "_beside_number",
        "_busy",
        "_next_epochs",
        "_parts",
        "_parts_bytes",
        "_position",
        "_snapshot",
        "_start",
        "_synced",
        "_told",
        "_whole_to",
        "follows",
        "number",
        "source",
        "topic",
    )

    def __init__(self, source: Source, topic: Topic) -> None:
        self.source = source
        self.topic = topic
        self.number = 0
        """Of the subscription on the present connection; 0: it has not asked."""
        self.follows = False
        """Whether the owner sends."""
        self._asked = 0
        """Counts the times it has asked: what comes for an earlier one is dropped."""
        self._busy: asyncio.Task[None] | None = None
        self._backlog: list[m.Replicate | m.Beside] = []
        """What came while the answer was being carried out."""
        self._position = 0
        """Where what has been received ends ..."""
        self._start = 0
        """... and what has been submitted to be stored."""
        self._whole_to = 0
        """Where the batch that was received last ends."""
        self._parts: list[tuple[m.Batch, list[tuple[int, str]]]] = []
        """Received and not submitted: part of a batch."""
        self._parts_bytes = 0
        self._snapshot: list[Row] = []
        """Received of all that the owner has besides messages."""
        self._beside: list[tuple[bool, list[Row]]] = []
        """What it has, or has changed, besides messages, to be stored once ..."""
        self._beside_at = 0
        """... this copy ends there."""
        self._beside_number = 0
        self._synced = False
        """Whether this copy has all of it; from then on it is stored with the messages that belong to it."""
        self._next_epochs: list[EpochStart] = []
        """Epochs of the owner's log that this one has not reached."""
        self._told = (0, 0)
        """What is committed, by the owner's word, and what it keeps; this copy may not reach that far yet."""

    # Asking

    def ask(self) -> None:
        """Ask the owner for what comes behind this copy's end, as it is on disk."""
        link, topic = self.source.link, self.topic
        self.stop()
        if link is None or not link.open or topic.set_aside is not None:
            return
        self.number = link.next_subscription()
        link.copies[self.number] = self.on_frame
        self.source.by_number[self.number] = self
        config = topic.configs[-1].order if topic.configs else (0, 0)
        request = link.next_id()
        frame = m.Follow(
            id=request,
            subscription=self.number,
            topic=topic.name,
            topic_id=topic.id,
            epoch=topic.epoch,
            name=self.source.name,
            next_offset=topic.next_offset,
            epochs=[(e.epoch, e.start, e.lossy, e.owner) for e in topic.log_epochs],
            window_messages=WINDOW_MESSAGES,
            window_bytes=WINDOW_BYTES,
            config=config,
            sound=bool(topic.sound),
        )
        asked, epoch = self._asked, topic.epoch
        link.call(request, encode_frame(frame), lambda reply: self._on_reply(asked, epoch, reply))

    def stop(self) -> None:
        """Take nothing more of what was asked for."""
        self._asked += 1
        self.follows = False
        link = self.source.link
        if self.number:
            self.source.by_number.pop(self.number, None)
            if link is not None and link.copies.pop(self.number, None) is not None and link.open:
                request = link.next_id()
                frame = m.Unsubscribe(request, self.number)
                link.call(request, encode_frame(frame), lambda reply: None)
        self.number = 0
        if self._busy is not None and self._busy is not asyncio.current_task():
            self._busy.cancel()
        self._busy = None
        self._backlog.clear()
        self._parts = []
        self._parts_bytes = 0
        self._snapshot, self._beside = [], []
        self._beside_at, self._synced = 0, False
        self._told = (0, 0)

    def _on_reply(self, asked: int, epoch: int, reply: m.Frame | PubsubError) -> None:
        if asked != self._asked:
            return
        topic = self.topic
        if not isinstance(reply, m.Followed):
            self._failed(reply if isinstance(reply, PubsubError) else NotOwnerError("unexpected reply"))
            return
        theirs = tuple(EpochStart(*entry) for entry in reply.epochs)
        config = _config(reply.config)
        newer = not topic.configs or topic.configs[-1].order < config.order
        if (
            reply.truncate_to < 0
            and reply.first_offset <= topic.next_offset
            and not newer
            and reached(theirs, topic.next_offset) == topic.epochs
        ):
            self._begin(theirs, reply)
            return
        self._busy = asyncio.create_task(
            self._agree(asked, epoch, reply, theirs, config if newer else None),
            name=f"pubsub: agree with the owner of {topic.name}",
        )

    async def _agree(
        self,
        asked: int,
        epoch: int,
        reply: m.Followed,
        theirs: tuple[EpochStart, ...],
        config: Config | None,
    ) -> None:
        """Make the copy, and what it knows, fit the owner's answer."""
        topic, copies = self.topic, self.source.node.store.copies
        try:
            if reply.truncate_to >= 0:
                await self._cut(epoch, reply, theirs)
            elif reply.first_offset > topic.next_offset:
                first = reply.first_offset
                await copies.begin_at(topic, first, reached(theirs, first), epoch)
            else:
                if reached(theirs, topic.next_offset) != topic.epochs:
                    await copies.set_epochs(topic, theirs, epoch)
                if config is not None:
                    await copies.set_state(topic, epoch, [config], None)
                    self.source.report_config(self.number, config)
                if asked == self._asked:
                    self._busy = None
                    self._begin(theirs, reply)
                return
        except PubsubError as error:
            if asked == self._asked:
                self._failed(error)
            return
        if asked == self._asked:
            self._busy = None
            self.ask()

    async def _cut(self, epoch: int, reply: m.Followed, theirs: tuple[EpochStart, ...]) -> None:
        topic, node = self.topic, self.source.node
        cut = plan_cut(
            parting=reply.truncate_to,
            committed=topic.committed,
            log_end=topic.next_offset,
            owner_epochs=theirs,
        )
        if cut.diverged:
            await node.damaged(
                topic,
                f"it should have everything below {topic.committed}, which is committed, but parts from the log "
                f"of its owner {topic.owner} at {reply.truncate_to}",
            )
            return
        removed = await node.store.copies.cut(topic, cut.at, epoch, topic.owner)
        # Also where nothing is behind it: the next question must not name epochs that the owner has not got.
        await node.store.copies.set_epochs(topic, theirs, epoch)
        if removed:
            node.orphaned_messages += removed
            log.warning(
                "topic %s: %d messages from offset %d on were cut off and kept: its owner %s has not got them "
                "(see pubsub topic orphans %s)",
                *(topic.name, removed, cut.at, topic.owner, topic.name),
            )

    def _failed(self, error: PubsubError) -> None:
        """It does not follow: ask again in a while, and ask an index if somebody else owns the topic."""
        self.stop()
        epoch = error.data.get("epoch")
        outdated = isinstance(error, NotOwnerError) and epoch != self.topic.epoch
        self.source.later(self, outdated=outdated, error=error)

    def _give_up(self, error: DamagedFileError) -> None:
        """The file cannot hold this copy any more: it is set aside, and another peer is to get one."""
        self.stop()
        asked = self._asked

        async def set_aside() -> None:
            try:
                await self.source.node.damaged(self.topic, error.message)
            except PubsubError as failure:
                if asked == self._asked:
                    self._failed(failure)

        self._busy = asyncio.create_task(set_aside(), name=f"pubsub: {self.topic.name} is damaged")

    def is_sound(self) -> None:
        """The owner says that this copy counts again, although it had lost something."""
        asked = self._asked

        async def note() -> None:
            try:
                await self.source.node.store.copies.set_sound(self.topic)
            except PubsubError as error:
                log.info("copy of topic %s is not sound yet: %s", self.topic.name, error)
            if asked == self._asked:
                self._busy = None
                self.ask()  # which says so

        if self._busy is None and not self.topic.sound:
            self._busy = asyncio.create_task(note(), name=f"pubsub: {self.topic.name} is sound")

    # Taking what comes

    def _begin(self, theirs: tuple[EpochStart, ...], reply: m.Followed) -> None:
        topic = self.topic
        self._position = self._start = self._whole_to = topic.next_offset
        self._next_epochs = [entry for entry in theirs if entry.start > topic.next_offset]
        self.follows = True
        if self.source.node.following.leaving:  # who follows is taken for one that stays
            self.source.report_soon()
        self.take_marks(reply.committed, reply.first_offset)
        backlog, self._backlog = self._backlog, []
        for frame in backlog:
            self.on_frame(frame)

    def take_marks(self, committed: int, first_offset: int) -> None:
        """The owner says how much of its log is committed, and from where on it keeps it."""
        self._told = max(self._told[0], committed), max(self._told[1], first_offset)
        if self.follows:
            self._note_marks()

    def _note_marks(self) -> None:
        topic, (committed, first_offset) = self.topic, self._told
        if topic.committed < min(committed, topic.next_offset):
            topic.committed = min(committed, topic.next_offset)
            self.source.node.replicas.save_soon(topic)
        self.source.node.kept_from(topic, first_offset)

    def on_frame(self, frame: m.Replicate | m.Beside | m.Ended) -> None:
        """Something came for this subscription."""
        if isinstance(frame, m.Ended):
            self._failed(error_from_wire(frame.code, frame.message, frame.data))
        elif not self.follows:
            self._backlog.append(frame)
        elif isinstance(frame, m.Beside):
            self._take_beside(frame)
        elif frame.epoch != self.topic.epoch or frame.start != self._position or frame.stop < frame.start:
            self._failed(NotOwnerError("what came does not continue the copy", epoch=self.topic.epoch))
        else:
            try:
                self._take(frame)
            except DamagedFileError as error:
                log.error("from %s: %s; nothing of it is stored", self.topic.owner, error)
                self._failed(error)

    def _take_beside(self, frame: m.Beside) -> None:
        if frame.reset:
            self._snapshot += frame.rows
            if frame.more:
                return
            rows, self._snapshot = self._snapshot, []
            self._beside = [(True, rows)]
        else:
            self._beside.append((False, frame.rows))
        self._beside_at, self._beside_number = frame.at, frame.number
        if frame.at <= self._position and not self._parts:
            self._store(0, 0, 0)

    def _take(self, frame: m.Replicate) -> None:
        messages = size_bytes = 0
        if frame.batch is not None:
            check_batches(self.topic.name, frame.batch, frame.marks)
            messages, size_bytes = len(frame.batch.payloads), batch_bytes(frame.batch)
            self._parts.append((frame.batch, frame.marks))
            self._parts_bytes += size_bytes + MESSAGE_BYTES * messages
            if frame.marks:
                position, text = frame.marks[-1]
                offsets = frame.batch.offsets
                first = offsets[position] if offsets else frame.batch.first_offset + position
                self._whole_to = first + decode_mark(text).messages
        self._position = frame.stop
        torn = self._synced and self._beside_at > frame.stop
        if torn or self._whole_to > frame.stop > frame.committed:
            # The rest of the batch, or of the transaction, is on its way: room for it, whatever the window is.
            self.source.report(self.number, self.topic.next_offset, messages, size_bytes)
            return
        self._store(frame.committed, messages, size_bytes)

    def _store(self, committed: int, messages: int, size_bytes: int) -> None:
        topic, number, stop = self.topic, self.number, self._position
        epochs = [entry for entry in self._next_epochs if entry.start <= stop]
        del self._next_epochs[: len(epochs)]
        beside, shipped = [], None
        if self._beside and self._beside_at <= stop:
            beside, self._beside = self._beside, []
            shipped, self._synced = self._beside_number, True

        def done(error: PubsubError | None) -> None:
            if self.number != number:
                return
            if isinstance(error, DamagedFileError):
                self._give_up(error)
                return
            if error is not None:
                self._failed(error)
                return
            if shipped is not None:
                self.source.report_beside(number, shipped)
            self._note_marks()
            self.source.report(number, stop, messages, size_bytes)

        work = Received(
            topic_id=topic.id,
            epoch=topic.epoch,
            start=self._start,
            stop=stop,
            committed=committed,
            parts=self._parts,
            size_bytes=self._parts_bytes,
            done=done,
            epochs=epochs,
            beside=beside,
        )
        self._start, self._parts, self._parts_bytes = stop, [], 0
        self.source.node.store.receive(work)


def _config(told: m.CopySet) -> Config:
    return Config(
        epoch=told.epoch,
        version=told.version,
        replicas=tuple(told.replicas),
        min_in_sync=told.min_in_sync,
    )
