"""What may go, by a policy."""

from __future__ import annotations

from itertools import accumulate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.retention import (
    LARGEST_FACTOR,
    SPARE_PAGES,
    SPARE_PART,
    Extent,
    Removal,
    acknowledged_to,
    compaction_end,
    count_removed,
    next_factor,
    pages_to_give_back,
    plan_removal,
)
from pubsub.policy import Policy

NOW_US = 1_000_000_000

Log = list[tuple[int, int, int]]
"""Offset, time and size of each message."""


def extent(log: Log, oldest_us: int | None = None) -> Extent:
    return Extent(
        first_offset=log[0][0] if log else 7,
        committed=log[-1][0] + 1 if log else 7,
        messages=len(log),
        size_bytes=sum(size for _, _, size in log),
        oldest_us=log[0][1] if log and oldest_us is None else oldest_us,
    )


def kept(policy: Policy, log: Log, acknowledged: int | None = None) -> Log:
    """What is left when everything that may go is gone."""
    removal = plan_removal(policy, extent(log), NOW_US, acknowledged)
    return log if removal is None else log[count_removed(removal, log) :]


TEN: Log = [(offset, NOW_US - (10 - offset) * 1_000_000, 100) for offset in range(10)]
"""Offsets 0 to 9, published 10 to 1 seconds ago, of 100 bytes each."""


def test_without_limits_everything_is_kept() -> None:
    assert plan_removal(Policy(), extent(TEN), NOW_US, acknowledged=10) is None


@pytest.mark.parametrize(
    ("policy", "first_kept"),
    [
        (Policy(max_age_seconds=4), 6),
        (Policy(max_age_seconds=0.5), 10),
        (Policy(max_age_seconds=100), 0),
        (Policy(max_messages=3), 7),
        (Policy(max_messages=10), 0),
        (Policy(max_bytes=500), 5),
        (Policy(max_bytes=499), 6),
        (Policy(max_bytes=99), 10),
        (Policy(max_bytes=1000), 0),
        (Policy(max_age_seconds=4, max_messages=8, max_bytes=900), 6),
        (Policy(max_age_seconds=8, max_messages=3, max_bytes=900), 7),
        (Policy(max_age_seconds=8, max_messages=8, max_bytes=150), 9),
    ],
)
def test_the_limit_that_takes_away_most_decides(policy: Policy, first_kept: int) -> None:
    assert kept(policy, TEN) == TEN[first_kept:]


def test_until_acknowledged_a_message_goes_when_all_are_past_it() -> None:
    policy = Policy(until_acknowledged=True)
    assert kept(policy, TEN, acknowledged=4) == TEN[4:]
    assert kept(policy, TEN, acknowledged=0) == TEN


def test_until_acknowledged_with_nobody_to_acknowledge_everything_is_kept() -> None:
    assert kept(Policy(until_acknowledged=True), TEN, acknowledged=None) == TEN


def test_until_acknowledged_the_limits_are_a_cap_for_what_is_not() -> None:
    policy = Policy(until_acknowledged=True, max_messages=3)
    assert kept(policy, TEN, acknowledged=None) == TEN[7:]
    assert kept(policy, TEN, acknowledged=4) == TEN[7:]
    assert kept(policy, TEN, acknowledged=9) == TEN[9:]
    assert kept(Policy(until_acknowledged=True, max_age_seconds=2), TEN, acknowledged=0) == TEN[8:]


def test_what_is_acknowledged_means_nothing_to_other_policies() -> None:
    assert kept(Policy(max_messages=8), TEN, acknowledged=9) == TEN[2:]


def test_everybody_has_a_say_in_what_is_acknowledged_and_nobody_none() -> None:
    assert acknowledged_to([]) is None
    assert acknowledged_to([None, None]) is None
    assert acknowledged_to([None, 5, 3, None, 9]) == 3


def test_an_age_that_is_not_known_is_looked_into() -> None:
    unknown = msgspec.structs.replace(extent(TEN), oldest_us=None)
    assert plan_removal(Policy(max_age_seconds=100), unknown, NOW_US, None) is not None
    assert plan_removal(Policy(max_messages=100), unknown, NOW_US, None) is None
    assert plan_removal(Policy(max_age_seconds=1), extent([]), NOW_US, None) is None


def test_an_age_from_before_the_epoch_takes_nothing_away() -> None:
    unknown = msgspec.structs.replace(extent(TEN), oldest_us=None)
    assert plan_removal(Policy(max_age_seconds=3_000_000_000), unknown, NOW_US, None) is None


def logs() -> st.SearchStrategy[Log]:
    rows = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2_000_000), st.integers(0, 200)), max_size=30)

    def log(steps: list[tuple[int, int, int]]) -> Log:
        offsets = accumulate(step for step, _, _ in steps)
        times = accumulate((later for _, later, _ in steps), initial=NOW_US - 20_000_000)
        return list(zip(offsets, times, (size for _, _, size in steps), strict=False))

    return rows.map(log)


policies = st.builds(
    Policy,
    max_age_seconds=st.none() | st.integers(1, 30),
    max_messages=st.none() | st.integers(1, 35),
    max_bytes=st.none() | st.integers(1, 4000),
    until_acknowledged=st.booleans(),
)


@given(policies, logs(), st.none() | st.integers(0, 100))
def test_what_is_left_is_within_every_limit_and_nothing_goes_that_no_limit_asks_for(
    policy: Policy, log: Log, acknowledged: int | None
) -> None:
    left = kept(policy, log, acknowledged)
    assert left == log[len(log) - len(left) :]
    done = (acknowledged or 0) if policy.until_acknowledged else 0
    age_us = policy.max_age_us
    for offset, published_us, _ in left:
        assert offset >= done
        assert age_us is None or published_us >= NOW_US - age_us
    assert policy.max_messages is None or len(left) <= policy.max_messages
    assert policy.max_bytes is None or sum(size for _, _, size in left) <= policy.max_bytes
    if len(left) < len(log):  # the last that went had to
        before = log[len(log) - len(left) - 1 :]
        offset, published_us, _ = before[0]
        assert (
            offset < done
            or (age_us is not None and published_us < NOW_US - age_us)
            or (policy.max_messages is not None and len(before) > policy.max_messages)
            or (policy.max_bytes is not None and sum(size for _, _, size in before) > policy.max_bytes)
        )


@given(policies, logs(), st.none() | st.integers(0, 100), st.integers(1, 5))
def test_removing_in_steps_ends_where_removing_at_once_does(
    policy: Policy, log: Log, acknowledged: int | None, step: int
) -> None:
    left = log
    while (removal := plan_removal(policy, extent(left), NOW_US, acknowledged)) is not None:
        count = min(step, count_removed(removal, left))
        if not count:
            break
        left = left[count:]
    assert left == kept(policy, log, acknowledged)


def test_an_empty_removal_removes_nothing() -> None:
    assert count_removed(Removal(), TEN) == 0
    assert count_removed(Removal(below=100), []) == 0


def test_steps_grow_only_while_more_comes_in_than_goes() -> None:
    assert next_factor(1, behind_before=1000.0, behind_now=999.0) == 1
    assert next_factor(1, behind_before=10.0, behind_now=11.0) == 2
    assert next_factor(8, behind_before=10.0, behind_now=11.0) == LARGEST_FACTOR
    assert next_factor(LARGEST_FACTOR, behind_before=10.0, behind_now=11.0) == LARGEST_FACTOR
    assert next_factor(4, behind_before=10.0, behind_now=10.0) == 4, "half of it would not have kept up"
    assert next_factor(4, behind_before=10.0, behind_now=8.0) == 2
    assert next_factor(4, behind_before=1.5, behind_now=1.0) == 2
    assert next_factor(1, behind_before=0.0, behind_now=0.0) == 1


def test_compaction_passes_by_no_message_that_a_group_has_still_to_be_given() -> None:
    assert compaction_end(100, []) == 100
    assert compaction_end(100, [None]) == 100
    assert compaction_end(100, [70, None, 40]) == 40
    assert compaction_end(100, [400]) == 100


def test_a_file_keeps_some_free_pages_and_gives_back_the_rest() -> None:
    assert pages_to_give_back(0, 1000) == 0
    assert pages_to_give_back(SPARE_PAGES, 1000) == 0
    assert pages_to_give_back(SPARE_PAGES + 5, 1000) == 5
    many = 1000 * SPARE_PAGES
    assert pages_to_give_back(many // 2, many) == many // 2 - many // SPARE_PART
