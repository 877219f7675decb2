"""Waiting for a condition: the only way in which a test lets time pass.

Owns the polling loop and what is said when the wait was in vain. The conditions belong to the tests.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

POLL_SECONDS = 0.01

T = TypeVar("T")


async def wait_until(
    condition: Callable[[], T | Awaitable[T]],
    timeout_seconds: float = 10.0,
    description: str = "",
) -> T:
    """Call `condition` (a plain or an async function) until it returns something true, and return that.

    An exception from `condition` ends the wait at once: a condition that may fail for a while returns False then.

    Raises:
        AssertionError: `timeout_seconds` passed first; it names the condition and the last value.
    """
    deadline = time.monotonic() + timeout_seconds
    value: Any = "nothing: the first call did not return"
    while (remaining := deadline - time.monotonic()) > 0:
        result = condition()
        if inspect.isawaitable(result):
            try:
                async with asyncio.timeout(remaining) as patience:
                    value = await result
            except TimeoutError:
                if patience.expired():
                    break
                raise
        else:
            value = result
        if value:
            return value
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(_in_vain(condition, timeout_seconds, description, value))


def wait_until_blocking(
    condition: Callable[[], T], timeout_seconds: float = 10.0, description: str = ""
) -> T:
    """`wait_until` for tests without an event loop, such as those that run real processes."""
    deadline = time.monotonic() + timeout_seconds
    value: Any = None
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(POLL_SECONDS)
    raise AssertionError(_in_vain(condition, timeout_seconds, description, value))


def _in_vain(condition: Callable[[], Any], timeout_seconds: float, description: str, value: Any) -> str:
    if not description:
        code = getattr(condition, "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        description = getattr(condition, "__qualname__", repr(condition)) + place
    return f"waited {timeout_seconds:g} s in vain for: {description}; the last value was {value!r}"
