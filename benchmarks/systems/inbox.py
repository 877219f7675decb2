"""What a client that calls back for each message has in common with others of its kind: a place to wait for so many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Inbox:
    """Hands messages to whoever waits for them; keeps what comes while nobody does."""

    def __init__(self) -> None:
        self._early: list[bytes] = []
        self._take: Callable[[bytes], object] = self._early.append
        self._left = 0
        self._all = asyncio.Event()

    def put(self, payload: bytes) -> None:
        """A message has come."""
        self._take(payload)
        self._left -= 1
        if self._left == 0:
            self._take = self._early.append
            self._all.set()

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        """Call `take` with each of the next `count` messages."""
        early, self._early[:count] = self._early[:count], []
        for payload in early:
            take(payload)
        if len(early) < count:
            self._left, self._take = count - len(early), take
            self._all.clear()
            await self._all.wait()
