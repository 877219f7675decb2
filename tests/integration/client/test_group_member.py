"""A member's end of a group, against an owner that does what the test tells it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import pubsub
from pubsub.errors import (
    ConflictError,
    GroupNotFoundError,
    InvalidRequestError,
    ReadOnlyError,
    TopicOfflineError,
)
from pubsub.model import GroupInfo
from tests.integration.client.fake_owner import FakeOwner
from tests.waiting import wait_until


@pytest.fixture
async def owner() -> AsyncIterator[FakeOwner]:
    async with FakeOwner() as owner:
        yield owner


@pytest.fixture
async def client(owner: FakeOwner) -> AsyncIterator[pubsub.Client]:
    async with pubsub.Client(owner.address) as client:
        yield client


async def take(messages: pubsub.GroupSubscription, count: int) -> list[pubsub.GroupMessage]:
    return [await anext(messages) for _ in range(count)]


# Joining


async def test_a_member_asks_for_what_it_was_given_and_for_nothing_else(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        assert messages.options == owner.options
    owner.options["ordered"] = True
    async with client.subscribe(
        "t",
        group="g",
        start="latest",
        max_in_flight=3,
        lease_seconds=10,
        max_attempts=2,
        backoff_seconds=0,
        ordered=True,
    ):
        pass
    plain, full = owner.joins
    assert (plain.group, plain.start, plain.max_in_flight, plain.options) == ("g", -2, 100, {})
    assert (full.start, full.max_in_flight) == (-1, 3)
    assert full.options == {"lease_seconds": 10, "max_attempts": 2, "backoff_seconds": 0, "ordered": True}


async def test_options_that_the_group_does_not_have_are_told_in_the_log(
    owner: FakeOwner, client: pubsub.Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.subscribe("t", group="g", max_attempts=9, lease_seconds=30):
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "group g of t has max_attempts=5, not 9: options are those of who made the group"
        ]


async def test_a_message_has_the_fields_of_any_message_and_its_attempt(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((4, 2))
        message = await anext(messages)
    assert isinstance(message, pubsub.Message)
    assert (message.topic, message.offset, message.payload, message.attempt) == ("t", 4, b"4", 2)
    assert (message.key, message.headers, message.published_us) == (None, {}, 1_000_000)
    assert repr(message) == "GroupMessage(topic='t', offset=4, key=None, attempt=2)"


# Settling


async def test_what_is_settled_in_one_turn_or_while_a_frame_is_under_way_goes_in_one_frame(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give(*((n, 1) for n in range(10)))
        ten = await take(messages, 10)
        owner.answering.clear()
        first = asyncio.gather(*(message.ack() for message in ten[:3]))
        await wait_until(lambda: owner.settles)
        rest = []
        for message in ten[3:]:
            rest.append(asyncio.ensure_future(message.ack()))
            await asyncio.sleep(0)
        assert not first.done()
        owner.answering.set()
        await first
        await asyncio.gather(*rest)
    assert owner.settled("ack") == [[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]]


async def test_each_way_of_settling_and_each_delay_has_its_frame(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give(*((n, 3) for n in range(6)))
        a, b, c, d, e, f = await take(messages, 6)
        await asyncio.gather(a.ack(), b.nack(), c.nack(1.5), d.nack(delay_seconds=0), e.extend(), f.nack())
    frames = {(frame.how, frame.delay_us): (frame.offsets, frame.attempts) for frame in owner.settles}
    assert frames == {
        ("ack", -1): ([0], [3]),
        ("nack", -1): ([1, 5], [3, 3]),
        ("nack", 1_500_000): ([2], [3]),
        ("nack", 0): ([3], [3]),
        ("extend", -1): ([4], [3]),
    }


async def test_only_what_was_late_raises_and_it_names_the_message(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 4), (3, 1))
        owner.late = {(2, 4)}
        one, two, three = await take(messages, 3)
        results = await asyncio.gather(one.ack(), two.ack(), three.ack(), return_exceptions=True)
    assert results[0] is None
    assert results[2] is None
    assert isinstance(results[1], pubsub.LateAcknowledgementError)
    assert "message 2 of t, attempt 4, was settled before, or its lease ran out" in str(results[1])
    assert results[1].data == {"offset": 2, "attempt": 4, "fate_unknown": False}
    assert messages.late == 1


async def test_two_attempts_of_one_message_are_told_apart(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1))
        owner.give((1, 2))
        old, new = await take(messages, 2)
        owner.late = {(1, 1)}
        results = await asyncio.gather(old.ack(), new.ack(), return_exceptions=True)
    assert isinstance(results[0], pubsub.LateAcknowledgementError)
    assert results[1] is None


async def test_settling_works_without_being_awaited(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1))
        owner.late = {(2, 1)}
        for message in await take(messages, 2):
            message.ack()  # type: ignore[unused-awaitable]
    assert owner.settled("ack") == [[1, 2]]
    assert messages.late == 1


async def test_what_an_owner_refuses_for_now_is_sent_again(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1))
        owner.refusals = [ReadOnlyError("the disk is full"), ReadOnlyError("the disk is full")]
        await (await anext(messages)).ack()
    assert owner.settled("ack") == [[1], [1], [1]]


async def test_what_an_owner_refuses_for_good_is_raised(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1))
        owner.refusals = [InvalidRequestError("no")]
        with pytest.raises(InvalidRequestError, match="no"):
            await (await anext(messages)).ack()


async def test_an_owner_that_does_not_answer_is_given_up_and_left(owner: FakeOwner) -> None:
    async with (
        pubsub.Client(owner.address, timeout_seconds=0.3) as client,
        client.subscribe("t", group="g") as messages,
    ):
        owner.give((1, 1))
        message = await anext(messages)
        owner.answering.clear()
        with pytest.raises(pubsub.TimeoutExpiredError, match=r"0\.3 s: whether it took effect is unknown"):
            await message.ack()
        owner.answering.set()
        await wait_until(lambda: len(owner.joins) == 2)


async def test_giving_up_waiting_for_an_ack_does_not_take_it_back(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1))
        one, two = await take(messages, 2)
        owner.answering.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.ack(), 0.05)
        owner.answering.set()
        await two.ack()
    assert owner.settled("ack") == [[1], [2]]


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan"), float("inf"), 1e12, True, "1s", [1]])
async def test_a_delay_that_is_none_is_refused_at_once_in_one_line(
    owner: FakeOwner, client: pubsub.Client, delay: Any
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1))
        message = await anext(messages)
        with pytest.raises(InvalidRequestError, match="delay_seconds is a number of seconds") as caught:
            message.nack(delay)
        assert "\n" not in str(caught.value)
        assert not message.settled


# Leases


@pytest.fixture
def extended_often(owner: FakeOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are extended every 0.1 s, and so long that none is over where a busy machine stands still for a while."""
    owner.options["lease_seconds"] = 30.0
    monkeypatch.setattr("pubsub.client.group.EXTENSIONS_PER_LEASE", 300)


@pytest.mark.usefixtures("extended_often")
async def test_leases_of_what_is_held_or_waits_are_extended_until_settled_or_let_go(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1), (3, 1), (4, 1))
        held, settled, dropped = await take(messages, 3)
        await settled.ack()
        del dropped
        gc.collect()
        before = len(owner.settled("extend")) + 1  # one may have been on its way
        await wait_until(lambda: len(owner.settled("extend")) >= before + 3)
        assert owner.settled("extend")[before : before + 3] == [[1, 4]] * 3
        await held.ack()
        count = len(owner.settled("extend")) + 1
        await wait_until(lambda: len(owner.settled("extend")) > count)
        assert owner.settled("extend")[-1] == [4]


@pytest.mark.usefixtures("extended_often")
async def test_what_turns_out_to_be_somebody_elses_is_not_handed_out(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    owner.late = {(1, 1)}
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1))
        await wait_until(lambda: owner.settled("extend")[-1:] == [[2]])
        assert (await anext(messages)).offset == 2
    assert messages.late == 0  # nobody has settled it


# Broken connections


async def test_after_a_broken_connection_it_joins_again_and_what_waited_is_dropped(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1), (3, 1))
        held = await anext(messages)
        owner.cut()
        await wait_until(lambda: len(owner.joins) == 2)
        owner.give((2, 2))
        again = await anext(messages)
        assert (again.offset, again.attempt) == (2, 2)
        with pytest.raises(pubsub.LateAcknowledgementError):
            await held.ack()
        await again.ack()
        assert owner.settles[-1].subscription == owner.joins[1].subscription


async def test_an_ack_that_was_under_way_when_the_connection_broke_is_late_and_says_that_its_fate_is_unknown(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1))
        one, two = await take(messages, 2)
        owner.answering.clear()
        under_way = asyncio.ensure_future(one.ack())
        await wait_until(lambda: owner.settles)
        queued = asyncio.ensure_future(two.ack())
        owner.cut()
        with pytest.raises(pubsub.LateAcknowledgementError, match="it was settled by then, or") as caught:
            await under_way
        assert caught.value.data == {"offset": 1, "attempt": 1, "fate_unknown": True}
        with pytest.raises(pubsub.LateAcknowledgementError, match="is given out again") as caught:
            await queued
        assert caught.value.data["fate_unknown"] is False
        assert messages.late == 2
        await wait_until(lambda: len(owner.joins) == 2)
    assert owner.settled("ack") == [[1]]


async def test_a_delivery_from_before_a_reset_is_not_taken_for_one_after_it(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1))
        before = await anext(messages)
        owner.end(ConflictError("group g was reset"))
        await wait_until(lambda: len(owner.joins) == 2)
        owner.give((1, 1))
        after = await anext(messages)
        with pytest.raises(pubsub.LateAcknowledgementError, match="its group was reset"):
            await before.ack()
        await after.ack()
    assert owner.settled("ack") == [[1]]


async def test_an_owner_that_ends_it_for_now_is_joined_again(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.end(TopicOfflineError("moving"))
        await wait_until(lambda: len(owner.joins) == 2)
        owner.give((1, 1))
        await (await anext(messages)).ack()


async def test_a_deleted_group_ends_the_iteration_with_an_error_and_what_is_settled_then_is_late(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        owner.give((1, 1), (2, 1))
        one, two = await take(messages, 2)
        owner.answering.clear()
        under_way = asyncio.ensure_future(one.ack())
        await wait_until(lambda: owner.settles)
        owner.end(GroupNotFoundError("group g was deleted"))
        with pytest.raises(GroupNotFoundError, match="deleted"):
            await anext(messages)
        for ack in (under_way, two.ack()):
            with pytest.raises(pubsub.LateAcknowledgementError):
                await ack


# Handlers


async def test_a_handler_acknowledges_by_returning_and_nacks_by_raising_unless_it_settles_itself(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:

        async def handle(message: pubsub.GroupMessage) -> None:
            if message.offset == 2:
                raise ValueError("cannot be processed")
            if message.offset == 3:
                await message.nack(7)
            if message.offset == 5:
                messages.stop()

        owner.give(*((n, 1) for n in range(1, 6)))
        await messages.run(handle)
    settled = [(f.how, f.delay_us, offset) for f in owner.settles for offset in f.offsets]
    assert sorted(settled) == [
        ("ack", -1, 1),
        ("ack", -1, 4),
        ("ack", -1, 5),
        ("nack", -1, 2),
        ("nack", 7_000_000, 3),
    ]


async def test_as_many_handlers_run_at_once_as_asked_for(owner: FakeOwner, client: pubsub.Client) -> None:
    running, most, done = 0, 0, 0
    async with client.subscribe("t", group="g") as messages:

        async def handle(message: pubsub.GroupMessage) -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            done += 1
            if done == 12:
                messages.stop()

        owner.give(*((n, 1) for n in range(12)))
        await messages.run(handle, concurrency=4)
    assert most == 4
    assert sorted(offset for offsets in owner.settled("ack") for offset in offsets) == list(range(12))


async def test_an_error_of_the_subscription_ends_run_with_it(owner: FakeOwner, client: pubsub.Client) -> None:
    async with client.subscribe("t", group="g") as messages:

        async def handle(message: pubsub.GroupMessage) -> None:
            owner.end(GroupNotFoundError("group g was deleted"))
            await asyncio.Event().wait()

        owner.give((1, 1))
        with pytest.raises(GroupNotFoundError):
            await messages.run(handle, concurrency=2)


@pytest.mark.parametrize("concurrency", [0, -1, 101, 1.5, True, None])
async def test_a_concurrency_that_cannot_be_is_refused(
    owner: FakeOwner, client: pubsub.Client, concurrency: Any
) -> None:
    async with client.subscribe("t", group="g") as messages:
        with pytest.raises(InvalidRequestError, match="from 1 to max_in_flight"):
            await messages.run(lambda message: message.ack(), concurrency=concurrency)


# The end


async def test_closing_waits_for_what_is_settled_and_then_gives_the_rest_back(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    messages = client.subscribe("t", group="g")
    async with messages:
        owner.give((1, 1), (2, 1), (3, 1))
        one = await anext(messages)
        owner.answering.clear()
        ack = asyncio.ensure_future(one.ack())
        await wait_until(lambda: owner.settles)
        closing = asyncio.create_task(messages.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        owner.answering.set()
        await closing
        await ack
        await wait_until(lambda: owner.frames == ["ack", "release", "leave"])
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        with pytest.raises(pubsub.ClosedError):
            await one.nack()


async def test_a_stopped_member_lets_its_handler_finish_and_acknowledge(
    owner: FakeOwner, client: pubsub.Client
) -> None:
    async with client.subscribe("t", group="g") as messages:
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def handle(message: pubsub.GroupMessage) -> None:
            begun.set()
            await may_end.wait()

        owner.give((1, 1), (2, 1))
        running = asyncio.create_task(messages.run(handle))
        await begun.wait()
        messages.stop()
        await wait_until(lambda: owner.frames == ["release"])
        owner.give((3, 1))  # it was on its way
        await wait_until(lambda: owner.frames == ["release", "release"])
        may_end.set()
        await running
    await wait_until(lambda: owner.frames == ["release", "release", "ack", "leave"])
    assert owner.settled("ack") == [[1]]
    assert owner.settled("release") == [[2], [3]]


async def test_closing_the_client_leaves_the_group(owner: FakeOwner) -> None:
    async with pubsub.Client(owner.address) as client:
        messages = client.subscribe("t", group="g")
        await messages.open()
        owner.give((1, 1))
        (await anext(messages)).ack()  # type: ignore[unused-awaitable]
    assert owner.frames == ["ack", "leave"]


# Options


@pytest.mark.parametrize(
    ("option", "values", "rule"),
    [
        ("max_in_flight", [0, -1, 10_001, 2**70, 1.5, True, "100"], "a number from 1 to 10000"),
        (
            "lease_seconds",
            [0, -1, 0.01, 86_401, float("nan"), float("inf"), True, "30s"],
            "number of seconds",
        ),
        ("max_attempts", [0, -1, 10**7, 1.5, True, "5"], "a number from 1 to 1000000"),
        ("backoff_seconds", [-1, 86_401, float("nan"), True, "1s"], "number of seconds from 0 to 86400"),
        ("ordered", ["yes", 1, 0], "True or False"),
    ],
)
async def test_an_option_out_of_its_range_is_refused_at_once_in_one_line(
    client: pubsub.Client, option: str, values: list[Any], rule: str
) -> None:
    for value in values:
        with pytest.raises(InvalidRequestError, match=f"{option} is .*{rule}") as caught:
            client.subscribe("t", group="g", **{option: value})
        assert "\n" not in str(caught.value)


async def test_options_of_a_group_without_one_are_refused(client: pubsub.Client) -> None:
    for option in ({"max_in_flight": 5}, {"lease_seconds": 5}, {"ordered": False}):
        with pytest.raises(InvalidRequestError, match="is an option of groups"):
            client.subscribe("t", **option)  # type: ignore[call-overload]


@pytest.mark.parametrize("group", ["", "a.b", "a b", "*", ">", "x" * 65, "ü", 5])
async def test_a_name_that_no_group_can_have_is_refused_everywhere(client: pubsub.Client, group: Any) -> None:
    with pytest.raises(pubsub.InvalidNameError, match="is not a group name"):
        client.subscribe("t", group=group)
    for verb in (client.group, client.peek_group, client.redrive_group, client.delete_group):
        with pytest.raises(pubsub.InvalidNameError, match="is not a group name"):
            await verb("t", group)
    with pytest.raises(pubsub.InvalidNameError, match="is not a group name"):
        await client.reset_group("t", group, "earliest")


# Verbs


async def test_verbs_ask_the_owner(owner: FakeOwner, client: pubsub.Client) -> None:
    info = GroupInfo(
        topic="t", group="b", ready=1, in_flight=2, delayed=3, dead=4, lag=6, members=[], options={}
    )
    owner.groups = [info, GroupInfo(**{f: getattr(info, f) for f in info.__struct_fields__} | {"group": "a"})]
    assert [group.group for group in await client.groups("t")] == ["a", "b"]
    assert await client.group("t", "b") == info
    assert [message.offset for message in await client.peek_group("t", "b", limit=2)] == [3, 4]
    assert await client.reset_group("t", "b", 17) == "noted"
    assert await client.redrive_group("t", "b") == "noted"
    assert await client.delete_group("t", "b") == "noted"
    assert [(c.group, c.how, c.start) for c in owner.changes] == [
        ("b", "reset", 17),
        ("b", "redrive", -2),
        ("b", "delete", -2),
    ]


async def test_an_unknown_group_is_an_error(owner: FakeOwner, client: pubsub.Client) -> None:
    with pytest.raises(GroupNotFoundError, match="no group unknown"):
        await client.group("t", "unknown")
    with pytest.raises(GroupNotFoundError, match="no group unknown"):
        await client.delete_group("t", "unknown")


async def test_a_verb_is_tried_again_while_the_owner_is_away(owner: FakeOwner, client: pubsub.Client) -> None:
    owner.refusals = [TopicOfflineError("starting"), TopicOfflineError("starting")]
    assert await client.redrive_group("t", "b") == "noted"


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "1", None])
async def test_a_limit_that_cannot_be_peeked_is_refused(client: pubsub.Client, limit: Any) -> None:
    with pytest.raises(InvalidRequestError, match="a limit is a number from 1 to 1000"):
        await client.peek_group("t", "b", limit=limit)


@pytest.mark.parametrize("to", ["now", -1, None, True])
async def test_a_reset_to_nowhere_is_refused(client: pubsub.Client, to: Any) -> None:
    with pytest.raises(InvalidRequestError, match="a start is"):
        await client.reset_group("t", "b", to)


async def test_a_relaying_client_cannot_use_groups(owner: FakeOwner) -> None:
    async with pubsub.Client(owner.address, relay=True) as client:
        with pytest.raises(InvalidRequestError, match="relay"):
            client.subscribe("t", group="g")
        with pytest.raises(InvalidRequestError, match="relay"):
            await client.groups("t")
