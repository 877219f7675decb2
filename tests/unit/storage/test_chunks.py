"""Chunks of a log: what is packed by SQLite is what its rows say, and what cannot be packed is read all the same."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Connection

from pubsub.protocol.messages import Batch
from pubsub.storage import chunks
from pubsub.storage.chunks import read_chunk, read_packed
from pubsub.storage.copying import plan_copies, without_torn
from pubsub.storage.marks import Marks
from tests.unit.storage.tables import ID, NOW_US, Row, insert, opened

ALL = (0, 2**62, 2**31, 2**31)
"""Start, stop, messages, bytes."""


@pytest.fixture
def file() -> Iterator[Connection]:
    with opened() as connection:
        yield connection


def plain(count: int, **cells: Any) -> list[Row]:
    """Messages of 100 B in batches of 10."""
    return [
        (
            n,
            NOW_US + n // 10,
            cells.get("key"),
            cells.get("headers"),
            cells.get("payload", b"%d" % n * 20),
            f"[10,{n},1,{n}]" if n % 10 == 0 else None,
        )
        for n in range(count)
    ]


def of_rows(rows: list[Row]) -> tuple[Batch, Marks]:
    offsets, times, keys, headers, payloads, marks = map(list, zip(*rows, strict=True))
    batch = Batch(
        offsets[0],
        None if offsets == list(range(offsets[0], offsets[0] + len(rows))) else offsets,
        times[0] if times[0] == times[-1] else times,
        keys if any(key is not None for key in keys) else None,
        headers if any(each is not None for each in headers) else None,
        payloads,
    )
    return batch, [(position, mark) for position, mark in enumerate(marks) if mark is not None]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)  # no lone surrogates: they are no UTF-8
cells = st.one_of(st.none(), texts, texts.map(lambda text: text * 90))
payloads = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.binary(max_size=3).map(lambda some: some * 90),
    st.just(b"x" * 70_000),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    """A log: batches with marks or without, some with keys and headers, with holes or without."""
    rows: list[Row] = []
    offset, time_us = draw(st.integers(0, 2**40)), NOW_US
    keys, headers, sizes = (draw(st.lists(some, min_size=1, max_size=3)) for some in (cells, cells, payloads))
    keyed, headed, holed = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    for number in range(draw(st.integers(0, 12))):
        time_us += draw(st.sampled_from([0, 1, 10**6]))
        count = draw(st.sampled_from([1, 2, 30]))
        for n in range(count):
            mark = f"[{count},{number},0,0]" if n == 0 and draw(st.booleans()) else None
            key = keys[n % len(keys)] if keyed else None
            header = headers[n % len(headers)] if headed else None
            rows.append((offset, time_us, key, header, sizes[n % len(sizes)], mark))
            offset += 1 if not holed else draw(st.sampled_from([1, 1, 1, 3]))
    return rows


@given(logs(), st.data())
def test_a_chunk_is_what_its_rows_say_and_keeps_to_its_bounds(rows: list[Row], data: st.DataObject) -> None:
    first, last = (rows[0][0], rows[-1][0]) if rows else (0, 0)
    start, stop = data.draw(st.integers(first, last + 1)), data.draw(st.integers(first, last + 2))
    limit = data.draw(st.one_of(st.integers(1, 400), st.just(10_000)))
    max_bytes = data.draw(st.one_of(st.integers(1, 40_000), st.just(2**20)))
    with opened() as file:
        insert(file, rows)
        found = read_chunk(file, ID, start, stop, limit, max_bytes)
    there = [row for row in rows if start <= row[0] < stop]
    if found is None:
        assert not there
        return
    count = len(found[0].payloads)
    assert 1 <= count <= limit
    assert found == of_rows(there[:count])
    size = sum(len(row[4] or b"") + len(row[3] or "") + len(row[2] or "") for row in there[:count])
    assert count == 1 or size <= max_bytes


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"key": "k"},
        {"headers": '{"a":"ä"}'},
        {"key": "é" * 100, "headers": "{}", "payload": b"\0\xff" * 150},
        {"payload": b""},
        {"payload": None},
        {"payload": b"x" * 10_000},
    ],
)
def test_what_is_usual_is_packed(file: Connection, cells: dict[str, Any]) -> None:
    rows = plain(500, **cells)
    insert(file, rows)
    found = read_packed(file, ID, 3, 2**62, 300, 2**30)
    assert found == of_rows(rows[3:303])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DELETE FROM messages WHERE offset = 20", "a hole"),
        ("UPDATE messages SET payload = zeroblob(500) WHERE offset = 20", "much larger than most"),
        ("UPDATE messages SET key = 'k' WHERE offset = 20", "has a key, which the first has not"),
        ("UPDATE messages SET headers = '{}' WHERE offset = 20", "has headers"),
        ("UPDATE messages SET batch = NULL WHERE offset = 20", "nothing says where its time begins"),
        ("UPDATE messages SET batch = '[\"' WHERE offset = 20", "a damaged mark"),
        ("UPDATE messages SET payload = 'ä' WHERE offset = 20", "text for bytes"),
    ],
)
def test_what_is_not_is_read_row_by_row(file: Connection, change: str, why: str) -> None:
    insert(file, plain(50))
    file.exec_driver_sql(f"{change} AND topic_id = {ID}")
    query = "SELECT offset, published_at, key, headers, payload, batch FROM messages WHERE topic_id = ?"
    rows: list[Row] = [tuple(row) for row in file.exec_driver_sql(query, (ID,))]  # type: ignore[misc]
    assert read_packed(file, ID, *ALL) is None, why
    assert read_chunk(file, ID, *ALL) == of_rows(rows)


@pytest.mark.parametrize(
    "behind",
    [
        "UPDATE messages SET published_at = published_at + (1 << 61) WHERE offset >= 20",
        "UPDATE messages SET published_at = 1 WHERE offset = 20",
        "UPDATE messages SET batch = '[\\u0041' WHERE offset = 20",
    ],
)
def test_what_should_not_be_there_does_no_harm(file: Connection, behind: str) -> None:
    insert(file, plain(4000))
    file.exec_driver_sql(behind)
    query = "SELECT offset, published_at, key, headers, payload, batch FROM messages WHERE topic_id = ?"
    rows: list[Row] = [tuple(row) for row in file.exec_driver_sql(query, (ID,))]  # type: ignore[misc]
    assert read_chunk(file, ID, *ALL) == of_rows(rows)


def test_a_topic_of_very_unequal_messages_is_read_in_small_ranges(file: Connection) -> None:
    """To see where a range ends SQLite reads the whole of each row in it."""
    insert(
        file, [(n, NOW_US, None, None, b"x" * (60_000 if n % 100 == 99 else 1), None) for n in range(4000)]
    )
    statements: list[str] = []
    file.connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]
    found = read_chunk(file, ID, 0, 2**62, 4000, 2**20)
    assert found is not None
    assert len(found[0].payloads) == 1799
    (packing,) = [statement for statement in statements if "group_concat" in statement]
    assert "offset < 1747" in packing  # 1 MiB of messages of 600 B, which they have in the mean


def test_what_retention_takes_between_the_two_looks_is_not_missed(
    file: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(
        file,
        [
            (0, NOW_US, None, None, b"x", "[1,1,0,0]"),
            *((n, NOW_US, None, None, b"y" * 900, None) for n in range(1, 50)),
        ],
    )
    packed = chunks._packed

    def after_retention(keyed: bool, headed: bool) -> str:
        file.exec_driver_sql("DELETE FROM messages WHERE offset = 0")
        file.exec_driver_sql("UPDATE messages SET payload = zeroblob(60000)")
        return packed(keyed, headed)

    monkeypatch.setattr(chunks, "_packed", after_retention)
    found = read_chunk(file, ID, 0, 2**62, 100, 2**20)
    assert found is not None
    assert found[0].first_offset == 1


def test_what_a_follower_is_sent_ends_where_a_batch_ends() -> None:
    batch, marks = of_rows(plain(47))
    whole, its_marks = without_torn(batch, marks)
    assert (len(whole.payloads), len(its_marks)) == (40, 4)
    assert without_torn(whole, its_marks) == (whole, its_marks)
    alone, its_mark = of_rows(plain(7))
    assert without_torn(alone, its_mark) == (alone, its_mark)
    later, no_mark = of_rows(plain(7)[1:])
    assert without_torn(later, no_mark) == (later, [])


@given(logs())
def test_a_copy_stores_a_chunk_as_it_was_read(rows: list[Row]) -> None:
    if not rows:
        return
    batch, marks = of_rows(rows)
    with opened() as file:
        for statement, values in plan_copies(ID, batch, marks):
            file.exec_driver_sql(statement, values)
        query = "SELECT offset, published_at, key, headers, payload, batch FROM messages ORDER BY offset"
        assert [tuple(row) for row in file.exec_driver_sql(query)] == rows


def test_times_that_fall_are_stored_as_they_came(file: Connection) -> None:
    batch, marks = of_rows(plain(2000))
    times = [5] * 1000 + [9] + [5] * 999
    for statement, values in plan_copies(ID, replace(batch, published_us=times), marks):
        file.exec_driver_sql(statement, values)
    found = file.exec_driver_sql("SELECT published_at FROM messages ORDER BY offset")
    assert [row[0] for row in found] == times
