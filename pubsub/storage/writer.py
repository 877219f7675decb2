"""Group commit: the one thread, with the one connection, that writes to peer.db.

Whatever arrives while a commit runs shares the next one. An append is answered after the commit, that is
after the fsync (synchronous=FULL). The order of arrival is the order in the log. When a commit fails, nothing
of its group is stored, every append of it is answered with ReadOnlyError, and the thread goes on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from pubsub.config import StorageSettings
from pubsub.core.sequence import ProducerState, after, stored_offset
from pubsub.errors import InternalError, NotOwnerError, PubsubError, ReadOnlyError, SequenceError
from pubsub.storage.rows import plan_inserts
from pubsub.storage.schema import PAGE_BYTES

log = logging.getLogger("pubsub.storage")

PRODUCERS_CACHED = 10_000
COMMIT_PAGES = 4
"""Pages that a commit writes besides the messages: topic, producers, the tree's inner pages. An estimate."""

ROW_BYTES = 24
"""What a row takes besides key, headers and payload. An estimate."""

_recent = msgspec.json.Encoder()


class Append(msgspec.Struct, eq=False):
    """Messages to be added to a topic. `done` is called in the event loop with the first offset or an error.

    producer 0: no sequence is checked (the caller is in this process and cannot lose an answer).
    """

    topic_id: int
    epoch: int
    producer: int
    sequence: int
    keys: list[str | None] | None
    headers: list[str | None] | None
    payloads: list[bytes | None]
    size_bytes: int
    done: Callable[[int, bool, PubsubError | None], None]
    """Called with the first offset, whether it had been stored before, and the error if there is one."""


class Job(msgspec.Struct, eq=False):
    """Any other change: `change` runs in a transaction of its own; `done` gets what it returned, or the error."""

    change: Callable[[Connection], Any]
    done: Callable[[Any, PubsubError | None], None]


class Appended(msgspec.Struct, frozen=True):
    """Consecutive messages of one topic that a commit has stored."""

    topic_id: int
    first_offset: int
    published_us: int
    keys: list[str | None] | None
    headers: list[str | None] | None
    payloads: list[bytes | None]


class Committed(msgspec.Struct, frozen=True):
    """What a group's commit did, handed to the event loop."""

    appended: list[Appended]
    answers: list[tuple[Append, int, bool, PubsubError | None]]
    fault: str | None
    """Why the group could not be written, or None."""


class _Stop:
    """Ends the thread, after all that was submitted before."""


class Writer:
    """The writing thread. Everything but `_run` and below is called in the event loop."""

    def __init__(
        self,
        engine: Engine,
        path: Path,
        settings: StorageSettings,
        committed: Callable[[Committed], None],
    ) -> None:
        self._engine = engine
        self._path = path
        self._settings = settings
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | Job | _Stop] = queue.SimpleQueue()
        self._held: Append | Job | _Stop | None = None
        self._connection: Connection | None = None
        self._producers: OrderedDict[tuple[int, int], ProducerState] = OrderedDict()
        self._ends: dict[int, tuple[int, int]] = {}
        """Topic id -> (next offset, time of the newest message)."""
        self._unchecked_bytes = 0
        """Written to the WAL since the last checkpoint, about."""
        self._thread = threading.Thread(target=self._run, name="pubsub-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Append | Job) -> None:
        """Have `work` done after all that was submitted before."""
        self._queue.put(work)

    async def stop(self) -> None:
        """Finish what was submitted and end the thread."""
        self._queue.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    # From here on: the writing thread

    def _run(self) -> None:
        with self._engine.connect() as connection:
            self._connection = connection
            while True:
                work = self._next()
                if isinstance(work, _Stop):
                    break
                if isinstance(work, Job):
                    self._do(work)
                elif work is not None:
                    self._commit(self._group(work))
                self._checkpoint(idle=work is None)
            self._checkpoint(idle=True)

    def _next(self) -> Append | Job | _Stop | None:
        if self._held is not None:
            work, self._held = self._held, None
            return work
        try:
            return self._queue.get(timeout=1.0 if self._unchecked_bytes else None)
        except queue.Empty:
            return None

    def _group(self, first: Append) -> list[Append]:
        """Everything that waits, up to the size of a group or to the next job."""
        group, size = [first], first.size_bytes
        while size < self._settings.group_bytes:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(work, Append):
                self._held = work
                break
            group.append(work)
            size += work.size_bytes
        return group

    def _do(self, job: Job) -> None:
        assert self._connection is not None
        result: Any = None
        failure: PubsubError | None = None
        try:
            self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            result = job.change(self._connection)
            self._connection.commit()
            self._ends.clear()  # a job may have changed any topic
            self._producers.clear()
            self._unchecked_bytes += COMMIT_PAGES * PAGE_BYTES
        except PubsubError as error:
            self._connection.rollback()
            failure = error
        except DBAPIError as error:
            self._connection.rollback()
            failure = self._read_only(error)
        except Exception:
            log.exception("a change to %s failed", self._path)
            self._connection.rollback()
            failure = InternalError("a change to peer.db failed; see the peer's log")
        self._call(job.done, result, failure)

    def _commit(self, group: list[Append]) -> None:
        assert self._connection is not None
        try:
            outcome = self._write(self._connection, group)
        except DBAPIError as error:
            self._connection.rollback()
            self._forget()
            outcome = self._failed(group, self._read_only(error))
        except Exception:
            log.exception("a commit to %s failed", self._path)
            self._connection.rollback()
            self._forget()
            outcome = self._failed(group, InternalError("a commit failed; see the peer's log"))
        self._call(self._committed, outcome)

    def _call(self, callback: Callable[..., None], *values: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:  # the loop was closed under us: nobody is left to tell
            log.warning("the event loop ended before %s was told of a commit", callback)

    def _forget(self) -> None:
        self._ends.clear()
        self._producers.clear()

    def _read_only(self, error: DBAPIError) -> ReadOnlyError:
        return ReadOnlyError(
            f"cannot write to {self._path}: {error.orig}; make room or mend the disk, then retry"
        )

    @staticmethod
    def _failed(group: list[Append], error: PubsubError) -> Committed:
        fault = error.message if isinstance(error, ReadOnlyError) else None
        return Committed([], [(append, 0, False, error) for append in group], fault)

    def _write(self, connection: Connection, group: list[Append]) -> Committed:
        """Store a group in one transaction. Nothing in memory is changed for good before the commit."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        by_topic: dict[int, list[Append]] = {}
        for append in group:
            by_topic.setdefault(append.topic_id, []).append(append)
        outcome = Committed([], [], None)
        for topic_id, appends in by_topic.items():
            self._write_topic(connection, topic_id, appends, outcome)
        connection.commit()
        self._unchecked_bytes += COMMIT_PAGES * PAGE_BYTES
        self._unchecked_bytes += sum(append.size_bytes + ROW_BYTES * len(append.payloads) for append in group)
        while len(self._producers) > PRODUCERS_CACHED:
            self._producers.popitem(last=False)
        return outcome

    def _write_topic(
        self, connection: Connection, topic_id: int, appends: list[Append], outcome: Committed
    ) -> None:
        end = self._ends.get(topic_id) or self._load_end(connection, topic_id)
        first, newest_us = end
        published_us = max(time.time_ns() // 1000, newest_us)
        offset = first
        accepted: list[Append] = []
        touched: dict[int, ProducerState] = {}
        for append in appends:
            try:
                stored = self._check(connection, append)
            except SequenceError as error:
                outcome.answers.append((append, 0, False, error))
                continue
            if stored is not None:
                outcome.answers.append((append, stored, True, None))
                continue
            if append.producer:
                key = (topic_id, append.producer)
                state = after(self._producers[key], append.sequence, len(append.payloads), offset)
                self._producers[key] = touched[append.producer] = state
            outcome.answers.append((append, offset, False, None))
            accepted.append(append)
            offset += len(append.payloads)
        if not accepted:
            return
        # The epoch is checked here, in the transaction: a peer that lost the topic stores nothing.
        epoch = accepted[0].epoch
        changed = connection.exec_driver_sql(
            "UPDATE topics SET next_offset = ?, committed = ? WHERE id = ? AND epoch = ? AND set_aside IS NULL",
            (offset, offset, topic_id, epoch),
        )
        if changed.rowcount != 1:
            self._disown(appends, outcome)
            return
        keys, headers, payloads = _merge(accepted)
        for statement, values in plan_inserts(topic_id, first, published_us, keys, headers, payloads):
            connection.exec_driver_sql(statement, values)
        for producer, state in touched.items():
            connection.exec_driver_sql(
                "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?, ?)",
                (
                    topic_id,
                    producer,
                    state.next_sequence,
                    _recent.encode(state.recent).decode(),
                    published_us,
                ),
            )
        self._ends[topic_id] = (offset, published_us)
        outcome.appended.append(Appended(topic_id, first, published_us, keys, headers, payloads))

    def _disown(self, appends: list[Append], outcome: Committed) -> None:
        mine = set(map(id, appends))
        for append in appends:
            self._producers.pop((append.topic_id, append.producer), None)
        outcome.answers[:] = [answer for answer in outcome.answers if id(answer[0]) not in mine]
        error = NotOwnerError("this peer does not own the topic any more")
        outcome.answers.extend((append, 0, False, error) for append in appends)

    def _check(self, connection: Connection, append: Append) -> int | None:
        if not append.producer:
            return None
        key = (append.topic_id, append.producer)
        state = self._producers.get(key)
        if state is None:
            state = self._load_producer(connection, *key)
            self._producers[key] = state
        else:
            self._producers.move_to_end(key)
        return stored_offset(state, append.sequence, len(append.payloads))

    def _load_producer(self, connection: Connection, topic_id: int, producer: int) -> ProducerState:
        row = connection.exec_driver_sql(
            "SELECT next_sequence, recent FROM producers WHERE topic_id = ? AND producer = ?",
            (topic_id, producer),
        ).one_or_none()
        if row is None:
            return ProducerState()
        return msgspec.convert(
            {"next_sequence": row[0], "recent": msgspec.json.decode(row[1])}, ProducerState
        )

    def _load_end(self, connection: Connection, topic_id: int) -> tuple[int, int]:
        next_offset = connection.exec_driver_sql(
            "SELECT next_offset FROM topics WHERE id = ?", (topic_id,)
        ).scalar()
        newest = connection.exec_driver_sql(
            "SELECT published_at FROM messages WHERE topic_id = ? ORDER BY offset DESC LIMIT 1", (topic_id,)
        ).scalar()
        return next_offset or 0, newest or 0

    def _checkpoint(self, idle: bool) -> None:
        """Copy the write-ahead log into the file, when it is large or there is nothing else to do."""
        if self._unchecked_bytes >= self._settings.checkpoint_bytes or (idle and self._unchecked_bytes):
            assert self._connection is not None
            try:
                self._connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()
                self._connection.rollback()
            except DBAPIError as error:
                log.warning("checkpoint of %s failed, to be tried again: %s", self._path, error.orig)
            self._unchecked_bytes = 0


def _merge(
    appends: list[Append],
) -> tuple[list[str | None] | None, list[str | None] | None, list[bytes | None]]:
    """The columns of several appends as those of one."""
    if len(appends) == 1:
        only = appends[0]
        return only.keys, only.headers, only.payloads
    payloads: list[bytes | None] = []
    keys: list[str | None] | None = [] if any(a.keys for a in appends) else None
    headers: list[str | None] | None = [] if any(a.headers for a in appends) else None
    for append in appends:
        payloads += append.payloads
        if keys is not None:
            keys += append.keys or [None] * len(append.payloads)
        if headers is not None:
            headers += append.headers or [None] * len(append.payloads)
    return keys, headers, payloads
