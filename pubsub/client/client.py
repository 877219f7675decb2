"""`Client`: every verb that an application has, over connections that are opened when first needed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec

from pubsub.client.cursor import Cursor
from pubsub.client.directory import Directory
from pubsub.client.durable import DurableSubscription
from pubsub.client.group import GroupSubscription
from pubsub.client.group_options import check_without_group, checked_in_flight, group_options
from pubsub.client.group_verbs import GroupVerbs
from pubsub.client.lane import Lane
from pubsub.client.outgoing import check_key
from pubsub.client.pattern import PatternSubscription
from pubsub.client.policy_verbs import PolicyVerbs
from pubsub.client.publish_verbs import PublishVerbs
from pubsub.client.routes import Routes, topics_in
from pubsub.client.schedule_verbs import ScheduleVerbs
from pubsub.client.stream import Stream
from pubsub.client.subscription import Start, Subscription, messages_of, start_fields, until_fields
from pubsub.client.subscription_verbs import SubscriptionVerbs
from pubsub.client.watching import watch_changes
from pubsub.config import DEFAULT_INDEX, ClientSettings, Limits, check_number, settings_of
from pubsub.errors import (
    ClosedError,
    InvalidRequestError,
    SettingsError,
    TopicNotFoundError,
    shown,
)
from pubsub.model import (
    Change,
    Message,
    PeerInfo,
    TopicInfo,
    check_durable_name,
    check_group_name,
    check_new_topic_name,
    check_pattern,
    check_peer_name,
    check_topic_name,
    is_pattern,
    is_text,
    parse_addresses,
)
from pubsub.net.pool import LinkPool
from pubsub.policy import Policy, encode_policy, make_policy
from pubsub.protocol import messages as m
from pubsub.protocol.batch import encode_headers
from pubsub.protocol.handshake import hello

log = logging.getLogger("pubsub.client")

S = TypeVar("S", bound=Stream)

DRAIN_SECONDS = 5.0
"""How long closing waits for what has been published but not yet acknowledged."""

MOST_QUERIED = 2**31
"""Asked for in one request; replies are smaller by far."""


class Client(PublishVerbs, ScheduleVerbs, GroupVerbs, SubscriptionVerbs, PolicyVerbs):
    """Publishes to and reads from topics; hosts none itself.

    Use it as `async with pubsub.Client("127.0.0.1:7470") as client:`. It belongs to the event loop that it is
    entered in; its calls may be made by any number of tasks at once.

    Args:
        index: The address of an index or of any peer, or several (a list, or separated by commas): when one
            does not answer the next is asked.
        relay: Publish and query through the index, for where the peers cannot be reached. Slower.
        timeout_seconds: How long a call is retried before it raises.
    """

    def __init__(
        self,
        index: str | Sequence[str] = DEFAULT_INDEX,
        *,
        relay: bool = False,
        timeout_seconds: float | None = None,
        settings: ClientSettings | None = None,
        limits: Limits | None = None,
        name: str = "",
    ) -> None:
        self._addresses = parse_addresses(index)
        settings = settings_of(ClientSettings, settings)
        if timeout_seconds is not None:
            check_number("timeout_seconds", timeout_seconds, whole=False)
            settings = msgspec.structs.replace(settings, timeout_seconds=timeout_seconds)
        self._settings = settings
        self._limits = settings_of(Limits, limits)
        if not isinstance(relay, bool):
            raise SettingsError(f"relay is True or False, not {shown(relay)}")
        if not is_text(name) or not name.isprintable():  # a lone surrogate is not printable
            raise SettingsError(f"the name of a client is printable text, not {shown(name)}")
        self._relay = relay
        self._name = name
        self._lanes: dict[str, Lane] = {}
        self._subscriptions: set[Stream] = set()
        self._opened = False
        self._closed = False

    async def open(self) -> None:
        """Get ready; needs no server to be there. `async with` calls it."""
        if self._closed:
            raise ClosedError("the client has been closed; make a new one")
        if not self._opened:
            self._opened = True
            greeting = hello("client", self._name)
            self._directory = Directory(self._addresses, greeting, self._limits, self._settings)
            self._pool = LinkPool(greeting, self._limits, self._settings.connect_seconds)
            self._routes = self._make_routes()

    def _make_routes(self) -> Routes:
        return Routes(self._directory, self._pool, self._relay)

    async def close(self) -> None:
        """Let what was published be acknowledged, end subscriptions, close connections. Idempotent."""
        if self._closed or not self._opened:
            self._closed = True
            return
        self._closed = True
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
        await asyncio.gather(*(lane.close(DRAIN_SECONDS) for lane in lanes))
        await self._pool.close()
        await self._directory.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the client has been closed")
        if not self._opened:
            raise ClosedError(
                "the client is not open yet: use it as `async with pubsub.Client(...) as client:`"
            )

    # Reading

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        start: Start | msgspec.UnsetType = msgspec.UNSET,
        until: int | datetime | None = None,
        durable: None = None,
        auto_commit: bool = True,
        on_lost: str = "error",
        reconnect_seconds: float | None = None,
        group: None = None,
    ) -> Subscription: ...

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        start: Start | msgspec.UnsetType = msgspec.UNSET,
        until: int | datetime | None = None,
        durable: str,
        auto_commit: bool = True,
        on_lost: str = "error",
        reconnect_seconds: float | None = None,
        group: None = None,
    ) -> DurableSubscription: ...

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        start: Start | msgspec.UnsetType = msgspec.UNSET,
        reconnect_seconds: float | None = None,
        group: str,
        max_in_flight: int | None = None,
        lease_seconds: float | None = None,
        max_attempts: int | None = None,
        backoff_seconds: float | None = None,
        ordered: bool | None = None,
    ) -> GroupSubscription: ...

    def subscribe(
        self,
        topic: str,
        *,
        start: Start | msgspec.UnsetType = msgspec.UNSET,
        until: int | datetime | None = None,
        durable: str | None = None,
        auto_commit: bool = True,
        on_lost: str = "error",
        reconnect_seconds: float | None = None,
        group: str | None = None,
        max_in_flight: int | None = None,
        lease_seconds: float | None = None,
        max_attempts: int | None = None,
        backoff_seconds: float | None = None,
        ordered: bool | None = None,
    ) -> Subscription | GroupSubscription:
        """An ordered read of a topic, for `async with … as messages: async for message in messages`.

        With a pattern (`*` for one part of a name, a trailing `>` for the rest), a read of all topics that it
        means, also of those that are created later, which are read from their beginning: ordered by topic.

        Once entered, every message published from then on is seen; with `start` also older ones. It goes on
        at the next offset after a restart of the owner or the index.

        With a group, the messages are shared among its members: each goes to one, until it is acknowledged. The
        first member makes the group; the options of whoever made it hold for all.

        Args:
            start: "latest" (the default), "earliest" (the default of a new group; of one that is there already
                it says nothing), an offset, or an aware datetime: the first message published then or later.
            until: An offset, or an aware datetime: iteration ends quietly before it, also when there is nothing
                beyond it yet.
            durable: A name under which to go on where it stopped: then `start` matters the first time only. Where
                it stopped is stored by the topic's owner, or by a `Peer` in its own file. Who subscribes later
                under a name takes it over, and the one before gets SubscriptionTakenError.
            auto_commit: Store a message as processed when the application asks for the next one (within 0.1 s, and
                when closing). False: `await messages.commit()` alone does.
            on_lost: What to do if retention has taken away what comes next: "error" raises
                OffsetOutOfRangeError, "skip" goes on at the first kept message and counts in `messages.skipped`.
            reconnect_seconds: Give up when the owner cannot be reached for so long; None: never.
            group: The group's name.
            max_in_flight: How many messages this member may have at once, not yet settled: 1 to 10,000; default 100.
                Those that wait for the application count, so take few of what takes long.
            lease_seconds: Option: how long a message is a member's before others get it; default 30. Extended
                while the application holds the message.
            max_attempts: Option: how often a message is given out before it moves to the topic's dead letters;
                default 5.
            backoff_seconds: Option: how long a message that was not acknowledged waits until it is given out
                again; doubled for each attempt.
            ordered: Option: of the messages of one key never more than one is in flight.

        Raises:
            ClosedError, InvalidNameError, InvalidRequestError: at once; others when it is entered.
        """
        if is_pattern(topic):
            check_without_group(
                max_in_flight, group_options(lease_seconds, max_attempts, backoff_seconds, ordered)
            )
            _check_with_pattern(until, durable, auto_commit, reconnect_seconds, group)
            return self._note(self._pattern(topic, "latest" if start is msgspec.UNSET else start, on_lost))
        self._check_owner_verb(topic)
        options = group_options(lease_seconds, max_attempts, backoff_seconds, ordered)
        subscription: Subscription | GroupSubscription
        if group is None:
            check_without_group(max_in_flight, options)
            subscription = self._subscription(
                topic,
                "latest" if start is msgspec.UNSET else start,
                reconnect_seconds,
                until,
                durable,
                auto_commit,
                on_lost,
            )
        else:
            _check_with_group(until, durable, auto_commit, on_lost)
            subscription = GroupSubscription(
                topic,
                check_group_name(group),
                "earliest" if start is msgspec.UNSET else start,
                checked_in_flight(max_in_flight),
                options,
                self._routes,
                self._settings,
                reconnect_seconds,
                self._name,
            )
        return self._note(subscription)

    def _note(self, subscription: S) -> S:
        """Remember to close it."""
        self._subscriptions = {s for s in self._subscriptions if not s._closed} | {subscription}
        return subscription

    def _pattern(self, pattern: str, start: Start, on_lost: str) -> PatternSubscription:
        self._check_owner_verb("any")
        check_pattern(pattern)
        greeting = hello("client", self._name)
        return PatternSubscription(
            pattern,
            start,
            self._routes,
            self._settings,
            self._name,
            on_lost=on_lost,
            directory=Directory(self._addresses, greeting, self._limits, self._settings),
            pool=LinkPool(greeting, self._limits, self._settings.connect_seconds),
        )

    def _subscription(
        self,
        topic: str,
        start: Start,
        reconnect_seconds: float | None,
        until: int | datetime | None,
        durable: str | None,
        auto_commit: bool,
        on_lost: str,
    ) -> Subscription:
        if durable is None:
            if auto_commit is not True:
                raise InvalidRequestError("auto_commit belongs to a durable subscription: give it a name too")
            return Subscription(
                topic,
                start,
                self._routes,
                self._settings,
                reconnect_seconds,
                self._name,
                until=until,
                on_lost=on_lost,
            )
        if not isinstance(auto_commit, bool):
            raise InvalidRequestError(f"auto_commit is True or False, not {shown(auto_commit)}")
        return DurableSubscription(
            topic,
            start,
            self._routes,
            self._settings,
            reconnect_seconds,
            self._name,
            until=until,
            on_lost=on_lost,
            cursor=self._cursor(topic, check_durable_name(durable)),
            auto_commit=auto_commit,
        )

    def _cursor(self, topic: str, name: str) -> Cursor:
        """Where the cursor of a durable subscription is kept: with the topic's owner."""
        return Cursor(topic, name)

    async def query(
        self,
        topic: str,
        *,
        start: Start = "earliest",
        limit: int = 100,
        until: int | datetime | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Message]:
        """Read up to `limit` messages that are there now, from `start` on, in one go.

        Args:
            until: An offset, or an aware datetime: only what lies before it.
            key: Only messages with this key. The owner looks through its log for them, and for `headers`: what
                is far away takes as many requests as the log is long.
            headers: Only messages that have all of these headers, with these values.

        Raises:
            OffsetOutOfRangeError: the start lies before the first kept offset or beyond the next one.
            TopicNotFoundError: there is no such topic.
            TimeoutExpiredError or the last retriable error: the owner could not be reached in time.
        """
        self._check_open()
        check_topic_name(topic)
        if type(limit) is not int or limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {shown(limit)}")
        position, at_us = start_fields(start)
        stop, stop_us = until_fields(until)
        encode_headers(headers)
        check_key(key)
        wanted = m.Query(
            id=0,
            topic=topic,
            start=position,
            at_us=at_us,
            limit=min(limit, MOST_QUERIED),
            until=stop,
            until_us=stop_us,
            key=key,
            headers=dict(headers) if headers else None,
        )
        found: list[Message] = []
        end: int | None = None
        while len(found) < limit:
            reply = await self._query(wanted)
            if reply.batch is not None:
                found += messages_of(topic, reply.batch)
            end = reply.next_offset if end is None else end  # what comes meanwhile is not there now
            if reply.position >= end:
                break
            wanted = msgspec.structs.replace(
                wanted,
                topic_id=reply.topic_id,
                start=reply.position,
                limit=min(limit - len(found), MOST_QUERIED),
            )
        return found

    async def _query(self, wanted: m.Query) -> m.QueryResult:
        """One request of a query, of a bounded part of the log."""
        return await self._ask_owner(
            wanted.topic,
            lambda request, route: msgspec.structs.replace(
                wanted, id=request, topic_id=wanted.topic_id or route.topic_id
            ),
            m.QueryResult,
            same_topic=bool(wanted.topic_id),
        )

    # Topics and peers

    async def create_topic(
        self, topic: str, *, on: str | None = None, policy: Policy | Mapping[str, Any] | None = None
    ) -> TopicInfo:
        """Create a topic on the peer `on`, or on the least loaded one that is alive.

        Args:
            policy: What becomes of its messages, `{"max_age": "7d", "compact": True}` say; see `set_policy`.

        Raises:
            TopicExistsError: there is one of this name.
            PeerNotFoundError: there is no such peer, or it is not alive.
            InvalidNameError: the name is illegal, or reserved.
            SettingsError: the policy is wrong.
        """
        self._check_open()
        check_new_topic_name(topic)
        record = encode_policy(make_policy(policy))
        if on is not None:
            check_peer_name(on)
        topic_id = secrets.randbits(53) | 1  # chosen here, so that a retry is not taken for somebody else's
        replies = await self._directory.request(
            lambda request: m.CreateTopic(id=request, topic=topic, on=on, policy=record, topic_id=topic_id)
        )
        self._routes.forget(topic)
        return topics_in(replies)[0]

    async def delete_topic(self, topic: str) -> str:
        """Delete a topic with its messages. Returns a note for people, empty when there is nothing to say.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        self._check_open()
        check_topic_name(topic)
        requests = 0

        def make(request: int) -> m.Request:
            nonlocal requests
            requests += 1
            return m.DeleteTopic(request, topic)

        try:
            replies = await self._directory.request(make)
        except TopicNotFoundError:
            if requests == 1:
                raise
            return "it is gone: a request before this one, which got no answer, deleted it"
        finally:
            self._routes.forget(topic)
        return replies[-1].note if isinstance(replies[-1], m.Done) else ""

    async def topics(self, pattern: str = ">") -> list[TopicInfo]:
        """The topics that match a pattern (`*` for one part, a trailing `>` for the rest), by name."""
        self._check_open()
        check_pattern(pattern)
        return topics_in(await self._directory.request(lambda request: m.Topics(request, pattern)))

    async def topic(self, topic: str) -> TopicInfo:
        """One topic.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        self._check_open()
        check_topic_name(topic)
        found = topics_in(await self._directory.request(lambda request: m.Topics(request, topic)))
        if not found:
            raise TopicNotFoundError(f"no topic {topic}; create it with: pubsub topic create {topic}")
        return found[0]

    async def peers(self) -> list[PeerInfo]:
        """The peers that have registered and not said goodbye, by name."""
        self._check_open()
        reply = (await self._directory.request(m.Peers))[-1]
        return reply.peers if isinstance(reply, m.PeerList) else []

    async def status(self) -> dict[str, Any]:
        """What the server that this client is connected to, an index or a peer, says of itself."""
        self._check_open()
        reply = (await self._directory.request(m.Status))[-1]
        return reply.fields if isinstance(reply, m.StatusReport) else {}

    async def watch(self, pattern: str = ">") -> AsyncGenerator[Change, None]:
        """Changes as they happen: topics that match `pattern` created, moved, deleted, and peers coming and going.

        Never ends. The first is a "resync", and so is one after each interruption: changes may have been
        missed before it, none after.
        """
        self._check_open()
        check_pattern(pattern)
        changes = watch_changes(self._directory, self._settings, pattern, lambda: self._closed)
        async with aclosing(changes):
            async for change in changes:
                yield change


def _check_with_pattern(
    until: object, durable: object, auto_commit: object, reconnect_seconds: object, group: object
) -> None:
    """Raises InvalidRequestError if there is an option that patterns do not have."""
    for name, value, default in (
        ("until", until, None),
        ("durable", durable, None),
        ("auto_commit", auto_commit, True),
        ("reconnect_seconds", reconnect_seconds, None),
        ("group", group, None),
    ):
        if value != default:
            raise InvalidRequestError(f"{name} is for a subscription to one topic, not to a pattern")


def _check_with_group(until: object, durable: object, auto_commit: object, on_lost: object) -> None:
    """Raises InvalidRequestError if there is an option that members of groups do not have."""
    for name, value, default in (
        ("until", until, None),
        ("durable", durable, None),
        ("auto_commit", auto_commit, True),
        ("on_lost", on_lost, "error"),
    ):
        if value != default:
            raise InvalidRequestError(
                f"{name} is for a subscription of one's own, not for a member of a group"
            )
