"""Lanes: the messages of a key come one after the other."""

from __future__ import annotations

from pubsub.core.lanes import Lanes


def test_only_the_first_of_a_key_is_free_and_only_while_none_is_in_flight():
    lanes = Lanes()
    for offset in (5, 3, 9):
        lanes.add("k", offset)
    assert lanes.free("k") == 3
    lanes.begin("k", 3)
    assert lanes.free("k") is None
    lanes.remove("k", 3)
    assert lanes.free("k") == 5


def test_an_earlier_message_waits_for_a_later_one_that_is_in_flight_already():
    lanes = Lanes()
    lanes.add("k", 5)
    lanes.begin("k", 5)
    lanes.add("k", 2)
    assert lanes.free("k") is None
    lanes.end("k")
    assert lanes.free("k") == 2


def test_a_lane_without_messages_is_none():
    lanes = Lanes()
    lanes.add("k", 1)
    assert "k" in lanes
    lanes.remove("k", 7)
    lanes.remove("k", 1)
    assert "k" not in lanes
    assert lanes.free("k") is None
    lanes.end("k")
    lanes.remove("k", 1)
