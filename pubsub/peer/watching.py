"""Watching, for clients that are connected to a peer: one watch at the index serves them all."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from pubsub.client.directory import Directory
from pubsub.model import check_pattern, matches
from pubsub.net.link import Link
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m

REQUEST_SECONDS = 4.0


class SharedWatch:
    """Passes changes on to whoever asked this peer for them.

    A watcher that does not read is dropped, and so are all of them when the index is lost: each connects anew
    and looks at everything again, so nothing is missed in silence and nothing piles up here.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._watchers: dict[ServerConnection, dict[int, str]] = {}
        self._link: Link | None = None
        self._starting = asyncio.Lock()

    async def add(self, connection: ServerConnection, request: int, pattern: str) -> None:
        """Tell `connection` from now on of changes that match `pattern`.

        Raises:
            InvalidNameError: the pattern is illegal.
            IndexUnavailableError, ConnectionLostError: nobody can tell of changes now.
        """
        check_pattern(pattern)
        async with self._starting:
            if self._link is None or not self._link.open:
                self._link = await self._start(await self._directory.link())
        if connection not in self._watchers:
            self._watchers[connection] = {}
            connection.when_lost(partial(self._forget, connection))
        self._watchers[connection][request] = pattern

    async def _start(self, link: Link) -> Link:
        request = link.next_id()
        link.watchers[request] = self._pass_on
        await link.request(m.Watch(request, ">"), REQUEST_SECONDS)
        link.when_lost(self._on_lost)
        return link

    def _forget(self, connection: ServerConnection) -> None:
        self._watchers.pop(connection, None)

    def _on_lost(self) -> None:
        for connection in list(self._watchers):
            connection.close()

    def _pass_on(self, frame: m.Changes) -> None:
        for connection, patterns in list(self._watchers.items()):
            if not connection.writable:
                connection.abort()
                continue
            for request, pattern in patterns.items():
                wanted = [change for change in frame.changes if _concerns(change, pattern)]
                if wanted:
                    connection.send_frame(m.Changes(request, wanted))


def _concerns(change: dict[str, Any], pattern: str) -> bool:
    return change.get("kind") != "topic" or matches(pattern, str(change.get("name", "")))
