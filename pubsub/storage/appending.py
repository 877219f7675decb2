"""Storing a group of appends in one transaction: sequences, epochs, offsets, and what goes along with them.

Runs for the writer. What it remembers between transactions (ends of topics, producers) is only a copy
of what the file has: after a transaction that failed, `forget` it and it is read again.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from typing import Any

from pubsub.core.sequence import ProducerState, after, stored_batch
from pubsub.errors import NotOwnerError, PubsubError, WrongOffsetError
from pubsub.storage import message_ids
from pubsub.storage.marks import encode_mark
from pubsub.storage.message_ids import pick, sift
from pubsub.storage.producers import Producers
from pubsub.storage.rows import plan_inserts, stored_bytes
from pubsub.storage.work import Append, Appended, Committed, run_statements

_EXTEND = (
    "UPDATE topics SET next_offset = ?1, committed = iif(replicas IS NULL, ?1, committed), "
    "messages = messages + ?2, bytes = bytes + ?3 "
    "WHERE id = ?4 AND epoch = ?5 AND role = 'owner' AND promised <= ?5 "
    "AND set_aside IS NULL"
)
_EXTEND_SAVED = _EXTEND.replace(" WHERE", ", producers_to = ?1 WHERE")
"""What the batches tell of producers is in the rows of these, as is all before."""

HeldRow = tuple[Any, ...]
"""A row of `scheduled`."""


class _Plan:
    """What is to be stored of the appends to one topic."""

    __slots__ = (
        "accepted",
        "at_once",
        "end",
        "first",
        "fresh_ids",
        "held",
        "marks",
        "published_us",
        "starts",
        "states",
    )

    def __init__(self, first: int, published_us: int) -> None:
        self.first = self.end = first
        """Offsets from `first` on, and before `end`."""
        self.published_us = published_us
        self.accepted: list[Append] = []
        self.starts: list[int] = []
        """The first offset of each."""
        self.marks: list[str | None] = []
        """For each message up to the last that has one."""
        self.states: dict[int, ProducerState] = {}
        """What becomes of producers ..."""
        self.at_once: set[int] = set()
        """... and those of them of which the marks do not tell all."""
        self.fresh_ids: dict[str, int] = {}
        self.held: list[HeldRow] = []

    def accept(self, append: Append, start: int, sender: tuple[int, int]) -> None:
        """Put an append at the end of the log; `sender`: its producer and sequence, as far as its mark tells them."""
        self.accepted.append(append)
        self.starts.append(start)
        if append.payloads:
            self.marks += [None] * (self.end - self.first - len(self.marks))
            self.marks.append(
                encode_mark(self.published_us, append.keys, append.headers, append.payloads, *sender)
            )
            self.end += len(append.payloads)


class Appender:
    """Writes appends; decides for each whether it is new, known, or refused."""

    def __init__(self) -> None:
        self.producers = Producers()
        self._ends: dict[int, tuple[int, int]] = {}
        """Topic id -> (next offset, time of the newest message)."""
        self._next_schedule_id = 0
        """0: not read yet. An id is never used again, so that a late cancellation does not hit another message."""

    def forget(self) -> None:
        """Read everything from the file again."""
        self._ends.clear()
        self.producers.forget()
        self._next_schedule_id = 0

    def forget_end(self, topic_id: int) -> None:
        """Read what is known of a topic from the file again: others have written to it, or may have."""
        self._ends.pop(topic_id, None)
        self.producers.drop(topic_id)

    def write(self, cursor: sqlite3.Cursor, appends: list[Append], outcome: Committed) -> None:
        """Store what may be stored, in the transaction that is open; the answers go into `outcome`."""
        if len(appends) == 1:
            self._write_topic(cursor, appends[0].topic_id, appends, outcome)
            return
        by_topic: dict[int, list[Append]] = {}
        for append in appends:
            by_topic.setdefault(append.topic_id, []).append(append)
        for topic_id, of_topic in by_topic.items():
            self._write_topic(cursor, topic_id, of_topic, outcome)

    def _write_topic(
        self, cursor: sqlite3.Cursor, topic_id: int, appends: list[Append], outcome: Committed
    ) -> None:
        first, newest_us = self._ends.get(topic_id) or self._read(cursor, topic_id)
        plan = _Plan(first, max(time.time_ns() // 1000, newest_us))
        epoch = appends[-1].epoch  # epochs only grow, so the newest append has the highest of this group
        for append in appends:
            try:
                if append.epoch != epoch:
                    raise _not_owner()
                outcome.answers.append(self._decide(cursor, append, plan))
            except PubsubError as error:
                outcome.answers.append((append, 0, False, error))
        if plan.accepted or plan.held:
            owned = self._store(cursor, topic_id, epoch, plan, outcome)
        else:
            owned = _owns(cursor, topic_id, epoch)
        if not owned:
            self._disown(appends, outcome)

    def _decide(
        self, cursor: sqlite3.Cursor, append: Append, plan: _Plan
    ) -> tuple[Append, int, bool, PubsubError | None]:
        """Add an append to what is to be stored, unless it is stored already; its answer.

        Raises:
            PubsubError: it is refused; the plan is as it was.
        """
        count, producer, start = len(append.payloads), append.producer, plan.end
        if producer:
            state = plan.states.get(producer) or self.producers.state(cursor, append.topic_id, producer)
            stored = stored_batch(state, append.sequence, count)
            if stored is not None:
                append.offsets = stored.offsets
                return append, stored.first_offset, True, None
        if append.due_us:
            start = self._hold(cursor, append, plan.held, plan.published_us)
        elif append.message_ids is not None or append.expect_offset != -1:
            start = _place(cursor, append, plan.end, plan.published_us, plan.fresh_ids)
        plain = append.offsets is None and not append.due_us
        if producer:
            plan.states[producer] = after(state, append.sequence, count, start, append.offsets)
            if not plain:
                plan.at_once.add(producer)
        if not append.due_us:
            plan.accept(append, start, (producer, append.sequence) if plain else (0, 0))
        return append, start, not append.payloads, None

    def _store(
        self, cursor: sqlite3.Cursor, topic_id: int, epoch: int, plan: _Plan, outcome: Committed
    ) -> bool:
        """Write what a plan says; False, and nothing is written, if this peer does not own the topic in that epoch."""
        keys, headers, payloads = _merge(plan.accepted)
        size_bytes = stored_bytes(keys, headers, payloads)
        saved = len(plan.states) == len(plan.at_once) and self.producers.is_saved(topic_id)
        # The epoch is checked here, in the transaction: a peer that lost the topic stores nothing.
        changed = cursor.execute(
            _EXTEND_SAVED if saved else _EXTEND, (plan.end, len(payloads), size_bytes, topic_id, epoch)
        )
        if changed.rowcount != 1:
            return False
        columns = (keys, headers, payloads)
        for statement, values in plan_inserts(topic_id, plan.first, plan.published_us, *columns, plan.marks):
            cursor.execute(statement, values)
        if plan.fresh_ids:
            window_us = max(append.dedupe_us for append in plan.accepted)
            since_us = plan.published_us - window_us
            message_ids.store(cursor, topic_id, plan.fresh_ids, plan.published_us, since_us)
        if plan.held:
            cursor.executemany("INSERT INTO scheduled VALUES (?, ?, ?, ?, ?, ?, ?)", plan.held)
        if plan.states:
            self.producers.learn(cursor, topic_id, plan.states, plan.at_once)
        for append, start in zip(plan.accepted, plan.starts, strict=True):
            if append.statements:
                run_statements(cursor, append.statements)
            if append.statements_at is not None:
                run_statements(cursor, append.statements_at(start))
        self._ends[topic_id] = (plan.end, plan.published_us)
        if payloads:
            outcome.appended.append(
                Appended(topic_id, plan.first, plan.published_us, *columns, size_bytes, plan.marks)
            )
        return True

    def _read(self, cursor: sqlite3.Cursor, topic_id: int) -> tuple[int, int]:
        self.producers.read(cursor, topic_id)
        return _load_end(cursor, topic_id)

    def _disown(self, appends: list[Append], outcome: Committed) -> None:
        mine = set(map(id, appends))
        outcome.answers[:] = [answer for answer in outcome.answers if id(answer[0]) not in mine]
        outcome.answers.extend((append, 0, False, _not_owner()) for append in appends)

    def _hold(self, cursor: sqlite3.Cursor, append: Append, held: list[HeldRow], now_us: int) -> int:
        """Add an append's messages to the rows to be held; the first of their schedule ids is returned."""
        if append.wide_ids:
            first = 1 + (secrets.randbits(38) << 14)
        else:
            first = self._next_schedule_id or _load_schedule_id(cursor)
        columns = (
            append.keys or [None] * len(append.payloads),
            append.headers or [None] * len(append.payloads),
            append.payloads,
        )
        for schedule_id, cells in enumerate(zip(*columns, strict=True), first):
            held.append((schedule_id, append.topic_id, append.due_us, *cells, now_us))
        if not append.wide_ids:
            self._next_schedule_id = first + len(append.payloads)
        return first


def _owns(cursor: sqlite3.Cursor, topic_id: int, epoch: int) -> bool:
    found = cursor.execute(
        "SELECT 1 FROM topics WHERE id = ? AND epoch = ? AND role = 'owner' AND set_aside IS NULL",
        (topic_id, epoch),
    )
    return found.fetchone() is not None


def _not_owner() -> NotOwnerError:
    return NotOwnerError("this peer does not own the topic any more; nothing was stored")


def _load_end(cursor: sqlite3.Cursor, topic_id: int) -> tuple[int, int]:
    topic = cursor.execute("SELECT next_offset FROM topics WHERE id = ?", (topic_id,)).fetchone()
    newest = cursor.execute(
        "SELECT published_at FROM messages WHERE topic_id = ? ORDER BY offset DESC LIMIT 1", (topic_id,)
    ).fetchone()
    return topic[0] if topic else 0, newest[0] if newest else 0


def _load_schedule_id(cursor: sqlite3.Cursor) -> int:
    row = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'scheduled'").fetchone()
    return row[0] + 1 if row else 1


def _place(
    cursor: sqlite3.Cursor, append: Append, next_offset: int, now_us: int, pending_ids: dict[str, int]
) -> int:
    """Leave in `append` only what is new of it, with the offset of every message; the first one is returned.

    That the log is where the publisher expects it matters only if there is anything to store: who publishes again
    what is stored is told where it is.

    Raises:
        WrongOffsetError: it is not; nothing has been changed.
    """
    if append.message_ids is None or not append.dedupe_us:
        _check_expected(append, next_offset)
        return next_offset
    since_us = now_us - append.dedupe_us
    sifted = sift(cursor, append.topic_id, append.message_ids, next_offset, since_us, pending_ids)
    if sifted.keep:
        _check_expected(append, next_offset)
    if len(sifted.keep) < len(sifted.offsets):
        append.offsets = sifted.offsets
        append.payloads = pick(append.payloads, sifted.keep)
        append.keys = None if append.keys is None else pick(append.keys, sifted.keep)
        append.headers = None if append.headers is None else pick(append.headers, sifted.keep)
    pending_ids.update(sifted.fresh)
    return sifted.offsets[0]


def _check_expected(append: Append, next_offset: int) -> None:
    if append.expect_offset not in (-1, next_offset):
        raise WrongOffsetError(
            f"the log is at offset {next_offset}, not at the expected {append.expect_offset}; nothing was stored",
            next_offset=next_offset,
        )


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
