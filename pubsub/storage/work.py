"""What the writer is asked to do, and what it answers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from pubsub.core.epochs import EpochStart
from pubsub.errors import PubsubError
from pubsub.protocol.messages import Batch
from pubsub.storage.beside import Row

T = TypeVar("T")
Statement = tuple[str, Sequence[tuple[Any, ...]]]
"""SQL, and the rows of parameters for which it is to be run."""


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
    done: Callable[[Append, int, bool, PubsubError | None], None]
    """Called with this, the first offset, whether it had been stored before, and the error if there is one.

    It is handed over because a function that kept it would be kept by it: only the garbage collector would find them.
    """
    expect_offset: int = -1
    """Store only if this is the topic's next offset; -1: wherever it is."""
    message_ids: list[str | None] | None = None
    """Ids that the application chose: a message whose id was stored within the window is not stored again."""
    dedupe_us: int = 0
    """That window, microseconds."""
    statements: Sequence[Statement] = ()
    """Run in the same transaction, if the messages are stored in it."""
    statements_at: Callable[[int], Sequence[Statement]] | None = None
    """More of them, which need to know the offset of the first message; called within the transaction."""
    offsets: list[int] | None = None
    """Set by the writer before it answers: the offset of each message, where they are not consecutive."""
    wide_ids: bool = False
    """Of what is held: schedule ids that no other peer gives out."""
    due_us: int = 0
    """Hold the messages until then, and answer with the first of their consecutive schedule ids; 0: store them."""


class Change(msgspec.Struct, eq=False):
    """Statements that share the next commit with whatever else waits. They touch neither topics nor messages."""

    statements: Sequence[Statement]
    done: Callable[[PubsubError | None], None]
    touched: tuple[int, ...] = ()
    """Set by the writer: the replicated topics of which it has changed rows."""


class Step(msgspec.Struct, eq=False):
    """A small change that shares the next commit with whatever else waits; it follows the appends of its group.

    It may take messages away, but leaves the ends of topics as they are; what is known of producers is in their rows.
    When it fails, nothing of it is done, and what shares the commit is stored all the same, unless the file cannot be
    written to.
    """

    change: Callable[[sqlite3.Cursor], Any]
    """Called in the writing thread; what it returns is handed to `done`."""
    done: Callable[[Any, PubsubError | None], None]
    size_bytes: int
    """What it adds to the write-ahead log, about."""
    moves: int = 0
    """A topic whose role it changes, or 0: its end may be another than when this peer last appended to it."""


class Job(msgspec.Struct, eq=False):
    """Any other change: `change` runs in a transaction of its own; `done` gets what it returned, or the error.

    What is known of producers is in their rows.
    """

    change: Callable[[Connection], Any]
    done: Callable[[Any, PubsubError | None], None]


class Received(msgspec.Struct, eq=False):
    """Part of its owner's log to be added to a copy: offsets `start` up to, not including, `stop`.

    The parts are whole batches, or what retention and compaction have left of them, with the marks of those.
    """

    topic_id: int
    epoch: int
    start: int
    stop: int
    committed: int
    """What of the topic is committed, as far as its owner has told."""
    parts: list[tuple[Batch, list[tuple[int, str]]]]
    size_bytes: int
    done: Callable[[PubsubError | None], None]
    epochs: Sequence[EpochStart] = ()
    """Epochs of the owner's log that the copy's reaches with this."""
    beside: Sequence[tuple[bool, Sequence[Row]]] = ()
    """What the owner has besides messages: (whether it is all, rows), in order."""
    messages: int = 0
    """Set by the writer: how many messages they are ..."""
    stored_bytes: int = 0
    """... and what they count for in `topics.bytes`."""


class Appended(msgspec.Struct, frozen=True):
    """Consecutive messages of one topic that a commit has stored."""

    topic_id: int
    first_offset: int
    published_us: int
    keys: list[str | None] | None
    headers: list[str | None] | None
    payloads: list[bytes | None]
    size_bytes: int
    marks: list[str | None]
    """Of the first messages, where each begins a batch or not; those behind them begin none."""

    @property
    def batch(self) -> Batch:
        """The messages, as they are delivered."""
        return Batch(self.first_offset, None, self.published_us, self.keys, self.headers, self.payloads)


class Committed(msgspec.Struct, frozen=True):
    """What a group's commit did, handed to the event loop."""

    appended: list[Appended]
    answers: list[tuple[Append, int, bool, PubsubError | None]]
    changes: list[tuple[Change, PubsubError | None]]
    steps: list[tuple[Step, Any, PubsubError | None]]
    received: list[tuple[Received, PubsubError | None]]
    beside: dict[int, list[Row]]
    """Topic id -> rows of replicated topics that have changed, besides messages."""
    fault: str | None
    """Why the group could not be written, or None."""


def merged(parts: Sequence[Committed]) -> Committed:
    """What several commits did, in this order, as if they had been one."""
    whole = Committed(
        [], [], [], [], [], {}, next((part.fault for part in parts if part.fault is not None), None)
    )
    for part in parts:
        whole.appended.extend(part.appended)
        whole.answers.extend(part.answers)
        whole.changes.extend(part.changes)
        whole.steps.extend(part.steps)
        whole.received.extend(part.received)
        for topic_id, rows in part.beside.items():
            whole.beside.setdefault(topic_id, []).extend(rows)
    return whole


def resolve(waiting: asyncio.Future[T], result: T, error: PubsubError | None) -> None:
    """Give whoever awaits the end of some work its result, or its error; they may have gone away meanwhile."""
    if waiting.done():
        return
    if error is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(result)


def run_statements(cursor: sqlite3.Cursor, statements: Sequence[Statement]) -> None:
    """Run each statement for each of its rows."""
    for sql, rows in statements:
        if len(rows) == 1:
            cursor.execute(sql, rows[0])
        else:
            cursor.executemany(sql, rows)
