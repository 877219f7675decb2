"""Which ids the attempts to create one topic use.

An attempt that fails half-way has its id buried, so that a copy which was made all the same is dropped when its
holder announces it. The next attempt needs another id, yet whoever asks again with the id it chose must find
what it created. So the ids of all attempts follow from the first one.
"""

from __future__ import annotations

import hashlib

MOST_ID = 2**53 - 1
"""Ids are positive and fit the integers of any language."""


def attempt_ids(topic_id: int, attempts: int) -> list[int]:
    """The ids of the first `attempts` attempts to create the topic for which `topic_id` was chosen."""
    ids = [topic_id]
    while len(ids) < attempts:
        digest = hashlib.sha256(str(ids[-1]).encode()).digest()
        ids.append((int.from_bytes(digest[:8], "big") & MOST_ID) or 1)
    return ids
