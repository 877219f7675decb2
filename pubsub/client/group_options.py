"""The options of groups: what each may be, checked before anything is sent."""

from __future__ import annotations

from typing import Any

from pubsub.core.group_options import (
    LEASE_SECONDS,
    MOST_ATTEMPTS,
    MOST_BACKOFF_SECONDS,
    MOST_DELAY_SECONDS,
    MOST_IN_FLIGHT,
)
from pubsub.errors import InvalidRequestError, shown

IN_FLIGHT = 100
"""What a member may have unsettled, unless it says otherwise."""


def checked_count(name: str, value: object, most: int) -> int:
    """Return a count from 1 to `most`.

    Raises:
        InvalidRequestError: it is not.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidRequestError(f"{name} is a number from 1 to {most}, not {shown(value)}")
    return value


def checked_seconds(name: str, value: object, least: float, most: float) -> float:
    """Return a number of seconds within bounds.

    Raises:
        InvalidRequestError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequestError(
            f"{name} is a number of seconds from {least:g} to {most:.0f}, not {shown(value)}"
        )
    return float(value)


def checked_in_flight(max_in_flight: object) -> int:
    """How many messages a member may have unsettled.

    Raises:
        InvalidRequestError: it is not a number from 1 to 10,000.
    """
    return (
        IN_FLIGHT if max_in_flight is None else checked_count("max_in_flight", max_in_flight, MOST_IN_FLIGHT)
    )


def check_without_group(max_in_flight: object, options: dict[str, Any]) -> None:
    """Options of a group mean nothing without one.

    Raises:
        InvalidRequestError: one is given; the message names it.
    """
    given = [*(["max_in_flight"] if max_in_flight is not None else []), *options]
    if given:
        raise InvalidRequestError(f"{given[0]} is an option of groups: say which, with group=")


def checked_delay_us(delay_seconds: object) -> int:
    """The delay of a nack, in microseconds.

    Raises:
        InvalidRequestError: it is not a number of seconds from 0 to a year.
    """
    return round(checked_seconds("delay_seconds", delay_seconds, 0, MOST_DELAY_SECONDS) * 1e6)


def group_options(
    lease_seconds: object, max_attempts: object, backoff_seconds: object, ordered: object
) -> dict[str, Any]:
    """Those options of a group that are given (are not None), under the names that the protocol has for them.

    Raises:
        InvalidRequestError: one is not what it may be.
    """
    options: dict[str, Any] = {}
    if lease_seconds is not None:
        options["lease_seconds"] = checked_seconds("lease_seconds", lease_seconds, *LEASE_SECONDS)
    if max_attempts is not None:
        options["max_attempts"] = checked_count("max_attempts", max_attempts, MOST_ATTEMPTS)
    if backoff_seconds is not None:
        options["backoff_seconds"] = checked_seconds(
            "backoff_seconds", backoff_seconds, 0, MOST_BACKOFF_SECONDS
        )
    if ordered is not None:
        if not isinstance(ordered, bool):
            raise InvalidRequestError(f"ordered is True or False, not {shown(ordered)}")
        options["ordered"] = ordered
    return options
