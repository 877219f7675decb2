"""Arithmetic on batches: sizes, slices, positions, headers."""

from __future__ import annotations

import itertools
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.errors import InvalidRequestError
from pubsub.model import NO_HEADERS
from pubsub.protocol.batch import (
    batch_bytes,
    batch_checksum,
    column_bytes,
    decode_headers,
    encode_headers,
    message_sizes,
    next_position,
    slice_batch,
)
from pubsub.protocol.messages import Batch
from tests.unit.protocol.frames import batches


def rows(batch: Batch) -> list[tuple[object, ...]]:
    """A batch message by message, the plainest way."""
    count = len(batch.payloads)
    return [
        (
            batch.offsets[i] if batch.offsets else batch.first_offset + i,
            batch.published_us if isinstance(batch.published_us, int) else batch.published_us[i],
            batch.keys[i] if batch.keys else None,
            batch.headers[i] if batch.headers else None,
            batch.payloads[i],
        )
        for i in range(count)
    ]


@given(batches())
def test_the_size_of_a_batch_is_the_sum_of_its_messages(batch: Batch):
    assert batch_bytes(batch) == sum(message_sizes(batch))
    assert message_sizes(batch) == [
        len(p or b"") + len(k or "") + len(h or "") for _, _, k, h, p in rows(batch)
    ]


def test_keys_and_headers_count_in_characters_and_payloads_in_bytes():
    assert column_bytes(["é🙂", None, "a"]) == 3
    assert column_bytes(["é🙂".encode(), None]) == 6
    assert column_bytes(None) == 0


@given(batches(), st.data())
def test_a_slice_holds_the_messages_of_its_positions(batch: Batch, data: st.DataObject):
    count = len(batch.payloads)
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count + 2))
    part = slice_batch(batch, start, stop)
    assert rows(part) == rows(batch)[start:stop]
    assert part.first_offset == rows(batch)[start][0]


@given(batches(), st.data())
def test_slices_laid_end_to_end_are_the_batch(batch: Batch, data: st.DataObject):
    cut = data.draw(st.integers(0, len(batch.payloads)))
    parts = [slice_batch(batch, start, stop) for start, stop in ((0, cut), (cut, 99)) if start < stop]
    parts = [part for part in parts if part.payloads]
    assert [row for part in parts for row in rows(part)] == rows(batch)
    assert sum(map(batch_bytes, parts)) == batch_bytes(batch)
    for before, after in itertools.pairwise(parts):
        assert next_position(before) <= after.first_offset
        assert batch.offsets or next_position(before) == after.first_offset


def test_a_slice_of_everything_is_the_batch_itself():
    batch = Batch(5, None, 1, None, None, [b"a", b"b"])
    assert slice_batch(batch, 0, 2) is batch


@given(batches())
def test_the_next_position_follows_the_last_message(batch: Batch):
    assert next_position(batch) == rows(batch)[-1][0] + 1  # type: ignore[operator]


@given(st.dictionaries(st.text(), st.text(), min_size=1))
def test_headers_come_back_as_they_were_written(headers: dict[str, str]):
    text = encode_headers(headers)
    assert text is not None
    assert decode_headers(text) == headers


def test_no_headers_are_written_as_nothing():
    assert encode_headers(None) is None
    assert encode_headers({}) is None
    assert decode_headers(None) is NO_HEADERS


@pytest.mark.parametrize(
    "headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"x"}, {"\ud800": "a"}, {"a": "\ud800"}, [("a", "b")]]
)
def test_headers_that_are_not_text_are_refused(headers: dict[str, str]):
    with pytest.raises(InvalidRequestError, match="header"):
        encode_headers(headers)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"a":1}', '{"a":', '{"a":null}', "7", '{"a":"b"}x', "\ud800"]
)
def test_text_that_is_no_object_of_texts_is_refused(text: str):
    with pytest.raises(InvalidRequestError, match="maps text to text"):
        decode_headers(text)


def test_the_checksum_of_a_batch_is_what_the_documentation_says_byte_by_byte() -> None:
    encoded = (
        b"\x94" + b"\x07" + b"\x92\xa1k\xc0" + b"\xc0" + b"\x92\xc4\x02hi\xc0"
    )  # [7, ["k", nil], nil, [bin "hi", nil]]
    assert batch_checksum(7, ["k", None], None, [b"hi", None]) == crc32(encoded)


def test_a_column_of_nothing_counts_as_no_column() -> None:
    assert batch_checksum(7, [None, None], [None, None], [b"a", b""]) == batch_checksum(
        7, None, None, [b"a", b""]
    )
    assert batch_checksum(7, ["", None], None, [b"a", b""]) != batch_checksum(7, None, None, [b"a", b""])
