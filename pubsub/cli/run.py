"""From a command to a running event loop, and what signals do to it.

A client command ends by KeyboardInterrupt on Ctrl-C. A server hears of SIGINT or SIGTERM as an event, closes in
order, and dies at once of the second signal, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pubsub.cli.stdout import abandon_stdout
from pubsub.errors import PubsubError

T = TypeVar("T")

_STOPPING = (signal.SIGINT, signal.SIGTERM)

COLLECT_AFTER = 10_000
"""Objects that a server makes before the youngest are looked through for cycles: rare in its code, and small."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T], *, nobody_reads: int = 0) -> T:
    """Run a coroutine to its end, on uvloop where the platform has it.

    Args:
        nobody_reads: The exit code when the reader of stdout goes away: 0 for what is there to be read.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the coroutine has been cancelled and has cleaned up.
        typer.Exit: the reader of stdout has gone away.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main)
    except BrokenPipeError:
        abandon_stdout()
        import typer  # not at the top: a peer's process has no use for it

        raise typer.Exit(nobody_reads) from None


def settle_memory() -> None:
    """To be called once a server has started: what is there by now stays until its end.

    The garbage collector looks at it no more. A full round over all modules takes milliseconds, which somebody's
    publish would wait for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def on_stop_signal(stop: Callable[[], object]) -> Callable[[], signal.Signals | None]:
    """Call `stop` at the first SIGINT or SIGTERM; the second one kills, as the kernel does it.

    Returns: tells which signal has come, None as long as none has.
    """
    loop = asyncio.get_running_loop()
    came: list[signal.Signals] = []

    def hear(number: signal.Signals) -> None:
        came.append(number)
        for other in _STOPPING:
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)
        stop()

    for number in _STOPPING:
        loop.add_signal_handler(number, hear, number)
    return lambda: came[0] if came else None


def announce(line: str) -> None:
    """Print a line that somebody may be waiting for."""
    print(line, flush=True)


def note(line: str) -> None:
    """Say something to the person at the keyboard, beside the output."""
    if sys.stderr is not None:
        print(f"pubsub: {line}", file=sys.stderr, flush=True)


def own_command(module: str) -> list[str]:
    """How to start a module of ours as a process of its own, with this interpreter."""
    started_by_path = sys.path[:1] in ([""], [os.getcwd()])  # python -m pubsub, in a checkout
    safe = [] if started_by_path else ["-P"]  # a file in the working directory must not pass for a module
    return [sys.executable, *safe, "-m", module]


def first_error(group: BaseExceptionGroup[PubsubError]) -> PubsubError:
    """The first error of what several tasks have raised."""
    first = group.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
