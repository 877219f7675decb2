"""The records of who is alive and who owns what, in Redis or in this process."""

from __future__ import annotations

from pubsub.registry.embedded import EmbeddedRegistry
from pubsub.registry.interface import (
    CasResult,
    Event,
    Generation,
    Heartbeat,
    HeartbeatOutcome,
    PeerRecord,
    PeerState,
    RegisterResult,
    Registry,
    SubscriberRecord,
    TopicRecord,
)
from pubsub.registry.redis import RedisRegistry

__all__ = [
    "CasResult",
    "EmbeddedRegistry",
    "Event",
    "Generation",
    "Heartbeat",
    "HeartbeatOutcome",
    "PeerRecord",
    "PeerState",
    "RedisRegistry",
    "RegisterResult",
    "Registry",
    "SubscriberRecord",
    "TopicRecord",
]
