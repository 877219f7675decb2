"""What groups have given up, when their topic changes hands: which messages those were goes along, the letters stay."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

log = logging.getLogger("pubsub.storage")

MOST_GIVEN_UP = 50_000
"""So many messages that groups had given up are taken over from a former owner: each is kept in memory."""

# A topic that was set aside keeps its rows, and its dead letters can still be redriven; one that is being deleted
# (`Store.drop`) loses them little by little, and has none.
OF_DEAD_TOPICS = "dead_letters AS d JOIN topics AS t ON t.id = d.topic_id AND t.set_aside IS NOT 'deleted' "
_LETTERS = (
    f"SELECT d.group_name, d.source_offset, m.offset IS NOT NULL FROM {OF_DEAD_TOPICS}"
    "LEFT JOIN messages AS m ON m.topic_id = d.source_topic_id AND m.offset = d.source_offset "
    "WHERE d.source_topic_id = ?"
)
_ENTER = (
    "INSERT OR IGNORE INTO group_messages SELECT topic_id, name, ?3, 'dying', ?4, 0, ?5 FROM groups "
    "WHERE topic_id = ?1 AND name = ?2 AND cursor > ?3"
)
"""What the cursor has not passed comes anyway."""
_DYING = "SELECT group_name, offset FROM group_messages WHERE topic_id = ? AND state = 'dying'"


class GivenUp(NamedTuple):
    """A message that a group has given up."""

    group: str
    offset: int
    reason: str
    attempts: int


def give_up_again(cursor: sqlite3.Cursor, topic_id: int, given_up: Sequence[GivenUp]) -> None:
    """What groups had given up at the former owner of a topic, they have given up here, where it is owned from now on.

    Dead letters from a time when this peer owned the topic before are theirs still, unless they were redriven since;
    the others become entries that are to be dead letters next. A letter of which the topic does not keep the message
    cannot have become an entry elsewhere, and stays one.
    """
    letters: dict[tuple[str, int], bool] = {
        (name, offset): bool(kept) for name, offset, kept in cursor.execute(_LETTERS, (topic_id,))
    }
    if not letters and not given_up:
        return
    dying = set(cursor.execute(_DYING, (topic_id,)).fetchall())
    known = dying | {(gone.group, gone.offset) for gone in given_up}
    cursor.executemany(
        "DELETE FROM dead_letters WHERE source_topic_id = ? AND group_name = ? AND source_offset = ?",
        [(topic_id, *letter) for letter, kept in letters.items() if kept and letter not in known],
    )
    cursor.executemany(
        "DELETE FROM group_messages WHERE topic_id = ? AND group_name = ? AND offset = ?",
        [(topic_id, *letter) for letter in dying & letters.keys()],
    )
    again = [gone for gone in given_up if (gone.group, gone.offset) not in letters]
    if len(again) > MOST_GIVEN_UP:
        log.warning("of %d messages that groups gave up, %d are taken over", len(again), MOST_GIVEN_UP)
    cursor.executemany(
        _ENTER,
        [(topic_id, gone.group, gone.offset, gone.attempts, gone.reason) for gone in again[:MOST_GIVEN_UP]],
    )
