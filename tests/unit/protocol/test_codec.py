"""Bytes to frames and back: any cut of the stream, and everything that is not a frame."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubsub.errors import LocalProtocolError, RemoteProtocolError
from pubsub.protocol import messages as m
from pubsub.protocol.codec import FrameReader, decode_frame, delivery_head, encode_batch, encode_frame
from tests.unit.protocol.frames import FRAME_TYPES, any_frame, batches, structs_of

FRAME_BYTES = 1000


def whole(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


# The reader


def test_frames_fed_one_byte_at_a_time_come_out_whole():
    reader = FrameReader(FRAME_BYTES)
    sent = [b"a", b"bc", b"d" * FRAME_BYTES, b"e"]
    received = []
    for byte in b"".join(map(whole, sent)):
        received += [bytes(frame) for frame in reader.feed(bytes([byte]))]
    assert received == sent
    assert not reader.incomplete


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(sent: list[bytes], data: st.DataObject):
    stream = b"".join(map(whole, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader(FRAME_BYTES)
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += [bytes(frame) for frame in reader.feed(stream[start:stop])]
    assert received == sent
    assert not reader.incomplete


def test_frames_given_out_stay_as_they_are_when_more_is_fed():
    reader = FrameReader(FRAME_BYTES)
    stream = whole(b"first") + whole(b"second")
    assert list(reader.feed(stream[:7])) == []
    (first,) = reader.feed(stream[7:12])
    (second,) = reader.feed(stream[12:])
    assert bytes(first) == b"first"
    assert bytes(second) == b"second"


@pytest.mark.parametrize("length", [0, FRAME_BYTES + 1, 2**32 - 1])
def test_an_illegal_length_is_refused_when_its_four_bytes_are_there(length: int):
    reader = FrameReader(FRAME_BYTES)
    head = struct.pack(">I", length)
    assert list(reader.feed(head[:3])) == []
    with pytest.raises(RemoteProtocolError, match=rf"{length} bytes .* 1 to {FRAME_BYTES} are allowed"):
        list(reader.feed(head[3:]))


def test_the_frames_before_an_illegal_length_are_given_out_first():
    frames = FrameReader(FRAME_BYTES).feed(whole(b"good") + struct.pack(">I", 0))
    assert bytes(next(frames)) == b"good"
    with pytest.raises(RemoteProtocolError, match="0 bytes"):
        next(frames)


def test_the_longest_frame_is_taken():
    (frame,) = FrameReader(FRAME_BYTES).feed(whole(b"x" * FRAME_BYTES))
    assert len(frame) == FRAME_BYTES


def test_a_frame_in_tiny_pieces_costs_no_multiple_of_its_size():
    reader = FrameReader(2**17)
    stream = whole(b"x" * 2**17)
    tracemalloc.start()
    try:
        for start in range(0, len(stream) - 2, 2):
            list(reader.feed(stream[start : start + 2]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.incomplete
    assert held < 1.5 * 2**17


# Frames


@given(any_frame)
def test_every_frame_comes_back_as_it_was_sent(frame: Any):
    encoded = encode_frame(frame)
    assert struct.unpack(">I", encoded[:4]) == (len(encoded) - 4,)
    assert decode_frame(encoded[4:]) == frame
    assert decode_frame(memoryview(bytearray(encoded))[4:]) == frame


@pytest.mark.parametrize("kind", FRAME_TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_frame_is_an_array_of_its_type_and_its_fields_and_may_be_longer(kind: Any, data: st.DataObject):
    frame = data.draw(structs_of(kind))
    plain = msgspec.msgpack.decode(encode_frame(frame)[4:])
    assert plain[0] == kind.__struct_config__.tag
    assert len(plain) == 1 + len(kind.__struct_fields__)
    assert decode_frame(msgspec.msgpack.encode([*plain, {"a later": "version"}, 7])) == frame


@pytest.mark.parametrize("kind", FRAME_TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_frame_that_lacks_a_required_field_is_refused(kind: Any, data: st.DataObject):
    required = len(kind.__struct_fields__) - _optional_at_the_end(kind)
    plain = msgspec.msgpack.decode(encode_frame(data.draw(structs_of(kind)))[4:])
    with pytest.raises(RemoteProtocolError, match="malformed"):
        decode_frame(msgspec.msgpack.encode(plain[:required]))
    assert isinstance(decode_frame(msgspec.msgpack.encode(plain[: required + 1])), kind)


def _optional_at_the_end(kind: Any) -> int:
    count = 0
    for field in reversed(msgspec.structs.fields(kind)):
        if field.required:
            break
        count += 1
    return count


@pytest.mark.parametrize(
    ("what", "frame"),
    [
        ("nothing", b""),
        ("not msgpack", b"\xc1"),
        ("text of another protocol", b"GET / HTTP/1.1\r\n\r\n"),
        ("cut off", b"\x93\x1e\x01"),
        ("something behind", msgspec.msgpack.encode([30, 1, "a"]) + b"\x00"),
        ("no array", msgspec.msgpack.encode({"type": 30})),
        ("an empty array", b"\x90"),
        ("an unknown type", msgspec.msgpack.encode([99, 1])),
        ("a type that is text", msgspec.msgpack.encode(["30", 1, "a"])),
        ("a float for the id", msgspec.msgpack.encode([30, 1.0, "a"])),
        ("a boolean for the id", msgspec.msgpack.encode([30, True, "a"])),
        ("bytes for text", msgspec.msgpack.encode([30, 1, b"a"])),
        ("text for bytes", msgspec.msgpack.encode([10, 1, "a", 0, 1, 0, None, None, ["text"]])),
        ("nil for a field that is not optional", msgspec.msgpack.encode([30, None, "a"])),
        ("text that is not UTF-8", b"\x93\x1e\x01\xa1\xff"),
        ("a lone surrogate", b"\x93\x1e\x01\xa3\xed\xa0\x80"),
        ("an extension type", b"\x93\x1e\x01\xd4\x05\x00"),
        ("a map with keys that are not text", msgspec.msgpack.encode([35, 1, "a", None, {1: 2}])),
        ("a map without a required key", msgspec.msgpack.encode([32, 1, [{"topic": "a"}]])),
        ("nesting without end", b"\x95\x23\x01\xa1a\xc0\x81\xa1x" + b"\x91" * 100_000),
        (
            "an array that claims more than there is",
            b"\x99\x0a\x01\xa1a\x00\x01\x00\xc0\xc0\xdd\xff\xff\xff\xff",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_frames_are_refused(what: str, frame: bytes):
    with pytest.raises(RemoteProtocolError, match="malformed"):
        decode_frame(frame)


@given(st.binary(max_size=60))
def test_no_bytes_make_the_decoder_fail_in_another_way(noise: bytes):
    with contextlib.suppress(RemoteProtocolError):
        decode_frame(noise)


def test_a_map_of_a_later_version_may_hold_more():
    topic = {"topic": "a", "id": 1, "owner": "o", "epoch": 1, "online": True, "later": 7}
    frame = decode_frame(msgspec.msgpack.encode([32, 1, [topic]]))
    assert isinstance(frame, m.TopicList)
    assert frame.topics[0].owner == "o"
    assert frame.topics[0].next_offset is None


def test_what_does_not_fit_msgpack_is_our_own_fault():
    with pytest.raises(LocalProtocolError, match="Published"):
        encode_frame(m.Published(1, 2**64))
    with pytest.raises(LocalProtocolError, match="StatusReport"):
        encode_frame(m.StatusReport(1, {"x": object()}))


@given(st.integers(0, 2**32 - 1), batches())
def test_a_head_and_an_encoded_batch_are_a_deliver_frame(subscription: int, batch: m.Batch):
    encoded = encode_batch(batch)
    frame = delivery_head(subscription, len(encoded)) + encoded
    (received,) = FrameReader(2**20).feed(frame)
    deliver = m.Deliver(subscription, batch)
    assert decode_frame(received) == deliver
    # the same but for the width of one number, which msgpack leaves free
    assert msgspec.msgpack.decode(received) == msgspec.msgpack.decode(encode_frame(deliver)[4:])
    if subscription >= 2**16:
        assert frame == encode_frame(deliver)
