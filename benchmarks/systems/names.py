"""What a system must offer, and where each is. Imported by workers too: no system is imported before it is used."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from benchmarks.stage import Child, Stage

MODULES = {
    "pubsub": "benchmarks.systems.ours",
    "redis": "benchmarks.systems.redis_streams",
    "nats": "benchmarks.systems.nats_jetstream",
    "rabbitmq-queue": "benchmarks.systems.rabbitmq_queues",
    "rabbitmq-stream": "benchmarks.systems.rabbitmq_streams",
}
"""System -> the module with its `System` and its `Driver`."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A system that has been started, with one empty topic."""

    system: str
    """Its name in `MODULES`."""
    where: dict[str, Any]
    """What its driver needs to find it."""
    store: Child
    """The server that keeps the messages: its memory and CPU time are looked at."""
    fresh: bool = True
    """Whether nobody has used that server before."""


class System(Protocol):
    """Starts a system."""

    name: str
    promise: str
    """What an acknowledged publish survives, in words."""
    share: float
    """Slower systems are given so much of the messages, so that all are measured for about a second."""

    def missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        """Start it, with one empty topic; and with so many more for `publish_round_robin`.

        `fresh`: the server must be. One that takes long to start may otherwise be that of earlier measurements.
        """


class Driver(Protocol):
    """Uses a system from Python."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def publish_many(self, payloads: list[bytes]) -> None:
        """Publish in order, as fast as the client can; all are acknowledged on return."""

    def publish(self, payload: bytes) -> Awaitable[object]:
        """Publish one; it is acknowledged once this has been awaited. Many callers may do so at once.

        What the client returns where that will do: a coroutine around it would be measured with it.
        """
        ...

    async def subscribe(self, *, from_start: bool) -> None:
        """Begin to receive: everything from now on, or also all there is."""

    async def publish_round_robin(self, payloads: list[bytes], topics: int) -> None:
        """Publish each message to the topic whose turn it is; all are acknowledged on return."""

    async def subscribe_topics(self, topics: int, *, from_start: bool) -> None:
        """Begin to receive from all those topics."""

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        """Receive `count` messages one by one, calling `take` with the payload of each."""


def driver(running: dict[str, Any]) -> Driver:
    """The driver of a running system, as `Running` describes it to a worker."""
    module = importlib.import_module(MODULES[running["system"]])
    return module.Driver(**running["where"])  # type: ignore[no-any-return]


def reference(running: Running) -> dict[str, Any]:
    """What a worker is told of a running system."""
    return {"system": running.system, "where": running.where}
