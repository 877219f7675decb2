"""Records of the registry <-> what peers are told of their copies, and tell of them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pubsub.core.ownership import Candidate, Change
from pubsub.core.rebuild import Promise
from pubsub.core.replication import Config
from pubsub.policy import stored_policy
from pubsub.protocol import messages as m
from pubsub.registry import TopicRecord


def copy_state(record: TopicRecord, peer: str = "", owner_address: str = "") -> m.CopyState:
    """What a peer is told to hold of a topic; without `peer`, what its owner is."""
    return m.CopyState(
        id=record.id,
        topic=record.name,
        role="owner" if peer in ("", record.owner) else "replica",
        owner=record.owner,
        epoch=record.epoch,
        created_us=record.created_at,
        policy=dict(record.policy),
        replicas=list(record.replicas),
        in_sync=list(record.in_sync),
        version=record.version,
        owner_address=owner_address,
        lossy=record.lossy,
    )


def record_of(copy: m.CopyState, owner: str) -> TopicRecord:
    """The record that a copy stands for, as far as its holder knows; unconfirmed, where it has replicas."""
    return TopicRecord(
        name=copy.topic,
        id=copy.id,
        owner=owner,
        epoch=copy.epoch,
        version=copy.version,
        in_sync=copy.in_sync or [owner],
        replicas=copy.replicas or [owner],
        policy=copy.policy,
        created_at=copy.created_us,
        lossy=copy.lossy,
    )


def explicit(record: TopicRecord) -> TopicRecord:
    """The record with the number of copies wanted written out, also where it is the default: for core's rules."""
    if "replicas" in record.policy:
        return record
    wanted = stored_policy(record.policy).replicas
    return msgspec.structs.replace(record, policy={**record.policy, "replicas": wanted})


def with_change(record: TopicRecord, change: Change) -> TopicRecord:
    """The record as a rule of core says."""
    fields = {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in msgspec.structs.asdict(change).items()
    }
    return msgspec.structs.replace(record, **fields)


def candidate_of(peer: str, end: m.CopyEnd) -> Candidate:
    """A copy as its holder tells of it."""
    return Candidate(
        peer=peer,
        last_epoch=end.last_epoch,
        log_end=end.next_offset,
        committed=end.committed,
        heard=end.highest_epoch,
        sound=end.sound,
    )


def promise_of(peer: str, end: m.CopyEnd) -> Promise:
    """A holder's answer to the request to promise an epoch."""
    config = Config(
        epoch=end.config_epoch,
        version=end.config_version,
        replicas=tuple(end.replicas),
        min_in_sync=end.min_in_sync,
    )
    return Promise(
        candidate=candidate_of(peer, end),
        promised=end.highest_epoch,
        config=config if end.config_epoch else None,
    )


def order(state: TopicRecord | m.CopyState) -> tuple[int, int]:
    """Of two states of a topic the one with the greater order is the newer."""
    return state.epoch, state.version


def names(records: Iterable[TopicRecord]) -> list[str]:
    """Of the topics."""
    return [record.name for record in records]
