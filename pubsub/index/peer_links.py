"""Connections to peers: one for each address, shared, opened when first wanted, closed when no longer used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from pubsub.config import Limits
from pubsub.errors import ConnectionLostError, PeerUnavailableError, TimeoutExpiredError
from pubsub.model import Address
from pubsub.net.link import Link
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m

IDLE_SECONDS = 60.0
"""A connection that nobody has asked for so long is closed. Longer than any request may take."""
_SWEEP_SECONDS = 10.0


class PeerLinks:
    """Links to peers, each checked to be the peer that was meant."""

    def __init__(self, greeting: m.Hello, limits: Limits, connect_seconds: float) -> None:
        self._pool = LinkPool(greeting, limits, connect_seconds)
        self._used_at: dict[Link, float] = {}

    async def get(self, peer: str, address: Address) -> Link:
        """The open link to `peer`, which the registry says is at `address`.

        Raises:
            PeerUnavailableError: it cannot be reached there, or somebody else answers; the message says why.
        """
        try:
            link = await self._pool.get(address)
        except ConnectionLostError as error:
            raise PeerUnavailableError(f"peer {peer} cannot be reached: {error}", peer=peer) from error
        welcome = link.welcome
        if welcome is None or welcome.role != "peer" or welcome.name != peer:
            if link not in self._used_at:  # it may be in use, for the peer that answers
                link.close()
            found = f"the {welcome.role} {welcome.name}".rstrip() if welcome is not None else "nobody"
            raise PeerUnavailableError(
                f"peer {peer} cannot be reached: at {address} answers {found} instead", peer=peer
            )
        if link not in self._used_at:
            link.when_lost(partial(self._forget, link))
        self._used_at[link] = asyncio.get_running_loop().time()
        return link

    def _forget(self, link: Link) -> None:
        self._used_at.pop(link, None)

    async def request_all(
        self, peer: str, address: Address, make: Callable[[int], m.Request], timeout_seconds: float
    ) -> list[m.Frame]:
        """Ask a peer; `make` gets the id that the request must have. The time includes connecting.

        Raises:
            PeerUnavailableError: it cannot be reached; the request was not sent.
            ConnectionLostError, TimeoutExpiredError: whether the request took effect is unknown.
            PubsubError: what the peer answered.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                link = await self.get(peer, address)
        except TimeoutExpiredError:
            raise
        except TimeoutError as error:
            raise PeerUnavailableError(
                f"peer {peer} cannot be reached: {address} did not answer within {timeout_seconds:g} s",
                peer=peer,
            ) from error
        return await link.request_all(make(link.next_id()), max(0.0, deadline - loop.time()))

    async def run(self) -> None:
        """Close what has not been used for long; for ever."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for link, used_at in list(self._used_at.items()):
                if now - used_at > IDLE_SECONDS:
                    link.close()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._pool.close()
