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
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

ATTEMPT_SECONDS = 5.0
"""How long one index may take to answer before another is asked."""


class Directory:
    """Asks an index. Safe to be used by many callers at once; they share one link."""

    def __init__(
        self, addresses: Sequence[Address], greeting: m.Hello, limits: Limits, settings: ClientSettings
    ) -> None:
        self.addresses = list(addresses)
        self._greeting = greeting
        self._limits = limits
        self._settings = settings
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self._next = 0
        self._closed = False

    async def link(self) -> Link:
        """The link to an index that answers, opened if need be. Each address is tried once.

        Raises:
            IndexUnavailableError: none answers; the message says what each attempt ran into.
            UnsupportedVersionError: one answers, but in another major version.
        """
        async with self._opening:
            if self._closed:
                raise ClosedError("the client has been closed")
            if self._link is not None and self._link.open:
                return self._link
            failures: list[str] = []
            for step in range(len(self.addresses)):
                turn = (self._next + step) % len(self.addresses)
                try:
                    self._link = await connect(
                        self.addresses[turn], self._greeting, self._limits, self._settings.connect_seconds
                    )
                except ConnectionLostError as error:
                    failures.append(error.message)
                else:
                    self._next = turn
                    return self._link
            raise IndexUnavailableError(
                f"no index answers ({'; '.join(failures)}); start one with: pubsub index serve"
            )

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
                return await self._ask(make, deadline - loop.time())
            except PubsubError as error:
                pause = backoff.next_seconds()
                if not error.retriable or self._closed or loop.time() + pause >= deadline:
                    if answer is not None and isinstance(error.__cause__, TimeoutExpiredError):
                        raise answer from error
                    raise
                log.debug("asking an index again: %s", error)
                if not isinstance(error, IndexUnavailableError):
                    answer = error
            await asyncio.sleep(pause)

    async def _ask(self, make: Callable[[int], m.Request], left_seconds: float) -> list[m.Frame]:
        link = await self.link()
        try:
            return await link.request_all(make(link.next_id()), min(ATTEMPT_SECONDS, max(left_seconds, 0.1)))
        except TimeoutExpiredError as error:
            self.distrust(link)
            raise IndexUnavailableError(error.message) from error

    async def close(self) -> None:
        """Close the link. Idempotent."""
        self._closed = True
        link = self._link
        if link is not None:
            link.close()
            await link.closed()
