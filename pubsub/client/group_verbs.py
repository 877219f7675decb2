"""The verbs of `Client` that are about groups: how they do, what they would give out next, starting over."""

from __future__ import annotations

from pubsub.client.asking import Counted
from pubsub.client.asking_peers import PeersVerbs
from pubsub.client.group_options import checked_count
from pubsub.client.subscription import Start, messages_of, start_fields
from pubsub.errors import GroupNotFoundError
from pubsub.model import GroupInfo, Message, check_group_name
from pubsub.protocol import messages as m

MOST_PEEKED = 1000


class GroupVerbs(PeersVerbs):
    """Mixed into `Client`. Each of them may raise what finding and asking a topic's owner may: `Client.query`."""

    async def groups(self, topic: str | None = None) -> list[GroupInfo]:
        """The groups of a topic, or of all topics, by topic and name.

        Those of all topics are as many as can be learnt: of every peer that is alive and answers.
        """
        if topic is not None:
            return await self._groups(topic, "")
        self._check_owner_verb("any")
        replies = await self._ask_peers(
            await self._peer_addresses(), lambda request: m.Groups(request), "groups of its topics"
        )
        found = [info for reply in replies if isinstance(reply, m.GroupList) for info in reply.groups]
        return sorted(found, key=lambda info: (info.topic, info.group))

    async def group(self, topic: str, group: str) -> GroupInfo:
        """One group: ready, in flight, delayed, dead, lag, members, options.

        Raises:
            GroupNotFoundError: the topic has no group of this name.
        """
        found = await self._groups(topic, check_group_name(group))
        if not found:
            raise GroupNotFoundError(f"topic {topic} has no group {group}")
        return found[0]

    async def _groups(self, topic: str, group: str) -> list[GroupInfo]:
        self._check_owner_verb(topic)
        reply = await self._ask_owner(topic, lambda request, _: m.Groups(request, topic, group), m.GroupList)
        return sorted(reply.groups, key=lambda info: info.group)

    async def peek_group(self, topic: str, group: str, *, limit: int = 10) -> list[Message]:
        """The next messages that the group would give out; nothing changes.

        Args:
            limit: At most 1,000.

        Raises:
            GroupNotFoundError: the topic has no group of this name.
        """
        self._check_owner_verb(topic)
        check_group_name(group)
        checked_count("a limit", limit, MOST_PEEKED)
        reply = await self._ask_owner(
            topic,
            lambda request, _: m.PeekGroup(id=request, topic=topic, group=group, limit=limit),
            m.QueryResult,
        )
        found = messages_of(topic, reply.batch) if reply.batch is not None else []
        if (found and found[-1].offset >= reply.position) or len(found) == limit:
            return found
        # These are only those that come first, being given out again. What is new comes after them.
        position = reply.position
        while len(found) < limit and position < reply.next_offset:
            new = await self._page(topic, reply.topic_id, position, limit - len(found))
            found += messages_of(topic, new.batch) if new.batch is not None else []
            position = new.position
        return found

    async def _page(self, topic: str, topic_id: int, start: int, limit: int) -> m.QueryResult:
        return await self._ask_owner(
            topic,
            lambda request, _: m.Query(id=request, topic=topic, topic_id=topic_id, start=start, limit=limit),
            m.QueryResult,
            same_topic=True,
        )

    async def reset_group(self, topic: str, group: str, to: Start) -> str:
        """Have the group begin anew: at "earliest", "latest", an offset, or a time. Returns a note for people.

        What its members have in hand can then be settled only late. Dead letters stay where they are.

        Raises:
            GroupNotFoundError: the topic has no group of this name.
            OffsetOutOfRangeError: the offset lies outside the log.
        """
        start, at_us = start_fields(to)
        return await self._change(topic, group, "reset", start, at_us)

    async def redrive_group(self, topic: str, group: str) -> str:
        """Give the group its dead letters once more, with their attempts counted anew. Returns a note for people.

        Raises:
            GroupNotFoundError: the topic has no group of this name.
        """
        return await self._change(topic, group, "redrive")

    async def delete_group(self, topic: str, group: str) -> str:
        """Forget the group; its members get GroupNotFoundError. Dead letters stay. Returns a note for people.

        Raises:
            GroupNotFoundError: the topic has no group of this name.
        """
        return await self._change(topic, group, "delete")

    async def _change(self, topic: str, group: str, how: str, start: int = m.EARLIEST, at_us: int = 0) -> str:
        self._check_owner_verb(topic)
        check_group_name(group)
        make = Counted(
            lambda request, _: m.ChangeGroup(
                id=request, topic=topic, group=group, how=how, start=start, at_us=at_us
            )
        )
        try:
            return (await self._ask_owner(topic, make, m.Done)).note
        except GroupNotFoundError:
            if how == "delete" and make.repeated:
                return f"group {group} of {topic} is gone: a request before this one, which got no answer, deleted it"
            raise
