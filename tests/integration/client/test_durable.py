"""Durable subscriptions: going on where they stopped, committing no more than was processed, changing hands."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pubsub
from pubsub.protocol import messages as m
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy
from tests.waiting import wait_until


async def offsets(messages: pubsub.Subscription, count: int) -> list[int]:
    return [(await anext(messages)).offset for _ in range(count)]


async def position(client: pubsub.Client, name: str = "dash") -> int:
    return (await client.subscription("a.b", name)).position


def in_file(peer: pubsub.Peer) -> dict[str, int]:
    """Names and positions as a person sees them with sqlite3."""
    with closing(sqlite3.connect(f"file:{peer._node.store.path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT name, position FROM cursors"))


# Going on


async def test_it_goes_on_where_it_stopped_and_start_matters_the_first_time_only(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"%d" % n for n in range(10)])
        async with client.subscribe("a.b", durable="dash", start=3) as messages:
            assert await offsets(messages, 2) == [3, 4]
            await messages.commit()
        async with client.subscribe("a.b", durable="dash", start="latest") as messages:
            assert await offsets(messages, 5) == [5, 6, 7, 8, 9]


async def test_one_that_has_processed_nothing_goes_on_where_it_first_started(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"before")
        async with client.subscribe("a.b", durable="dash"):
            pass
        await client.publish("a.b", b"while it was away")
        async with client.subscribe("a.b", durable="dash") as messages:
            assert await offsets(messages, 1) == [1]


async def test_names_and_topics_do_not_meet(peer: pubsub.Peer) -> None:
    await make_topic(peer, "c.d")
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        await client.publish_many("c.d", [b"x"] * 5)
        for topic, name, count in [("a.b", "one", 1), ("a.b", "two", 2), ("c.d", "one", 3)]:
            async with client.subscribe(topic, durable=name, start="earliest") as messages:
                await offsets(messages, count)
                await messages.commit()
        found = [(i.topic, i.subscription, i.position, i.lag) for i in await client.subscriptions("a.b")]
        assert found == [("a.b", "one", 1, 4), ("a.b", "two", 2, 3)]


async def test_the_cursor_survives_the_owners_restart(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        await peer.publish_many("a.b", [b"x"] * 5)
        async with peer.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 2)
            await messages.commit()
    async with (
        pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer,
        peer.subscribe("a.b", durable="dash") as messages,
    ):
        assert await offsets(messages, 1) == [2]


async def test_it_goes_on_and_commits_through_its_owners_restart(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        await peer.publish_many("a.b", [b"x"] * 5)
        address = peer.address
        async with (
            pubsub.Client(address) as client,
            client.subscribe("a.b", durable="dash", start="earliest") as messages,
        ):
            assert await offsets(messages, 5) == [0, 1, 2, 3, 4]
            await peer.close()
            async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY, listen=address) as again:
                await again.publish("a.b", b"x")
                assert await offsets(messages, 1) == [5]
                await messages.commit()
                assert in_file(again) == {"dash": 6}


async def test_a_topic_created_anew_is_begun_anew(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 5)
            await messages.commit()
        await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
        await make_topic(peer, "a.b")
        await client.publish("a.b", b"of the new one")
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            assert (await anext(messages)).payload == b"of the new one"
        assert [info.position for info in await client.subscriptions("a.b")] == [0]


# Committing by itself


async def test_a_message_is_committed_when_the_next_one_is_asked_for_and_not_before(
    peer: pubsub.Peer,
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 3)
            await wait_until(lambda: messages.committed == 2)
            assert in_file(peer) == {"dash": 2}
            await asyncio.sleep(0.25)  # more than two rounds: it must stay so
            assert await position(client) == 2
            await offsets(messages, 2)
            asking = asyncio.create_task(anext(messages))
            await wait_until(lambda: messages.committed == 5)
            asking.cancel()


async def test_leaving_the_loop_commits_all_but_the_message_at_hand(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            async for message in messages:
                if message.offset == 3:
                    break
        assert await position(client) == 3


async def test_a_batch_handed_out_at_once_is_committed_when_more_is_asked_for(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await anext(messages)
            assert len(await messages.next_batch()) == 4
        assert await position(client) == 1  # the batch was not asked beyond
        async with client.subscribe("a.b", durable="dash") as messages:
            assert len(await messages.next_batch()) == 4
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(messages.next_batch(), 0.02)
        assert await position(client) == 5


async def test_many_messages_take_few_commits(peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    commit = peer._node.store.cursors.commit
    monkeypatch.setattr(peer._node.store.cursors, "commit", lambda *a: (commits.append(a[3]), commit(*a))[1])
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 20_000)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 20_000)
        assert commits == sorted(commits)
        assert len(commits) <= 25
        assert await position(client) == 19_999


async def test_without_auto_commit_nothing_is_committed_that_was_not_said(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest", auto_commit=False) as messages:
            third = [await anext(messages) for _ in range(4)][2]
            await messages.commit(third)
            assert await position(client) == 3
            await messages.commit(third)  # again: nothing changes
        assert await position(client) == 3


async def test_a_commit_never_moves_back(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest", auto_commit=False) as messages:
            first, *_ = [await anext(messages) for _ in range(3)]
            await messages.commit()
            await messages.commit(first)
            assert await position(client) == 3


async def test_commit_refuses_what_was_not_handed_out(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        later = (await client.query("a.b"))[3]
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await anext(messages)
            with pytest.raises(pubsub.InvalidRequestError, match="not been handed out"):
                await messages.commit(later)
        with pytest.raises(pubsub.ClosedError):
            await messages.commit()
        async with client.subscribe("a.b") as messages:
            with pytest.raises(pubsub.InvalidRequestError, match="durable="):
                await messages.commit()


async def test_commits_go_on_over_broken_connections_and_nothing_is_processed_twice(
    peer: pubsub.Peer,
) -> None:
    count = 5000
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address) as client,
        pubsub.Client(peer.address) as admin,
    ):
        await client.publish_many("a.b", [b"x"] * count)
        peer._node.address = proxy.address
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            seen = []
            while len(seen) < count:
                seen.append((await anext(messages)).offset)
                if len(seen) % 700 == 0:
                    proxy.cut()
            assert seen == list(range(count))
            await messages.commit()
        assert await position(admin) == count


async def test_while_the_disk_is_full_the_commit_waits(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 3)
        async with client.subscribe("a.b", durable="dash", start="earliest", auto_commit=False) as messages:
            await offsets(messages, 3)
            full = True
            change = peer._node.store.cursors._change

            def refuse(statements: Any, done: Any) -> None:
                if full:
                    done(pubsub.ReadOnlyError("the disk is full"))
                else:
                    change(statements, done)

            monkeypatch.setattr(peer._node.store.cursors, "_change", refuse)
            committing = asyncio.create_task(messages.commit())
            await asyncio.sleep(0.1)
            assert not committing.done()
            full = False
            await committing
        assert await position(client) == 3


async def test_a_commit_that_cannot_be_stored_in_time_says_so(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with pubsub.Client(peer.address, timeout_seconds=0.3) as client:
        await client.publish_many("a.b", [b"x"] * 3)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 3)
            monkeypatch.setattr(
                peer._node.store.cursors, "_change", lambda _, done: done(pubsub.ReadOnlyError("full"))
            )
            monkeypatch.setattr("pubsub.client.durable.CLOSE_SECONDS", 0.1)
            with pytest.raises(pubsub.TimeoutExpiredError, match=r"dash could not be stored within 0\.3 s"):
                await messages.commit()
            with caplog.at_level(logging.WARNING):
                await messages.close()
            assert "will come again" in caplog.text


# Changing hands


async def test_the_later_subscriber_takes_over_and_the_earlier_one_is_told(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as one, pubsub.Client(peer.address) as two:
        await one.publish_many("a.b", [b"x"] * 5)
        async with one.subscribe("a.b", durable="dash", start="earliest") as earlier:
            await offsets(earlier, 3)
            await wait_until(lambda: earlier.committed == 2)
            async with two.subscribe("a.b", durable="dash") as later:
                assert await offsets(later, 1) == [2]
                await wait_until(lambda: earlier._error is not None)
                with pytest.raises(pubsub.SubscriptionTakenError, match="another subscriber"):
                    await anext(earlier)  # what it had received already is not given out any more
                with pytest.raises(pubsub.SubscriptionTakenError):
                    await earlier.commit()
        assert await position(one) == 2


async def test_an_earlier_subscriber_that_was_cut_off_cannot_come_back_or_commit(peer: pubsub.Peer) -> None:
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address) as one,
        pubsub.Client(peer.address) as two,
    ):
        await one.publish_many("a.b", [b"x"] * 5)
        own_address, peer._node.address = peer._node.address, proxy.address
        async with one.subscribe("a.b", durable="dash", start="earliest", auto_commit=False) as earlier:
            await offsets(earlier, 3)
            peer._node.address = own_address
            async with two.subscribe("a.b", durable="dash") as later:
                proxy.cut()
                await wait_until(lambda: earlier._error is not None)
                with pytest.raises(pubsub.SubscriptionTakenError):
                    await anext(earlier)
                assert await offsets(later, 1) == [0]
        assert await position(one) == 0


async def test_a_commit_on_its_way_when_the_cursor_is_reset_does_not_undo_that(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest", auto_commit=False) as messages:
            await offsets(messages, 5)
            late = messages._cursor._frame(99, "dash", messages.topic_id, 5)
            await client.reset_subscription("a.b", "dash", 1)
            link = await client._pool.get(next(iter(client._pool._links)))
            with pytest.raises(pubsub.SubscriptionTakenError):
                await link.request(late, 5)
        assert await position(client) == 1


# The verbs


@pytest.mark.parametrize(("to", "expected"), [("earliest", 0), ("latest", 5), (2, 2), ("time", 3)])
async def test_reset_moves_it_and_ends_whoever_reads_by_it(
    peer: pubsub.Peer, to: str | int | datetime, expected: int
) -> None:
    async with pubsub.Client(peer.address) as client:
        for _ in range(5):
            await client.publish("a.b", b"x")
        if to == "time":
            to = (await client.query("a.b"))[3].published_at
        async with client.subscribe("a.b", durable="dash", start=4) as messages:
            await client.reset_subscription("a.b", "dash", to)
            with pytest.raises(pubsub.SubscriptionTakenError, match=f"reset to offset {expected}"):
                await anext(messages)
        assert await position(client) == expected
        assert in_file(peer) == {"dash": expected}
        async with client.subscribe("a.b", durable="dash") as messages:
            await client.publish("a.b", b"x")
            assert await offsets(messages, 1) == [expected]


async def test_deleting_it_ends_whoever_reads_by_it_and_it_begins_anew(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start="earliest") as messages:
            await offsets(messages, 2)
            assert await client.delete_subscription("a.b", "dash") == ""
            with pytest.raises(pubsub.SubscriptionNotFoundError, match="was deleted"):
                await offsets(messages, 1)
        assert await client.subscriptions("a.b") == []
        assert in_file(peer) == {}
        assert peer._node.cursors.floor(peer._node.store.topics["a.b"]) is None
        async with client.subscribe("a.b", durable="dash", start=4) as messages:
            assert await offsets(messages, 1) == [4]


async def test_what_is_not_there_is_an_error_that_names_it(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, timeout_seconds=1) as client:
        for call in (
            client.subscription("a.b", "none"),
            client.reset_subscription("a.b", "none", 0),
            client.delete_subscription("a.b", "none"),
        ):
            with pytest.raises(
                pubsub.SubscriptionNotFoundError, match=r"topic a\.b has no durable subscription none"
            ):
                await call


async def test_a_listing_says_who_reads_and_how_much_is_left(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start=2):
            info = await client.subscription("a.b", "dash")
            assert (info.position, info.lag, info.kept_at, info.connected) == (2, 3, "alice", True)
            assert datetime.now(UTC) - datetime.fromisoformat(info.updated_at or "") < timedelta(minutes=1)
        await wait_until(lambda: not peer._node.deliveries.count())
        assert (await client.subscription("a.b", "dash")).connected is False


async def test_the_lag_does_not_count_what_retention_took(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start=1):
            pass
        peer._node.store.topics["a.b"].first_offset = 3
        assert (await client.subscription("a.b", "dash")).lag == 2
        assert peer._node.cursors.floor(peer._node.store.topics["a.b"]) == 1


async def test_the_lag_does_not_count_what_compaction_took(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        topic = peer._node.store.topics["a.b"]
        await peer._node.store.change_file(
            lambda c: c.exec_driver_sql("DELETE FROM messages WHERE offset IN (1, 4, 6, 7)").close()
        )
        topic.messages -= 4
        for start, lag in [(0, 6), (4, 3), (8, 2), ("latest", 0)]:
            async with client.subscribe("a.b", durable=f"from-{start}", start=start):
                assert (await client.subscription("a.b", f"from-{start}")).lag == lag


# Bad input


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a@alice", "x" * 65, 7, "dash\n"])
async def test_a_name_that_breaks_the_rules_is_refused_at_once(peer: pubsub.Peer, name: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidNameError, match="subscription name"):
            client.subscribe("a.b", durable=name)


@pytest.mark.parametrize("name", ["", "@", "a@", "@alice", "a@b@c", "a b", 7])
async def test_a_name_that_no_subscription_can_have_is_refused(peer: pubsub.Peer, name: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        for call in (
            client.subscription("a.b", name),
            client.reset_subscription("a.b", name, 0),
            client.delete_subscription("a.b", name),
        ):
            with pytest.raises(pubsub.InvalidNameError):
                await call


async def test_options_that_make_no_sense_are_refused_at_once(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        for options in (
            {"auto_commit": False},
            {"durable": "dash", "auto_commit": 1},
            {"on_lost": "ignore"},
            {"group": "g", "durable": "dash"},
            {"group": "g", "until": 3},
            {"group": "g", "on_lost": "skip"},
        ):
            with pytest.raises(pubsub.InvalidRequestError):
                client.subscribe("a.b", **options)  # type: ignore[call-overload]
        for to in ("newest", -1, None, datetime(2026, 1, 1)):
            with pytest.raises(pubsub.InvalidRequestError):
                await client.reset_subscription("a.b", "dash", to)  # type: ignore[arg-type]


async def test_a_reset_beyond_the_log_is_refused_and_changes_nothing(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start=2) as messages:
            with pytest.raises(pubsub.OffsetOutOfRangeError, match="5 is the next"):
                await client.reset_subscription("a.b", "dash", 6)
            assert await offsets(messages, 1) == [2]
        assert await position(client) == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"position": 6}, pubsub.OffsetOutOfRangeError),
        ({"position": -1}, pubsub.OffsetOutOfRangeError),
        ({"generation": 1}, pubsub.SubscriptionTakenError),
        ({"name": "none"}, pubsub.SubscriptionNotFoundError),
        ({"name": "a b"}, pubsub.InvalidNameError),
        ({"name": "a@b@c"}, pubsub.InvalidNameError),
        ({"name": "a@bob", "generation": -1}, pubsub.InvalidRequestError),
        ({"topic_id": 1 << 50}, pubsub.TopicNotFoundError),
        ({"topic": "no.such"}, pubsub.TopicNotFoundError),
    ],
)
async def test_a_commit_that_makes_no_sense_is_refused_and_changes_nothing(
    peer: pubsub.Peer, changes: dict[str, Any], error: type[Exception]
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5)
        async with client.subscribe("a.b", durable="dash", start=2) as messages:
            frame = {
                "id": 99,
                "topic": "a.b",
                "topic_id": messages.topic_id,
                "name": "dash",
                "generation": messages._cursor.generation,
                "position": 3,
            }
            link = await client._pool.get(next(iter(client._pool._links)))
            with pytest.raises(error):
                await link.request(m.CommitCursor(**(frame | changes)), 5)
        assert await position(client) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"durable": "a b"},
        {"durable": "a@alice"},
        {"durable": "dash", "generation": 7},
        {"durable": "dash", "generation": -7},
        {"until": -2},
        {"until_us": -1},
    ],
)
async def test_a_subscribe_that_makes_no_sense_is_refused(peer: pubsub.Peer, changes: dict[str, Any]) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.query("a.b")
        link = await client._pool.get(next(iter(client._pool._links)))
        frame = {"id": 99, "subscription": 5, "topic": "a.b", "window_messages": 1, "window_bytes": 1}
        with pytest.raises(pubsub.PubsubError) as caught:
            await link.request(m.Subscribe(**(frame | changes)), 5)
        assert not isinstance(caught.value, pubsub.InternalError | pubsub.ProtocolError)
        assert in_file(peer) == {}


async def test_a_topic_has_so_many_durable_subscriptions_and_no_more(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pubsub.storage.cursors.CURSORS_OF_A_TOPIC", 2)
    async with pubsub.Client(peer.address) as client:
        for name in ("one", "two", "two"):
            async with client.subscribe("a.b", durable=name):
                pass
        with pytest.raises(pubsub.InvalidRequestError, match="no more are allowed"):
            async with client.subscribe("a.b", durable="three"):
                pass
