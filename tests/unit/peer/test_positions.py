"""Where a read ends: what of a batch lies before an offset and a time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pubsub.peer.positions import Until
from pubsub.protocol.batch import slice_batch
from pubsub.protocol.messages import Batch


def offsets_of(batch: Batch) -> list[int]:
    count = len(batch.payloads)
    return batch.offsets or list(range(batch.first_offset, batch.first_offset + count))


@st.composite
def logs(draw: Any) -> Batch:
    """A log with holes and rising times, as one batch."""
    steps = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=12))
    offset, time = draw(st.integers(0, 3)), draw(st.integers(10, 12))
    offsets, times = [], []
    for step, later in steps:
        offsets.append(offset)
        times.append(time)
        offset, time = offset + step, time + later
    dense = offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    same = times[0] == times[-1] and draw(st.booleans())
    return Batch(
        offsets[0],
        None if dense else offsets,
        times[0] if same else times,
        None,
        None,
        [b"x"] * len(offsets),
    )


@given(logs(), st.none() | st.integers(0, 40), st.integers(0, 20), st.integers(1, 12))
def test_cut_into_any_batches_what_lies_before_the_end_is_kept_and_nothing_else(
    log: Batch, stop: int | None, at_us: int, size: int
) -> None:
    count = len(log.payloads)
    times = log.published_us if isinstance(log.published_us, list) else [log.published_us] * count
    expected = [
        offset
        for offset, time in zip(offsets_of(log), times, strict=True)
        if (stop is None or offset < stop) and (not at_us or time < at_us)
    ]
    until = Until(stop, at_us)
    kept: list[int] = []
    for start in range(0, count, size):
        part = until.before(slice_batch(log, start, start + size))
        if part.payloads:
            kept += offsets_of(part)
    assert kept == expected
    assert not any(until.reached(offset) for offset in expected)
    if len(expected) < count:
        assert until.reached(offsets_of(log)[len(expected)])


def test_an_end_only_comes_nearer() -> None:
    until = Until(None, 0)
    assert not until.reached(10**18)
    until.end_at(7)
    until.end_at(9)
    assert until.stop == 7
    until.end_at(3)
    assert (until.reached(2), until.reached(3)) == (False, True)
