"""File descriptors: each connection takes one, and the system lets a process have so many.

A server that ran out of them could accept nobody, and a peer could not even read its own file; so some are left for
what else a process opens. A process of its own raises its limit to what it may; one that somebody else owns leaves it.
"""

from __future__ import annotations

import contextlib
import resource

RESERVED = 120
"""Kept for the database, the log, connections to others, and those that are being told that they are too many."""


def room_for_connections(most: int) -> int:
    """How many connections a server may have: `most`, or what the system leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - RESERVED))


def raise_descriptor_limit() -> None:
    """Let this process have as many as the system allows it; for one that does nothing but serve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower limit than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
