"""The names of the registry's keys in Redis; the Lua files tell what those hold that scripts touch."""

from __future__ import annotations

import re

from pubsub.errors import SettingsError


class Keys:
    """All keys begin with the namespace, so that several clusters can share one Redis."""

    def __init__(self, namespace: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.{}-]{1,64}", namespace):
            raise SettingsError(
                f"{namespace!r} is not a namespace: use letters, digits, _, - and . (at most 64)"
            )
        self.registry = f"{namespace}:registry"
        self.peers = f"{namespace}:peers"
        self.topics = f"{namespace}:topics"
        self.replicated = f"{namespace}:replicated"
        self.deleted = f"{namespace}:deleted"
        self.events = f"{namespace}:events"
        self._peer = f"{namespace}:peer:"
        self._topic = f"{namespace}:topic:"

    def peer(self, name: str) -> str:
        return self._peer + name

    def peer_topics(self, name: str) -> str:
        """A set: the topics of which the peer holds a copy, or is to."""
        return f"{self._peer}{name}:topics"

    def topic(self, name: str) -> str:
        return self._topic + name

    def subscribers(self, topic: str) -> str:
        return f"{self._topic}{topic}:subscribers"
