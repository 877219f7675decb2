"""What may be chosen for a group when it is made: leases, attempts, backoff, order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from pubsub.errors import InvalidRequestError

LEASE_SECONDS = (0.1, 86_400.0)
"""From a tenth of a second to a day."""
MOST_ATTEMPTS = 1_000_000
MOST_BACKOFF_SECONDS = 86_400.0
MOST_DELAY_SECONDS = 365 * 86_400.0
MOST_IN_FLIGHT = 10_000
"""What one member may have in flight."""
LONGEST_BACKOFF_SECONDS = 60.0
"""Doubling ends here, or at `backoff_seconds` where that is longer."""


class GroupOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a group; they stay as they are."""

    lease_seconds: float = 30.0
    """How long a member may keep a message without a word before another gets it."""
    max_attempts: int = 5
    """So often a message is given out; when the last attempt fails it becomes a dead letter."""
    backoff_seconds: float = 1.0
    """After a first failed attempt a message waits so long, after each further one twice as long; 0: not at all."""
    ordered: bool = False
    """Never have two messages of one key in flight: those of a key are given out in order, one after the other."""

    @property
    def lease_us(self) -> int:
        return round(self.lease_seconds * 1_000_000)

    def backoff_us(self, attempts: int) -> int:
        """How long a message waits after so many failed attempts."""
        longest = max(LONGEST_BACKOFF_SECONDS, self.backoff_seconds)
        doubled = self.backoff_seconds * 2.0 ** min(attempts - 1, 64)
        return round(min(doubled, longest) * 1_000_000)


def parse_options(given: Mapping[str, Any]) -> GroupOptions:
    """Read options as they travel and are stored.

    Raises:
        InvalidRequestError: one is unknown, of another type, or outside its range; the message says which.
    """
    try:
        options = msgspec.convert(dict(given), GroupOptions)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidRequestError(f"the options of a group are wrong: {error}") from error
    _check_seconds("lease_seconds", options.lease_seconds, *LEASE_SECONDS)
    _check_seconds("backoff_seconds", options.backoff_seconds, 0, MOST_BACKOFF_SECONDS)
    if not 1 <= options.max_attempts <= MOST_ATTEMPTS:
        raise InvalidRequestError(
            f"max_attempts is a number from 1 to {MOST_ATTEMPTS}, not {options.max_attempts}"
        )
    return options


def _check_seconds(name: str, value: float, least: float, most: float) -> None:
    if math.isnan(value) or not least <= value <= most:
        raise InvalidRequestError(
            f"{name} is a number of seconds from {least:g} to {most:.0f}, not {value:g}"
        )
