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
