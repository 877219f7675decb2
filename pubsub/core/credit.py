"""How much of what is ready may be sent to a subscriber: credit, in messages and in bytes.

The subscriber grants a window; what it has been sent and has not yet given back as credit is outstanding, and
never exceeds the window in either measure. One exception keeps large messages moving: a single message larger
than the whole byte window is sent when nothing else is outstanding.
"""

from __future__ import annotations

from collections.abc import Sequence


class Window:
    """What one subscription may have outstanding. 0 <= messages, and `bytes` may dip below 0 by one message."""

    __slots__ = ("_granted_messages", "bytes", "messages")

    def __init__(self, messages: int, size_bytes: int) -> None:
        self.messages = messages
        """Messages that may still be sent."""
        self.bytes = size_bytes
        """Bytes that may still be sent."""
        self._granted_messages = messages

    @property
    def idle(self) -> bool:
        """Whether nothing is outstanding."""
        return self.messages >= self._granted_messages

    def grant(self, messages: int, size_bytes: int) -> None:
        """The subscriber gave so much back, or widened its window."""
        self.messages += messages
        self.bytes += size_bytes
        self._granted_messages = max(self._granted_messages, self.messages)

    def spend(self, messages: int, size_bytes: int) -> None:
        """So much has been sent."""
        self.messages -= messages
        self.bytes -= size_bytes

    def fitting(self, sizes: Sequence[int]) -> int:
        """How many of the next messages, of these sizes, may be sent now."""
        if self.messages <= 0:
            return 0
        room, count = self.bytes, 0
        for size in sizes[: self.messages]:
            room -= size
            if room < 0:
                break
            count += 1
        return count or (1 if sizes and self.idle else 0)
