"""The tables of messages and topics in memory, for tests that need no whole file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine

ID = 7
MESSAGES = (
    "CREATE TABLE messages (topic_id INTEGER NOT NULL, offset INTEGER NOT NULL, published_at INTEGER NOT NULL, "
    "key TEXT, headers TEXT, payload BLOB, batch TEXT, PRIMARY KEY (topic_id, offset)) WITHOUT ROWID"
)
TOPICS = "CREATE TABLE topics (id INTEGER PRIMARY KEY, messages INTEGER, bytes INTEGER)"
NOW_US = 1_796_000_000_000_000

Row = tuple[int, int, str | None, str | None, bytes | None, str | None]


@contextmanager
def opened(url: str = "sqlite://") -> Iterator[Connection]:
    """Both tables, empty."""
    with create_engine(url).connect() as connection:
        connection.exec_driver_sql(TOPICS)
        connection.exec_driver_sql(MESSAGES)
        yield connection


def insert(file: Connection, rows: list[Row]) -> None:
    """Store the log of topic `ID`, beside a message of another topic."""
    file.exec_driver_sql(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", [(ID + 1, 5, 1, None, None, b"other", "[]")]
    )
    if rows:
        file.exec_driver_sql(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", [(ID, *row) for row in rows]
        )
    file.exec_driver_sql("INSERT INTO topics VALUES (?, ?, ?)", (ID, len(rows), size_of(rows)))


def size_of(rows: list[Row]) -> int:
    """What these count for in a topic's bytes."""
    return sum(
        len(row[4] or b"") + len((row[3] or "").encode()) + len((row[2] or "").encode()) for row in rows
    )
