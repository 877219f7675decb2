"""Records <-> the text fields of Redis hashes, made to be read with redis-cli. No I/O.

Decoding never fails: a hash that lacks what it must have, or holds nonsense there, decodes to None and so
counts as absent. The Lua files draw the same line for topics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pubsub.registry.interface import Event, PeerRecord, SubscriberRecord, TopicRecord

_LOAD = "load."
_INTEGER = re.compile(r"-?[0-9]+")
_json = msgspec.json.Encoder()


def encode_peer(record: PeerRecord) -> list[str]:
    """Give the fields as HSET takes them."""
    return [
        *("address", record.address),
        *("incarnation", record.incarnation),
        *("version", record.version),
        *("started_at", str(record.started_at)),
        *("heartbeat_at", str(record.heartbeat_at)),
        *("reachable", "yes" if record.reachable else "no"),
        *(("zone", record.zone) if record.zone else ()),
        *encode_load(record.load),
    ]


def encode_load(load: Mapping[str, float]) -> list[str]:
    """Give load figures as HSET takes them, each a field of its own."""
    return [text for figure, value in load.items() for text in (_LOAD + figure, repr(value))]


def decode_peer(name: str, fields: Mapping[str, str]) -> PeerRecord | None:
    try:
        return PeerRecord(
            name=name,
            address=fields["address"],
            incarnation=fields["incarnation"],
            version=fields["version"],
            started_at=int(fields["started_at"]),
            heartbeat_at=int(fields["heartbeat_at"]),
            reachable=fields["reachable"] == "yes",
            zone=fields.get("zone", ""),
            draining=fields.get("draining") == "yes",
            load={
                field.removeprefix(_LOAD): int(value) if _INTEGER.fullmatch(value) else float(value)
                for field, value in fields.items()
                if field.startswith(_LOAD)
            },
        )
    except (KeyError, ValueError):
        return None


def encode_topic(record: TopicRecord, version: int) -> list[str]:
    """Give the fields as HSET takes them, with this version in place of the record's."""
    return [
        *("id", str(record.id)),
        *("owner", record.owner),
        *("epoch", str(record.epoch)),
        *("version", str(version)),
        *("in_sync", _json.encode(record.in_sync).decode()),
        *("replicas", _json.encode(record.replicas).decode()),
        *("policy", _json.encode(record.policy).decode()),
        *("created_at", str(record.created_at)),
        *(("leaving", _json.encode(record.leaving).decode()) if record.leaving else ()),
        *(("life", record.life) if record.life else ()),
        *(("lossy", "yes") if record.lossy else ()),
    ]


def decode_topic(name: str, fields: Mapping[str, str]) -> TopicRecord | None:
    try:
        return TopicRecord(
            name=name,
            id=int(fields["id"]),
            owner=fields["owner"],
            epoch=int(fields["epoch"]),
            version=int(fields["version"]),
            in_sync=_list_of_text(fields.get("in_sync", "")),
            replicas=_list_of_text(fields.get("replicas", "")),
            policy=_object(fields.get("policy", "")),
            created_at=int(fields.get("created_at", "0")),
            leaving=_list_of_text(fields.get("leaving", "")),
            life=fields.get("life", ""),
            lossy=fields.get("lossy") == "yes",
        )
    except (KeyError, ValueError):
        return None


def decode_subscriber(text: str) -> SubscriberRecord | None:
    try:
        return msgspec.json.decode(text, type=SubscriberRecord)
    except msgspec.MsgspecError:
        return None


def decode_event(text: str) -> Event:
    """Read a message of the events channel; one that cannot be read may mean anything: look at all."""
    try:
        return msgspec.json.decode(text, type=Event)
    except msgspec.MsgspecError:
        return Event(kind="resync")


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Turn the flat list in which a script returns a hash into a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _list_of_text(text: str) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        return []  # nobody is in sync, nobody is a replica: the safe reading of nonsense


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}
