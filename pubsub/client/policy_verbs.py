"""The verb of `Client` that changes the policy of a topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pubsub.client.asking import OwnerVerbs
from pubsub.client.routes import topics_in
from pubsub.errors import SettingsError
from pubsub.model import TopicInfo
from pubsub.policy import Policy, check_parts, make_policy, parse_changes
from pubsub.protocol import messages as m


class PolicyVerbs(OwnerVerbs):
    """Mixed into `Client`. It may raise what finding and asking a topic's owner may: `Client.query`."""

    async def set_policy(
        self, topic: str, policy: Policy | Mapping[str, Any] | None = None, /, **changes: Any
    ) -> TopicInfo:
        """Change the policy of a topic; it is in the owner's file when this returns.

        `set_policy("logs", max_age="7d", max_bytes="10GiB")` changes these two and leaves the rest;
        `set_policy("logs", max_age=None)` removes one. A whole `Policy`, or a mapping, replaces all of it.

        Args:
            changes: max_age, max_messages, max_bytes, until_acknowledged, compact, dedupe, replicas, min_in_sync,
                replica_lag, replace_after: as people write them, or as numbers of seconds, messages, bytes and
                copies; "off" or None for none.

        Raises:
            SettingsError: a name is unknown, a value is wrong, or two exclude each other; nothing was changed.
            TopicNotFoundError: there is no such topic.
        """
        self._check_owner_verb(topic)
        if policy is not None:
            if changes:
                raise SettingsError("give a policy, or changes of one, not both")
            whole = make_policy(policy)
            wanted = {field: getattr(whole, field) for field in whole.__struct_fields__}
        else:
            wanted = parse_changes(changes)
            check_parts(wanted)
        if not wanted:
            raise SettingsError("say what to change: max_age, max_messages, max_bytes and the like")
        reply = await self._ask_owner(
            topic,
            lambda request, route: m.SetPolicy(
                id=request, topic=topic, policy=wanted, topic_id=route.topic_id
            ),
            m.TopicList,
        )
        return topics_in([reply])[0]
