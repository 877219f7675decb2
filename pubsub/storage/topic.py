"""What a peer knows in memory of a copy that it holds: the row of `topics`, as of the last commit."""

from __future__ import annotations

from typing import Any

import msgspec


class Topic(msgspec.Struct, kw_only=True):
    """A copy of a topic. 0 <= first_offset <= committed <= next_offset.

    Changed by the event loop only, after the transaction that it describes has been committed.
    """

    id: int
    name: str
    role: str
    owner: str
    epoch: int
    first_offset: int
    next_offset: int
    committed: int
    policy: dict[str, Any]
    created_us: int
    set_aside: str | None = None
    messages: int = 0
    """How many there are: fewer than the offsets span, where compaction has taken some away."""
    size_bytes: int = 0
    """What their payloads, keys and headers (as UTF-8) take."""
    compacted_to: int = 0
    """Below it the compactor knows the latest message of each key; -1: compaction is off, what it knew is deleted."""
