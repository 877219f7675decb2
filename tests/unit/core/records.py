"""A record of a topic for the tests of failover, rebuilding and placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pubsub.core.ownership import Candidate, Change

LIFE = "life-1"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    owner: str = "a"
    epoch: int = 5
    version: int = 3
    in_sync: tuple[str, ...] = ("a", "b", "c")
    replicas: tuple[str, ...] = ("a", "b", "c")
    leaving: tuple[str, ...] = ()
    policy: Mapping[str, Any] = {}
    life: str = LIFE
    lossy: bool = False

    def after(self, change: Change | None, **policy: Any) -> Record:
        """The record once the change has been made."""
        assert change is not None
        fields = msgspec.structs.asdict(change)
        return msgspec.structs.replace(
            self, version=self.version + 1, policy={**self.policy, **policy}, **fields
        )


def a_candidate(peer: str, log_end: int = 100, **fields: Any) -> Candidate:
    return Candidate(**{"peer": peer, "last_epoch": 5, "log_end": log_end, "committed": 0, **fields})
