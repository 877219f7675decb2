"""Messages are dealt evenly, as far as there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.sharing import share


@pytest.mark.parametrize(
    ("messages", "rooms", "shares"),
    [
        (0, [3, 3], [0, 0]),
        (5, [], []),
        (4, [10, 10], [2, 2]),
        (10, [2, 100, 3], [2, 5, 3]),
        (1, [1, 5, 2], [0, 1, 0]),
        (100, [1, 2], [1, 2]),
    ],
)
def test_messages_are_dealt_evenly_and_first_to_whoever_has_least_to_do(
    messages: int, rooms: list[int], shares: list[int]
):
    assert share(messages, rooms) == shares


@given(st.integers(0, 1000), st.lists(st.integers(0, 300), max_size=8))
def test_no_room_is_exceeded_none_is_left_unused_and_nobody_with_room_has_less_than_another(
    messages: int, rooms: list[int]
):
    shares = share(messages, rooms)
    assert all(0 <= one <= room for one, room in zip(shares, rooms, strict=True))
    assert sum(shares) == min(messages, sum(rooms))
    unfilled = [one for one, room in zip(shares, rooms, strict=True) if one < room]
    assert all(one >= max(shares, default=0) - 1 for one in unfilled)
