"""What an owner knows of one copy that follows it: how far it is, since when, and whether its disk can be believed.

A copy that lost something (a new data directory, a damaged file, a log that is shorter than it was) has forgotten what
it said: that it had messages, and which epochs it promised. Rules:

- It is not *sound*: it says so with each report, has no vote when a record is rebuilt, and is never chosen.
- If it was in sync it counts as having nothing, until the registry has confirmed that it is out. Then it fills up, and
  comes in, as any copy does.
- Once the registry has confirmed that it is in, its owner tells it that it is sound. An old owner, to which the
  registry no longer listens, can neither commit with such a copy nor give it back its vote.

Instants are microseconds of one monotonic clock of the owner.
"""

from __future__ import annotations

from typing import Literal

Standing = Literal["sound", "lost", "returning"]
"""`lost`: it was in sync and lost something. `returning`: it is known not to be in sync, or was since, and has not been
told that it is sound."""


class Follower:
    """A copy, as reported in this epoch."""

    __slots__ = ("_asked_at", "_asked_end", "_since", "caught_up_at", "config", "log_end", "standing")

    def __init__(self, since: int) -> None:
        self.log_end: int | None = None
        """None: nothing in this epoch yet, so it is not known to agree with the owner's log."""
        self.caught_up_at = since
        """When it last had all there was. One of which nothing was heard may take a while to turn up at all."""
        self.config = (0, 0)
        """`order` of the newest `Config` that it has stored."""
        self.standing: Standing = "sound"
        self._since = since
        self._asked_end, self._asked_at = 0, since
        """The owner's log end at the report before, and when that was."""

    def reported(self, log_end: int, owner_end: int, now: int, *, sound: bool, in_sync: bool) -> None:
        """It has the log on disk up to `log_end`; `in_sync`: the registry may hold it to be in sync."""
        shorter = self.log_end is not None and log_end < self.log_end
        if shorter or (not sound and self.standing == "sound"):
            self.standing = "lost" if in_sync else "returning"
        elif sound and self.standing == "returning":
            self.standing = "sound"
        if log_end >= owner_end:
            self.caught_up_at = now
        elif log_end >= self._asked_end:
            self.caught_up_at = max(self.caught_up_at, self._asked_at)
        self._asked_end, self._asked_at = owner_end, now
        self.log_end = log_end

    def left_behind(self, owner_end: int, now: int) -> None:
        """The owner's log is about to grow beyond `owner_end`."""
        if self.log_end == owner_end:
            self.caught_up_at = now

    def out(self) -> None:
        """The registry has confirmed that it is not in sync."""
        if self.standing == "lost":
            self.standing = "returning"

    @property
    def counts_to(self) -> int | None:
        """Up to where it is known to have the log; None: nothing is known, or it cannot be believed."""
        return None if self.standing == "lost" else self.log_end

    def behind_since(self, owner_end: int, now: int) -> int:
        """Since when it has lacked something; `now` if it does not."""
        return now if self.log_end is not None and self.log_end >= owner_end else self.caught_up_at

    def has_caught_up(self, least: int, owner_end: int) -> bool:
        """Whether it may come in: it has everything below `least`, and once had all there was, in this epoch."""
        return (
            self.log_end is not None
            and self.log_end >= least
            and (self.log_end >= owner_end or self.caught_up_at > self._since)
        )
