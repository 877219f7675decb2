"""A peer's storage as one object: opens the directory, holds the topics, appends, reads, creates and drops.

Called in the event loop only; the threads behind it are those of `Writer` and `Reader`. Rules: `Topic` objects
change after the commit that they describe; a store that cannot write says so in `fault`, keeps reading, and
tries by itself until it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import msgspec
from sqlalchemy import Connection, Engine

from pubsub.config import StorageSettings
from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import (
    ClosedError,
    DamagedFileError,
    PubsubError,
    ReadOnlyError,
    TopicNotFoundError,
)
from pubsub.protocol.messages import Batch, CopyState
from pubsub.storage.copies import (
    Copies,
    encode_names,
    shared,
)
from pubsub.storage.cursors import CursorTable
from pubsub.storage.database import writer_engine
from pubsub.storage.directory import (
    DATABASE,
    DirectoryLock,
    moved_aside,
)
from pubsub.storage.fault import Fault
from pubsub.storage.groups import StoredGroup
from pubsub.storage.opening import Contents, open_file
from pubsub.storage.purging import Purging
from pubsub.storage.reader import Reader
from pubsub.storage.remains import beyond_mending
from pubsub.storage.scheduled import DueMessages, HeldMessage, due, held, held_ids
from pubsub.storage.searching import Found, count_from, kept_from, search
from pubsub.storage.topic import OWNER, Topic
from pubsub.storage.upkeep import Upkeep
from pubsub.storage.work import Append, Appended, Change, Committed, Job, Received, Statement, Step, resolve
from pubsub.storage.writer import Writer

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_DROPPED = "deleted"

__all__ = ["REMEMBERED_BATCHES", "Append", "Appended", "Statement", "Store"]


class Store:
    """The log of every topic that a peer holds. Made by `open`."""

    def __init__(self, directory: Path, name: str, settings: StorageSettings) -> None:
        self.directory = directory
        self.name = name
        self.settings = settings
        self.node_id = ""
        self.starts = 0
        self.topics: dict[str, Topic] = {}
        """The copies that are served, by topic name."""
        self.groups: list[StoredGroup] = []
        """The groups of their topics, as they were when the file was opened."""
        self.by_id: dict[int, Topic] = {}
        self.cursors = CursorTable(self.change)
        """Where durable subscriptions have got to, of topics here and elsewhere."""
        self.scheduled: dict[int, tuple[int, int]] = {}
        """Topic id -> how many messages were held for later when the file was opened, and when the first is due."""
        self.upkeep = Upkeep(self)
        self.copies = Copies(self)
        """What changes a copy besides appending to it."""
        self.on_append: Callable[[Topic, Appended], None] = lambda topic, appended: None
        """Called after each commit with what it added to a topic, in order."""
        self.on_beside: Callable[[Committed], None] = lambda committed: None
        """Called before that, where rows of replicated topics have changed, besides messages."""
        self.hold_change: Callable[[Change], None] = lambda change: change.done(None)
        """Called with a change of such rows: it is to be answered once the copies have it."""
        self.on_damage: Callable[[Topic, int, str], None] = lambda topic, offset, why: None
        """Called when a copy cannot be read, or is not as it was stored, from an offset on."""
        self.queued_bytes = 0
        self._lock = DirectoryLock(directory)
        self._engine: Engine
        self._writer: Writer
        self._fault: Fault
        self._purging: Purging
        self._reader: Reader
        self._waiting_for_room: list[Callable[[], None]] = []
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        directory: Path,
        name: str,
        settings: StorageSettings | None = None,
        *,
        set_damaged_aside: bool = False,
    ) -> Store:
        """Take the data directory for the peer `name` and load what it holds.

        Args:
            set_damaged_aside: Do not refuse a damaged file: keep it under another name, and begin empty.

        Raises:
            DataDirectoryError: it is in use, not writable, not a directory, or another peer's.
            DamagedFileError, NewerSchemaError: its file is refused, and left as it is.
        """
        store = cls(directory, name, settings or StorageSettings())
        opening = asyncio.create_task(
            asyncio.to_thread(store._open, set_damaged_aside), name=f"pubsub: open {directory}"
        )
        try:
            store._take(await asyncio.shield(opening))
        except asyncio.CancelledError:  # the thread cannot be: wait for it, and let go of what it took
            await asyncio.wait([opening])
            opening.exception()  # seen
            store._lock.release()
            raise
        engine = writer_engine(store.path)
        store._engine = engine
        store._writer = Writer(engine, store.path, store.settings, store._committed)
        store._fault = Fault(directory, store.settings.probe_seconds, store._writer.submit)
        store._reader = Reader(store.path, store.settings)
        store._purging = Purging(store._writer, store.settings, store._purged)
        for topic in [t for t in store.by_id.values() if store.is_purging(t)]:
            store._purging.purge(topic.id)
        return store

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.directory / DATABASE

    @property
    def fault(self) -> str | None:
        """Why the file cannot be written to at the moment, or None."""
        return self._fault.reason

    @property
    def files_aside(self) -> list[str]:
        """Names of damaged files in the directory that were set aside."""
        return moved_aside(self.directory)

    @property
    def incarnation(self) -> str:
        """Names this start of this data directory."""
        return f"{self.node_id}.{self.starts}"

    def _open(self, set_damaged_aside: bool) -> Contents:
        """Take the directory and open its file; in a thread."""
        self._lock.acquire()
        try:
            return open_file(self.path, self.name, self.settings, set_damaged_aside=set_damaged_aside)
        except BaseException:
            self._lock.release()
            raise

    def _take(self, contents: Contents) -> None:
        self.node_id, self.starts = contents.node_id, contents.starts
        for topic in contents.topics:
            self._hold(topic)
        self.groups, self.scheduled = contents.groups, contents.scheduled
        self.cursors.load(contents.cursors)

    def _hold(self, topic: Topic) -> None:
        self.by_id[topic.id] = topic
        if topic.set_aside is None:
            self.topics[topic.name] = topic

    # Appending

    def append(self, append: Append) -> None:
        """Add messages to a topic; `append.done` is called once they are on disk, or could not be stored."""
        if self._closed:
            append.done(append, 0, False, self._closed_error())
            return
        self.queued_bytes += append.size_bytes
        self._writer.submit(append)

    def receive(self, received: Received) -> None:
        """Add part of its owner's log to a copy; `received.done` is called once it is on disk, or why it is not."""
        if self._closed:
            received.done(self._closed_error())
            return
        self.queued_bytes += received.size_bytes
        self._writer.submit(received)

    @property
    def full(self) -> bool:
        """Whether so much waits for a commit that no more should be taken in."""
        return self.queued_bytes > self.settings.queue_bytes

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once there is room again."""
        self._waiting_for_room.append(callback)

    async def settled(self, timeout_seconds: float) -> None:
        """Wait until every append has been answered, for so long at most."""
        done = asyncio.Event()
        self._writer.submit(Job(lambda _: None, lambda *_: done.set()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await done.wait()

    def _committed(self, outcome: Committed) -> None:
        if (
            outcome.fault is not None
            or outcome.appended
            or outcome.changes
            or outcome.steps
            or outcome.received
        ):
            self._fault.note(outcome.fault)  # otherwise nothing was written that could show either
        try:
            if outcome.beside:
                self.on_beside(outcome)  # before what the same transaction appended
            for appended in outcome.appended:
                topic = self.by_id.get(appended.topic_id)
                if topic is not None:
                    topic.next_offset = appended.first_offset + len(appended.payloads)
                    if not topic.replicas:
                        topic.committed = topic.next_offset
                    topic.messages += len(appended.payloads)
                    topic.size_bytes += appended.size_bytes
                    self.on_append(topic, appended)
        finally:  # a fault in delivery must not keep what is stored from being acknowledged
            self._answer(outcome)

    def _answer(self, outcome: Committed) -> None:
        for append, first_offset, duplicate, error in outcome.answers:
            self.queued_bytes -= append.size_bytes
            append.done(append, first_offset, duplicate, error)
        for change, error in outcome.changes:
            if change.touched and error is None:
                self.hold_change(change)
            else:
                change.done(error)
        for received, error in outcome.received:
            self.queued_bytes -= received.size_bytes
            self.copies.received(received, error)
        for step, result, error in outcome.steps:
            step.done(result, error)
        if self._waiting_for_room and not self.full:
            waiting, self._waiting_for_room = self._waiting_for_room, []
            for callback in waiting:
                callback()

    # Reading

    async def read(self, topic: Topic, start: int, limit: int, max_bytes: int | None = None) -> Batch | None:
        """Committed messages from offset `start` on, in one bounded chunk; None where there is none.

        At most `limit` messages of at most `max_bytes` together, and never more than `StorageSettings` allows;
        one message at least, whatever its size.

        Raises:
            StorageError: the file cannot be read.
            ClosedError: the store has been closed.
        """
        limit = min(limit, self.settings.read_messages)
        bound = self.settings.read_bytes if max_bytes is None else min(max_bytes, self.settings.read_bytes)
        try:
            return await self._reader.read(topic.id, start, topic.committed, limit, bound)
        except DamagedFileError as error:
            self.on_damage(topic, start, error.message)
            raise

    async def offset_at(self, topic: Topic, at_us: int) -> int:
        """The offset of the first message published at or after `at_us`; the next offset if there is none."""
        return await self._reader.offset_at(topic.id, at_us, topic.first_offset, topic.committed)

    async def first_offset(self, topic: Topic) -> int:
        """The first kept offset as the file has it, which `topic` may be about to learn."""
        return await self._reader.run(kept_from, topic.id)

    async def count_from(self, topic: Topic, start: int) -> int:
        """How many committed messages there are from offset `start` on; reads every row."""
        return await self._reader.run(count_from, topic.id, start, topic.committed)

    async def search(
        self, topic: Topic, start: int, stop: int, limit: int, key: str | None, headers: dict[str, str]
    ) -> Found:
        """Committed messages with a key or headers, from a bounded part of [start, stop); see `storage.searching`."""
        limit = min(limit, self.settings.read_messages)
        bounds = (start, min(stop, topic.committed), limit, self.settings.read_bytes)
        return await self._reader.run(search, topic.id, *bounds, key, headers)

    async def due(
        self, topic_ids: Sequence[int], now_us: int, share_messages: int, share_bytes: int, max_bytes: int
    ) -> list[DueMessages]:
        """Messages held for these topics that are due; see `storage.scheduled`."""
        return await self._reader.run(due, topic_ids, now_us, share_messages, share_bytes, max_bytes)

    async def held(
        self, topic: Topic, after: tuple[int, int], limit: int, max_bytes: int
    ) -> list[HeldMessage]:
        """Messages held for a topic in order of (time, schedule id), those behind `after`, within bounds."""
        return await self._reader.run(held, topic.id, after, limit, max_bytes)

    async def held_ids(self, topic: Topic, schedule_ids: Sequence[int]) -> list[int]:
        """Those of these schedule ids under which messages are held for a topic."""
        return await self._reader.run(held_ids, topic.id, schedule_ids)

    # Topics

    def topic(self, name: str, topic_id: int = 0) -> Topic:
        """The topic that is served under this name; with an id, only if it is that one.

        Raises:
            TopicNotFoundError: this peer does not hold it.
        """
        topic = self.topics.get(name)
        if topic is None:
            raise TopicNotFoundError(f"peer {self.name} holds no topic {name}")
        if topic_id and topic.id != topic_id:
            raise TopicNotFoundError(
                f"topic {name} was deleted and created anew; look it up again", id=topic.id
            )
        return topic

    async def create(self, copy: CopyState) -> Topic:
        """Hold a new, empty topic; one with the same id that is there already is left as it is.

        Raises:
            ReadOnlyError: the file cannot be written to.
        """
        held = self.by_id.get(copy.id)
        if held is not None:
            return held
        topic = Topic(
            id=copy.id,
            name=copy.topic,
            role=copy.role,
            owner=copy.owner,
            epoch=copy.epoch,
            first_offset=0,
            next_offset=0,
            committed=0,
            policy=copy.policy,
            created_us=copy.created_us,
            replicas=shared(copy.replicas),
            in_sync=list(copy.in_sync) if shared(copy.replicas) else [],
            version=copy.version,
            owner_address=copy.owner_address,
            sound=int(
                copy.role == OWNER or self.name not in copy.in_sync
            ),  # it is said to have it, and has not
        )
        policy = msgspec.json.encode(copy.policy).decode()

        def insert(connection: Connection) -> None:
            connection.exec_driver_sql(
                "INSERT OR IGNORE INTO topics "
                "VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?, ?, NULL, 0, 0, 0, 0, ?, ?, ?, ?, ?, 0, NULL, NULL)",
                (
                    *(topic.id, topic.name, topic.role, topic.owner, topic.epoch, policy, topic.created_us),
                    *(encode_names(topic.replicas), encode_names(topic.in_sync)),
                    *(topic.version, topic.owner_address, topic.sound),
                ),
            )

        await self.change_file(insert)
        return self.by_id.get(copy.id) or self._held(topic)

    def _held(self, topic: Topic) -> Topic:
        self._hold(topic)
        return topic

    async def set_aside(self, topic: Topic, why: str) -> None:
        """Keep the rows of a topic but serve it no more."""
        await self.change_file(
            lambda c: c.exec_driver_sql(
                "UPDATE topics SET set_aside = ? WHERE id = ?", (why, topic.id)
            ).close()
        )
        topic.set_aside = why
        if self.topics.get(topic.name) is topic:
            del self.topics[topic.name]

    async def drop(self, topic: Topic) -> None:
        """Serve a topic no more and delete its rows: the topic is gone on return, its rows little by little."""
        await self.set_aside(topic, _DROPPED)
        self._purging.purge(topic.id)

    def is_purging(self, topic: Topic) -> bool:
        """Whether a topic was dropped, and some of its rows are still there."""
        return topic.set_aside == _DROPPED

    def _purged(self, topic_id: int) -> None:
        self.by_id.pop(topic_id, None)
        self.cursors.forget(topic_id)

    def change(self, statements: Sequence[Statement], done: Callable[[PubsubError | None], None]) -> None:
        """Run statements within the next commit; `done` is called once they are on disk, or could not be run.

        They must leave the tables topics and messages alone.
        """
        if self._closed:
            done(self._closed_error())
            return
        self._writer.submit(Change(statements, done))

    async def run(self, statements: Sequence[Statement]) -> None:
        """Run statements as `change` does, and wait for it.

        Raises:
            PubsubError: they could not be run, or not stored.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        self.change(statements, lambda error: resolve(stored, None, error))
        await stored

    async def step(
        self,
        change: Callable[[sqlite3.Cursor], T],
        size_bytes: int,
        committed: Callable[[T], None] = lambda _: None,
        moves: int = 0,
    ) -> T:
        """Make a small change within the next commit, that of others who wait; see `storage.work.Step`.

        Args:
            size_bytes: what it adds to the write-ahead log, about.
            committed: called with what the change returned as soon as it is on disk, before anything that is
                committed later is told.
            moves: a topic whose role it changes.
        """
        if self._closed:
            raise self._closed_error()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def answer(result: Any, error: PubsubError | None) -> None:
            if error is None:
                committed(result)
            resolve(done, result, error)

        self._writer.submit(Step(change, answer, size_bytes, moves))
        return await done

    async def look(self, function: Callable[[Connection, *Ts], T], *arguments: *Ts) -> T:
        """What `function` reads of the file, in a reading thread."""
        return await self._reader.run(function, *arguments)

    async def beyond_mending(self) -> bool:
        """Whether the next start is to begin with an empty file, which other peers fill again.

        Raises:
            StorageError: the file cannot be read.
        """
        return await self.look(beyond_mending, self.name) is not None

    async def set_policy(self, topic: Topic, policy: dict[str, Any]) -> None:
        """Give a topic another policy.

        Raises:
            ReadOnlyError: the file cannot be written to.
            TopicNotFoundError: the topic is served no more.
        """
        text = msgspec.json.encode(policy).decode()

        def change(cursor: sqlite3.Cursor) -> None:
            sql = "UPDATE topics SET policy = ? WHERE id = ? AND set_aside IS NULL"
            if cursor.execute(sql, (text, topic.id)).rowcount != 1:
                raise TopicNotFoundError(f"topic {topic.name} was deleted")

        def committed(_: None) -> None:
            topic.policy = policy

        await self.step(change, len(text), committed)

    async def change_file(self, change: Callable[[Connection], Any]) -> Any:
        """Make any change, in a transaction of its own.

        Raises:
            ReadOnlyError: the file cannot be written to.
        """
        if self._closed:
            raise self._closed_error()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(result: Any, error: PubsubError | None) -> None:
            if isinstance(error, ReadOnlyError):
                self._fault.note(error.message)
            resolve(done, result, error)

        self._writer.submit(Job(change, answer))
        return await done

    async def close(self) -> None:
        """Finish what was submitted, copy the write-ahead log into the file, let go of the directory.

        Idempotent; it goes on to its end where whoever waits for it is cancelled.
        """
        self._closed = True
        self._purging.stop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"pubsub: close {self.directory}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._fault.stop()
        await self._writer.stop()
        await asyncio.to_thread(self._reader.close)
        self._engine.dispose()
        self._lock.release()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the store in {self.directory} has been closed")
