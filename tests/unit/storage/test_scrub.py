"""A scrub says of packed chunks what it says of rows; and what is usual is read in packed chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from pubsub.storage import scrub as scrubbing
from pubsub.storage.digests import Range
from pubsub.storage.marks import encode_mark
from pubsub.storage.scrub import Scrubbed, scrub
from tests.unit.storage.tables import ID, NOW_US, Row, insert, opened

DAMAGE = (
    "",
    "UPDATE messages SET payload = zeroblob(length(payload))",
    "UPDATE messages SET payload = CAST(payload AS TEXT)",
    "UPDATE messages SET published_at = published_at + 1",
    "UPDATE messages SET key = 'other'",
    "UPDATE messages SET batch = NULL",
    "UPDATE messages SET batch = '[1,'",
    "UPDATE messages SET batch = '[1,2,3,4]'",
    "DELETE FROM messages",
)


def log_of(counts: list[int], keyed: bool = False, size: int = 90, marked: bool = True) -> list[Row]:
    """Batches of so many messages."""
    rows: list[Row] = []
    for number, count in enumerate(counts):
        offset, time_us = len(rows), NOW_US + 1000 * number
        keys: list[str | None] = [f"key {n}" if keyed else None for n in range(count)]
        payloads: list[bytes | None] = [b"%06d" % (offset + n) + b"x" * size for n in range(count)]
        mark = encode_mark(time_us, keys, None, payloads, 1, offset) if marked else None
        rows += [(offset + n, time_us, keys[n], None, payloads[n], None if n else mark) for n in range(count)]
    return rows


def scan(
    look: Callable[..., Scrubbed], file: Connection, start: int, stop: int, step: int, max_bytes: int
) -> tuple[list[Range], int | None, str, int]:
    """The whole from `start` on, chunk by chunk up to its first damage; also how much was read."""
    ranges: list[Range] = []
    begun, size_bytes = None, 0
    while start < stop:
        found = look(file, ID, start, stop, step, max_bytes, begun)
        assert found.stop > start
        size_bytes += found.size_bytes
        ranges += found.ranges
        if found.damaged_at is not None:
            return ranges, found.damaged_at, found.why, 0
        start, begun = found.stop, None
        if start % step and start < stop:
            begun = ranges.pop()
    return ranges, None, "", size_bytes


@given(
    counts=st.lists(st.sampled_from([1, 3, 40, 200]), min_size=1, max_size=12),
    keyed=st.booleans(),
    marked=st.booleans(),
    step=st.sampled_from([1, 50, 1000]),
    max_bytes=st.sampled_from([1, 5000, 12_000, 2**20]),
    damage=st.sampled_from(DAMAGE),
    data=st.data(),
)
def test_a_scrub_says_what_the_rows_say(
    counts: list[int],
    keyed: bool,
    marked: bool,
    step: int,
    max_bytes: int,
    damage: str,
    data: st.DataObject,
) -> None:
    rows = log_of(counts, keyed, marked=marked)
    at = data.draw(st.integers(0, len(rows) - 1))
    start, stop = data.draw(st.sampled_from([0, counts[0]])), data.draw(st.integers(1, len(rows)))
    with opened() as file:
        insert(file, rows)
        if damage:
            file.exec_driver_sql(f"{damage} WHERE topic_id = {ID} AND offset = {at}")
        bounds = (file, start, stop, step, max_bytes)
        found, rows_say = scan(scrub, *bounds), scan(scrubbing._scrub_rows, *bounds)
    if marked:
        assert found == rows_say
    else:  # damage is then where the chunk begins, and packed ones are shorter
        assert found[2:] == rows_say[2:]
        assert found == rows_say or damage


@pytest.mark.parametrize("log", [{}, {"keyed": True}, {"size": 2000}])
def test_what_is_usual_is_packed(log: dict[str, Any]) -> None:
    with opened() as file:
        insert(file, log_of([100] * 6, **log))
        found = scrubbing._scrub_packed(file, ID, 0, 600, 250, 2**20, None)
    assert found is not None
    assert (found.damaged_at, found.stop) == (None, 500 if "size" in log else 600)
    assert [r.messages for r in found.ranges] == [250, 250, 100][: 2 if "size" in log else 3]
