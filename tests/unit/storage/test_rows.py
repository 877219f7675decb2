"""Columns to rows and back: what is inserted is what is read."""

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.protocol.messages import Batch
from pubsub.storage.rows import BLOCK_ROWS, batch_of, blocks, plan_inserts
from tests.unit.storage.tables import MESSAGES

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # no lone surrogates: they are no UTF-8
counts = st.one_of(st.integers(1, 20), st.integers(BLOCK_ROWS - 2, 2 * BLOCK_ROWS + 3))


@st.composite
def columns(draw: st.DrawFn, count: int) -> tuple[Any, Any, Any]:
    """Keys, headers and payloads of so many messages; few different ones, so that many messages stay cheap."""
    some = st.lists(st.one_of(st.none(), texts), min_size=1, max_size=4)
    blobs = st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=1, max_size=4)

    def fill(choices: list[Any]) -> list[Any]:
        return [choices[i % len(choices)] for i in range(count)]

    keys = fill(draw(some)) if draw(st.booleans()) else None
    headers = fill(draw(some)) if draw(st.booleans()) else None
    return keys, headers, fill(draw(blobs))


def written_and_read(
    topic_id: int, first_offset: int, published_us: int, cells: tuple[Any, Any, Any]
) -> Batch:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(MESSAGES)
        for statement, values in plan_inserts(topic_id, first_offset, published_us, *cells, [None]):
            connection.execute(statement, values)
        query = "SELECT offset, published_at, key, headers, payload FROM messages WHERE topic_id = ?"
        return batch_of(connection.execute(query, (topic_id,)).fetchall())
    finally:
        connection.close()


@given(st.integers(0, 5 * BLOCK_ROWS))
def test_blocks_cover_every_row_once_in_order(rows: int) -> None:
    cut = list(blocks(rows))
    assert [row for start, length in cut for row in range(start, start + length)] == list(range(rows))


@given(st.integers(0, 5 * BLOCK_ROWS))
def test_only_few_lengths_of_blocks_occur_so_that_statements_stay_prepared(rows: int) -> None:
    lengths = [length for _, length in blocks(rows)]
    assert all(length <= BLOCK_ROWS and length & (length - 1) == 0 for length in lengths)
    assert lengths == sorted(lengths, reverse=True)
    assert len([length for length in lengths if length < BLOCK_ROWS]) <= BLOCK_ROWS.bit_length() - 1


@given(counts.flatmap(lambda count: columns(count)), st.integers(0, 2**40), st.integers(0, 2**53))
def test_what_is_inserted_is_what_is_read(
    cells: tuple[Any, Any, Any], first_offset: int, published_us: int
) -> None:
    batch = written_and_read(7, first_offset, published_us, cells)
    keys, headers, payloads = cells
    count = len(payloads)
    assert batch.payloads == payloads
    assert (batch.keys or [None] * count) == (keys or [None] * count)
    assert (batch.headers or [None] * count) == (headers or [None] * count)
    assert (batch.first_offset, batch.offsets, batch.published_us) == (first_offset, None, published_us)


@given(counts.flatmap(lambda count: columns(count)))
def test_a_column_without_any_value_is_read_as_none(cells: tuple[Any, Any, Any]) -> None:
    batch = written_and_read(1, 0, 0, cells)
    for column in (batch.keys, batch.headers):
        assert column is None or any(cell is not None for cell in column)


@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.integers(0, 3)), min_size=1, max_size=50, unique_by=lambda x: x[0]
    )
)
def test_offsets_and_times_are_written_once_only_where_that_says_it_all(pairs: list[tuple[int, int]]) -> None:
    offsets = sorted(offset for offset, _ in pairs)
    times = sorted(time for _, time in pairs)  # times never fall within a topic
    batch = batch_of([(offset, time, None, None, b"") for offset, time in zip(offsets, times, strict=True)])
    read = batch.offsets or list(range(batch.first_offset, batch.first_offset + len(batch.payloads)))
    assert read == offsets
    assert batch.first_offset == offsets[0]
    assert (batch.offsets is None) == (offsets[-1] - offsets[0] + 1 == len(offsets))
    spread = batch.published_us
    assert ([spread] * len(times) if isinstance(spread, int) else spread) == times


@pytest.mark.parametrize("text", ["", "nul \x00 in it", "grün", "🜂", "'; DROP TABLE messages; --"])
def test_keys_of_any_text_come_back_as_they_were(text: str) -> None:
    assert written_and_read(1, 0, 0, ([text], None, [b"x"])).keys == [text]
