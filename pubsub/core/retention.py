"""Which messages of a topic may go, by its policy, and how much of the file is given back.

Without `until_acknowledged` a message goes once it is older than `max_age`, or is not among the newest `max_messages`,
or not among the newest that fit `max_bytes`: whichever comes first. With it, a message goes once every group and
durable subscription is past it; and the same limits are the hard cap: what is beyond one of them goes whether or not
it was acknowledged. Where nobody has a group or a durable subscription, nobody has acknowledged anything, and only
the cap takes messages away.

Messages go from the start of the log only, so what may go is always a prefix of it. Compaction is apart from all
this: it takes away, of whatever is kept, messages whose key has a later one (storage/compaction carries it out). It
passes by no message that a group has still to be given: a group is a work queue, and gets each one. Other readers,
durable or not, may find a superseded message gone that they have not read.

Instants are microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pubsub.policy import Policy


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic holds. first_offset <= committed; `messages` may be fewer than the offsets span."""

    first_offset: int
    committed: int
    messages: int
    size_bytes: int
    oldest_us: int | None
    """When the oldest message was published; None: not known, or there is none."""


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """A message goes if any of this holds; only what is committed goes."""

    below: int = 0
    """Its offset lies below."""
    before_us: int = 0
    """It was published before."""
    keep_messages: int | None = None
    """There are so many newer ones."""
    keep_bytes: int | None = None
    """It and the newer ones are larger."""


def acknowledged_to(floors: Iterable[int | None]) -> int | None:
    """Below which offset everything has been acknowledged, by all who have a say; None where nobody has.

    Args:
        floors: of each group and each durable subscription, or of several together; None: there is none.
    """
    return min((floor for floor in floors if floor is not None), default=None)


def plan_removal(policy: Policy, extent: Extent, now_us: int, acknowledged: int | None) -> Removal | None:
    """What is to be removed now; None where nothing is.

    Where it is not known how old the oldest message is, and `max_age` asks for it, it is taken to be too old: who
    carries the removal out looks.

    Args:
        acknowledged: what `acknowledged_to` says; looked at with `until_acknowledged` only.
    """
    if extent.messages == 0:
        return None
    below = acknowledged if policy.until_acknowledged and acknowledged is not None else 0
    age_us = policy.max_age_us
    before_us = 0 if age_us is None else now_us - age_us
    due = (
        below > extent.first_offset
        or (before_us > 0 and (extent.oldest_us is None or extent.oldest_us < before_us))
        or (policy.max_messages is not None and extent.messages > policy.max_messages)
        or (policy.max_bytes is not None and extent.size_bytes > policy.max_bytes)
    )
    if not due:
        return None
    return Removal(
        below=below,
        before_us=before_us,
        keep_messages=policy.max_messages,
        keep_bytes=policy.max_bytes,
    )


LARGEST_FACTOR = 16


def next_factor(factor: int, behind_before: float, behind_now: float) -> int:
    """How many times the usual size the next step has.

    Small steps disturb publishers least, so they are the rule, however much there is to remove. Only where more comes
    in than they take away do they grow, and get small again as soon as half of one would have been enough.

    Args:
        behind_before, behind_now: how many steps of the usual size were left before the last step, and are now.
    """
    gained = behind_before - behind_now
    if gained < 0:
        return min(LARGEST_FACTOR, factor * 2)
    return max(1, factor // 2) if gained >= factor / 2 or behind_now <= 1 else factor


def count_removed(removal: Removal, messages: Sequence[tuple[int, int, int]]) -> int:
    """How many of a log's messages go, from the first on: the rule that storage/retention says in SQL.

    Args:
        messages: all that are kept and committed: (offset, published_us, size in bytes), by offset.
    """
    left_messages = len(messages)
    left_bytes = sum(size_bytes for _, _, size_bytes in messages)
    for count, (offset, published_us, size_bytes) in enumerate(messages):
        goes = (
            offset < removal.below
            or published_us < removal.before_us
            or (removal.keep_messages is not None and left_messages > removal.keep_messages)
            or (removal.keep_bytes is not None and left_bytes > removal.keep_bytes)
        )
        if not goes:
            return count
        left_messages -= 1
        left_bytes -= size_bytes
    return len(messages)


def compaction_end(committed: int, group_floors: Iterable[int | None]) -> int:
    """The offset below which superseded messages may be removed."""
    return min([committed, *(floor for floor in group_floors if floor is not None)])


SPARE_PAGES = 128
"""Free pages that a file keeps at least: what is written next need not make it longer."""
SPARE_PART = 50
"""It keeps one in so many, where that is more."""


def pages_to_give_back(least_free: int, total: int) -> int:
    """How many pages a file gives back to the file system.

    Pages that were free for a while only because messages come and go are soon needed again.

    Args:
        least_free: the fewest free pages that were seen over a while.
        total: pages of the file, free ones among them.
    """
    return max(0, least_free - max(SPARE_PAGES, total // SPARE_PART))
