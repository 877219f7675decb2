"""Whether a file can be written to, as far as is known; where it cannot, it is tried again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pubsub.errors import PubsubError, ReadOnlyError
from pubsub.storage.work import Job

log = logging.getLogger("pubsub.storage")


class Fault:
    """Why the file of a directory cannot be written to at the moment. Called in the event loop only."""

    def __init__(self, directory: Path, probe_seconds: float, submit: Callable[[Job], None]) -> None:
        self.reason: str | None = None
        """None: it can be."""
        self._directory = directory
        self._probe_seconds = probe_seconds
        self._submit = submit
        self._probe: asyncio.TimerHandle | None = None
        self._stopped = False

    def note(self, reason: str | None) -> None:
        """It was written to, or could not be for this reason."""
        if reason is not None and self.reason is None:
            log.error("%s is read-only: %s", self._directory, reason)
        elif reason is None and self.reason is not None:
            log.warning("%s can be written to again", self._directory)
        self.reason = reason
        if reason is not None and self._probe is None and not self._stopped:
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(self._probe_seconds, self._try_to_write)

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        if self._probe is not None:
            self._probe.cancel()

    def _try_to_write(self) -> None:
        """See whether the disk takes anything again, so that an idle topic is not called read-only for ever."""
        self._probe = None

        def tried(_: Any, error: PubsubError | None) -> None:
            if error is None or isinstance(error, ReadOnlyError):
                self.note(None if error is None else error.message)
            else:
                self.note(self.reason)  # proves nothing: try again

        now_us = time.time_ns() // 1000
        self._submit(
            Job(lambda c: c.exec_driver_sql("UPDATE node SET written_at = ?", (now_us,)).close(), tried)
        )
