"""Frames to bytes and back: a u32 big-endian length, then so many bytes of msgpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from pubsub.errors import LocalProtocolError, RemoteProtocolError
from pubsub.protocol.messages import Batch, Deliver, Frame, Replicate

_LENGTH = struct.Struct(">I")
_DELIVER_HEAD = struct.Struct(">IBBBI")
_DELIVER_TAG = Deliver.__struct_config__.tag
_REPLICATE_HEAD = struct.Struct(">IBBBIBQBQBQBQ")
_REPLICATE_TAG = Replicate.__struct_config__.tag

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class FrameReader:
    """Cuts a stream of bytes into frames.

    Holds at most one frame that is still incomplete, so at most `frame_bytes`; a length over that limit is
    refused when its four bytes are there, before anything of the frame is kept.
    """

    def __init__(self, frame_bytes: int) -> None:
        self.frame_bytes = frame_bytes
        self._partial = bytearray()
        """One buffer, not a list of what was received: a sender of tiny pieces must not cost a multiple."""
        self._need = _LENGTH.size
        """With so many bytes in `_partial` there is something to do."""

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """Take what has been received and give out the frames that it completes, without their lengths.

        One at a time, so that the frames before a bad one are seen, and thousands of tiny ones are not held at once.
        Iterate to the end before feeding more.

        Raises:
            RemoteProtocolError: a frame is over the limit, or empty. The reader is of no use afterwards.
        """
        received: bytes | bytearray = data
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return
            received, self._partial = self._partial, bytearray()
        view = memoryview(received)
        start, end = 0, len(received)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, start)
            if not 0 < length <= self.frame_bytes:
                raise RemoteProtocolError(
                    f"a frame of {length} bytes was announced; 1 to {self.frame_bytes} are allowed"
                )
            self._need = _LENGTH.size + length
            if end - start < self._need:
                break
            yield view[start + _LENGTH.size : start + self._need]
            start += self._need
        else:
            self._need = _LENGTH.size
        if start < end:
            self._partial += view[start:]

    @property
    def incomplete(self) -> bool:
        """Whether part of a frame has been received."""
        return bool(self._partial)


def decode_frame(frame: memoryview | bytes) -> Frame:
    """Turn the bytes of one frame, without its length, into its struct.

    Raises:
        RemoteProtocolError: it is not msgpack, of unknown type, or its fields are not of the types specified.
    """
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a frame is malformed: {error}") from error


def encode_frame(frame: Frame) -> bytes:
    """Turn a struct into the bytes that go on the wire, length first.

    Raises:
        LocalProtocolError: a value does not fit msgpack, such as an integer of over 64 bits or a lone surrogate.
    """
    try:
        buffer = bytearray(_LENGTH.size)
        _encoder.encode_into(frame, buffer, _LENGTH.size)
    except (msgspec.EncodeError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"cannot encode {type(frame).__name__}: {error}") from error
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return bytes(buffer)


def encode_batch(batch: Batch) -> bytes:
    """Encode a batch once, for any number of `delivery_head` to be put before it."""
    return _encoder.encode(batch)


def delivery_head(subscription: int, batch_bytes: int) -> bytes:
    """The bytes that make an encoded batch of `batch_bytes` bytes a Deliver frame for `subscription`."""
    # fixarray of 3, the tag as a positive fixint, the subscription as a uint32
    return _DELIVER_HEAD.pack(7 + batch_bytes, 0x93, _DELIVER_TAG, 0xCE, subscription)


def encode_copy(part: Batch | list[tuple[int, str]] | None) -> bytes:
    """Encode the batch, or the marks, of a Replicate frame, for `replicate_head` to be put before both."""
    return _encoder.encode(part)


def replicate_head(
    subscription: int, epoch: int, start: int, stop: int, committed: int, rest_bytes: int
) -> bytes:
    """The bytes that make an encoded batch and its encoded marks, of `rest_bytes` bytes, a Replicate frame."""
    # fixarray of 8, the tag as a positive fixint, the subscription as a uint32, the others as uint64
    return _REPLICATE_HEAD.pack(
        43 + rest_bytes,
        *(0x98, _REPLICATE_TAG, 0xCE, subscription),
        *(0xCF, epoch, 0xCF, start, 0xCF, stop, 0xCF, committed),
    )
