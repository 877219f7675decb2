"""Arithmetic on batches that both ends of a connection must do alike: size, slices, headers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from pubsub.errors import InvalidRequestError
from pubsub.model import NO_HEADERS
from pubsub.protocol.messages import Batch

BATCH_MESSAGES = 10_000
"""Most messages in one publish: a frame of empty ones could hold millions, and a commit takes it whole."""

MESSAGE_ID_LENGTH = 200
"""Longest message id, in characters."""

_columns_encoder = msgspec.msgpack.Encoder()
_headers_encoder = msgspec.json.Encoder()
_headers_decoder = msgspec.json.Decoder(dict[str, str])


def column_bytes(column: Sequence[bytes | str | None] | None) -> int:
    """Payload bytes, or characters of keys or headers, in a column; None counts as nothing."""
    if column is None:
        return 0
    try:
        return sum(map(len, column))  # type: ignore[arg-type]
    except TypeError:  # a None among them
        return sum(map(len, filter(None, column)))


def batch_bytes(batch: Batch) -> int:
    """The size of a batch as windows count it: payloads, keys and headers."""
    return column_bytes(batch.payloads) + column_bytes(batch.keys) + column_bytes(batch.headers)


def batch_checksum(
    published_us: int,
    keys: list[str | None] | None,
    headers: list[str | None] | None,
    payloads: list[bytes | None],
) -> int:
    """CRC-32 (zlib) of the msgpack array [published_us, keys, headers, payloads].

    Keys, or headers, that are all nil are nil. The messages of a batch have one time.
    """
    if keys is not None and keys.count(None) == len(keys):
        keys = None
    if headers is not None and headers.count(None) == len(headers):
        headers = None
    return crc32(_columns_encoder.encode((published_us, keys, headers, payloads)))


def message_sizes(batch: Batch) -> list[int]:
    """The size of each message of a batch, as windows count it."""
    sizes = [len(payload or b"") for payload in batch.payloads]
    for column in (batch.keys, batch.headers):
        if column is not None:
            sizes = [size + len(cell or "") for size, cell in zip(sizes, column, strict=True)]
    return sizes


def slice_batch(batch: Batch, start: int, stop: int) -> Batch:
    """The messages `start` to `stop` (positions, not offsets) of a batch, as a batch."""
    if start == 0 and stop >= len(batch.payloads):
        return batch
    times = batch.published_us
    offsets = batch.offsets[start:stop] if batch.offsets else None
    return Batch(
        offsets[0] if offsets else batch.first_offset + start,
        offsets,
        times if isinstance(times, int) else times[start:stop],
        batch.keys[start:stop] if batch.keys else None,
        batch.headers[start:stop] if batch.headers else None,
        batch.payloads[start:stop],
        batch.attempts[start:stop] if batch.attempts else None,
    )


def next_position(batch: Batch) -> int:
    """The offset after the last message of a batch."""
    return (batch.offsets[-1] if batch.offsets else batch.first_offset + len(batch.payloads) - 1) + 1


def encode_headers(headers: Mapping[str, str] | None) -> str | None:
    """Write headers as a JSON object; none at all as None.

    Raises:
        InvalidRequestError: they are no mapping, or a name or value is not text.
    """
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise InvalidRequestError(f"headers are a mapping of text to text, not {type(headers).__name__}")
    if not headers:
        return None
    for name, value in headers.items():
        if type(name) is not str or type(value) is not str:
            raise InvalidRequestError(f"header {name!r} must map text to text, not to {type(value).__name__}")
    try:
        return _headers_encoder.encode(dict(headers)).decode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"headers hold text that cannot be written as UTF-8: {error}") from error


def decode_headers(text: str | None) -> Mapping[str, str]:
    """Read headers from their JSON text.

    Raises:
        InvalidRequestError: it is not a JSON object of texts.
    """
    if text is None:
        return NO_HEADERS
    try:
        return _headers_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"headers must be a JSON object that maps text to text: {error}") from error


def check_message_id(message_id: str) -> str:
    """Return the id.

    Raises:
        InvalidRequestError: it is not text of 1 to 200 characters.
    """
    if not isinstance(message_id, str):
        raise InvalidRequestError(f"a message id is str, not {type(message_id).__name__}")
    if not 0 < len(message_id) <= MESSAGE_ID_LENGTH:
        raise InvalidRequestError(
            f"a message id has 1 to {MESSAGE_ID_LENGTH} characters, not {len(message_id)}"
        )
    try:
        message_id.isascii() or message_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the message id cannot be written as UTF-8: {error}") from error
    return message_id
