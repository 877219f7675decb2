"""How what `publish_many` is given is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.client.outgoing import SAMPLE_MESSAGES, cut_batches
from pubsub.config import Limits
from pubsub.errors import MessageTooLargeError
from pubsub.model import NewMessage

LIMITS = Limits()


def lengths(messages: object) -> list[int]:
    return [len(columns.payloads) for columns in cut_batches(messages, None, None, LIMITS)]  # type: ignore[arg-type]


def test_a_list_of_small_messages_is_cut_into_whole_batches_from_the_first_on():
    assert lengths([b"x" * 100] * 64) == [64]
    assert lengths([b"x" * 100] * (2 * LIMITS.batch_messages + 1)) == [1000, 1000, 1]


def test_of_an_iterator_no_more_is_read_than_the_batch_at_hand():
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x"

    batches = cut_batches(source(), None, None, LIMITS)
    assert len(next(batches).payloads) == read == SAMPLE_MESSAGES
    assert len(next(batches).payloads) == LIMITS.batch_messages
    assert read == SAMPLE_MESSAGES + LIMITS.batch_messages


def test_a_list_of_large_messages_is_cut_by_bytes():
    assert lengths([b"x" * (LIMITS.batch_bytes // 4)] * 8) == [3, 3, 2]


@given(
    st.lists(
        st.one_of(st.binary(max_size=300), st.text(max_size=100), st.just(NewMessage(payload=b"n", key="k")))
    ),
    st.booleans(),
)
def test_nothing_is_lost_or_reordered_and_every_batch_is_within_the_limits(
    messages: list[object], as_list: bool
):
    limits = Limits(batch_messages=7, batch_bytes=500, message_bytes=400)
    given_as = messages if as_list else iter(messages)
    batches = list(cut_batches(given_as, None, None, limits))  # type: ignore[arg-type]
    payloads = [payload for columns in batches for payload in columns.payloads]
    wanted = [
        message
        if isinstance(message, bytes)
        else b"n"
        if isinstance(message, NewMessage)
        else str(message).encode()
        for message in messages
    ]
    assert payloads == wanted
    assert all(columns.size_bytes <= 500 or len(columns.payloads) == 1 for columns in batches)


def test_a_message_that_is_too_large_is_named_after_those_before_it():
    batches = cut_batches([b"a", b"b", b"x" * (LIMITS.message_bytes + 1)], None, None, LIMITS)
    assert next(batches).payloads == [b"a", b"b"]
    with pytest.raises(MessageTooLargeError) as caught:
        next(batches)
    assert caught.value.data["index"] == 2
