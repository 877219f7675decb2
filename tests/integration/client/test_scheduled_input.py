"""Bad times, lists and cancellations of messages for later: refused by the client, and by the owner too."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

import pubsub
from pubsub.model import NewMessage
from tests.docs.plain_client import PlainClient
from tests.integration.client.scheduling import held


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay_seconds": 0}, "more than 0 seconds"),
        ({"delay_seconds": -1.5}, "more than 0 seconds"),
        ({"delay_seconds": float("nan")}, "number of seconds"),
        ({"delay_seconds": float("inf")}, "number of seconds"),
        ({"delay_seconds": "10s"}, "number of seconds"),
        ({"delay_seconds": True}, "number of seconds"),
        ({"delay_seconds": 1e9}, "at most 3660 days"),
        ({"deliver_at": datetime(2030, 1, 1)}, "has no zone"),
        ({"deliver_at": datetime(9999, 1, 1, tzinfo=UTC)}, "too far ahead"),
        ({"deliver_at": 1e9}, "aware datetime"),
        ({"deliver_at": "2030-01-01T00:00:00Z"}, "aware datetime"),
        ({"delay_seconds": 5, "deliver_at": datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"delay_seconds": 5, "expect_offset": 0}, "expect_offset is for now"),
    ],
)
async def test_a_bad_time_is_refused_in_one_line(
    peer: pubsub.Peer, client: pubsub.Client, options: dict[str, object], said: str
) -> None:
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match=said) as caught:
            await publisher.publish("a.b", b"x", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        with pytest.raises(pubsub.InvalidRequestError, match=said):
            await publisher.publish_many("a.b", [b"x"], atomic=True, **options)  # type: ignore[arg-type]
    assert held(peer) == 0


async def test_a_message_for_later_takes_no_id(peer: pubsub.Peer, client: pubsub.Client) -> None:
    message = NewMessage(b"x", message_id="x")
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match="takes no message_id"):
            await publisher.publish("a.b", message, delay_seconds=5)
        for atomic in (False, True):
            with pytest.raises(pubsub.InvalidRequestError, match="takes no message_id"):
                await publisher.publish_many("a.b", [message], atomic=atomic, delay_seconds=5)


async def test_bad_lists_and_cancellations_are_refused(peer: pubsub.Peer, client: pubsub.Client) -> None:
    for limit in (0, -1, True, "5"):
        with pytest.raises(pubsub.InvalidRequestError, match="limit"):
            await client.scheduled("a.b", limit=limit)  # type: ignore[arg-type]
    for number in (0, -1, 2**63, "5", True):
        with pytest.raises(pubsub.InvalidRequestError, match="schedule id"):
            await client.cancel_scheduled("a.b", number)  # type: ignore[arg-type]
    with pytest.raises(pubsub.InvalidRequestError, match="one at least"):
        await client.cancel_scheduled("a.b")
    with pytest.raises(pubsub.InvalidNameError):
        await client.scheduled("no topic!")
    async with pubsub.Client(peer.address, relay=True) as relaying:
        with pytest.raises(pubsub.InvalidRequestError, match="relay"):
            await relaying.scheduled("a.b")
        with pytest.raises(pubsub.InvalidRequestError, match="relay"):
            await relaying.cancel_scheduled("a.b", 1)


async def test_the_owner_refuses_bad_lists_and_cancellations_too(peer: pubsub.Peer) -> None:
    host, port = peer.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    plain = PlainClient(reader, writer)
    await plain.hello()
    for listing in ((-1, 0, 10), (0, -1, 10), (0, 0, 0), (0, 0, -1), (2**63, 0, 1)):
        assert (await plain.ask(74, "a.b", *listing))[2] == "invalid_request", listing
    for numbers in ([], [0], [-1], [2**63], list(range(1, 1002))):
        assert (await plain.ask(76, "a.b", numbers))[2] == "invalid_request", numbers
    assert (await plain.ask(76, "a.b", [1]))[2] == "scheduled_not_found"
    assert (await plain.ask(74, "no.such"))[2] == "topic_not_found"
    writer.close()
    await writer.wait_closed()
