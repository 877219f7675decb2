"""The verbs of `Client` that read: `subscribe` in its four kinds, and `query`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar, overload

import msgspec

from pubsub.client.asking import OwnerVerbs
from pubsub.client.cursor import Cursor
from pubsub.client.directory import Directory
from pubsub.client.durable import DurableSubscription
from pubsub.client.group import GroupSubscription
from pubsub.client.group_options import check_without_group, checked_in_flight, group_options
from pubsub.client.outgoing import check_key
from pubsub.client.pattern import PatternSubscription
from pubsub.client.stream import Stream
from pubsub.client.subscription import Start, Subscription, messages_of, start_fields, until_fields
from pubsub.config import Limits
from pubsub.errors import InvalidRequestError, shown
from pubsub.model import (
    Address,
    Message,
    check_durable_name,
    check_group_name,
    check_pattern,
    check_topic_name,
    is_pattern,
)
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m
from pubsub.protocol.batch import encode_headers
from pubsub.protocol.handshake import hello

S = TypeVar("S", bound=Stream)

MOST_QUERIED = 2**31
"""Asked for in one request; replies are smaller by far."""


class ReadingVerbs(OwnerVerbs):
    """Mixed into `Client`."""

    _limits: Limits
    _name: str
    _addresses: Sequence[Address]
    _subscriptions: set[Stream]

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
