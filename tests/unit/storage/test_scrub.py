"""A scrub says of packed chunks what it says of rows; and what is usual is read in packed chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from pubsub.storage import scrub as scrubbing
from pubsub.storage.digests import Digests, Range
from pubsub.storage.marks import encode_mark
from pubsub.storage.scrub import Scrubbed, scrub
from tests.unit.storage.tables import ID, NOW_US, Row, insert, opened

DAMAGE = (
    "",
    "UPDATE messages SET payload = zeroblob(length(payload))",
    "UPDATE messages SET payload = CAST(payload AS TEXT)",
    "UPDATE messages SET published_at = published_at + 1",
    "UPDATE messages SET published_at = published_at + (1 << 60)",
    "UPDATE messages SET published_at = 'now'",
    "UPDATE messages SET key = 'other'",
    "UPDATE messages SET batch = NULL",
    "UPDATE messages SET batch = '[1,'",
    "DELETE FROM messages",
)


@pytest.fixture
def file() -> Iterator[Connection]:
    with opened() as connection:
        yield connection


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


def by_rows(
    file: Connection, topic_id: int, start: int, stop: int, step: int, max_bytes: int, begun: Range | None
) -> Scrubbed:
    """A scrub that packs nothing."""
    digests = Digests(start, stop, step, begun)
    return scrubbing._scrub_rows(file, topic_id, start, stop, max_bytes, digests)


def scan(
    look: Callable[..., Scrubbed], file: Connection, start: int, stop: int, step: int, max_bytes: int
) -> Scrubbed:
    """The whole from `start` on, chunk by chunk up to its first damage."""
    ranges: list[Range] = []
    begun, size_bytes = None, 0
    while start < stop:
        found = look(file, ID, start, stop, step, max_bytes, begun)
        assert found.stop > start
        size_bytes += found.size_bytes
        ranges += found.ranges
        if found.damaged_at is not None:
            return Scrubbed(found.stop, size_bytes, ranges, found.damaged_at, found.why)
        start, begun = found.stop, None
        if start % step and start < stop:
            begun = ranges.pop()
    return Scrubbed(start, size_bytes, ranges)


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
    start, stop = data.draw(st.sampled_from([0, counts[0], 45])), data.draw(st.integers(1, len(rows)))
    with opened() as file:
        insert(file, rows)
        if damage:
            file.exec_driver_sql(f"{damage} WHERE topic_id = {ID} AND offset = {at}")
        bounds = (file, start, stop, step, max_bytes)
        found, rows_say = scan(scrub, *bounds), scan(by_rows, *bounds)
    assert (found.damaged_at is None) == (rows_say.damaged_at is None)
    if found.damaged_at is None:
        assert found == rows_say
    else:  # from where on depends on how the log was cut into chunks
        ours, theirs = (
            {(r.start, r.stop): r for r in some.ranges if r.digest >= 0} for some in (found, rows_say)
        )
        assert all(ours[bounds] == theirs[bounds] for bounds in ours.keys() & theirs.keys())
        if "does not fit" in found.why:
            assert (found.damaged_at, found.why) == (rows_say.damaged_at, rows_say.why)


def test_a_batch_at_the_end_of_a_chunk_is_looked_at(file: Connection) -> None:
    insert(file, log_of([12] * 3, size=1000))
    file.exec_driver_sql(f"UPDATE messages SET payload = x'00' WHERE topic_id = {ID} AND offset = 5")
    assert scrub(file, ID, 0, 36, 1000, 10_000).damaged_at == 0


@pytest.mark.parametrize("bit", [1, 50, 62])
def test_a_flipped_bit_of_a_time_is_damage(tmp_path: Path, bit: int) -> None:
    rows = log_of([40] * 12)
    time_us = rows[300][1]
    found = on_disk(tmp_path / "log.db", rows, cells(300, time_us), cells(300, time_us ^ (1 << bit)))
    assert found.damaged_at == 280


def test_an_offset_that_is_there_twice_is_damage(tmp_path: Path) -> None:
    rows = log_of([40] * 12)
    time_us = rows[300][1]
    found = on_disk(tmp_path / "log.db", rows, cells(300, time_us), cells(301, time_us))
    assert found.damaged_at == 280
    assert "offset 301 comes after offset 301" in found.why


def cells(offset: int, time_us: int) -> bytes:
    """The topic's id, an offset and a time, as a row of the file has them."""
    return bytes([ID]) + offset.to_bytes(2, "big") + time_us.to_bytes(8, "big")


def on_disk(path: Path, rows: list[Row], before: bytes, after: bytes) -> Scrubbed:
    """What a scrub says of a file in which some bytes have become others."""
    with opened(f"sqlite:///{path}") as file:
        insert(file, rows)
        file.commit()
    data = path.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
    with create_engine(f"sqlite:///{path}").connect() as file:
        return scrub(file, ID, 0, len(rows), 1000, 2**20)


@pytest.mark.parametrize("log", [{}, {"keyed": True}, {"size": 2000}])
def test_what_is_usual_is_packed(file: Connection, log: dict[str, Any]) -> None:
    insert(file, log_of([100] * 6, **log))
    found = scrubbing._scrub_packed(file, ID, 0, 600, 2**20, Digests(0, 600, 250, None))
    assert found is not None
    assert (found.damaged_at, found.stop) == (None, 500 if "size" in log else 600)
    assert [r.messages for r in found.ranges] == [250, 250, 100][: 2 if "size" in log else 3]
