"""Messages as bytes for standard output: a batch at a time, in one of the formats.

`raw` and `json` give payloads unchanged. `pretty` is for people, so it shows control characters escaped: a
payload cannot take over the terminal.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pubsub.cli.options import Format
from pubsub.model import Message, OrphanedMessage, ScheduledMessage, iso_from_us

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SHOWN_BYTES = 64
"""So much of a payload that is not text is shown."""

_DIM, _BOLD, _CYAN, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[0m"

Formatter = Callable[[Sequence[Message]], bytes]


def choose_formatter(chosen: Format, colours: bool, topics: bool = False) -> Formatter:
    """What turns a batch of messages into bytes. `topics`: people should see of which topic each is."""
    if chosen is Format.raw:
        return format_raw
    if chosen is Format.json:
        return format_json
    return lambda messages: format_pretty(messages, colours, topics)


def format_raw(messages: Sequence[Message]) -> bytes:
    """The payload of each, and a newline."""
    return b"".join([(message.payload or b"") + b"\n" for message in messages])


def format_json(messages: Sequence[Message]) -> bytes:
    """One object per line, with the field names of docs/architecture.md."""
    encode = msgspec.json.encode
    return b"".join([encode(message_record(message)) + b"\n" for message in messages])


def message_record(message: Message) -> dict[str, Any]:
    """The fields of a message; `payload_base64` in place of `payload` when it is not UTF-8."""
    record: dict[str, Any] = {
        "topic": message.topic,
        "offset": message.offset,
        "published_at": iso_from_us(message.published_us),
        "key": message.key,
        "headers": dict(message.headers),
    }
    try:
        record["payload"] = None if message.payload is None else message.payload.decode()
    except UnicodeDecodeError:
        record["payload_base64"] = b64encode(message.payload or b"").decode()
    attempt = getattr(message, "attempt", None)  # of a group's message
    return record if attempt is None else record | {"attempt": attempt}


SCHEDULED_FIELDS = ("schedule_id", "deliver_at", "key", "payload")


def scheduled_record(message: ScheduledMessage, as_json: bool) -> dict[str, Any]:
    """The fields of a message that is held; for people with a payload that they can read."""
    record = msgspec.structs.asdict(message)
    if not as_json:
        return record | {"payload": _pretty_payload(message.payload)}
    payload = record.pop("payload")
    try:
        return record | {"payload": None if payload is None else payload.decode()}
    except UnicodeDecodeError:
        return record | {"payload_base64": b64encode(payload).decode()}


ORPHAN_FIELDS = ("peer", "offset", "epoch", "published_at", "owner", "key", "payload")


def orphan_record(message: OrphanedMessage, as_json: bool) -> dict[str, Any]:
    """The fields of a message that was cut off a copy; for people with a payload that they can read."""
    record = msgspec.structs.asdict(message)
    if not as_json:
        return record | {"payload": _pretty_payload(message.payload)}
    payload = record.pop("payload")
    try:
        return record | {"payload": None if payload is None else payload.decode()}
    except UnicodeDecodeError:
        return record | {"payload_base64": b64encode(payload).decode()}


def format_pretty(messages: Sequence[Message], colours: bool, topics: bool = False) -> bytes:
    """A line for each: time, topic if asked for, offset, key and headers where there are any, payload."""
    return "".join([_pretty_line(message, colours, topics) for message in messages]).encode()


def _pretty_line(message: Message, colours: bool, topics: bool) -> str:
    time, offset = iso_from_us(message.published_us), f"{message.offset:>6}"
    marks = [] if message.key is None else [f"key={_escape(message.key)}"]
    marks += [f"{_escape(name)}={_escape(value)}" for name, value in message.headers.items()]
    between = "".join(f"{mark}  " for mark in marks)
    if colours:
        time, offset = f"{_DIM}{time}{_PLAIN}", f"{_BOLD}{offset}{_PLAIN}"
        between = f"{_CYAN}{between}{_PLAIN}" if between else ""
    where = f"{message.topic}  " if topics else ""
    return f"{time}  {where}{offset}  {between}{_pretty_payload(message.payload)}\n"


def _pretty_payload(payload: bytes | None) -> str:
    if payload is None:
        return "(removed)"
    try:
        return _escape(payload.decode())
    except UnicodeDecodeError:
        more = "..." if len(payload) > _SHOWN_BYTES else ""
        return f"({len(payload)} bytes) {payload[:_SHOWN_BYTES].hex(' ')}{more}"


def _escape(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
