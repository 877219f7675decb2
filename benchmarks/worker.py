"""The process that plays a part in a measurement: `python -m benchmarks.worker PART TASK`, started by `Stage`.

It writes JSON, one object a line: first what it says when it is ready, then, after a line on stdin, what it found,
or {"failed": why}. Stdout belongs to these lines.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from benchmarks.readings import RunFailedError

PARTS = {
    "publish-many": "benchmarks.publishing:publish_many",
    "publish-for": "benchmarks.publishing:publish_for",
    "publish-round-robin": "benchmarks.publishing:publish_round_robin",
    "publish-callers": "benchmarks.publishing:publish_callers",
    "publish-one-by-one": "benchmarks.publishing:publish_one_by_one",
    "publish-in-turn": "benchmarks.publishing:publish_in_turn",
    "publish-open-loop": "benchmarks.publishing:publish_open_loop",
    "publish-through": "benchmarks.outage:publish_through",
    "publish-topics": "benchmarks.topics:publish_topics",
    "subscribe": "benchmarks.subscribing:subscribe",
    "subscribe-crowd": "benchmarks.crowd:subscribe_crowd",
    "share": "benchmarks.sharing:share",
    "leases": "benchmarks.sharing:leases",
    "fill-registry": "benchmarks.indexing:fill_registry",
    "beat": "benchmarks.indexing:beat",
    "beat-open-loop": "benchmarks.indexing:beat_open_loop",
    "look-up": "benchmarks.indexing:look_up",
    "look-up-open-loop": "benchmarks.indexing:look_up_open_loop",
    "come": "benchmarks.newcomers:come",
    "write-and-sync": "benchmarks.bare_writes:write_and_sync",
    "sqlite-insert": "benchmarks.limits:sqlite_insert",
    "sqlite-read": "benchmarks.limits:sqlite_read",
    "loopback-sink": "benchmarks.limits:loopback_sink",
    "loopback-source": "benchmarks.limits:loopback_source",
}
"""Part -> the coroutine function that plays it, called with a `Cue` and the task."""


class Cue:
    """How a part talks to the measurement."""

    async def ready(self, **words: Any) -> None:
        """Say that all is prepared, and wait for the sign to begin."""
        self.say(words)
        if not await asyncio.to_thread(sys.stdin.readline):
            raise RunFailedError("the measurement was given up")

    @staticmethod
    def say(words: dict[str, Any]) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(words) + b"\n")
        sys.stdout.buffer.flush()


async def _play(part: Callable[..., Awaitable[dict[str, Any]]], task: dict[str, Any]) -> None:
    cue = Cue()
    try:
        found = await part(cue, **task)
    except RunFailedError as error:
        found = {"failed": str(error)}
    cue.say(found)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop


def main() -> None:
    module, _, name = PARTS[sys.argv[1]].partition(":")
    part = getattr(importlib.import_module(module), name)
    task = msgspec.json.decode(sys.argv[2])
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_play(part, task))


if __name__ == "__main__":
    main()
