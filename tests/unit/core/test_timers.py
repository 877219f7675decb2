"""Timers: what is due, in order, without looking at anything else."""

from __future__ import annotations

from pubsub.core.timers import SLACK, Timers


def test_what_is_due_comes_in_order_of_time_and_once():
    due_us = {1: 30, 2: 10, 3: 20, 4: 20}
    timers = Timers(due_us.get)
    timers.add(30, [1], 4)
    timers.add(10, [2], 4)
    timers.add(20, [3, 4], 4)
    assert timers.next_us == 10
    assert list(timers.due(9)) == []
    assert list(timers.due(20)) == [2, 3, 4]
    assert list(timers.due(20)) == []
    assert timers.next_us == 30
    assert list(timers.due(99)) == [1]
    assert timers.next_us is None


def test_what_was_settled_or_moved_is_not_due():
    due_us = {1: 10, 2: 10, 3: 10}
    timers = Timers(due_us.get)
    timers.add(10, [1, 2, 3], 3)
    del due_us[1]
    due_us[2] = 15
    timers.add(15, [2], 3)
    assert list(timers.due(10)) == [3]
    assert list(timers.due(15)) == [2]


def test_settled_timers_do_not_pile_up():
    timers = Timers(lambda offset: None)
    for offset in range(20 * SLACK):
        timers.add(offset, [offset], 0)
        assert timers.size <= SLACK + 1
