"""Keeps a cancellation from getting lost inside redis-py.

The library sends commands inside `asyncio.wait_for`, and up to Python 3.11 that swallows a cancellation which
arrives in the very turn of the event loop in which the command has been sent (cpython issue 86296). A task that
calls the registry in a loop would then go on for ever. So whoever calls the library notes before how often its
task has been cancelled, and afterwards makes up for what was swallowed.
"""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often the running task has been asked to stop."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def raise_lost_cancellation(before: int) -> None:
    """Stop the running task if it has been asked to since `cancellations` gave `before`."""
    if cancellations() > before:
        raise asyncio.CancelledError
