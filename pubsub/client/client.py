"""`Client`: every verb that an application has, over connections that are opened when first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from pubsub.client.directory import Directory
from pubsub.client.group_verbs import GroupVerbs
from pubsub.client.lane import Lane
from pubsub.client.orphan_verbs import OrphanVerbs
from pubsub.client.policy_verbs import PolicyVerbs
from pubsub.client.publish_verbs import PublishVerbs
from pubsub.client.reading_verbs import ReadingVerbs
from pubsub.client.replica_verbs import ReplicaVerbs
from pubsub.client.routes import Routes
from pubsub.client.schedule_verbs import ScheduleVerbs
from pubsub.client.stream import Stream
from pubsub.client.subscription_verbs import SubscriptionVerbs
from pubsub.client.topic_verbs import TopicVerbs
from pubsub.client.verify_verbs import VerifyVerbs
from pubsub.config import DEFAULT_INDEX, ClientSettings, Limits, check_number, settings_of
from pubsub.errors import (
    ClosedError,
    SettingsError,
    shown,
)
from pubsub.model import (
    NAME_MAX_LENGTH,
    is_text,
    parse_addresses,
)
from pubsub.net.pool import LinkPool
from pubsub.protocol.handshake import hello

log = logging.getLogger("pubsub.client")

DRAIN_SECONDS = 5.0
"""How long closing waits for what has been published but not yet acknowledged."""


class Client(
    PublishVerbs,
    ReadingVerbs,
    ScheduleVerbs,
    GroupVerbs,
    SubscriptionVerbs,
    PolicyVerbs,
    TopicVerbs,
    ReplicaVerbs,
    OrphanVerbs,
    VerifyVerbs,
):
    """Publishes to and reads from topics; hosts none itself.

    Use it as `async with pubsub.Client("127.0.0.1:7470") as client:`. It belongs to the event loop that it is
    entered in; its calls may be made by any number of tasks at once.

    Args:
        index: The address of an index or of any peer, or several (a list, or separated by commas): when one
            does not answer the next is asked.
        relay: Publish and query through the index, for where the peers cannot be reached. Slower.
        timeout_seconds: How long a call is retried before it raises.
    """

    def __init__(
        self,
        index: str | Sequence[str] = DEFAULT_INDEX,
        *,
        relay: bool = False,
        timeout_seconds: float | None = None,
        settings: ClientSettings | None = None,
        limits: Limits | None = None,
        name: str = "",
    ) -> None:
        self._addresses = parse_addresses(index)
        settings = settings_of(ClientSettings, settings)
        if timeout_seconds is not None:
            check_number("timeout_seconds", timeout_seconds, whole=False)
            settings = msgspec.structs.replace(settings, timeout_seconds=timeout_seconds)
        self._settings = settings
        self._limits = settings_of(Limits, limits)
        if not isinstance(relay, bool):
            raise SettingsError(f"relay is True or False, not {shown(relay)}")
        if not is_text(name) or not name.isprintable() or len(name) > NAME_MAX_LENGTH:
            raise SettingsError(
                f"the name of a client is printable text of at most {NAME_MAX_LENGTH} characters, not {shown(name)}"
            )
        self._relay = relay
        self._name = name
        self._lanes: dict[str, Lane] = {}
        self._subscriptions: set[Stream] = set()
        self._opened = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Get ready; needs no server to be there. `async with` calls it."""
        if self._closing is not None:
            raise ClosedError("the client has been closed; make a new one")
        if not self._opened:
            self._opened = True
            greeting = hello("client", self._name)
            self._directory = Directory(self._addresses, greeting, self._limits, self._settings)
            self._pool = LinkPool(greeting, self._limits, self._settings.connect_seconds)
            self._routes = self._make_routes()

    def _make_routes(self) -> Routes:
        return Routes(self._directory, self._pool, self._relay)

    async def close(self) -> None:
        """Let what was published be acknowledged, end subscriptions, close connections.

        Idempotent; it goes on to its end where whoever waits for it is cancelled.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="pubsub: close a client")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._closed = True
        if not self._opened:
            return
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
        await asyncio.gather(*(lane.close(DRAIN_SECONDS) for lane in lanes))
        await self._pool.close()
        await self._directory.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the client has been closed")
        if not self._opened:
            raise ClosedError(
                "the client is not open yet: use it as `async with pubsub.Client(...) as client:`"
            )
