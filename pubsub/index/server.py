"""The indexing server assembled: what it serves, its side tasks, its start and its end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from pubsub.config import IndexSettings, Limits
from pubsub.errors import InternalError, RegistryUnavailableError
from pubsub.index.announcing import Announcing
from pubsub.index.changing import Changing
from pubsub.index.clock import Clock, now_us
from pubsub.index.controller import Controller
from pubsub.index.directory import Directory
from pubsub.index.electing import Electing
from pubsub.index.ends import Ends
from pubsub.index.operating import Operating
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable
from pubsub.index.placing import Placing
from pubsub.index.proposing import Proposing
from pubsub.index.reconciling import Reconciling
from pubsub.index.registration import Registration
from pubsub.index.relay import Relay
from pubsub.index.settling import Settling
from pubsub.index.status import Reporting
from pubsub.index.telling import Telling
from pubsub.index.topics import Topics
from pubsub.index.watching import Watching
from pubsub.model import Address
from pubsub.net.server import Server
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello
from pubsub.registry import Event, Registry
from pubsub.version import __version__

log = logging.getLogger("pubsub.index")

DRAIN_SECONDS = 2.0
"""How long a closing index waits for the requests under way."""


class _Stop(Exception):
    """Raised inside the task group to end it."""


class IndexServer:
    """An index: `start`, or use it as an async context manager.

    Args:
        registry: opened and closed here.
        listen: port 0 takes a free one; `address` tells which.
        name: shown to those who connect.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        listen: Address,
        settings: IndexSettings | None = None,
        limits: Limits | None = None,
        name: str = "",
        clock: Clock = now_us,
    ) -> None:
        self.settings = settings or IndexSettings()
        self.limits = limits or Limits()
        self.name = name
        self._registry = registry
        self._listen = listen
        self._incarnation = f"{secrets.token_hex(8)}.1"
        self._server = Server(self, "index", self.limits)
        ttl_seconds = self.settings.ttl_seconds
        greeting = hello("index", name)
        peers = self._peers = PeerTable(registry, ttl_seconds, clock)
        links = self._links = PeerLinks(greeting, self.limits, self.settings.dial_seconds)
        settling = self._settling = Settling(registry, peers, ttl_seconds, clock, self._on_new_life)
        directory = self._directory = Directory(registry, peers, settling, links, self.settings, clock)
        self._registration = Registration(
            registry,
            peers,
            settling,
            greeting,
            lambda: self._server.address,
            self.settings,
            self.limits,
            clock,
        )
        telling = Telling(registry, peers, links, ttl_seconds, self._spawn)
        changing = Changing(registry, peers, telling)
        placing = Placing(changing, peers, links, clock)
        electing = Electing(changing, Ends(peers, links, ttl_seconds), clock)
        self._controller = Controller(
            registry, peers, settling, electing, placing, telling, ttl_seconds, self._spawn, clock
        )
        self._proposing = Proposing(registry, peers, settling, changing, clock)
        operating = Operating(
            registry, peers, directory, settling, links, changing, electing, placing, self._spawn, clock
        )
        announcing = Announcing(
            registry,
            peers,
            settling,
            Reconciling(registry, settling, changing),
            self._registration.beats,
            ttl_seconds,
            self._spawn,
            clock,
        )
        announcing.on_lost_copy = self._controller.on_lost_copy
        telling.on_refused = self._controller.on_refused
        telling.on_lost_copy = self._controller.on_lost_copy
        topics = Topics(
            registry, peers, directory, settling, links, placing, telling, ttl_seconds, self._spawn, clock
        )
        self._watching = Watching(registry, peers, directory, settling, ttl_seconds)
        self._relay = Relay(directory, links, ttl_seconds, self._spawn)
        reporting = Reporting(registry, peers, settling, self._server, ttl_seconds)
        self.immediate = {m.Publish: self._relay.publish}
        self.requests = {
            m.Register: self._registration.register,
            m.Heartbeat: self._registration.heartbeat,
            m.Leave: self._registration.leave,
            m.Announce: announcing.announce,
            m.CreateTopic: topics.create,
            m.DeleteTopic: topics.delete,
            m.Lookup: directory.lookup,
            m.Topics: directory.list_topics,
            m.Peers: directory.list_peers,
            m.Watch: self._watching.watch,
            m.Query: self._relay.query,
            m.Status: reporting.status,
            m.Propose: self._proposing.propose,
            m.ChangeReplicas: operating.change_replicas,
            m.Promote: operating.promote,
            m.Drain: operating.drain,
        }
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the real port; only once it has been started."""
        if self._server.address is None:
            raise InternalError("the index has not been started")
        return self._server.address

    def welcome(self) -> m.Welcome:
        """The answer to a hello."""
        return m.Welcome(
            major=m.PROTOCOL_MAJOR,
            minor=m.PROTOCOL_MINOR,
            software=f"pubsub {__version__}",
            role="index",
            name=self.name,
            incarnation=self._incarnation,
            frame_bytes=self.limits.frame_bytes,
            message_bytes=self.limits.message_bytes,
        )

    # Start and end

    async def start(self) -> None:
        """Open the registry and serve. The registry's server need not be there yet.

        Raises:
            SettingsError: the address, or the registry, cannot be used; the message says why.
        """
        try:
            await self._registry.open()
            try:  # now, so that no peer that starts from here on seems to be older than an empty registry
                await self._settling.look()
            except RegistryUnavailableError as error:
                log.warning("%s", error)
            started = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(self._supervise(started), name="pubsub: index")
            self._supervisor.add_done_callback(self._on_supervisor_end)
            await started
            await self._server.listen(self._listen)
        except BaseException:
            await self.close()
            raise

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then close.

        Raises:
            InternalError: a side task failed; the index has been closed.
        """
        assert self._supervisor is not None, "start it first"
        stopped = asyncio.create_task(stop.wait(), name="pubsub: until the index is stopped")
        try:
            await asyncio.wait({stopped, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            supervisor = self._supervisor
            await self.close()
        if not supervisor.cancelled() and (failure := supervisor.exception()) is not None:
            raise failure

    async def serve_forever(self) -> None:
        """Serve until cancelled; raises what `serve_until` does."""
        await self.serve_until(asyncio.Event())

    async def close(self) -> None:
        """Stop in a written order. Idempotent; a second caller waits for the first."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="pubsub: close the index")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # 1. Nobody new; whoever is here gets the replies under way, which the side tasks still serve.
        await self._server.close(DRAIN_SECONDS)
        # 2. The side tasks end; nobody waits for them any more.
        self._stopping.set()
        if self._supervisor is not None:
            await asyncio.wait({self._supervisor})
        # 3. The connections that only those tasks and requests used.
        await self._links.close()
        # 4. What they all rest on.
        await self._registry.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Side tasks

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._spawn(self._follow_registry(), "pubsub: follow the registry")
                self._spawn(self._settling.run(), "pubsub: watch the registry's generation")
                self._spawn(self._registration.beats.run(), "pubsub: heartbeats")
                self._spawn(self._registration.reports.run(), "pubsub: reports of subscribers")
                self._spawn(self._directory.lookups.run(), "pubsub: lookups")
                self._spawn(self._watching.run(), "pubsub: tell watchers")
                self._spawn(self._proposing.proposals.run(), "pubsub: proposals")
                self._spawn(self._controller.run(), "pubsub: controller")
                self._spawn(self._links.run(), "pubsub: close idle links")
                started.set_result(None)
                await self._stopping.wait()
                raise _Stop
        except BaseExceptionGroup as group:
            _, faults = group.split(_Stop)
            if faults is not None:
                first = _first_of(faults)
                raise InternalError(f"the index stopped because of a fault: {first!r}") from first

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        if self._tasks is None:
            coroutine.close()
            raise InternalError("the index is not running")
        self._tasks.create_task(coroutine, name=name)

    def _on_supervisor_end(self, supervisor: asyncio.Task[None]) -> None:
        """A side task failed: stop in full view, even if nobody awaits `serve_until`."""
        if supervisor.cancelled() or supervisor.exception() is None:
            return
        log.critical("%s", supervisor.exception(), exc_info=supervisor.exception())
        self._server.stop_accepting()
        for connection in list(self._server.connections):
            connection.abort()

    async def _follow_registry(self) -> None:
        async with aclosing(self._registry.watch()) as batches:
            async for events in batches:
                for event in events:
                    if event.kind == "topic":
                        self._relay.forget(event.name)
                    elif event.kind == "peer":
                        self._peers.doubt([event.name])
                    else:
                        self._peers.doubt_all()
                        self._relay.forget_all()
                self._watching.note(events)
                self._controller.note(events)

    def _on_new_life(self) -> None:
        for part in (self._watching, self._controller):
            part.note([Event(kind="resync")])


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
