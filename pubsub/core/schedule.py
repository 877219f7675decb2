"""When a message that is published for later is due."""

from __future__ import annotations

import math
from datetime import datetime

from pubsub.errors import InvalidRequestError, shown
from pubsub.model import us_from_datetime

MOST_DELAY_DAYS = 3660
"""Ten years: what lies further ahead is a mistake in a unit."""

_MOST_SECONDS = MOST_DELAY_DAYS * 86_400
_SECOND_US = 1_000_000


def delay_fields(delay_seconds: float | None, deliver_at: datetime | None, now_us: int) -> tuple[int, int]:
    """`deliver_us` and `delay_us` as the protocol writes them, from what an application says.

    A time that has passed is due at once: whoever works out a time may be late with it.

    Raises:
        InvalidRequestError: both are given, or one is not what it should be.
    """
    if delay_seconds is not None and deliver_at is not None:
        raise InvalidRequestError("give delay_seconds or deliver_at, not both")
    if delay_seconds is not None:
        return 0, _delay_us(delay_seconds)
    if deliver_at is None:
        return 0, 0
    if not isinstance(deliver_at, datetime):
        raise InvalidRequestError(
            f"deliver_at is an aware datetime, not {type(deliver_at).__name__}; for a span use delay_seconds"
        )
    deliver_us = max(1, us_from_datetime(deliver_at))
    _check_span(deliver_us - now_us, f"the time {deliver_at.isoformat()}")
    return deliver_us, 0


def _delay_us(delay_seconds: float) -> int:
    if type(delay_seconds) not in (int, float) or not -math.inf < delay_seconds < math.inf:
        raise InvalidRequestError(f"a delay is a number of seconds, not {shown(delay_seconds)}")
    if delay_seconds <= 0:
        raise InvalidRequestError(
            f"a delay is more than 0 seconds, not {shown(delay_seconds)}; to publish now, leave it out"
        )
    if delay_seconds > _MOST_SECONDS:
        raise InvalidRequestError(
            f"a delay of {shown(delay_seconds)} s is too long: at most {MOST_DELAY_DAYS} days are allowed"
        )
    return max(1, round(delay_seconds * _SECOND_US))


def due_us(deliver_us: int, delay_us: int, now_us: int) -> int:
    """When messages of a publish are due, by the owner's clock; 0: they are to be stored now.

    Raises:
        InvalidRequestError: a number is negative, both are given, or it is too far ahead.
    """
    if not deliver_us and not delay_us:
        return 0
    if deliver_us < 0 or delay_us < 0 or (deliver_us and delay_us):
        raise InvalidRequestError(
            "a publish has a time of delivery or a delay, not both; neither is negative"
        )
    due = deliver_us or now_us + delay_us
    # A day of grace: the publisher's clock may not be ours.
    _check_span(due - now_us - 86_400 * _SECOND_US, "the time of delivery")
    return due


def _check_span(span_us: int, what: str) -> None:
    if span_us > _MOST_SECONDS * _SECOND_US:
        raise InvalidRequestError(
            f"{what} is too far ahead: messages are held for {MOST_DELAY_DAYS} days at most"
        )
