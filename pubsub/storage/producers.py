"""What is known of producers: a cache of states, and when they become rows of `producers` (decision 0006).

The log itself says which batches a producer has sent: their marks (`storage.marks`). The rows are a snapshot, written
now and then: every batch below `topics.producers_to` is in them, those from there on are in the log or in the rows or
in both. A state is thus its row, and then the marks from `producers_to` on. Rules:

- A snapshot comes before anything else that changes the log than appending, in the same transaction, and before there
  is more log to be read at a start than one checkpoint's.
- A batch that its mark does not tell all of has its producer's row written with it.
- What leaves the cache has its row written first.

Runs for the writer, within a transaction. After one that failed: `forget`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from pubsub.core.sequence import ProducerState, StoredBatch, replay
from pubsub.storage.marks import decode_mark

PRODUCERS_CACHED = 10_000

Key = tuple[int, int]
"""Topic id, producer."""

_encoder = msgspec.json.Encoder()

_PUT = "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?, ?)"
_MARKS = (
    "SELECT offset, batch FROM messages WHERE topic_id = ?1 "
    "AND offset >= (SELECT producers_to FROM topics WHERE id = ?1) AND batch IS NOT NULL ORDER BY offset"
)


class Producers:
    """The states of the producers of every topic in the file."""

    def __init__(self) -> None:
        self._states: OrderedDict[Key, ProducerState] = OrderedDict()
        """Those used last."""
        self._ahead: set[Key] = set()
        """Those of them whose rows are behind."""
        self._behind: set[int] = set()
        """Topics whose `producers_to` is behind their next offset, as far as they have been read."""
        self._unread = True
        """Whether there may be others of which it is."""

    @property
    def unsaved(self) -> bool:
        """Whether a snapshot would change anything, as far as is known."""
        return self._unread or bool(self._behind)

    def is_saved(self, topic_id: int) -> bool:
        """Whether the rows of a topic that has been read tell everything of its producers."""
        return topic_id not in self._behind

    def forget(self) -> None:
        """Read everything from the file again."""
        self._states.clear()
        self._ahead.clear()
        self._behind.clear()
        self._unread = True

    def drop(self, topic_id: int) -> None:
        """Read a topic's producers from the file again; what was known of them is in the rows, or the log."""
        for key in [key for key in self._states if key[0] == topic_id]:
            del self._states[key]
            self._ahead.discard(key)
        self._behind.discard(topic_id)
        self._unread = True

    def read(self, cursor: sqlite3.Cursor, topic_id: int) -> None:
        """Learn what a topic's log says beyond the rows; to be called before any other use of the topic."""
        sent: dict[int, list[StoredBatch]] = {}
        for offset, text in cursor.execute(_MARKS, (topic_id,)):
            mark = decode_mark(text)
            if mark.producer:
                batch = StoredBatch(mark.sequence, mark.messages, offset)
                sent.setdefault(mark.producer, []).append(batch)
            self._behind.add(topic_id)
        for producer, batches in sent.items():
            key = (topic_id, producer)
            self._states[key] = replay(_load(cursor, key), batches)
            self._ahead.add(key)

    def state(self, cursor: sqlite3.Cursor, topic_id: int, producer: int) -> ProducerState:
        """What is known of a producer."""
        key = (topic_id, producer)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _load(cursor, key)
        else:
            self._states.move_to_end(key)
        return state

    def learn(
        self, cursor: sqlite3.Cursor, topic_id: int, states: dict[int, ProducerState], at_once: set[int]
    ) -> None:
        """Take over what batches that are stored have made of states.

        Args:
            at_once: Those of the producers whose rows are to be written now.
        """
        for producer, state in states.items():
            key = (topic_id, producer)
            self._states[key] = state
            if producer not in at_once:
                self._ahead.add(key)
                self._behind.add(topic_id)
        if at_once:
            self._put(cursor, [(topic_id, producer) for producer in at_once])
        if len(self._states) > PRODUCERS_CACHED:
            self._trim(cursor)

    def save(self, cursor: sqlite3.Cursor) -> None:
        """Make the rows tell everything."""
        if self._unread:
            found = cursor.execute("SELECT id FROM topics WHERE producers_to < next_offset").fetchall()
            unread = {topic_id for (topic_id,) in found} - self._behind
            for topic_id in sorted(unread):
                self.read(cursor, topic_id)
            self._behind |= unread
            self._unread = False
        if self._behind:
            self._put(cursor, sorted(self._ahead))
            cursor.executemany(
                "UPDATE topics SET producers_to = next_offset WHERE id = ?",
                [(topic_id,) for topic_id in sorted(self._behind)],
            )
            self._behind.clear()
            while len(self._states) > PRODUCERS_CACHED:
                self._states.popitem(last=False)

    def _trim(self, cursor: sqlite3.Cursor) -> None:
        surplus = len(self._states) - PRODUCERS_CACHED
        oldest = [key for key, _ in zip(self._states, range(surplus), strict=False)]
        self._put(cursor, [key for key in oldest if key in self._ahead])
        for key in oldest:
            del self._states[key]

    def _put(self, cursor: sqlite3.Cursor, keys: Iterable[Key]) -> None:
        now_us = time.time_ns() // 1000
        rows = []
        for key in keys:
            state = self._states[key]
            rows.append((*key, state.next_sequence, _encoder.encode(state.recent).decode(), now_us))
            self._ahead.discard(key)
        cursor.executemany(_PUT, rows)


def _load(cursor: sqlite3.Cursor, key: Key) -> ProducerState:
    row = cursor.execute(
        "SELECT next_sequence, recent FROM producers WHERE topic_id = ? AND producer = ?", key
    ).fetchone()
    if row is None:
        return ProducerState()
    return msgspec.convert({"next_sequence": row[0], "recent": msgspec.json.decode(row[1])}, ProducerState)
