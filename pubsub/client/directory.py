"""A connection to one of several indexes (or peers, which pass questions on): the others take over when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pubsub.config import ClientSettings, Limits
from pubsub.errors import (
    ClosedError,
    ConnectionLostError,
    IndexUnavailableError,
    PubsubError,
    TimeoutExpiredError,
)
from pubsub.model import Address
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link, connect
from pubsub.net.pool import seen, share
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

ATTEMPT_SECONDS = 5.0
"""How long one index may take to answer before another is asked."""


LEAST_SECONDS = 0.1
"""However little time is left, an attempt has so much."""


class Directory:
    """Asks an index. Safe to be used by many callers at once; they share one link, and each attempt to open it."""

    def __init__(
        self, addresses: Sequence[Address], greeting: m.Hello, limits: Limits, settings: ClientSettings
    ) -> None:
        self.addresses = list(addresses)
        self._greeting = greeting
        self._limits = limits
        self._settings = settings
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        """Opens the link: whoever wants it meanwhile waits for this."""
        self._next = 0
        self._closed = False

    async def link(self) -> Link:
        """The link to an index that answers, opened if need be. Each address is tried once.

        Raises:
            IndexUnavailableError: none answers; the message says what each attempt ran into.
            UnsupportedVersionError: one answers, but in another major version.
            ClosedError: the directory has been closed, also while the link was being opened.
        """
        if self._closed:
            raise ClosedError("the client has been closed")
        if self._link is not None and self._link.open:
            return self._link
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._open(), name="pubsub: connect to an index")
            self._attempt.add_done_callback(self._attempted)
        return await share(self._attempt)

    async def _open(self) -> Link:
        failures: list[str] = []
        first = self._next
        for step in range(len(self.addresses)):
            turn = (first + step) % len(self.addresses)
            try:
                self._link = await connect(
                    self.addresses[turn], self._greeting, self._limits, self._settings.connect_seconds
                )
            except ConnectionLostError as error:
                failures.append(error.message)
            else:
                self._next = turn
                return self._link
        raise _unavailable("; ".join(failures))

    def _attempted(self, attempt: asyncio.Task[Link]) -> None:
        self._attempt = None
        seen(attempt)

    def distrust(self, link: Link) -> None:
        """Leave an index that does not answer, for the next one."""
        if link is self._link:
            self._next = (self._next + 1) % len(self.addresses)
        link.abort()

    async def request(
        self, make: Callable[[int], m.Request], timeout_seconds: float | None = None
    ) -> list[m.Frame]:
        """Ask, and ask again while what goes wrong is retriable, until the timeout.

        Args:
            make: Makes the request from its id.

        Raises:
            PubsubError: the answer; or, when the time is over, the last retriable error.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout_seconds or self._settings.timeout_seconds)
        backoff = Backoff(self._settings.backoff_first_seconds, self._settings.backoff_most_seconds)
        answer: PubsubError | None = None
        """The last error that an index gave: it says more than that the last attempt, cut short, got no answer."""
        while True:
            try:
                return await self._ask(make, deadline)
            except PubsubError as error:
                pause = backoff.next_seconds()
                if not error.retriable or self._closed or loop.time() + pause >= deadline:
                    if answer is not None and isinstance(error.__cause__, TimeoutError):
                        raise answer from error
                    raise
                log.debug("asking an index again: %s", error)
                if not isinstance(error, IndexUnavailableError):
                    answer = error
            await asyncio.sleep(pause)

    async def _ask(self, make: Callable[[int], m.Request], deadline: float) -> list[m.Frame]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(max(deadline, loop.time() + LEAST_SECONDS)):
                link = await self.link()
        except TimeoutError as error:
            raise _unavailable(f"not in time: {', '.join(map(str, self.addresses))}") from error
        left_seconds = max(deadline - loop.time(), LEAST_SECONDS)
        try:
            return await link.request_all(make(link.next_id()), min(ATTEMPT_SECONDS, left_seconds))
        except TimeoutExpiredError as error:
            self.distrust(link)
            raise IndexUnavailableError(error.message) from error

    async def close(self) -> None:
        """Close the link, or give up to open it. Idempotent."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        link = self._link
        if link is not None:
            link.close()
            await link.closed()


def _unavailable(why: str) -> IndexUnavailableError:
    return IndexUnavailableError(f"no index answers ({why}); start one with: pubsub index serve")
