"""Who is alive, what changed of that, and whether a registry's silence means anything yet.

Rules: a peer lives until the deadline that its last heartbeat set, and not one moment longer; nobody is asked.
A registry that came up empty knows nothing: until every peer has had the time to announce what it holds, that
a topic has no record does not mean that there is none (docs/decisions/0002-young-registry.md).

Instants are microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What others need to know of a peer: once it changes, they are told."""

    alive: bool
    address: str | None
    """None while it is away."""
    incarnation: str | None = None
    """None while it is away."""


AWAY = Standing(alive=False, address=None)
"""The standing of a peer that is dead, or of which nothing is known."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """When a registered peer was started, and for the how manieth time its data directory was."""

    count: int
    started_at: int


def is_alive(deadline_at: int, now: int) -> bool:
    """Whether a peer's last heartbeat is still believed."""
    return deadline_at > now


def changed_peers(before: Mapping[str, Standing], after: Mapping[str, Standing]) -> list[str]:
    """The peers of which the standing differs, by name; one that is not listed is away."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, AWAY) != after.get(name, AWAY)
    )


def start_count(incarnation: str) -> int:
    """The count in an incarnation, `<node id>.<start count>`; 0 where there is none."""
    _, _, count = incarnation.rpartition(".")
    return int(count) if count.isascii() and count.isdigit() else 0


def settled_at(created_at: int, ttl_us: int, starts: Iterable[Start], *, lived_before: bool) -> int:
    """From when on a registry that was found empty at `created_at` knows of every topic.

    At once if it is a fresh installation: somebody is registered, and everybody who is was started for the
    first time and after the registry was found empty. A full ttl later otherwise: when nobody is registered
    yet (nothing can be told), when somebody was there before the registry, or when whoever asks remembers an
    earlier life of it (`lived_before`).
    """
    starts = list(starts)
    fresh = bool(starts) and all(start.count <= 1 and start.started_at >= created_at for start in starts)
    return created_at if fresh and not lived_before else created_at + ttl_us
