"""Settings are validated when they are made, and the defaults fit each other."""

from __future__ import annotations

import msgspec
import pytest

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
    [(kind, field) for kind in (Limits, ClientSettings) for field in kind.__struct_fields__],
)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_more_than_nothing(kind: type[msgspec.Struct], field: str, value: int):
    with pytest.raises(SettingsError, match=field):
        kind(**{field: value})


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
