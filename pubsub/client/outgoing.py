"""From what applications give `publish_many` to bounded batches of columns."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pubsub.config import Limits
from pubsub.core.schedule import delay_fields
from pubsub.errors import InvalidRequestError, MessageTooLargeError, shown
from pubsub.model import NewMessage
from pubsub.protocol.batch import BATCH_MESSAGES, check_message_id, encode_headers

Outgoing = bytes | bytearray | memoryview | str | NewMessage | None
"""What may be published: a payload, or a message with a key or headers of its own. Text goes as UTF-8.

None removes the key that goes with it: readers get a message without payload, and compaction lets go of the key."""

SAMPLE_MESSAGES = 16
"""So many tell how large a batch may be. Of an iterator they are the first batch; a list is looked at before."""


class Columns(NamedTuple):
    """A batch to be published; `size_bytes` counts payloads, keys and headers."""

    payloads: list[bytes | None]
    keys: list[str | None] | None
    headers: list[str | None] | None
    size_bytes: int
    message_ids: list[str | None] | None = None


class Conditions(NamedTuple):
    """What holds for a batch as a whole; each as in Publish of the protocol."""

    expect_offset: int = -1
    deliver_us: int = 0
    delay_us: int = 0

    @property
    def later(self) -> bool:
        """Whether the messages are to be held."""
        return self.deliver_us != 0 or self.delay_us != 0


UNCONDITIONAL = Conditions()

Row = tuple[bytes | None, str | None, str | None, str | None]
"""Payload, key, headers and id of a message."""


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


def check_conditions(
    expect_offset: int | None, delay_seconds: float | None, deliver_at: datetime | None
) -> Conditions:
    """The conditions of a call, from what an application says.

    Raises:
        InvalidRequestError: one is not what it should be, or two exclude each other.
    """
    if expect_offset is None:
        expect_offset = -1
    elif type(expect_offset) is not int or not 0 <= expect_offset < 2**63:
        raise InvalidRequestError(f"an expected offset is a number from 0 on, not {shown(expect_offset)}")
    deliver_us, delay_us = delay_fields(delay_seconds, deliver_at, time.time_ns() // 1000)
    conditions = Conditions(expect_offset, deliver_us, delay_us)
    if expect_offset != -1 and conditions.later:
        raise InvalidRequestError(
            "expect_offset is for now: a message for later gets its offset when it is due"
        )
    return conditions


def check_ids_now(message_ids: Sequence[str | None] | None, conditions: Conditions) -> None:
    """
    Raises:
        InvalidRequestError: messages with ids are to be held.
    """
    if conditions.later and message_ids is not None:
        raise InvalidRequestError(
            "a message for later takes no message_id: ids are remembered from storing on"
        )


def encode_json(value: object) -> bytes:
    """A value as compact JSON in UTF-8.

    Raises:
        InvalidRequestError: it cannot be written as JSON; NaN and infinities neither.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the value cannot be written as JSON: {error}") from error


def message_columns(
    message: Outgoing, key: str | None, headers: str | None, message_id: str | None = None
) -> Row:
    """The columns of one item; what the item does not say is `key`, `headers` and `message_id`."""
    if isinstance(message, NewMessage):
        own_key = check_key(message.key)
        key = key if own_key is None else own_key
        headers = encode_headers(message.headers) or headers
        message_id = message_id if message.message_id is None else message.message_id
        message = message.payload
    if message is None and key is None:
        raise InvalidRequestError("a message without payload removes a key: say which, by key=")
    payload = None if message is None else as_payload(message)
    return payload, key, headers, None if message_id is None else check_message_id(message_id)


def one_batch(
    messages: Iterable[Outgoing], key: str | None, headers: Mapping[str, str] | None, limits: Limits
) -> Columns | None:
    """All messages as one batch; None if there are none. No more are read than one may hold.

    That it fits a frame of the owner's is known once it is encoded.

    Raises:
        InvalidRequestError: they are too many, or too large together; or about one message, named by its index.
    """
    key, headers_text = check_key(key), encode_headers(headers)
    rows: list[Row] = []
    size_bytes = 0
    for position, message in enumerate(messages):
        if position == BATCH_MESSAGES:
            raise InvalidRequestError(
                f"an atomic publish holds at most {BATCH_MESSAGES} messages; nothing of it was stored"
            )
        row, row_bytes = _checked_row(message, position, key, headers_text, limits)
        rows.append(row)
        size_bytes += row_bytes
        if size_bytes > limits.frame_bytes:
            raise InvalidRequestError(
                f"an atomic publish fits one frame, at most {limits.frame_bytes} bytes; "
                f"its first {position + 1} messages have {size_bytes}; nothing of it was stored"
            )
    return _columns(rows, size_bytes) if rows else None


def _checked_row(
    message: Outgoing, position: int, key: str | None, headers: str | None, limits: Limits
) -> tuple[Row, int]:
    """The columns of the message at a position of a call, and its size.

    Raises:
        InvalidRequestError: about this message, named by its index.
    """
    try:
        row = message_columns(message, key, headers)
        size_bytes = len(row[0] or b"") + len(row[1] or "") + len(row[2] or "")
        check_size(size_bytes, limits.message_bytes, position)
    except InvalidRequestError as error:
        error.data["index"] = position
        raise
    return row, size_bytes


def cut_batches(
    messages: Iterable[Outgoing], key: str | None, headers: Mapping[str, str] | None, limits: Limits
) -> Iterator[Columns]:
    """Cut messages into batches within the limits, reading no further than the batch at hand.

    Raises:
        MessageTooLargeError, InvalidRequestError: about one message, named by its index, after the batch of
            those before it has been given out.
    """
    key, headers_text = check_key(key), encode_headers(headers)
    want = _fitting(messages[:SAMPLE_MESSAGES], limits) if isinstance(messages, list) else SAMPLE_MESSAGES
    iterator = iter(messages)
    index = 0
    while chunk := list(itertools.islice(iterator, want)):
        yield from _cut_chunk(chunk, index, key, headers_text, limits)
        index += len(chunk)
        want = _fitting(chunk[:SAMPLE_MESSAGES], limits)


def _fitting(sample: list[Outgoing], limits: Limits) -> int:
    """How many messages such as these make a batch."""
    average = sum(map(rough_bytes, sample)) // max(1, len(sample)) + 1
    return max(1, min(limits.batch_messages, limits.batch_bytes // average))


def rough_bytes(message: object) -> int:
    """About how large a message is; of what is no message, nothing."""
    if type(message) is bytes:
        return len(message)
    payload = message.payload if isinstance(message, NewMessage) else message
    return len(payload) if isinstance(payload, bytes | bytearray | memoryview | str) else 0


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
    rows: list[Row] = []
    size_bytes = 0
    for position, message in enumerate(chunk, index):
        try:
            row, row_bytes = _checked_row(message, position, key, headers, limits)
        except InvalidRequestError:
            if rows:
                yield _columns(rows, size_bytes)
            raise
        if rows and size_bytes + row_bytes > limits.batch_bytes:
            yield _columns(rows, size_bytes)
            rows, size_bytes = [], 0
        rows.append(row)
        size_bytes += row_bytes
    if rows:
        yield _columns(rows, size_bytes)


def _columns(rows: list[Row], size_bytes: int) -> Columns:
    payloads, keys, headers, message_ids = map(list, zip(*rows, strict=True))
    count = len(rows)
    return Columns(
        payloads,
        None if keys.count(None) == count else keys,
        None if headers.count(None) == count else headers,
        size_bytes,
        None if message_ids.count(None) == count else message_ids,
    )
