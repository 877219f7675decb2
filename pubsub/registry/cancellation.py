"""Keeps a cancellation from getting lost inside redis-py.

The library sends commands inside `asyncio.wait_for`, and up to Python 3.11 that swallows a cancellation which
arrives in the very turn of the event loop in which the command has been sent (cpython issue 86296). A task that
calls the registry in a loop would then go on for ever, and whoever waits for its end with it. So what such a
task calls is called in `keep_cancellation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keep_cancellation() -> Iterator[None]:
    """Stop the running task in the end if it was asked to meanwhile, whatever came of that inside.

    A task that was cancelled before may use it to clean up.

    Raises:
        asyncio.CancelledError: in place of a result or an error.
    """
    before = _cancellations()
    try:
        yield
    except Exception as error:
        if _cancellations() > before:
            raise asyncio.CancelledError from error
        raise
    if _cancellations() > before:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the running task has been asked to stop."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
