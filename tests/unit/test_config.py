"""Settings are validated when they are made, and the defaults fit each other."""

from __future__ import annotations

import msgspec
import pytest

import pubsub
from pubsub.config import (
    DEFAULT_EMBEDDED_REGISTRY,
    DEFAULT_INDEX,
    KIB,
    ClientSettings,
    IndexSettings,
    Limits,
    PeerSettings,
    StorageSettings,
)
from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import SettingsError
from pubsub.model import parse_address
from pubsub.peer.publishing import BATCH_MESSAGES

ALL = [Limits, ClientSettings, StorageSettings, PeerSettings, IndexSettings]


@pytest.mark.parametrize("kind", ALL)
def test_settings_are_immutable_and_named(kind: type[msgspec.Struct]):
    settings = kind()
    field = kind.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(settings, field, 1)
    with pytest.raises(TypeError):
        kind(1)


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind in ALL for field in kind.__struct_fields__],
)
@pytest.mark.parametrize(
    "value",
    [0, -1, float("nan"), float("inf"), 10**400, -(10**5000), "1", None, True],
    ids=["0", "negative", "nan", "inf", "huge", "least", "text", "none", "bool"],
)
def test_a_setting_is_a_number_within_reason(kind: type[msgspec.Struct], field: str, value: object):
    with pytest.raises(SettingsError, match=field.removesuffix("_seconds")) as caught:
        kind(**{field: value})
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 120


def test_a_time_may_be_a_whole_number_and_a_size_may_not_be_a_part():
    assert ClientSettings(timeout_seconds=3).timeout_seconds == 3
    with pytest.raises(SettingsError, match="window_bytes is a whole number"):
        ClientSettings(window_bytes=1.5)  # type: ignore[arg-type]


GIVEN: list[dict[str, object]] = [
    *({"index": index} for index in (5, None, b"127.0.0.1:1", [5], ["127.0.0.1:1", None], {}, [])),
    *({"timeout_seconds": value} for value in (float("nan"), 0, "3", True, 10**400)),
    *({"name": name} for name in (5, None, "a\nb", "\ud800", "x" * 201)),
    {"settings": 5},
    {"limits": {}},
    {"relay": "yes"},
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_what_a_client_cannot_be_made_of_is_said_in_one_line(given: dict[str, object]):
    with pytest.raises(SettingsError) as caught:
        pubsub.Client(**given)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        *({"data": data} for data in (5, None, "", "a\0b")),
        *({"listen": address} for address in (5, None, "", "x")),
        *({"advertise": address} for address in (5, "", "x")),
        {"peer_settings": ClientSettings()},
        {"storage_settings": 7},
    ],
    ids=str,
)
def test_what_a_peer_cannot_be_made_of_is_said_in_one_line(given: dict[str, object]):
    with pytest.raises(SettingsError) as caught:
        pubsub.Peer("alice", **{"data": "alice", **given})  # type: ignore[arg-type]
    assert "\n" not in caught.value.message


def test_a_peer_without_a_name_is_none():
    with pytest.raises(pubsub.InvalidNameError):
        pubsub.Peer(5, data="alice")  # type: ignore[arg-type]


def test_a_message_must_fit_a_frame_with_room_for_the_rest_of_it():
    assert Limits(frame_bytes=65 * KIB, message_bytes=KIB)
    with pytest.raises(SettingsError, match="must leave 64 KiB of frame_bytes"):
        Limits(frame_bytes=65 * KIB - 1, message_bytes=KIB)


@pytest.mark.parametrize("seconds", [0, -1, 0.29, 3601])
def test_the_ttl_has_bounds(seconds: float):
    with pytest.raises(SettingsError, match=r"0\.3 to 3600"):
        IndexSettings(ttl_seconds=seconds)


def test_the_defaults_fit_each_other():
    limits, client, peer, storage = Limits(), ClientSettings(), PeerSettings(), StorageSettings()
    # a batch that was in flight must be recognised when it is sent again
    assert 2 * client.batches_in_flight <= REMEMBERED_BATCHES
    # every batch that a client makes is one that a peer takes, and fits a frame even with 4 bytes a character
    assert limits.batch_messages <= BATCH_MESSAGES
    assert 4 * (limits.batch_bytes + limits.message_bytes) + 64 * KIB <= limits.frame_bytes
    # what a read from disk gives fits a frame in the same way
    assert 4 * 2 * max(storage.read_bytes, limits.batch_bytes) <= limits.frame_bytes
    # a window takes more than one batch, so that one can be on its way while another is read
    assert client.window_bytes >= 2 * limits.batch_bytes
    assert client.window_messages >= 2 * limits.batch_messages
    assert peer.tail_bytes >= limits.batch_bytes
    assert peer.backoff_most_seconds < IndexSettings().ttl_seconds


def test_the_default_addresses_are_addresses():
    assert parse_address(DEFAULT_INDEX).port == 7470
    assert parse_address(DEFAULT_EMBEDDED_REGISTRY).port == 7479
