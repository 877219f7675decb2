"""What a dead letter is called and what it says of itself, and how it looks when it is given out once more."""

from __future__ import annotations

from collections.abc import Mapping

from pubsub.model import DEAD_PART, NAME_MAX_LENGTH

_PREFIX = "pubsub-dead-"
TOPIC = f"{_PREFIX}topic"
OFFSET = f"{_PREFIX}offset"
GROUP = f"{_PREFIX}group"
REASON = f"{_PREFIX}reason"
"""nack, lease expired or member lost."""
ATTEMPTS = f"{_PREFIX}attempts"
PUBLISHED_AT = f"{_PREFIX}published-at"
"""When the message was published to the topic that it came from, ISO 8601."""

REDRIVEN_FROM = "pubsub-redriven-from"
"""Topic and offset, as `topic/offset`, of a message whose original was not kept any more when it was redriven."""


def is_dead_letter_topic(topic: str) -> bool:
    """Whether this is the name of a topic of dead letters. Its own messages are never given up."""
    return topic.endswith(f".{DEAD_PART}")


def dead_letter_topic(topic: str) -> str | None:
    """Where the messages go that groups of a topic give up; None: its name leaves no room for that of another."""
    name = f"{topic}.{DEAD_PART}"
    return name if len(name) <= NAME_MAX_LENGTH else None


def dead_headers(
    headers: Mapping[str, str],
    *,
    topic: str,
    offset: int,
    group: str,
    reason: str,
    attempts: int,
    published_at: str,
) -> dict[str, str]:
    """A message's headers as those of its dead letter."""
    return {
        **headers,
        TOPIC: topic,
        OFFSET: str(offset),
        GROUP: group,
        REASON: reason,
        ATTEMPTS: str(attempts),
        PUBLISHED_AT: published_at,
    }


def redriven_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A dead letter's headers as those of a message that is published to its topic anew."""
    own = {name: value for name, value in headers.items() if not name.startswith(_PREFIX)}
    own[REDRIVEN_FROM] = f"{headers.get(TOPIC, '')}/{headers.get(OFFSET, '')}"
    return own
