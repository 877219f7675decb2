"""Whatever happens between them, each batch that was acknowledged is recognised, and each mark tells of its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pubsub.core.retention import Removal
from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import SequenceError
from pubsub.protocol.batch import batch_checksum
from pubsub.storage import compaction, producers, retention
from pubsub.storage.appending import Appender
from pubsub.storage.marks import decode_mark
from pubsub.storage.migrate import upgrade
from pubsub.storage.rows import batch_of
from pubsub.storage.work import Append, Committed

TOPICS, PRODUCERS = (1, 2), (11, 12, 13)
HOUR_US = 3_600_000_000
CACHED = 4
"""Fewer than there are producers of topics, so that some are pushed out."""


@cache
def new_file() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "peer.db"
        upgrade(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        names = [row[1] for row in connection.execute("PRAGMA table_info (topics)") if row[3] or row[5]]
        texts = {"name": "'t'", "role": "'owner'", "owner": "'a'", "policy": "'{}'", "epoch": "1"}
        for topic_id in TOPICS:
            values = ",".join(str(topic_id) if name == "id" else texts.get(name, "0") for name in names)
            connection.execute(f"INSERT INTO topics ({','.join(names)}) VALUES ({values})")
        connection.commit()
        connection.close()
        return path.read_bytes()


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(new_file())
    return connection


def new_append(
    topic_id: int, producer: int, sequence: int, payloads: list[bytes | None], **fields: Any
) -> Append:
    keys, headers = fields.pop("keys", None), fields.pop("headers", None)
    done = fields.pop("done", lambda *_: None)
    return Append(topic_id, 1, producer, sequence, keys, headers, payloads, 0, done, **fields)


def run(appender: Appender, cursor: sqlite3.Cursor, appends: list[Append]) -> list[Any]:
    """The answers, in the order of the appends; the transaction is left open."""
    outcome = Committed(*[[] for _ in Committed.__struct_fields__[:-1]], None)
    appender.write(cursor, appends, outcome)
    answers = {id(append): rest for append, *rest in outcome.answers}
    return [answers[id(append)] for append in appends]


Sent = tuple[int, int, int, int, str]
"""Topic id, producer, sequence, messages, how."""


class Publishing(RuleBasedStateMachine):
    """Producers send; the peer saves, fails, forgets, crashes, retains and compacts."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(producers, "PRODUCERS_CACHED", CACHED)
        self.cursor = connect().cursor()
        self.appender = Appender()
        self.acknowledged: dict[tuple[int, int], list[tuple[Sent, int, Any]]] = {
            (topic_id, producer): [] for topic_id in TOPICS for producer in PRODUCERS
        }
        """Of each producer: batches, with first offset and offsets."""
        self.numbered = 0

    def teardown(self) -> None:
        self.patch.undo()
        self.cursor.connection.close()

    @initialize()
    def start(self) -> None:
        self.restart()

    def next_batch(self, topic_id: int, producer: int, messages: int, how: str, ahead: int = 0) -> Sent:
        sent = self.acknowledged[topic_id, producer]
        sequence = (sent[-1][0][2] + sent[-1][0][3] if sent else 0) + ahead
        return (topic_id, producer, sequence, messages, how)

    def as_append(self, sent: Sent) -> Append:
        topic_id, producer, sequence, messages, how = sent
        fields: dict[str, Any] = {}
        if how == "held":
            fields["due_us"] = 1
        if how == "ids":  # every second one has been there before, but for the first time
            fields["message_ids"] = [f"{self.numbered} {n}" if n % 2 else "known" for n in range(messages)]
            fields["dedupe_us"] = HOUR_US
            self.numbered += 1
        return new_append(topic_id, producer, sequence, [b"%d" % n for n in range(messages)], **fields)

    batches = st.lists(
        st.tuples(
            st.sampled_from(TOPICS),
            st.sampled_from(PRODUCERS),
            st.integers(1, 3),
            st.sampled_from(["plain", "plain", "plain", "held", "ids"]),
        ),
        min_size=1,
        max_size=6,
    )

    @rule(batches=batches, committed=st.sampled_from([True, True, True, False]), saved=st.booleans())
    def send(self, batches: list[tuple[int, int, int, str]], committed: bool, saved: bool) -> None:
        ahead: dict[tuple[int, int], int] = {}
        group = []
        for topic_id, producer, messages, how in batches:
            before = ahead.get((topic_id, producer), 0)
            group.append(self.next_batch(topic_id, producer, messages, how, before))
            ahead[topic_id, producer] = before + messages
        self.cursor.execute("BEGIN")
        appends = [self.as_append(sent) for sent in group]
        answers = run(self.appender, self.cursor, appends)
        if saved:
            self.appender.producers.save(self.cursor)
        if not committed:
            self.cursor.execute("ROLLBACK")
            self.appender.forget()
            return
        self.cursor.execute("COMMIT")
        for sent, append, (first_offset, _, error) in zip(group, appends, answers, strict=True):
            assert error is None
            self.acknowledged[sent[:2]].append((sent, first_offset, append.offsets))

    @rule(topic_id=st.sampled_from(TOPICS), producer=st.sampled_from(PRODUCERS))
    def send_again(self, topic_id: int, producer: int) -> None:
        self.check(topic_id, producer)

    @rule(topic_id=st.sampled_from(TOPICS))
    def publish_in_process(self, topic_id: int) -> None:
        self.cursor.execute("BEGIN")
        run(self.appender, self.cursor, [new_append(topic_id, 0, 0, [b"x"])])
        self.cursor.execute("COMMIT")

    @rule()
    def save(self) -> None:
        self.cursor.execute("BEGIN")
        self.appender.producers.save(self.cursor)
        self.cursor.execute("COMMIT")
        behind = self.cursor.execute(
            "SELECT count(*) FROM topics WHERE producers_to < next_offset"
        ).fetchone()
        assert behind == (0,)

    @rule()
    def forget(self) -> None:
        self.appender.forget()

    @rule()
    def restart(self) -> None:
        """After a crash, too: what was in memory only is gone, what was committed is there."""
        self.appender = Appender()
        self.save()

    @rule(topic_id=st.sampled_from(TOPICS), messages=st.integers(0, 5))
    def retain(self, topic_id: int, messages: int) -> None:
        self.cursor.execute("BEGIN")
        self.appender.producers.save(self.cursor)
        retention.trim(self.cursor, topic_id, Removal(keep_messages=messages))
        self.cursor.execute("COMMIT")

    @invariant()
    def rows_or_log_tell_of_every_producer(self) -> None:
        """What a crash would leave: each producer as another appender reads it."""
        found = Appender()
        for topic_id, producer in self.acknowledged:
            found.producers.read(self.cursor, topic_id)
            state = found.producers.state(self.cursor, topic_id, producer)
            sent = self.acknowledged[topic_id, producer][-REMEMBERED_BATCHES:]
            assert [(b.sequence, b.messages, b.first_offset, b.offsets) for b in state.recent] == [
                (sequence, messages, first_offset, offsets)
                for (_, _, sequence, messages, _), first_offset, offsets in sent
            ]

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        for topic_id in TOPICS:
            held = self.cursor.execute("SELECT max(offset) + 1 FROM messages WHERE topic_id = ?", (topic_id,))
            (end,) = held.fetchone()
            (next_offset,) = self.cursor.execute(
                "SELECT next_offset FROM topics WHERE id = ?", (topic_id,)
            ).fetchone()
            assert end in (None, next_offset)

    def check(self, topic_id: int, producer: int) -> None:
        sent = self.acknowledged[topic_id, producer]
        self.cursor.execute("BEGIN")
        before = self.cursor.connection.total_changes
        for (_, _, sequence, messages, _), first_offset, offsets in sent[-REMEMBERED_BATCHES:]:
            again = new_append(topic_id, producer, sequence, [b"again"] * messages)
            assert run(self.appender, self.cursor, [again]) == [[first_offset, True, None]]
            assert again.offsets == offsets
        for (_, _, sequence, messages, _), _, _ in sent[:-REMEMBERED_BATCHES]:
            again = new_append(topic_id, producer, sequence, [b"again"] * messages)
            assert isinstance(run(self.appender, self.cursor, [again])[0][2], SequenceError)
        _, _, expected, _, _ = self.next_batch(topic_id, producer, 1, "plain")
        [(_, _, error)] = run(
            self.appender, self.cursor, [new_append(topic_id, producer, expected + 1, [b"gap"])]
        )
        assert isinstance(error, SequenceError)
        assert error.data == {"expected": expected}
        saved = self.cursor.connection.total_changes - before
        assert saved <= len(self.acknowledged), "only rows of producers, which were pushed out"
        self.cursor.execute("COMMIT")


TestPublishing = Publishing.TestCase


texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
cells = st.tuples(
    texts, texts, st.one_of(st.none(), st.binary(max_size=5), st.binary(min_size=1100, max_size=1100))
)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    some = draw(st.lists(cells, min_size=1, max_size=3))
    count = draw(st.one_of(st.integers(1, 5), st.integers(1, 600)))
    keys, headers, payloads = (
        list(column) for column in zip(*(some[n % len(some)] for n in range(count)), strict=True)
    )
    return new_append(
        1,
        draw(st.sampled_from([0, 7, 2**63 - 1])),
        0,
        payloads,
        keys=keys if draw(st.booleans()) else None,
        headers=headers if draw(st.booleans()) else None,
    )


def marked_rows(cursor: sqlite3.Cursor) -> Iterator[tuple[str, list[Any]]]:
    """Each mark with the rows from it to the next."""
    rows = cursor.execute(
        "SELECT offset, published_at, key, headers, payload, batch FROM messages ORDER BY offset"
    )
    found: list[tuple[str, list[Any]]] = []
    for *row, mark in rows:
        if mark is not None:
            found.append((mark, []))
        found[-1][1].append(row)
    yield from found


@given(st.lists(st.lists(appends(), min_size=1, max_size=5), min_size=1, max_size=3))
def test_each_batch_has_a_mark_with_its_length_checksum_and_sender(groups: list[list[Append]]) -> None:
    cursor = connect().cursor()
    appender = Appender()
    sequences: dict[int, int] = {}
    expected = []
    for group in groups:
        for append in group:
            append.sequence = sequences.get(append.producer, 0) if append.producer else 0
            sequences[append.producer] = append.sequence + len(append.payloads)
            expected.append((len(append.payloads), append.producer, append.sequence))
        cursor.execute("BEGIN")
        assert all(error is None for *_, error in run(appender, cursor, group))
        cursor.execute("COMMIT")
    found = [
        (decode_mark(text), batch_of([tuple(row) for row in rows])) for text, rows in marked_rows(cursor)
    ]
    assert [(mark.messages, mark.producer, mark.sequence) for mark, _ in found] == expected
    for mark, batch in found:
        assert mark.messages == len(batch.payloads)
        assert mark.checksum == batch_checksum(batch.published_us, batch.keys, batch.headers, batch.payloads)
    cursor.connection.close()


def test_messages_left_out_and_messages_held_are_told_of_by_the_row_of_their_producer_alone() -> None:
    cursor = connect().cursor()
    appender = Appender()
    cursor.execute("BEGIN")
    ids = {"dedupe_us": HOUR_US}
    run(appender, cursor, [new_append(1, 7, 0, [b"a", b"b"], message_ids=["a", "b"], **ids)])
    run(appender, cursor, [new_append(1, 7, 2, [b"c", b"b", b"d"], message_ids=["c", "b", "d"], **ids)])
    run(appender, cursor, [new_append(1, 7, 5, [b"a", b"b"], message_ids=["a", "b"], **ids)])
    run(appender, cursor, [new_append(1, 7, 7, [b"later"], due_us=1)])
    cursor.execute("COMMIT")
    marks = [
        (m.messages, m.producer, m.sequence) for m in (decode_mark(text) for text, _ in marked_rows(cursor))
    ]
    assert marks == [(2, 7, 0), (2, 0, 0)]
    assert cursor.execute("SELECT next_sequence FROM producers").fetchall() == [(8,)]
    cursor.connection.close()


def test_compaction_after_a_snapshot_leaves_what_is_known_of_producers() -> None:
    cursor = connect().cursor()
    appender = Appender()
    cursor.execute("BEGIN")
    for sequence in range(5):
        run(appender, cursor, [new_append(1, 7, sequence, [b"x"], keys=["k"])])
    appender.producers.save(cursor)
    compaction.compact(cursor, 1, end=5)
    cursor.execute("COMMIT")
    assert cursor.execute("SELECT offset FROM messages").fetchall() == [(4,)]
    again = [new_append(1, 7, sequence, [b"x"], keys=["k"]) for sequence in range(5)]
    assert [first for first, _, _ in run(Appender(), cursor, again)] == [0, 1, 2, 3, 4]
    cursor.connection.close()
