"""Records of the registry -> what users see of topics and peers. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from pubsub.core.liveness import Standing
from pubsub.core.ownership import copies_wanted, min_in_sync
from pubsub.index.copies import explicit
from pubsub.index.peer_table import standing_of
from pubsub.model import PeerInfo, TopicInfo, iso_from_us
from pubsub.registry import PeerState, TopicRecord


def describe_topic(record: TopicRecord, standing: Callable[[str], Standing]) -> TopicInfo:
    """A topic, but for the offsets, which only its owner knows."""
    owner = standing(record.owner)
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
        leaving=list(record.leaving),
        problem=problem_of(record, standing),
    )


def problem_of(record: TopicRecord, standing: Callable[[str], Standing]) -> str | None:
    """Why a topic is offline, or has fewer copies than it shall have; None where all is well."""
    record = explicit(record)
    if not standing(record.owner).alive:
        gone = f"its owner {record.owner} is away"
        if len(record.holders) == 1:
            return f"offline: {gone}"
        able = [peer for peer in record.in_sync if standing(peer).alive]
        if able:
            return f"{gone}; {' or '.join(able)} takes over"
        return (
            f"offline: {gone}, and so is every other copy that is in sync ({', '.join(record.in_sync)}); it waits "
            f"for one of them, or for: pubsub topic promote {record.name} PEER --accept-loss"
        )
    if len(record.in_sync) < min_in_sync(record):
        return (
            f"{len(record.in_sync)} of its copies are in sync, {min_in_sync(record)} must be: publishes that want "
            "all of them are refused"
        )
    staying = [peer for peer in record.replicas if peer not in record.leaving]
    wanted = copies_wanted(record)
    if len(staying) < wanted:
        return f"short of replicas: {len(staying)} of {wanted}, until another peer can take one"
    away = [peer for peer in staying if not standing(peer).alive]
    if away:
        return f"short of replicas: {len(staying) - len(away)} of {wanted}, {', '.join(away)} is away"
    return None


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
        zone=record.zone or None,
        draining=record.draining,
    )


def _iso(microseconds: int) -> str | None:
    """The instant as text; None for a number that is none, which somebody wrote into Redis by hand."""
    try:
        return iso_from_us(microseconds)
    except (OverflowError, ValueError):
        return None
