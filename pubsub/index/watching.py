"""Watchers are told what changes: topics, and peers with the topics that come and go with them.

Rules: what happened is collected while a telling is under way, and told together; what is told is the state at
that time, read anew. A watcher that does not read is told nothing until it does, and then "resync" once: nothing
is piled up for it. The same word goes to all when events may have been missed.

A peer that dies says nothing. So while there are watchers, the standing of all peers is compared with what was
last told, at least twice a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pubsub.core.liveness import Standing, changed_peers
from pubsub.errors import InvalidRequestError, RegistryUnavailableError
from pubsub.index.directory import Directory
from pubsub.index.peer_table import PeerTable
from pubsub.index.settling import Settling
from pubsub.model import check_pattern, matches
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Event, Registry

log = logging.getLogger("pubsub.index")

MOST_WATCHES = 100
"""Watches of one connection."""
_MOST_NOTED = 10_000
"""Names that changed and have not been told yet; beyond it, telling to look at everything is cheaper."""
_FRAME_CHANGES = 1000

_RESYNC: dict[str, Any] = {"kind": "resync", "name": "", "topic": None}


class _Watcher:
    def __init__(self, connection: ServerConnection, request: int, pattern: str) -> None:
        self.connection = connection
        self.request = request
        self.pattern = pattern
        self.behind = False
        """It missed something while it did not read."""


class Watching:
    """Serves Watch."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        directory: Directory,
        settling: Settling,
        ttl_seconds: float,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._directory = directory
        self._settling = settling
        self._look_seconds = min(0.5, ttl_seconds / 6)
        self._watchers: dict[ServerConnection, list[_Watcher]] = {}
        self._told: dict[str, Standing] | None = None
        """The standing of each peer as the watchers know it; None while there are none."""
        self._topics: set[str] = set()
        self._peers_noted: set[str] = set()
        self._resync = False
        self._noted = asyncio.Event()

    async def watch(self, connection: ServerConnection, frame: m.Watch) -> m.Done:
        """Tell a connection of changes from now on, until it closes."""
        check_pattern(frame.pattern)
        await self._peers.fresh()
        if self._told is None:
            self._told = self._peers.standings()
        watchers = self._watchers.get(connection)
        if watchers is None:
            watchers = self._watchers[connection] = []
            connection.when_lost(lambda: self._forget(connection))
        if len(watchers) >= MOST_WATCHES:
            raise InvalidRequestError(f"a connection may have {MOST_WATCHES} watches at most")
        watchers.append(_Watcher(connection, frame.id, frame.pattern))
        return m.Done(frame.id)

    def _forget(self, connection: ServerConnection) -> None:
        self._watchers.pop(connection, None)
        if not self._watchers:
            self._told = None

    def note(self, events: Iterable[Event]) -> None:
        """Take in what the registry says has changed."""
        if not self._watchers:
            return  # whoever begins to watch reads the state first
        for event in events:
            if event.kind == "topic":
                self._topics.add(event.name)
            elif event.kind == "peer":
                self._peers_noted.add(event.name)
            else:
                self._resync = True
        if len(self._topics) + len(self._peers_noted) > _MOST_NOTED:
            self._resync = True
        self._noted.set()

    async def run(self) -> None:
        """Tell what changes, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._noted.wait()
            self._noted.clear()
            if self._watchers:
                await self._tell()
            else:
                self._take()

    def _take(self) -> tuple[set[str], set[str], bool]:
        """What has been noted, at most once."""
        taken = self._topics, self._peers_noted, self._resync
        self._topics, self._peers_noted, self._resync = set(), set(), False
        return taken

    async def _tell(self) -> None:
        topics, peers, resync = self._take()
        try:
            await self._peers.fresh()
            standings = self._peers.standings()
            changed = changed_peers(self._told or {}, standings)
            changes = [] if resync else await self._changes(topics, peers, changed)
        except RegistryUnavailableError as error:
            log.debug("watchers are told later: %s", error)
            if topics or peers or resync:
                self._resync = True  # and not noted: tried again after the usual pause
            return
        if self._told is not None:
            self._told = standings
            self._send([_RESYNC] if resync or changes is None else changes)

    async def _changes(
        self, topics: set[str], peers: set[str], changed: Sequence[str]
    ) -> list[dict[str, Any]] | None:
        """What to tell; None when that is too much."""
        topics = topics.union(*[await self._registry.topics_of(peer) for peer in changed])
        if len(topics) > _MOST_NOTED:
            return None
        names = sorted(topics)
        records = await self._directory.records(names)
        if (missing := next((n for n, r in zip(names, records, strict=True) if r is None), None)) is not None:
            await self._settling.check_absence(missing)  # lost with the registry is not deleted
        told = [{"kind": "peer", "name": peer, "topic": None} for peer in sorted(peers.union(changed))]
        for name, record in zip(names, records, strict=True):
            info = None if record is None else msgspec.to_builtins(self._directory.describe(record))
            told.append({"kind": "topic", "name": name, "topic": info})
        return told

    def _send(self, changes: Sequence[Mapping[str, Any]]) -> None:
        of_pattern: dict[str, list[Mapping[str, Any]]] = {}
        for watcher in self._all():
            connection = watcher.connection
            if not connection.writable:
                watcher.behind = watcher.behind or bool(changes)
            elif watcher.behind:
                watcher.behind = False
                connection.send_frame(m.Changes(watcher.request, [_RESYNC]))
            else:
                if watcher.pattern not in of_pattern:
                    of_pattern[watcher.pattern] = [c for c in changes if _concerns(watcher.pattern, c)]
                wanted = of_pattern[watcher.pattern]
                for first in range(0, len(wanted), _FRAME_CHANGES):
                    page = [dict(change) for change in wanted[first : first + _FRAME_CHANGES]]
                    connection.send_frame(m.Changes(watcher.request, page))

    def _all(self) -> Iterator[_Watcher]:
        for watchers in list(self._watchers.values()):
            yield from watchers


def _concerns(pattern: str, change: Mapping[str, Any]) -> bool:
    return change["kind"] != "topic" or pattern == ">" or matches(pattern, change["name"])
