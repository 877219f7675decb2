"""What applications give as payloads, and what they read from them again."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub.client.outgoing import encode_json, message_columns, one_batch
from pubsub.config import Limits
from pubsub.errors import InvalidRequestError, MessageTooLargeError
from pubsub.model import NO_HEADERS, Message, NewMessage


def message(payload: bytes | None) -> Message:
    return Message("a.b", 7, 1, "k", NO_HEADERS, payload)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True], "ü": "ß"}, '{"a":[1,2.5,null,true],"ü":"ß"}'),
        ("text", '"text"'),
        (2**70, "1180591620717411303424"),
        ([], "[]"),
        (None, "null"),
    ],
)
def test_json_is_compact_utf_8_and_reads_back_as_it_was(value: Any, written: str):
    assert encode_json(value) == written.encode()
    assert message(encode_json(value)).json() == value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes", "\ud800", {(1, 2): 3}]
)
def test_what_is_no_json_is_refused_in_one_line(value: Any):
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON") as caught:
        encode_json(value)
    assert "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidRequestError):
        encode_json(value)


def test_text_goes_and_comes_as_utf_8():
    payload, *_ = message_columns("grüße 🜂", None, None)
    assert message(payload).text == "grüße 🜂"
    assert message(b"").text == ""


@pytest.mark.parametrize("payload", [b"\xff", b"cut \xc3", None])
def test_a_payload_that_is_no_text_says_which_message_it_is(payload: bytes | None):
    with pytest.raises(InvalidRequestError, match=r"a\.b at offset 7"):
        _ = message(payload).text


@pytest.mark.parametrize("payload", [b"", b"{", b"nope", b"\xff", b"NaN", b"1 2", b"[" * 100_000, None])
def test_a_payload_that_is_no_json_says_which_message_it_is(payload: bytes | None):
    with pytest.raises(InvalidRequestError, match=r"a\.b at offset 7") as caught:
        message(payload).json()
    assert "\n" not in str(caught.value)


def test_a_message_of_its_own_says_more_than_the_call():
    assert message_columns(NewMessage(b"x", message_id="own"), "k", None, "call") == (b"x", "k", None, "own")
    assert message_columns(b"x", "k", "{}", "call") == (b"x", "k", "{}", "call")


def test_one_batch_holds_everything_or_names_what_is_wrong():
    limits = Limits(message_bytes=100)
    batch = one_batch(["a", NewMessage(b"b", key="k", message_id="i")], None, {"h": "1"}, limits)
    assert batch is not None
    assert batch.payloads == [b"a", b"b"]
    assert batch.keys == [None, "k"]
    assert batch.headers == ['{"h":"1"}'] * 2
    assert batch.message_ids == [None, "i"]
    assert one_batch([], None, None, limits) is None
    with pytest.raises(MessageTooLargeError) as caught:
        one_batch([b"x", b"x" * 101], None, None, limits)
    assert caught.value.data["index"] == 1
    with pytest.raises(InvalidRequestError, match="bytes or str") as wrong:
        one_batch([b"x", 5], None, None, limits)  # type: ignore[list-item]
    assert wrong.value.data["index"] == 1
