"""Processes that crash, stop and go on, with clocks of their own, and the network between them.

What a process has started dies with it. While it is stopped (SIGSTOP) nothing in it happens, and all that should have
happened does when it goes on: late timers, old messages, in the middle of what it was about to do.

The network delays, loses, doubles and reorders messages, and may let them through in one direction only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from tests.simulation.scheduler import MS, Action, Scheduler

Flow = Generator["Future", Any, None]
"""Something that takes time: yields what it waits for."""


class Future:
    """A value that is not there yet; None if it never comes."""

    __slots__ = ("_then", "done", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self._then: list[Callable[[Any], None]] = []

    def set(self, value: Any = None) -> None:
        if self.done:
            return
        self.done, self.value = True, value
        waiting, self._then = self._then, []
        for then in waiting:
            then(value)

    def then(self, action: Callable[[Any], None]) -> None:
        if self.done:
            action(self.value)
        else:
            self._then.append(action)


def gather(futures: Iterable[Future]) -> Future:
    """All of their values."""
    futures = list(futures)
    found = Future()
    left = [len(futures)]

    def one(_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            found.set([future.value for future in futures])

    if not futures:
        found.set([])
    for future in futures:
        future.then(one)
    return found


class Network:
    """Who reaches whom, and how well."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.loss = 0.0
        self.doubling = 0.0
        self.slowest = 15 * MS
        self.cut: set[tuple[str, str]] = set()
        """Directions in which nothing gets through."""

    def send(self, sender: str, receiver: Node, action: Action) -> None:
        scheduler = self.scheduler
        if (sender, receiver.name) in self.cut or (self.loss and scheduler.chance(self.loss)):
            return
        inbox = receiver.inbox(action)
        scheduler.at(scheduler.between(MS // 2, self.slowest), inbox)
        if self.doubling and scheduler.chance(self.doubling):
            scheduler.at(scheduler.between(MS // 2, 40 * self.slowest), inbox)

    def heal(self) -> None:
        self.loss, self.doubling, self.slowest = 0.0, 0.0, 15 * MS
        self.cut.clear()


class Node:
    """A process on a machine of its own. `offset` and `rate` are what is wrong with its clock."""

    def __init__(self, scheduler: Scheduler, network: Network, name: str) -> None:
        self.scheduler = scheduler
        self.network = network
        self.name = name
        self.up = True
        self.stopped = False
        self.incarnation = 0
        self.offset = 0
        self.rate = 1.0
        self._missed: list[tuple[int | None, Action]] = []

    def clock(self) -> int:
        return int(self.scheduler.now * self.rate) + self.offset

    def say(self, text: str, *args: Any) -> None:
        self.scheduler.say(self.name, text, *args)

    # What happens in it

    def later(self, delay: int, action: Action) -> None:
        incarnation = self.incarnation
        self.scheduler.at(delay, lambda: self._do(incarnation, action))

    def inbox(self, action: Action) -> Action:
        """Whoever runs when the message comes handles it: a message may outlive the process that it was meant for."""
        return lambda: self._do(None, action)

    def _do(self, incarnation: int | None, action: Action) -> None:
        if not self.up or (incarnation is not None and incarnation != self.incarnation):
            return
        if self.stopped:
            self._missed.append((incarnation, action))
        else:
            action()

    def start(self, flow: Flow) -> None:
        """Run it for as long as this process lives."""
        incarnation = self.incarnation

        def step(value: Any) -> None:
            if not self.up or incarnation != self.incarnation:
                return
            try:
                waiting_for = flow.send(value)
            except StopIteration:
                return
            waiting_for.then(step)

        step(None)

    def sleep(self, delay: int) -> Future:
        future = Future()
        self.later(delay, future.set)
        return future

    def call(self, other: Node, method: str, *args: Any, timeout: int = 400 * MS) -> Future:
        """Ask another process: `on_<method>(sender, *args)` there gives the reply, at once or by a Future."""
        future, sender = Future(), self.name

        def handle() -> None:
            reply = getattr(other, f"on_{method}")(sender, *args)
            if isinstance(reply, Future):
                reply.then(answer)
            else:
                answer(reply)

        def answer(value: Any) -> None:
            other.network.send(other.name, self, lambda: future.set(value))

        self.network.send(sender, other, handle)
        self.later(timeout, future.set)
        return future

    # What is done to it

    def crash(self) -> None:
        self.up, self.stopped = False, False
        self.incarnation += 1
        self._missed.clear()

    def restart(self) -> None:
        if not self.up:
            self.up = True
            self.begin()

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = self.up

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        missed, self._missed = self._missed, []
        for incarnation, action in missed:
            self._do(incarnation, action)

    def begin(self) -> None:
        """What it does when it starts."""
