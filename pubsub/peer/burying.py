"""When a group's dying messages become dead letters: some at a time, and after a failure once a pause is over.

How they do is in `dead_letters`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pubsub.core.group import Group
from pubsub.errors import ClosedError, PubsubError

log = logging.getLogger("pubsub.peer")

BURIED_AT_ONCE = 100
"""Messages that become dead letters in one transaction."""
AFTER_FAULT_SECONDS = 3600.0
"""How long nothing is tried after a fault of this program, which will hardly mend itself."""


class Burying:
    """See the module's text. Called in the event loop only.

    Args:
        whose: The group and its topic, for the log.
        pause_seconds: How long nothing is tried after dead letters could not be made.
        bury: Makes dead letters of the messages at these offsets.
        go_on: Called when some have been made, or the pause is over: there may be more to do.
    """

    def __init__(
        self,
        whose: str,
        pause_seconds: float,
        bury: Callable[[list[int]], Awaitable[None]],
        go_on: Callable[[], None],
    ) -> None:
        self._whose = whose
        self._pause_seconds = pause_seconds
        self._bury = bury
        self._go_on = go_on
        self._task: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None
        """While it runs no dead letters are made, after that could not be done."""
        self._said = ""
        """Why dead letters could not be made, as it was told last."""

    def begin(self, group: Group) -> None:
        """Have dead letters made of what the group gives up, if that is not under way and there is no pause."""
        if self._task is not None or self._pause is not None:
            return
        offsets = group.dying(BURIED_AT_ONCE)
        if offsets:
            self._task = asyncio.create_task(
                self._run(offsets), name=f"pubsub: bury dead letters of {self._whose}"
            )

    async def _run(self, offsets: list[int]) -> None:
        pause_seconds = 0.0
        try:
            await self._bury(offsets)
            self._said = ""
        except ClosedError:
            return
        except PubsubError as error:
            if error.message != self._said:  # once, though it may go on for days
                self._said = error.message
                log.warning("messages that %s gave up are moved later: %s", self._whose, error)
            pause_seconds = self._pause_seconds
        except Exception:
            log.exception("moving what %s gave up failed", self._whose)
            pause_seconds = AFTER_FAULT_SECONDS
        finally:
            self._task = None
        if pause_seconds:
            self._pause = asyncio.get_running_loop().call_later(pause_seconds, self._try_again)
        self._go_on()

    def _try_again(self) -> None:
        self._pause = None
        self._go_on()

    async def finished(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def end(self) -> None:
        """Do nothing any more. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        if self._task is not None:
            self._task.cancel()
