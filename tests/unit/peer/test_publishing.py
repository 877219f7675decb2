"""What must hold of a batch before it may go to the writer."""

from typing import Any

import pytest

from pubsub.errors import InvalidRequestError, MessageTooLargeError
from pubsub.peer.publishing import check_publish
from pubsub.protocol.messages import Publish

LIMIT = 100


def publish(payloads: list[bytes | None], **fields: Any) -> Publish:
    values: dict[str, Any] = {
        "id": 1,
        "topic": "t",
        "topic_id": 1,
        "producer": 0,
        "sequence": 0,
        "keys": None,
        "headers": None,
        **fields,
    }
    return Publish(payloads=payloads, **values)


def test_the_size_is_that_of_payloads_keys_and_headers() -> None:
    frame = publish([b"12345", b"678"], keys=["ab", None], headers=[None, '{"a":"b"}'])
    assert check_publish(frame, LIMIT) == 8 + 2 + 9


def test_empty_payloads_are_messages_too() -> None:
    assert check_publish(publish([b"", b""]), LIMIT) == 0


def test_a_message_without_payload_removes_its_key() -> None:
    assert check_publish(publish([None, b"a", None], keys=["x", None, ""]), LIMIT) == 2


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (publish([]), "at least one message"),
        (publish([b"a", b"b"], keys=["x"]), "2 messages has 1 keys"),
        (publish([b"a"], keys=[]), "1 messages has 0 keys"),
        (publish([b"a"], headers=[None, None]), "1 messages has 2 headers"),
        (publish([b"a"], producer=-1), "not negative"),
        (publish([b"a"], producer=2**63), "63 bits"),
        (publish([b"a"], sequence=-1), "not negative"),
        (publish([b"a"], sequence=2**62), "63 bits"),
        (publish([b"a", None]), "no key that a message without one would remove"),
        (publish([b"a", None], keys=["x", None]), "no key that a message without one would remove"),
        (publish([b"a"], headers=["no json"]), "JSON object"),
        (publish([b"a"], headers=["[]"]), "JSON object"),
        (publish([b"a"], headers=['{"a":1}']), "JSON object"),
        (publish([b""] * 10_001), "at most 10000 messages"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(frame: Publish, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        check_publish(frame, LIMIT)


def test_many_messages_may_be_larger_together_than_one_may_be() -> None:
    assert check_publish(publish([b"x" * LIMIT] * 50), LIMIT) == 50 * LIMIT


@pytest.mark.parametrize(
    ("payload", "key", "headers"),
    [(b"x" * (LIMIT + 1), None, None), (b"x" * LIMIT, "k", None), (b"x" * (LIMIT - 8), None, '{"a":"b"}')],
    ids=["payload", "with its key", "with its headers"],
)
def test_one_message_over_the_limit_is_named_with_the_limit(payload: bytes, key: str, headers: str) -> None:
    frame = publish([b"", payload, b""], keys=[None, key, None], headers=[None, headers, None])
    with pytest.raises(MessageTooLargeError, match=f"message 1 .* at most {LIMIT} ") as raised:
        check_publish(frame, LIMIT)
    assert raised.value.data == {"limit_bytes": LIMIT, "index": 1}
