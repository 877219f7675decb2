"""When a message for later is due, and what is no such time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pubsub.core.schedule import MOST_DELAY_DAYS, delay_fields, due_us
from pubsub.errors import InvalidRequestError
from pubsub.model import us_from_datetime

NOW = datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC)
NOW_US = us_from_datetime(NOW)
DAY_US = 86_400_000_000


@pytest.mark.parametrize(("seconds", "microseconds"), [(1, 1_000_000), (0.0025, 2500), (1e-9, 1)])
def test_a_delay_stays_a_delay_for_the_owner_to_count(seconds: float, microseconds: int):
    assert delay_fields(seconds, None, NOW_US) == (0, microseconds)


def test_the_longest_delay_is_allowed_and_one_microsecond_more_is_not():
    most = float(MOST_DELAY_DAYS * 86_400)
    assert delay_fields(most, None, NOW_US) == (0, MOST_DELAY_DAYS * DAY_US)
    with pytest.raises(InvalidRequestError, match="too long"):
        delay_fields(most + 1e-6, None, NOW_US)
    longest = NOW + timedelta(days=MOST_DELAY_DAYS)
    assert delay_fields(None, longest, NOW_US) == (NOW_US + MOST_DELAY_DAYS * DAY_US, 0)
    with pytest.raises(InvalidRequestError, match="too far ahead"):
        delay_fields(None, longest + timedelta(microseconds=1), NOW_US)


def test_a_time_may_be_in_any_zone_and_may_have_passed():
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert delay_fields(None, elsewhere, NOW_US) == (NOW_US, 0)
    assert delay_fields(None, datetime(1, 1, 1, tzinfo=UTC), NOW_US) == (1, 0)


def test_without_either_it_is_for_now():
    assert delay_fields(None, None, NOW_US) == (0, 0)
    assert due_us(0, 0, NOW_US) == 0


def test_the_owner_counts_a_delay_from_its_own_time():
    assert due_us(0, 5, NOW_US) == NOW_US + 5
    assert due_us(NOW_US - 7, 0, NOW_US) == NOW_US - 7


def test_a_publisher_whose_clock_is_ahead_of_the_owners_may_ask_for_the_longest_delay():
    assert due_us(NOW_US + MOST_DELAY_DAYS * DAY_US + DAY_US, 0, NOW_US) > NOW_US
    with pytest.raises(InvalidRequestError, match="too far ahead"):
        due_us(NOW_US + MOST_DELAY_DAYS * DAY_US + DAY_US + 1, 0, NOW_US)


@pytest.mark.parametrize(("deliver_us", "delay_us"), [(-1, 0), (0, -1), (1, 1), (5, -5), (0, 2**62)])
def test_numbers_that_cannot_be_are_refused(deliver_us: int, delay_us: int):
    with pytest.raises(InvalidRequestError):
        due_us(deliver_us, delay_us, NOW_US)
