"""Links by address: one connection to each server, shared by all who talk to it, opened when first wanted."""

from __future__ import annotations

import asyncio

from pubsub.config import Limits
from pubsub.errors import ClosedError
from pubsub.model import Address
from pubsub.net.link import Link, connect
from pubsub.protocol.messages import Hello


class LinkPool:
    """Hands out the link to an address; those who ask while it is being opened share the attempt."""

    def __init__(self, greeting: Hello, limits: Limits, connect_seconds: float) -> None:
        self._greeting = greeting
        self._limits = limits
        self._connect_seconds = connect_seconds
        self._links: dict[Address, Link] = {}
        self._attempts: dict[Address, asyncio.Task[Link]] = {}
        self._closed = False

    async def get(self, address: Address) -> Link:
        """The open link to `address`.

        Raises:
            ConnectionLostError, ProtocolError: it cannot be opened; the message says why.
            ClosedError: the pool has been closed, also while the link was being opened.
        """
        if self._closed:
            raise ClosedError("the connections have been closed")
        link = self._links.get(address)
        if link is not None and link.open:
            return link
        attempt = self._attempts.get(address)
        if attempt is None:
            attempt = asyncio.create_task(self._open(address), name=f"pubsub: connect to {address}")
            attempt.add_done_callback(seen)
            self._attempts[address] = attempt
        return await share(attempt)

    async def _open(self, address: Address) -> Link:
        try:
            link = await connect(address, self._greeting, self._limits, self._connect_seconds)
        finally:
            self._attempts.pop(address, None)
        if self._closed:
            link.abort()
            raise ClosedError("the connections have been closed")
        self._links[address] = link
        link.when_lost(lambda: self._forget(address, link))
        return link

    def _forget(self, address: Address, link: Link) -> None:
        if self._links.get(address) is link:
            del self._links[address]

    async def close(self) -> None:
        """Close every link. Idempotent."""
        self._closed = True
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        links = list(self._links.values())
        for link in links:
            link.close()
        await asyncio.gather(*(link.closed() for link in links))


async def share(attempt: asyncio.Task[Link]) -> Link:
    """Wait for an attempt for which others wait as well: one who gives up must not take it from them.

    Raises:
        ClosedError: the attempt was cancelled, as those are that are under way when their owner is closed.
    """
    await asyncio.wait([attempt])
    if attempt.cancelled():
        raise ClosedError("the connections have been closed")
    return attempt.result()


def seen(attempt: asyncio.Task[Link]) -> None:
    """Whoever waited may have given up: a failed attempt is then nobody's news."""
    if not attempt.cancelled():
        attempt.exception()
