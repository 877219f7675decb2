"""Messages of one key, one after the other: which of them may be given out.

The pending messages of a key form a lane, in order. Only the first of a lane may be given out, and only while
none of the lane is in flight (a redriven message may come to stand before one that is).
"""

from __future__ import annotations

from bisect import insort


class _Lane:
    __slots__ = ("busy", "offsets")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        """Pending, the one in flight included."""
        self.busy: int | None = None
        """The one in flight."""


class Lanes:
    """The lanes of a group, by key."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._lanes

    def add(self, key: str, offset: int) -> None:
        """A message is pending."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        insort(lane.offsets, offset)

    def remove(self, key: str, offset: int) -> None:
        """It is pending no more; one that is not is fine."""
        lane = self._lanes.get(key)
        if lane is None or offset not in lane.offsets:
            return
        if lane.busy == offset:
            lane.busy = None
        lane.offsets.remove(offset)
        if not lane.offsets:
            del self._lanes[key]

    def begin(self, key: str, offset: int) -> None:
        """It is in flight."""
        self._lanes[key].busy = offset

    def end(self, key: str) -> None:
        """What was in flight of this key is not any more."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.busy = None

    def free(self, key: str) -> int | None:
        """The message of a key that may be given out, if it is ready; None while one is in flight."""
        lane = self._lanes.get(key)
        return lane.offsets[0] if lane is not None and lane.busy is None else None
