"""Group commit: the one connection that writes to peer.db, and the thread that does so.

Whatever arrives while a commit runs shares the next one. An append is answered after the commit, that is
after the fsync (synchronous=FULL). The order of arrival is the order in the log. When a commit fails, nothing
of its group is stored, everything in it is answered with ReadOnlyError, and the thread goes on. Where a fault of ours
made it fail, each piece of work is then committed by itself: one that cannot be does no harm to the others.

A little that arrives while the thread has nothing to do is committed by the event loop itself, as long as the disk is
quick: two changes of threads take as long as such a commit (docs/decisions/0009-small-commits.md).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from pubsub.config import KIB, StorageSettings
from pubsub.errors import InternalError, PubsubError, ReadOnlyError
from pubsub.storage import beside
from pubsub.storage.appending import Appender
from pubsub.storage.copying import Copier
from pubsub.storage.schema import PAGE_BYTES
from pubsub.storage.wal import WriteAheadLog
from pubsub.storage.work import Append, Change, Committed, Job, Received, Step, merged, run_statements

log = logging.getLogger("pubsub.storage")

COMMIT_PAGES = 3
"""Pages that a commit writes besides the messages: topic, the tree's inner pages. An estimate."""
ROW_BYTES = 24
"""What a row takes besides key, headers and payload. An estimate."""
MARK_BYTES = 40
"""What a batch adds to its first row. An estimate."""

IDLE_SECONDS = 1.0
"""Without a commit for so long, the write-ahead log is copied into the file."""
SMALL_BYTES = 4 * KIB
"""What the event loop commits by itself at most; more is worth the thread."""
SLOW_COMMIT_SECONDS = 0.002
"""A commit in the event loop that took longer keeps everybody waiting: ..."""
SLOW_REST = 50
"""... for so many times as long, the thread makes all of them."""

_OUR_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors of SQLite that say nothing of the disk."""


class _Stop:
    """Ends the thread, after all that was submitted before."""


class _Look:
    """Has the thread look whether there is something to copy into the file."""


Shared = Append | Change | Received | Step
"""What shares a transaction."""
Work = Shared | Job | _Look | _Stop


class Writer:
    """Commits what is submitted. Everything above `_run` is called in the event loop, `_run` in the thread.

    The connection, and what is remembered of topics, belong to whoever has the lock.
    """

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
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._held: Work | None = None
        self._connection: Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        """The connection's own cursor, for the path of every publish: SQLAlchemy's layer would triple its cost."""
        self._appender = Appender()
        self._copier = Copier(self._appender.producers)
        self._wal = WriteAheadLog(path, settings)
        self._committed_at = 0.0
        self._lock = threading.Lock()
        self._quick = False
        """Whether the event loop may commit: the thread is well, and has been through a commit."""
        self._slow_until = 0.0
        self._submitted = 0
        """How much the thread has been given and has not answered: the event loop must not overtake it."""
        self._small: list[Shared] = []
        """What came in this turn of the event loop, small enough to be committed by it."""
        self._small_bytes = 0
        self._thread = threading.Thread(target=self._run, name="pubsub-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Shared | Job) -> None:
        """Have `work` done after all that was submitted before."""
        if self._submitted == 0 and self._quick and isinstance(work, Append | Change | Received):
            if not self._small:
                self._loop.call_soon(self._commit_small)
            self._small.append(work)
            self._small_bytes += _size_bytes(work)
            if self._small_bytes > SMALL_BYTES:
                self._hand_over()
            return
        self._hand_over()
        self._submitted += 1
        self._queue.put(work)

    async def stop(self) -> None:
        """Finish what was submitted and end the thread."""
        self._hand_over()
        self._queue.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        """Leave to the thread what came in this turn."""
        for work in self._small:
            self._submitted += 1
            self._queue.put(work)
        self._small, self._small_bytes = [], 0

    def _commit_small(self) -> None:
        """Commit what came in this turn, or leave it to the thread if that has the file or the disk is slow."""
        began = time.monotonic()
        if not self._small:
            return
        if began < self._slow_until or not self._lock.acquire(blocking=False):
            self._hand_over()
            return
        group, size_bytes = self._small, self._small_bytes
        self._small, self._small_bytes = [], 0
        try:
            checkpointed = self._wal.unchecked_bytes == 0
            outcome = self._commit(group, size_bytes)
        finally:
            self._lock.release()
        took_seconds = self._committed_at - began
        if took_seconds > SLOW_COMMIT_SECONDS:
            self._slow_until = self._committed_at + SLOW_REST * took_seconds
        if checkpointed or self._wal.full:
            self._queue.put(_Look())
        self._committed(outcome)

    def _answer(self, works: int, callback: Callable[..., None], values: tuple[Any, ...]) -> None:
        """The thread has done so much of what it was given."""
        self._submitted -= works
        callback(*values)

    # From here on: the writing thread; commits are made by whoever has the lock

    def _run(self) -> None:
        try:
            with self._engine.connect() as connection:
                self._connection = connection
                self._cursor = cast(sqlite3.Cursor, connection.connection.cursor())
                self._wal.open(connection, self._cursor)
                beside.watch(self._cursor)
                try:
                    while self._turn(self._next()):
                        pass
                finally:
                    self._cursor.close()  # an open statement would keep the file from being closed
        except Exception as error:
            log.critical("nothing can be written to %s any more", self._path, exc_info=error)
            self._refuse_all(InternalError(f"the thread that writes {self._path} ended: {error}"))

    def _turn(self, work: Work | None) -> bool:
        """Do a piece of work with what may share its commit, or nothing; returns whether there may be more to do."""
        with self._lock:
            self._quick = False
            if isinstance(work, Job):
                self._do(work)
            elif isinstance(work, Shared):
                group, size_bytes = self._group(work)
                self._call(len(group), self._committed, self._commit(group, size_bytes))
                if not self._wal.grown:
                    self._wal.grow()
                    self._roll_back()
            stops = isinstance(work, _Stop)
            rested = work is None and time.monotonic() - self._committed_at >= IDLE_SECONDS
            self._checkpoint(idle=stops or rested)
            self._quick = self._wal.grown and not stops
            return not stops

    def _refuse_all(self, error: PubsubError) -> None:
        """Until the end, answer everything with `error`: nobody is to wait for ever."""
        self._wal.unchecked_bytes = 0
        while not isinstance(work := self._next(), _Stop):
            if isinstance(work, Job):
                self._call(1, work.done, None, error)
            elif isinstance(work, Shared):
                self._call(1, self._committed, _failed([work], error))

    def _next(self) -> Work | None:
        if self._held is not None:
            work, self._held = self._held, None
            return work
        try:
            return self._queue.get(timeout=IDLE_SECONDS if self._wal.unchecked_bytes else None)
        except queue.Empty:
            return None

    def _group(self, first: Shared) -> tuple[list[Shared], int]:
        """Everything that waits, up to the size of a group or to the next job; and its size."""
        group, size = [first], _size_bytes(first)
        while size < self._settings.group_bytes and not self._queue.empty():
            work = self._queue.get_nowait()  # the thread alone takes from the queue
            if not isinstance(work, Shared):
                self._held = work
                break
            group.append(work)
            size += _size_bytes(work)
        return group, size

    def _do(self, job: Job) -> None:
        assert self._connection is not None
        assert self._cursor is not None
        result: Any = None
        failure: PubsubError | None = None
        try:
            self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._appender.producers.save(self._cursor)  # the job may take messages away
            result = job.change(self._connection)
            self._connection.commit()
            self._forget()  # a job may have changed any topic
            self._wal.unchecked_bytes += COMMIT_PAGES * PAGE_BYTES
        except Exception as error:
            failure = self._undo(error)
        self._call(1, job.done, result, failure)

    def _commit(self, group: list[Shared], size_bytes: int) -> Committed:
        assert self._cursor is not None
        try:
            added_bytes = COMMIT_PAGES * PAGE_BYTES + size_bytes
            outcome = self._write(self._cursor, group, snapshot=self._wal.fills_with(added_bytes))
            self._wal.unchecked_bytes += added_bytes
        except Exception as error:
            failure = self._undo(error)
            if len(group) > 1 and isinstance(failure, InternalError):  # one of them is at fault, not the disk
                outcome = merged([self._commit([work], _size_bytes(work)) for work in group])
            else:
                outcome = _failed(group, failure)
        self._committed_at = time.monotonic()
        return outcome

    def _undo(self, error: Exception) -> PubsubError:
        """Roll back; the error that those concerned are told."""
        self._roll_back()
        if isinstance(error, PubsubError):
            return error
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.Error) and not isinstance(cause, _OUR_FAULT):
            return ReadOnlyError(
                f"cannot write to {self._path}: {cause}; make room or mend the disk, then retry"
            )
        log.error("a transaction on %s failed", self._path, exc_info=error)
        return InternalError("a transaction failed inside the peer; see its log")

    def _roll_back(self) -> None:
        """Leave no transaction open and nothing of it in memory. Where even that fails, the next BEGIN fails too."""
        self._forget()
        assert self._connection is not None
        try:
            self._connection.rollback()
            driver = self._connection.connection.driver_connection
            if (
                driver is not None and driver.in_transaction
            ):  # SQLAlchemy sends nothing after a COMMIT that failed
                driver.rollback()
        except (DBAPIError, sqlite3.Error) as error:
            log.error("a transaction on %s cannot be rolled back: %s", self._path, error)

    def _forget(self) -> None:
        """Read what is remembered of topics from the file again."""
        self._appender.forget()
        self._copier.forget()

    def _call(self, works: int, callback: Callable[..., None], *values: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, works, callback, values)
        except RuntimeError:  # the loop was closed under us: nobody is left to tell
            log.warning("the event loop ended before %s was told of a commit", callback)

    def _write(self, cursor: sqlite3.Cursor, group: list[Shared], snapshot: bool) -> Committed:
        """Store a group in one transaction, with a snapshot of the producers if told or if steps are in it."""
        cursor.execute("BEGIN IMMEDIATE")
        outcome = Committed([], [], [], [], [], {}, None)
        appends = [work for work in group if isinstance(work, Append)]
        if len(appends) < len(group):
            for work in group:
                if isinstance(work, Change):
                    before = beside.last_change(cursor)
                    run_statements(cursor, work.statements)
                    work.touched = beside.topics_changed(cursor, before)
                    outcome.changes.append((work, None))
        self._appender.write(cursor, appends, outcome)
        others = len(appends) + len(outcome.changes)
        if others < len(group):
            self._copier.write(cursor, [work for work in group if isinstance(work, Received)], outcome)
        steps = others + len(outcome.received) < len(group)
        if snapshot or steps:
            self._appender.producers.save(cursor)
        if steps:
            for work in group:
                if isinstance(work, Step):
                    outcome.steps.append(_take(cursor, work))
                    if work.moves:
                        self._appender.forget_end(work.moves)
        outcome.beside.update(beside.take_changes(cursor))
        cursor.execute("COMMIT")
        return outcome

    def _save_producers(self) -> None:
        """Write a snapshot of the producers. One that fails loses nothing: the log has what they sent."""
        assert self._cursor is not None
        if not self._appender.producers.unsaved:
            return
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            self._appender.producers.save(self._cursor)
            self._cursor.execute("COMMIT")
        except Exception as error:
            log.warning("producers are saved later: %s", self._undo(error))

    def _checkpoint(self, idle: bool) -> None:
        """Copy the write-ahead log into the file, when it is large or there is nothing else to do."""
        if self._wal.full or (idle and self._wal.unchecked_bytes):
            self._save_producers()
            self._wal.checkpoint()


def _take(cursor: sqlite3.Cursor, step: Step) -> tuple[Step, Any, PubsubError | None]:
    """Do one step, or nothing of it.

    Raises:
        sqlite3.Error: the file cannot be written to, so nothing of the whole transaction can be stored.
    """
    result: Any = None
    failure: PubsubError | None = None
    cursor.execute("SAVEPOINT step")
    try:
        result = step.change(cursor)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, _OUR_FAULT):
            raise
        cursor.execute("ROLLBACK TO step")
        if isinstance(error, PubsubError):
            failure = error
        else:
            log.error("a part of a transaction failed", exc_info=error)
            failure = InternalError("a part of a transaction failed inside the peer; see its log")
    cursor.execute("RELEASE step")
    return step, result, failure


def _failed(group: list[Shared], error: PubsubError) -> Committed:
    """What a group's commit did that failed: nothing."""
    outcome = Committed([], [], [], [], [], {}, error.message if isinstance(error, ReadOnlyError) else None)
    for work in group:
        if isinstance(work, Append):
            outcome.answers.append((work, 0, False, error))
        elif isinstance(work, Step):
            outcome.steps.append((work, None, error))
        elif isinstance(work, Received):
            outcome.received.append((work, error))
        else:
            outcome.changes.append((work, error))
    return outcome


def _size_bytes(work: Shared) -> int:
    """What a piece of work adds to the write-ahead log, about."""
    if isinstance(work, Append):
        return work.size_bytes + ROW_BYTES * len(work.payloads) + MARK_BYTES
    if isinstance(work, Step | Received):
        return work.size_bytes
    return sum(ROW_BYTES * 2 * len(rows) for _, rows in work.statements)
