"""Groups, one rule at a time; all rules together are tried by `test_group_model`."""

from __future__ import annotations

import pytest

from pubsub.core import group as core
from pubsub.core.group import Group
from pubsub.core.group_options import GroupOptions
from pubsub.core.group_state import (
    DELAYED,
    DYING,
    EXPIRED,
    IN_FLIGHT,
    LOST,
    NACKED,
    READY,
    Changes,
    Counts,
    Row,
    Run,
)

SECOND = 1_000_000
NOW = 1_000 * SECOND


def make(ordered: bool = False, max_attempts: int = 3, backoff_seconds: float = 1) -> Group:
    group = Group(
        GroupOptions(
            lease_seconds=10, max_attempts=max_attempts, backoff_seconds=backoff_seconds, ordered=ordered
        ),
        0,
    )
    group.join("a", 10, 1000)
    group.join("b", 10, 1000)
    return group


def take(
    group: Group, member: str, count: int, *, keys: list[str | None] | None = None, now_us: int = NOW
) -> list[int]:
    """Give out the next `count` messages of a log that goes on from the cursor; returns their offsets."""
    many = len(keys) if keys is not None else count
    offsets = list(range(group.cursor, group.cursor + many))
    positions, _ = group.take(member, offsets, keys, [1] * many, count, now_us)
    return [offsets[position] for position in positions]


def retake(group: Group, member: str, count: int, now_us: int = NOW) -> dict[int, int]:
    """Give out what has been given out before; returns offset -> attempt."""
    picked = group.pick(count)
    positions, attempts = group.retake(member, picked, [1] * len(picked), now_us)
    group.put_back(picked)
    return dict(zip([picked[position] for position in positions], attempts, strict=True))


# Giving out and settling


def test_a_message_goes_to_one_member_and_is_done_when_acknowledged():
    group = make()
    assert take(group, "a", 3) == [0, 1, 2]
    assert take(group, "b", 2) == [3, 4]
    assert group.ack("a", [0, 1, 2], [1, 1, 1]) == []
    assert group.counts() == Counts(0, 2, 0, 0)
    assert not group.has_ready
    assert group.floor() == 0  # until that is stored
    group.changes()
    assert group.floor() == 3


def test_a_member_gets_no_more_than_it_may_have_in_messages_and_bytes():
    group = Group(GroupOptions(), 0)
    group.join("a", 3, 1000)
    assert group.take("a", range(5), None, [1] * 5, 5, NOW) == ([0, 1, 2], 3)
    group.join("b", 100, 25)
    assert group.take("b", range(3, 8), None, [10] * 5, 5, NOW) == ([0, 1], 2)
    group.ack("b", [3], [1])
    assert group.take("b", range(5, 8), None, [10] * 3, 5, NOW) == ([0], 1)


def test_a_message_larger_than_the_window_comes_alone():
    group = Group(GroupOptions(), 0)
    group.join("a", 10, 100)
    assert group.take("a", range(2), None, [500, 1], 2, NOW) == ([0], 1)
    assert group.take("a", range(1, 2), None, [1], 1, NOW) == ([], 0)
    group.ack("a", [0], [1])
    assert group.take("a", range(1, 2), None, [1], 1, NOW) == ([0], 1)


@pytest.mark.parametrize("how", ["ack", "nack", "extend", "release"])
def test_what_is_not_the_present_delivery_of_this_member_is_late(how: str):
    group = make(backoff_seconds=0)
    take(group, "a", 1)
    group.expire(NOW + 10 * SECOND)
    assert retake(group, "b", 1) == {0: 2}
    before = group.changes()
    assert before is not None

    def settle(member: str, offset: int, attempt: int) -> list[int]:
        deliveries = ([offset], [attempt])
        match how:
            case "ack":
                return group.ack(member, *deliveries)
            case "nack":
                return group.nack(member, *deliveries, 0, NOW)
            case "extend":
                return group.extend(member, *deliveries, NOW)
            case _:
                return group.release(member, *deliveries)

    assert settle("a", 0, 1) == [0]  # given to another
    assert settle("a", 0, 2) == [0]  # that is b's
    assert settle("b", 0, 1) == [0]  # not this attempt
    assert settle("b", 7, 1) == [7]  # never given out
    assert settle("nobody", 0, 2) == [0]
    assert group.changes() is None
    assert settle("b", 0, 2) == []


def test_a_nacked_message_waits_for_the_backoff_which_doubles_or_for_the_delay_given():
    group = make()
    take(group, "a", 1)
    assert group.nack("a", [0], [1], -1, NOW) == []
    group.expire(NOW + SECOND - 1)
    assert not group.has_ready
    group.expire(NOW + SECOND)
    assert retake(group, "a", 1) == {0: 2}
    group.nack("a", [0], [2], -1, NOW)
    assert group.next_due_us is not None
    assert group.entries[0].due_us == NOW + 2 * SECOND
    group.expire(NOW + 2 * SECOND)
    retake(group, "a", 1)
    assert group.entries[0].attempts == 3


def test_a_delay_of_nothing_makes_a_message_ready_at_once():
    group = make()
    take(group, "a", 1)
    group.nack("a", [0], [1], 0, NOW)
    assert retake(group, "b", 1) == {0: 2}


def test_what_is_given_back_unbegun_is_not_counted():
    group = make(max_attempts=1)
    take(group, "a", 1)
    assert group.release("a", [0], [1]) == []
    assert retake(group, "b", 1) == {0: 1}


def test_an_extended_lease_begins_anew():
    group = make()
    take(group, "a", 2)
    group.extend("a", [0], [1], NOW + 9 * SECOND)
    group.expire(NOW + 10 * SECOND)
    assert group.entries[0].state == IN_FLIGHT
    assert group.entries[1].state == DELAYED
    group.expire(NOW + 19 * SECOND)
    assert group.entries[0].state == DELAYED


def test_a_member_that_leaves_gives_all_back_at_once():
    group = make()
    take(group, "a", 3)
    group.leave("a")
    assert retake(group, "b", 5) == {0: 2, 1: 2, 2: 2}


# Giving up


@pytest.mark.parametrize("why", [NACKED, EXPIRED, LOST])
def test_after_the_last_attempt_a_message_dies_and_says_why(why: str):
    group = make(max_attempts=1)
    take(group, "a", 1)
    if why == NACKED:
        group.nack("a", [0], [1], 0, NOW)
    elif why == EXPIRED:
        group.expire(NOW + 10 * SECOND)
    else:
        group.leave("a")
    assert (group.entries[0].state, group.entries[0].member) == (DYING, why)
    assert group.dying(10) == []  # that is not stored yet
    assert group.changes() == Changes(1, [Run(0, 0, DYING, 1, 0, why)], [])
    assert group.dying(10) == [0]
    group.buried([0])
    assert group.counts() == Counts(0, 0, 0, 0)
    assert group.changes() is None  # its row went with the move


def test_a_redriven_message_begins_anew_but_never_as_a_delivery_that_its_member_may_still_settle():
    group = make(max_attempts=1)
    take(group, "a", 2)
    group.expire(NOW + 10 * SECOND)
    group.changes()
    group.buried(group.dying(10))
    group.restore(0, None)
    group.restore(1, None)
    group.restore(9, None)  # the cursor has not been there
    assert retake(group, "a", 1) == {0: 2}
    assert group.ack("a", [0], [1]) == [0]
    assert group.ack("a", [0], [2]) == []
    assert retake(group, "b", 5) == {1: 1}


# Keys in order


def test_two_messages_of_one_key_are_never_in_flight_and_come_in_order():
    group = make(ordered=True)
    assert take(group, "a", 5, keys=["k", "k", "l", "k", "l"]) == [0, 2]
    assert group.counts() == Counts(3, 2, 0, 0)
    assert retake(group, "b", 5) == {}
    group.ack("a", [0], [1])
    assert retake(group, "b", 5) == {1: 1}
    group.ack("b", [1], [1])
    group.ack("a", [2], [1])
    assert retake(group, "b", 5) == {3: 1, 4: 1}


def test_messages_without_a_key_are_free_in_an_ordered_group():
    group = make(ordered=True)
    assert take(group, "a", 4, keys=[None, "k", None, "k"]) == [0, 1, 2]


def test_a_delayed_message_holds_up_its_key_and_a_dying_one_does_not():
    group = make(ordered=True, max_attempts=2)
    take(group, "a", 2, keys=["k", "k"])
    group.nack("a", [0], [1], 5 * SECOND, NOW)
    assert retake(group, "b", 5) == {}
    group.expire(NOW + 5 * SECOND)
    assert retake(group, "b", 5) == {0: 2}
    group.nack("b", [0], [2], 5 * SECOND, NOW)
    assert group.entries[0].state == DYING
    assert retake(group, "b", 5) == {1: 1}


def test_a_redriven_message_is_next_of_its_key_when_a_later_one_is_not_in_flight_any_more():
    group = make(ordered=True, max_attempts=2)
    take(group, "a", 1, keys=["k"])
    group.nack("a", [0], [1], 0, NOW)
    retake(group, "a", 1)
    group.nack("a", [0], [2], 0, NOW)
    assert take(group, "a", 1, keys=["k"]) == [1]
    assert group.spare() == 1
    assert retake(group, "b", 5) == {}
    group.nack("a", [1], [1], 5 * SECOND, NOW)
    assert retake(group, "b", 5) == {0: 1}
    group.expire(NOW + 5 * SECOND)
    assert retake(group, "b", 5) == {}
    group.ack("b", [0], [1])
    assert retake(group, "b", 5) == {1: 2}


def test_an_ordered_group_looks_ahead_of_what_is_blocked_but_not_without_bound(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(core, "LOOK_AHEAD", 3)
    group = make(ordered=True)
    assert take(group, "a", 9, keys=["k", "k", "k", "k", "k", "l"]) == [0]
    assert group.cursor == 4
    group.ack("a", [0], [1])
    assert retake(group, "a", 5) == {1: 1}
    assert take(group, "a", 9, keys=["k", "l"]) == [5]


def test_other_keys_go_on_behind_thousands_of_a_key_that_waits():
    group = make(ordered=True)
    assert take(group, "a", 1, keys=["k"]) == [0]
    group.nack("a", [0], [1], 3600 * SECOND, NOW)
    assert take(group, "a", 1, keys=["k"] * 20_000 + ["l"]) == [20_001]
    group.ack("a", [20_001], [1])
    group.expire(NOW + 3600 * SECOND)
    for offset in range(3):
        assert list(retake(group, "a", 5)) == [offset]
        group.ack("a", [offset], [group.entries[offset].attempts])


def test_a_restart_knows_the_keys_of_what_is_pending():
    rows = [Row(0, READY, 1, 0, "", "k"), Row(1, IN_FLIGHT, 1, 5, "gone", "k"), Row(2, READY, 0, 0, "", "l")]
    group = Group(GroupOptions(ordered=True), 3, rows)
    group.join("a", 10, 100)
    assert retake(group, "a", 5) == {0: 2, 2: 1}
    group.ack("a", [0], [2])
    assert retake(group, "a", 5) == {1: 2}


# Restart, retention


def test_after_a_restart_what_was_in_flight_is_ready_and_delays_and_attempts_stay():
    rows = [
        Row(3, IN_FLIGHT, 2, NOW, "a 127.0.0.1:1/1"),
        Row(4, DELAYED, 1, NOW + SECOND, ""),
        Row(6, DYING, 3, 0, NACKED),
    ]
    group = Group(GroupOptions(), 10, rows)
    assert group.changes() == Changes(10, [Run(3, 3, READY, 2, 0, "")], [])
    group.join("a", 10, 100)
    assert retake(group, "a", 5) == {3: 3}
    group.expire(NOW + SECOND)
    assert retake(group, "a", 5) == {4: 2}
    assert group.dying(5) == [6]
    assert group.ack("a", [3], [2]) == [3]


def test_rows_read_anew_stay_in_flight_with_members_that_are_still_there():
    group = Group(GroupOptions(lease_seconds=10), 10, [Row(3, IN_FLIGHT, 1, NOW, "a")], ["a"])
    group.join("a", 2, 100)
    assert group.members["a"].window.messages == 1
    group.renew(NOW)
    group.expire(NOW + 9 * SECOND)
    assert group.ack("a", [3], [1]) == []


def test_retention_takes_what_is_pending_but_not_from_the_hands_of_a_member():
    group = make()
    take(group, "a", 3)
    group.nack("a", [1], [1], SECOND, NOW)
    group.nack("a", [2], [1], 0, NOW)
    group.keep_from(5)
    assert group.counts() == Counts(0, 1, 0, 0)
    assert group.cursor == 5
    assert group.ack("a", [0], [1]) == []
    group.changes()
    assert group.floor() == 5


@pytest.mark.parametrize("how", ["nack", "expire", "leave", "release"])
def test_a_message_that_retention_took_while_it_was_in_flight_does_not_come_again(how: str):
    group = make(max_attempts=1)
    take(group, "a", 1)
    group.keep_from(1)
    match how:
        case "nack":
            assert group.nack("a", [0], [1], 0, NOW) == []
        case "expire":
            group.expire(NOW + 10 * SECOND)
        case "leave":
            group.leave("a")
        case _:
            assert group.release("a", [0], [1]) == []
    assert group.counts() == Counts(0, 0, 0, 0)
    assert group.changes() == Changes(1, [], [(0, 0)])


def test_a_key_is_free_again_when_retention_took_what_held_it_up():
    group = make(ordered=True)
    take(group, "a", 3, keys=["k", "k", "k"])
    group.nack("a", [0], [1], 100 * SECOND, NOW)
    group.keep_from(1)
    assert retake(group, "a", 5) == {1: 1}


# What is stored


def test_rows_that_are_alike_are_stored_as_runs():
    group = make()
    take(group, "a", 4)
    take(group, "b", 2)
    due = NOW + 10 * SECOND
    assert group.changes() == Changes(
        6, [Run(0, 3, IN_FLIGHT, 1, due, "a"), Run(4, 5, IN_FLIGHT, 1, due, "b")], []
    )
    group.ack("a", [0, 1, 3], [1, 1, 1])
    group.ack("b", [4], [1])
    assert group.changes() == Changes(6, [], [(0, 1), (3, 4)])
    assert group.changes() is None


# Cost


def test_leases_that_were_settled_do_not_pile_up_in_the_heap():
    group = make()
    for _ in range(5000):
        offsets = take(group, "a", 10)
        group.ack("a", offsets, [1] * 10)
    assert group._timers.size <= 2000


def test_a_group_with_too_much_unsettled_is_given_nothing_new(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(core, "MOST_ENTRIES", 4)
    group = make()
    assert take(group, "a", 3) == [0, 1, 2]
    assert take(group, "b", 3) == [3]
    assert take(group, "b", 3) == []
    group.ack("a", [0], [1])
    assert take(group, "b", 3) == [4]
