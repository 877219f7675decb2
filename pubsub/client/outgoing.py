"""From what applications give `publish_many` to bounded batches of columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pubsub.config import Limits
from pubsub.errors import InvalidRequestError, MessageTooLargeError
from pubsub.model import NewMessage
from pubsub.protocol.batch import encode_headers

Outgoing = bytes | bytearray | memoryview | str | NewMessage
"""What may be published: a payload, or a message with a key or headers of its own. Text goes as UTF-8."""

FIRST_BATCH_MESSAGES = 16
"""A batch of unknown messages is small; the next are as large as the sizes seen so far allow."""


class Columns(NamedTuple):
    """A batch to be published; `size_bytes` counts payloads, keys and headers."""

    payloads: list[bytes | None]
    keys: list[str | None] | None
    headers: list[str | None] | None
    size_bytes: int


def as_payload(payload: bytes | bytearray | memoryview | str) -> bytes:
    """The bytes of a payload.

    Raises:
        InvalidRequestError: it is neither bytes nor text.
    """
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        try:
            return payload.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"the payload holds text that cannot be written as UTF-8: {error}"
            ) from error
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    raise InvalidRequestError(f"a payload is bytes or str, not {type(payload).__name__}")


def check_key(key: str | None) -> str | None:
    """Return the key.

    Raises:
        InvalidRequestError: it is not text, or holds text that cannot be written as UTF-8.
    """
    if key is None:
        return None
    if not isinstance(key, str):
        raise InvalidRequestError(f"a key is str, not {type(key).__name__}")
    try:
        key.isascii() or key.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the key holds text that cannot be written as UTF-8: {error}") from error
    return key


def check_size(size_bytes: int, limit_bytes: int, index: int | None = None) -> None:
    """
    Raises:
        MessageTooLargeError: a message of this size is over the limit.
    """
    if size_bytes > limit_bytes:
        which = "the message" if index is None else f"message {index} of this call"
        raise MessageTooLargeError(
            f"{which} has {size_bytes} bytes with key and headers; at most {limit_bytes} are allowed",
            limit_bytes=limit_bytes,
            **({} if index is None else {"index": index}),
        )


def message_columns(
    message: Outgoing, key: str | None, headers: str | None
) -> tuple[bytes, str | None, str | None]:
    """Payload, key and headers text of one item; what the item does not say is `key` and `headers`."""
    if not isinstance(message, NewMessage):
        return as_payload(message), key, headers
    own_key = check_key(message.key)
    own_headers = encode_headers(message.headers)
    return as_payload(message.payload), key if own_key is None else own_key, own_headers or headers


def cut_batches(
    messages: Iterable[Outgoing], key: str | None, headers: Mapping[str, str] | None, limits: Limits
) -> Iterator[Columns]:
    """Cut messages into batches within the limits, reading no further than the batch at hand.

    Raises:
        MessageTooLargeError, InvalidRequestError: about one message, named by its index, after the batch of
            those before it has been given out.
    """
    key, headers_text = check_key(key), encode_headers(headers)
    iterator = iter(messages)
    index, want = 0, FIRST_BATCH_MESSAGES
    while chunk := list(itertools.islice(iterator, want)):
        yield from _cut_chunk(chunk, index, key, headers_text, limits)
        index += len(chunk)
        average = (
            sum(map(_rough_bytes, chunk[:FIRST_BATCH_MESSAGES])) // min(len(chunk), FIRST_BATCH_MESSAGES) + 1
        )
        want = max(1, min(limits.batch_messages, limits.batch_bytes // average))


def _rough_bytes(message: Outgoing) -> int:
    return len(message.payload if isinstance(message, NewMessage) else message)


def _cut_chunk(
    chunk: list[Outgoing], index: int, key: str | None, headers: str | None, limits: Limits
) -> Iterator[Columns]:
    extra = len(key or "") + len(headers or "")
    if set(map(type, chunk)) == {bytes}:  # the usual case, without a look at each message
        sizes = list(map(len, chunk))  # type: ignore[arg-type]
        total = sum(sizes) + extra * len(chunk)
        if max(sizes) + extra <= limits.message_bytes and total <= limits.batch_bytes:
            count = len(chunk)
            keys = None if key is None else [key] * count
            yield Columns(chunk, keys, None if headers is None else [headers] * count, total)  # type: ignore[arg-type]
            return
    yield from _cut_one_by_one(chunk, index, key, headers, limits)


def _cut_one_by_one(
    chunk: list[Outgoing], index: int, key: str | None, headers: str | None, limits: Limits
) -> Iterator[Columns]:
    rows: list[tuple[bytes, str | None, str | None]] = []
    size_bytes = 0
    for position, message in enumerate(chunk, index):
        try:
            row = message_columns(message, key, headers)
            size = len(row[0]) + len(row[1] or "") + len(row[2] or "")
            check_size(size, limits.message_bytes, position)
        except InvalidRequestError as error:
            if rows:
                yield _columns(rows, size_bytes)
            error.data["index"] = position
            raise
        if rows and size_bytes + size > limits.batch_bytes:
            yield _columns(rows, size_bytes)
            rows, size_bytes = [], 0
        rows.append(row)
        size_bytes += size
    if rows:
        yield _columns(rows, size_bytes)


def _columns(rows: list[tuple[bytes, str | None, str | None]], size_bytes: int) -> Columns:
    payloads, keys, headers = map(list, zip(*rows, strict=True))
    return Columns(
        payloads,
        None if keys.count(None) == len(keys) else keys,
        None if headers.count(None) == len(headers) else headers,
        size_bytes,
    )
