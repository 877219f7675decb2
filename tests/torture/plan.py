"""What goes wrong, and when: drawn from a seed, before anything runs.

Pure. A plan is rounds; the faults of a round happen together, each from `after` on for `seconds`, then all is healed.
Where a fault meets the owner of a topic, who that is is known only when it happens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

PEER_FAULTS = (
    "kill",  # -9, started again when it is healed
    "pause",  # SIGSTOP, SIGCONT
    "terminate",  # in good order: it hands over what it owns
    "cut off",  # connections from and to it break, and cannot be made
    "silence",  # the same, but nothing says so: what is sent waits until it is healed
    "unreachable",  # nobody reaches it; it reaches everybody
    "without index",  # it and the indexes do not reach each other
    "apart",  # it and one other peer do not reach each other
    "flap",  # cut off, for 50 ms at a time
    "disk full",
)
SITE_FAULTS = (
    "kill index",
    "pause index",
    "flush redis",
    "stop redis",  # it comes back empty
    "old redis",  # it comes back with an old snapshot
)
REPLICA_FAULTS = ("add replica", "remove replica", "move replica")
DAMAGE_FAULTS = ("flip bytes",)
"""In a killed peer's file. Not drawn unless asked for."""


@dataclass(frozen=True, kw_only=True)
class PlannedFault:
    kind: str
    topic: int
    """Number of the topic that is meant, where one is."""
    peer: int
    """Number of the peer that it meets; -1: the owner of the topic."""
    other: int
    """Of another peer, where two are meant."""
    after: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} for {self.seconds:.1f} s"


def draw_rounds(
    seed: int, *, peers: int, topics: int, ttl: float, damage: bool = False
) -> Iterator[list[PlannedFault]]:
    """Rounds without end: one fault each at first, each kind once in a while, then up to three at a time."""
    chance = random.Random(seed)
    kinds = [*PEER_FAULTS, *PEER_FAULTS, *SITE_FAULTS, *REPLICA_FAULTS, *(DAMAGE_FAULTS if damage else ())]
    while True:
        chance.shuffle(kinds)
        waiting = list(kinds)
        while waiting:
            count = min(chance.choice((1, 2, 2, 3)), len(waiting))
            yield [_draw(chance, waiting.pop(), peers, topics, ttl) for _ in range(count)]


def _draw(chance: random.Random, kind: str, peers: int, topics: int, ttl: float) -> PlannedFault:
    peer = -1 if chance.random() < 0.5 else chance.randrange(peers)
    past_the_ttl = kind in ("pause", "silence", "pause index") or chance.random() < 0.6
    return PlannedFault(
        kind=kind,
        topic=chance.randrange(topics),
        peer=peer,
        other=chance.randrange(peers),
        after=chance.uniform(0, ttl),
        seconds=ttl * (chance.uniform(1.2, 2.5) if past_the_ttl else chance.uniform(0.1, 0.9)),
    )
