"""Records of the registry -> what users see of topics and peers. No I/O."""

from __future__ import annotations

from pubsub.core.liveness import Standing
from pubsub.index.peer_table import standing_of
from pubsub.model import PeerInfo, TopicInfo, iso_from_us
from pubsub.registry import PeerState, TopicRecord


def describe_topic(record: TopicRecord, owner: Standing) -> TopicInfo:
    """A topic, but for the offsets, which only its owner knows."""
    return TopicInfo(
        topic=record.name,
        id=record.id,
        owner=record.owner,
        address=owner.address,
        epoch=record.epoch,
        online=owner.alive,
        replicas=list(record.replicas),
        in_sync=list(record.in_sync),
        created_at=_iso(record.created_at),
        policy=dict(record.policy),
    )


def describe_peer(state: PeerState, now: int) -> PeerInfo:
    """A peer; of one whose record has expired, little more than the name."""
    record = state.record
    if record is None:
        return PeerInfo(peer=state.name, alive=False, topics=state.topics)
    return PeerInfo(
        peer=state.name,
        address=record.address,
        alive=standing_of(state, now).alive,
        topics=state.topics,
        reachable=record.reachable,
        version=record.version,
        incarnation=record.incarnation,
        started_at=_iso(record.started_at),
        heartbeat_at=_iso(record.heartbeat_at),
        load=dict(record.load),
    )


def _iso(microseconds: int) -> str | None:
    """The instant as text; None for a number that is none, which somebody wrote into Redis by hand."""
    try:
        return iso_from_us(microseconds)
    except (OverflowError, ValueError):
        return None
