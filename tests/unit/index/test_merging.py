"""What an owner says of its topics is shown only if it is the owner that the record names, in that epoch."""

from __future__ import annotations

import msgspec
import pytest

from pubsub.index.directory import _merged
from pubsub.model import TopicInfo

RECORD = TopicInfo(topic="t", id=7, owner="bob", address="127.0.0.1:1", epoch=9, online=True)


def test_an_owner_adds_what_only_it_knows() -> None:
    held = msgspec.structs.replace(RECORD, next_offset=304, first_offset=3, messages=301)
    merged = _merged(RECORD, held)
    assert (merged.next_offset, merged.first_offset, merged.messages) == (304, 3, 301)


@pytest.mark.parametrize("behind", [{"owner": "alice"}, {"epoch": 8}])
def test_a_peer_that_has_not_taken_the_topic_up_yet_adds_nothing(behind: dict[str, object]) -> None:
    held = msgspec.structs.replace(RECORD, next_offset=300, first_offset=0, **behind)
    assert _merged(RECORD, held) == RECORD
