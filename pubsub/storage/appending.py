"""Storing a group of appends in one transaction: sequences, epochs, offsets, and what goes along with them.

Runs in the writing thread. What it remembers between transactions (ends of topics, producers) is only a copy
of rows: after a transaction that failed, `forget` it and it is read again.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from typing import Any

import msgspec

from pubsub.core.sequence import ProducerState, after, stored_offset
from pubsub.errors import NotOwnerError, PubsubError, WrongOffsetError
from pubsub.storage.rows import plan_inserts
from pubsub.storage.work import Append, Appended, Committed, run_statements

PRODUCERS_CACHED = 10_000

_encoder = msgspec.json.Encoder()


class Appender:
    """Writes appends; decides for each whether it is new, known, or refused."""

    def __init__(self) -> None:
        self._producers: OrderedDict[tuple[int, int], ProducerState] = OrderedDict()
        self._ends: dict[int, tuple[int, int]] = {}
        """Topic id -> (next offset, time of the newest message)."""

    def forget(self) -> None:
        """Read everything from the file again."""
        self._ends.clear()
        self._producers.clear()

    def trim(self) -> None:
        """Keep the memory of producers within its bound; between transactions only."""
        while len(self._producers) > PRODUCERS_CACHED:
            self._producers.popitem(last=False)

    def write(self, cursor: sqlite3.Cursor, appends: list[Append], outcome: Committed) -> None:
        """Store what may be stored, in the transaction that is open; the answers go into `outcome`."""
        by_topic: dict[int, list[Append]] = {}
        for append in appends:
            by_topic.setdefault(append.topic_id, []).append(append)
        for topic_id, of_topic in by_topic.items():
            self._write_topic(cursor, topic_id, of_topic, outcome)

    def _write_topic(
        self, cursor: sqlite3.Cursor, topic_id: int, appends: list[Append], outcome: Committed
    ) -> None:
        first, newest_us = self._ends.get(topic_id) or _load_end(cursor, topic_id)
        published_us = max(time.time_ns() // 1000, newest_us)
        offset = first
        accepted: list[Append] = []
        touched: dict[int, ProducerState] = {}
        fresh_ids: dict[str, int] = {}
        epoch = appends[-1].epoch  # epochs only grow, so the newest append has the highest of this group
        for append in appends:
            if append.epoch != epoch:
                outcome.answers.append((append, 0, False, _not_owner()))
                continue
            try:
                stored = self._known(cursor, append)
                if stored is not None:
                    _recall_offsets(cursor, append)
                    outcome.answers.append((append, stored, True, None))
                    continue
                _check_expected(append, offset)
            except PubsubError as error:
                outcome.answers.append((append, 0, False, error))
                continue
            count = len(append.payloads)
            start = offset
            if append.message_ids is not None:
                start = _drop_known_ids(cursor, append, offset, published_us, fresh_ids)
            if append.producer:
                state = after(self._producers[topic_id, append.producer], append.sequence, count, start)
                self._producers[topic_id, append.producer] = touched[append.producer] = state
            outcome.answers.append((append, start, not append.payloads, None))
            accepted.append(append)
            offset += len(append.payloads)
        if not accepted:
            if not _owns(cursor, topic_id, epoch):
                self._disown(appends, outcome)
            return
        # The epoch is checked here, in the transaction: a peer that lost the topic stores nothing.
        changed = cursor.execute(
            "UPDATE topics SET next_offset = ?, committed = ? WHERE id = ? AND epoch = ? AND set_aside IS NULL",
            (offset, offset, topic_id, epoch),
        )
        if changed.rowcount != 1:
            self._disown(appends, outcome)
            return
        keys, headers, payloads = _merge(accepted)
        for statement, values in plan_inserts(topic_id, first, published_us, keys, headers, payloads):
            cursor.execute(statement, values)
        _store_ids(cursor, topic_id, fresh_ids, published_us)
        _store_producers(cursor, topic_id, touched, published_us)
        for append in accepted:
            run_statements(cursor, append.statements)
        self._ends[topic_id] = (offset, published_us)
        if payloads:
            outcome.appended.append(Appended(topic_id, first, published_us, keys, headers, payloads))

    def _disown(self, appends: list[Append], outcome: Committed) -> None:
        mine = set(map(id, appends))
        for append in appends:
            self._producers.pop((append.topic_id, append.producer), None)
        outcome.answers[:] = [answer for answer in outcome.answers if id(answer[0]) not in mine]
        outcome.answers.extend((append, 0, False, _not_owner()) for append in appends)

    def _known(self, cursor: sqlite3.Cursor, append: Append) -> int | None:
        """The offset at which a producer's batch is stored already, or None.

        Raises:
            SequenceError: it came out of order.
        """
        if not append.producer:
            return None
        key = (append.topic_id, append.producer)
        state = self._producers.get(key)
        if state is None:
            state = self._producers[key] = _load_producer(cursor, *key)
        else:
            self._producers.move_to_end(key)
        return stored_offset(state, append.sequence, len(append.payloads))


def _owns(cursor: sqlite3.Cursor, topic_id: int, epoch: int) -> bool:
    found = cursor.execute(
        "SELECT 1 FROM topics WHERE id = ? AND epoch = ? AND set_aside IS NULL", (topic_id, epoch)
    )
    return found.fetchone() is not None


def _not_owner() -> NotOwnerError:
    return NotOwnerError("this peer does not own the topic any more; nothing was stored")


def _load_producer(cursor: sqlite3.Cursor, topic_id: int, producer: int) -> ProducerState:
    row = cursor.execute(
        "SELECT next_sequence, recent FROM producers WHERE topic_id = ? AND producer = ?",
        (topic_id, producer),
    ).fetchone()
    if row is None:
        return ProducerState()
    return msgspec.convert({"next_sequence": row[0], "recent": msgspec.json.decode(row[1])}, ProducerState)


def _store_producers(
    cursor: sqlite3.Cursor, topic_id: int, touched: dict[int, ProducerState], now_us: int
) -> None:
    for producer, state in touched.items():
        recent = _encoder.encode(state.recent).decode()
        cursor.execute(
            "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?, ?)",
            (topic_id, producer, state.next_sequence, recent, now_us),
        )


def _load_end(cursor: sqlite3.Cursor, topic_id: int) -> tuple[int, int]:
    topic = cursor.execute("SELECT next_offset FROM topics WHERE id = ?", (topic_id,)).fetchone()
    newest = cursor.execute(
        "SELECT published_at FROM messages WHERE topic_id = ? ORDER BY offset DESC LIMIT 1", (topic_id,)
    ).fetchone()
    return topic[0] if topic else 0, newest[0] if newest else 0


def _check_expected(append: Append, next_offset: int) -> None:
    if append.expect_offset not in (-1, next_offset):
        raise WrongOffsetError(
            f"the log is at offset {next_offset}, not at the expected {append.expect_offset}; nothing was stored",
            next_offset=next_offset,
        )


# Message ids


def _ids_stored(cursor: sqlite3.Cursor, append: Append, since_us: int) -> dict[str, int]:
    assert append.message_ids is not None
    found: dict[str, int] = {}
    for message_id in append.message_ids:
        if message_id is not None:
            row = cursor.execute(
                "SELECT offset FROM message_ids WHERE topic_id = ? AND message_id = ? AND published_at >= ?",
                (append.topic_id, message_id, since_us),
            ).fetchone()
            if row is not None:
                found[message_id] = row[0]
    return found


def _drop_known_ids(
    cursor: sqlite3.Cursor, append: Append, offset: int, now_us: int, fresh: dict[str, int]
) -> int:
    """Leave only the messages whose ids are new in `append`, note every offset; the first offset is returned."""
    assert append.message_ids is not None
    stored = _ids_stored(cursor, append, now_us - append.dedupe_us)
    keep: list[int] = []
    offsets: list[int] = []
    for position, message_id in enumerate(append.message_ids):
        known = None if message_id is None else fresh.get(message_id, stored.get(message_id))
        if known is None:
            known = offset + len(keep)
            keep.append(position)
            if message_id is not None:
                fresh[message_id] = known
        offsets.append(known)
    if len(keep) < len(offsets):
        append.offsets = offsets
        append.payloads = _pick(append.payloads, keep)
        append.keys = None if append.keys is None else _pick(append.keys, keep)
        append.headers = None if append.headers is None else _pick(append.headers, keep)
    return offsets[0]


def _recall_offsets(cursor: sqlite3.Cursor, append: Append) -> None:
    """A batch sent again: say of each of its ids where it is, since they need not be consecutive."""
    if append.message_ids is not None and None not in append.message_ids:
        stored = _ids_stored(cursor, append, 0)
        if len(stored) == len(set(append.message_ids)):
            append.offsets = [
                stored[message_id] for message_id in append.message_ids if message_id is not None
            ]


def _store_ids(cursor: sqlite3.Cursor, topic_id: int, fresh: dict[str, int], now_us: int) -> None:
    if fresh:
        rows = [(topic_id, message_id, offset, now_us) for message_id, offset in fresh.items()]
        run_statements(cursor, [("INSERT OR REPLACE INTO message_ids VALUES (?, ?, ?, ?)", rows)])


def _pick(column: list[Any], positions: list[int]) -> list[Any]:
    return [column[position] for position in positions]


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
