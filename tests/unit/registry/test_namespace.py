"""Namespaces: how all keys of one registry begin."""

import pytest

from pubsub.errors import SettingsError
from pubsub.registry.keys import Keys


def test_keys_begin_with_the_namespace() -> None:
    keys = Keys("team-1")
    assert keys.registry == "team-1:registry"
    assert keys.peer("alice") == "team-1:peer:alice"
    assert keys.peer_topics("alice") == "team-1:peer:alice:topics"
    assert keys.topic("a.b") == "team-1:topic:a.b"
    assert keys.subscribers("a.b") == "team-1:topic:a.b:subscribers"


@pytest.mark.parametrize("namespace", ["", "a b", "a:b", "*", "a\n", "x" * 65])
def test_namespace_that_would_not_be_readable_is_refused(namespace: str) -> None:
    with pytest.raises(SettingsError, match="is not a namespace"):
        Keys(namespace)
