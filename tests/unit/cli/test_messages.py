"""Messages as printed."""

import json
from typing import Any

import pytest

from pubsub.cli.messages import choose_formatter, format_json, format_pretty, format_raw
from pubsub.cli.options import Format
from pubsub.model import NO_HEADERS, Message


def message(payload: bytes | None, **fields: Any) -> Message:
    values = {
        "topic": "t",
        "offset": 7,
        "published_us": 1_700_000_000_123_456,
        "key": None,
        "headers": NO_HEADERS,
    }
    return Message(payload=payload, **(values | fields))


def test_raw_is_the_payload_and_a_newline_whatever_the_bytes() -> None:
    payloads = [b"a", b"", b"\x00\xff\r", "ü".encode()]
    assert format_raw([message(payload) for payload in payloads]) == b"a\n\n\x00\xff\r\n\xc3\xbc\n"


def test_json_has_the_fields_of_the_design_in_one_line() -> None:
    line = format_json([message("ü\n".encode(), key="k", headers={"unit": "C"})])
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "topic": "t",
        "offset": 7,
        "published_at": "2023-11-14T22:13:20.123456Z",
        "key": "k",
        "headers": {"unit": "C"},
        "payload": "ü\n",
    }


def test_json_of_a_payload_that_is_not_text_has_base64_in_its_place() -> None:
    record = json.loads(format_json([message(b"\xff\x00")]))
    assert record["payload_base64"] == "/wA="
    assert "payload" not in record
    assert record["key"] is None
    assert record["headers"] == {}


def test_a_removed_key_has_no_payload() -> None:
    assert json.loads(format_json([message(None, key="k")]))["payload"] is None
    assert b"(removed)" in format_pretty([message(None, key="k")], colours=False)
    assert format_raw([message(None)]) == b"\n"


def test_pretty_shows_time_offset_key_headers_and_payload() -> None:
    assert format_pretty([message(b"21.5", key="room-1", headers={"unit": "C"})], colours=False) == (
        b"2023-11-14T22:13:20.123456Z       7  key=room-1  unit=C  21.5\n"
    )


@pytest.mark.parametrize("dangerous", ["\x1b[2J", "\r", "\n", "\x9b1A", "\u202e", "\u2028"])
def test_pretty_lets_no_payload_key_or_header_take_over_the_terminal(dangerous: str) -> None:
    evil = message(dangerous.encode(), key=dangerous, headers={dangerous: dangerous})
    shown = format_pretty([evil], colours=False).decode()
    assert dangerous not in shown.removesuffix("\n")
    assert shown.count("\n") == 1


def test_pretty_shows_bytes_in_hexadecimal_and_says_how_many() -> None:
    assert format_pretty([message(b"\xff\x00")], colours=False).endswith(b"(2 bytes) ff 00\n")
    assert format_pretty([message(b"\xff" * 1000)], colours=False).endswith(b"ff...\n")


def test_colours_only_where_asked_for() -> None:
    messages = [message(b"x", key="k")]
    assert b"\x1b[" not in choose_formatter(Format.pretty, False)(messages)
    assert b"\x1b[" in choose_formatter(Format.pretty, True)(messages)
    assert choose_formatter(Format.raw, True)(messages) == b"x\n"
    assert json.loads(choose_formatter(Format.json, True)(messages))["payload"] == "x"
