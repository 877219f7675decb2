"""What becomes of given up messages when a peer comes to own a topic."""

import sqlite3
from collections.abc import Iterator

import pytest
from sqlalchemy import Text, create_engine
from sqlalchemy.pool import StaticPool

from pubsub.storage.given_up import GivenUp, give_up_again
from pubsub.storage.schema import metadata

TOPIC, DEAD = 1, 2


@pytest.fixture
def cursor() -> Iterator[sqlite3.Cursor]:
    """A file with a topic of ten messages, its dead letter topic, and a group that has read nine of them."""
    connection = create_engine("sqlite+pysqlite://", poolclass=StaticPool).connect()
    metadata.create_all(connection)
    cursor = connection.connection.cursor()
    for topic_id in (TOPIC, DEAD):
        cells = {
            column.name: "" if isinstance(column.type, Text) else 0
            for column in metadata.tables["topics"].columns
            if not column.nullable
        } | {"id": topic_id, "name": f"t{topic_id}", "role": "owner", "owner": "p", "policy": "{}"}
        cursor.execute(
            f"INSERT INTO topics ({', '.join(cells)}) VALUES ({', '.join('?' * len(cells))})",
            [*cells.values()],
        )
    cursor.executemany(
        "INSERT INTO messages VALUES (?, ?, 0, NULL, NULL, x'61', NULL)",
        [(TOPIC, offset) for offset in range(10)],
    )
    cursor.execute("INSERT INTO groups VALUES (?, 'g', 9, '{}', 0)", (TOPIC,))
    yield cursor
    cursor.close()
    connection.close()


def letter(cursor: sqlite3.Cursor, offset: int) -> None:
    """A dead letter from a time when this peer owned the topic before."""
    cursor.execute(
        "INSERT INTO dead_letters VALUES (?, ?, ?, ?, 'g', 'nack', 3)", (DEAD, offset, TOPIC, offset)
    )


def entry(cursor: sqlite3.Cursor, offset: int) -> None:
    """An entry that was to become a dead letter at the former owner."""
    cursor.execute("INSERT INTO group_messages VALUES (?, 'g', ?, 'dying', 2, 0, 'nack')", (TOPIC, offset))


def letters(cursor: sqlite3.Cursor) -> list[int]:
    cursor.execute("SELECT source_offset FROM dead_letters ORDER BY 1")
    return [offset for (offset,) in cursor.fetchall()]


def dying(cursor: sqlite3.Cursor) -> list[tuple[int, int, str]]:
    cursor.execute("SELECT offset, attempts, member FROM group_messages WHERE state = 'dying' ORDER BY 1")
    return cursor.fetchall()


def test_what_the_former_owner_made_letters_of_is_to_be_a_letter_here_for_the_same_reason(
    cursor: sqlite3.Cursor,
) -> None:
    give_up_again(cursor, TOPIC, [GivenUp("g", 4, "lease expired", 5)])
    assert dying(cursor) == [(4, 5, "lease expired")]
    assert letters(cursor) == []


def test_what_is_a_letter_here_already_does_not_become_another_one(cursor: sqlite3.Cursor) -> None:
    letter(cursor, 3)
    letter(cursor, 4)
    entry(cursor, 3)
    give_up_again(cursor, TOPIC, [GivenUp("g", 4, "nack", 3)])
    assert letters(cursor) == [3, 4]
    assert dying(cursor) == []


def test_what_was_redriven_elsewhere_is_a_letter_no_more(cursor: sqlite3.Cursor) -> None:
    letter(cursor, 3)
    letter(cursor, 4)
    give_up_again(cursor, TOPIC, [GivenUp("g", 4, "nack", 3)])
    assert letters(cursor) == [4]


def test_a_letter_of_which_the_topic_has_nothing_any_more_stays_one(cursor: sqlite3.Cursor) -> None:
    """It could not become an entry at the former owner, so that nothing was said of it means nothing."""
    letter(cursor, 3)
    cursor.execute("DELETE FROM messages WHERE topic_id = ? AND offset = 3", (TOPIC,))
    give_up_again(cursor, TOPIC, [])
    assert letters(cursor) == [3]


def test_what_the_group_has_yet_to_read_is_no_entry(cursor: sqlite3.Cursor) -> None:
    give_up_again(cursor, TOPIC, [GivenUp("g", 8, "nack", 3), GivenUp("g", 9, "nack", 3)])
    assert [offset for offset, _, _ in dying(cursor)] == [8]


def test_what_is_said_of_a_group_that_is_not_there_is_passed_over(cursor: sqlite3.Cursor) -> None:
    give_up_again(cursor, TOPIC, [GivenUp("other", 4, "nack", 3)])
    assert dying(cursor) == []
