"""What may be chosen for a group, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub.core.group_options import GroupOptions, parse_options
from pubsub.errors import InvalidRequestError


def test_without_options_a_group_has_the_defaults():
    assert parse_options({}) == GroupOptions(
        lease_seconds=30, max_attempts=5, backoff_seconds=1, ordered=False
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lease_seconds": 0}, "lease_seconds is a number of seconds from 0.1 to 86400, not 0"),
        ({"lease_seconds": -1}, "lease_seconds"),
        ({"lease_seconds": float("nan")}, "lease_seconds"),
        ({"lease_seconds": float("inf")}, "lease_seconds"),
        ({"lease_seconds": "30s"}, "lease_seconds"),
        ({"max_attempts": 0}, "max_attempts is a number from 1 to 1000000, not 0"),
        ({"max_attempts": 10**30}, "max_attempts"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"backoff_seconds": -0.1}, "backoff_seconds"),
        ({"backoff_seconds": 10**9}, "backoff_seconds"),
        ({"ordered": "yes"}, "ordered"),
        ({"lease": 30}, "lease"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(given: dict[str, Any], said: str):
    with pytest.raises(InvalidRequestError) as caught:
        parse_options(given)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("backoff_seconds", "seconds"),
    [
        (1, [1, 2, 4, 8, 16, 32, 60, 60]),
        (0, [0] * 8),
        (300, [300] * 8),
        (40, [40, 60, 60, 60, 60, 60, 60, 60]),
    ],
)
def test_the_backoff_doubles_up_to_a_minute_or_to_what_was_asked_for(
    backoff_seconds: float, seconds: list[float]
):
    options = GroupOptions(backoff_seconds=backoff_seconds)
    assert [options.backoff_us(attempts) / 1e6 for attempts in range(1, 9)] == seconds
    assert options.backoff_us(10**6) / 1e6 == seconds[-1]
