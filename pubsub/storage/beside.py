"""What a topic has besides its messages, for its copies: groups and their dead letters, cursors, and so on.

The owner's connection notes, in temporary triggers, which rows of a replicated topic a transaction changes; they are
read at its end, still in it, and shipped with what the same transaction appended. A copy keeps them in `copied_state`,
in the transaction that stores those messages: so what belongs together is never torn apart. Only a copy that becomes
the owner makes rows of the real tables of them; one that was the owner gives the cursors back. What is shipped is what
rows are, not what was done: twice is as good as once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from pubsub.storage.given_up import GivenUp, give_up_again

Row = tuple[str, str, bytes | None]
"""Kind, key of the row as a JSON array, and its other cells as msgpack; None: it is gone."""


class Kind(NamedTuple):
    """A table, and its columns besides the id of the topic."""

    key: tuple[str, ...]
    cells: tuple[str, ...]
    topic: str = "topic_id"
    """The column with the id of the topic."""


KINDS = {
    "cursors": Kind(("name",), ("topic", "position", "generation", "updated_at")),
    "groups": Kind(("name",), ("cursor", "options", "created_at")),
    "group_messages": Kind(("group_name", "offset"), ("state", "attempts", "due_at", "member")),
    "scheduled": Kind(("id",), ("due_at", "key", "headers", "payload", "created_at")),
    "message_ids": Kind(("message_id",), ("offset", "published_at")),
    "producers": Kind(("producer",), ("next_sequence", "recent", "updated_at")),
    "dead_letters": Kind(("group_name", "source_offset"), ("reason", "attempts"), "source_topic_id"),
}
"""Of dead letters only which messages they were: they are themselves messages of another topic, which has one copy."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_keys = msgspec.json.Decoder(list[Any])
_encode_key = msgspec.json.Encoder().encode


def watch(cursor: sqlite3.Cursor) -> None:
    """Have this connection note what changes; nothing of that is in the file."""
    cursor.execute(
        "CREATE TEMP TABLE changed_rows (number INTEGER PRIMARY KEY, topic_id INTEGER, kind TEXT, row_key TEXT)"
    )
    for table, kind in KINDS.items():
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            key = ", ".join(f"{row}.{column}" for column in kind.key)
            cursor.execute(
                f"CREATE TEMP TRIGGER {table}_{event.lower()} AFTER {event} ON main.{table} "
                f"WHEN (SELECT replicas IS NOT NULL AND role = 'owner' AND set_aside IS NULL "
                f"FROM main.topics WHERE id = {row}.{kind.topic}) "
                f"BEGIN INSERT INTO changed_rows (topic_id, kind, row_key) "
                f"VALUES ({row}.{kind.topic}, '{table}', json_array({key})); END"
            )


def last_change(cursor: sqlite3.Cursor) -> int:
    """The number of the last change that was noted; 0: none."""
    return int(cursor.execute("SELECT coalesce(max(number), 0) FROM changed_rows").fetchone()[0])


def topics_changed(cursor: sqlite3.Cursor, after: int) -> tuple[int, ...]:
    """The replicated topics of which rows have changed since."""
    found = cursor.execute("SELECT DISTINCT topic_id FROM changed_rows WHERE number > ?", (after,)).fetchall()
    return tuple(topic_id for (topic_id,) in found)


def take_changes(cursor: sqlite3.Cursor) -> dict[int, list[Row]]:
    """Topic id -> the rows that this transaction has changed, as they are now."""
    changed = cursor.execute("SELECT topic_id, kind, row_key FROM changed_rows").fetchall()
    if not changed:  # nearly always, so without DISTINCT, which takes longer than all the rest
        return {}
    found: dict[int, list[Row]] = {}
    for topic_id, table, key in dict.fromkeys(changed):
        kind = KINDS[table]
        where = " AND ".join(f"{column} = ?" for column in kind.key)
        row = cursor.execute(
            f"SELECT {', '.join(kind.cells)} FROM {table} WHERE {kind.topic} = ? AND {where}",
            (topic_id, *_keys.decode(key)),
        ).fetchone()
        found.setdefault(topic_id, []).append((table, key, None if row is None else _encode(row)))
    cursor.execute("DELETE FROM changed_rows")
    return found


def snapshot(connection: Connection, topic_ids: Sequence[int]) -> dict[int, tuple[int, list[Row]]]:
    """Topic id -> end of its log, and all that it has besides, as of one moment."""
    marks = ",".join("?" * len(topic_ids))
    ids = tuple(topic_ids)
    found: dict[int, tuple[int, list[Row]]] = {
        topic_id: (end, [])
        for topic_id, end in connection.exec_driver_sql(
            f"SELECT id, next_offset FROM topics WHERE id IN ({marks})", ids
        )
    }
    for table, kind in KINDS.items():
        width = len(kind.key)
        columns = ", ".join(kind.key + kind.cells)
        for row in connection.exec_driver_sql(
            f"SELECT {kind.topic}, {columns} FROM {table} WHERE {kind.topic} IN ({marks})", ids
        ):
            topic_id, *values = row
            if topic_id in found:
                key = _encode_key(values[:width]).decode()
                found[topic_id][1].append((table, key, _encode(tuple(values[width:]))))
    return found


def store(cursor: sqlite3.Cursor, topic_id: int, rows: Iterable[Row], *, reset: bool) -> None:
    """Keep what the owner has shipped; with `reset` it is all there is."""
    if reset:
        cursor.execute("DELETE FROM copied_state WHERE topic_id = ?", (topic_id,))
    for table, key, cells in rows:
        if cells is None:
            cursor.execute(
                "DELETE FROM copied_state WHERE topic_id = ? AND kind = ? AND row_key = ?",
                (topic_id, table, key),
            )
        else:
            cursor.execute(
                "INSERT OR REPLACE INTO copied_state VALUES (?, ?, ?, ?)", (topic_id, table, key, cells)
            )


_NEWER = {
    "cursors": "(generation, position) <= (excluded.generation, excluded.position)",
    "producers": "next_sequence <= excluded.next_sequence",
}
"""Of these a peer may have rows of its own, or newer ones, from its log; of the others it has none that count."""


def give_back(cursor: sqlite3.Cursor, topic_id: int, peer: str) -> set[str]:
    """Make what a copy keeps of the cursors that `peer` kept as the owner of a topic: it owns it no more.

    The next owner's word replaces them, so one that is deleted there does not come back with the topic. What the peer
    keeps for itself stays, and was noted as NAME@PEER; returns those names.
    """
    kind = KINDS["cursors"]
    rows = cursor.execute(
        f"SELECT {', '.join(kind.key + kind.cells)} FROM cursors WHERE topic_id = ?", (topic_id,)
    ).fetchall()
    names = {name for name, *_ in rows}
    own = {name for name in names if f"{name}@{peer}" in names}
    given = [(name, cells) for name, *cells in rows if name not in own]
    cursor.executemany(
        "INSERT OR REPLACE INTO copied_state VALUES (?, 'cursors', ?, ?)",
        [(topic_id, _encode_key([name]).decode(), _encode(tuple(cells))) for name, cells in given],
    )
    cursor.executemany(
        "DELETE FROM cursors WHERE topic_id = ? AND name = ?", [(topic_id, name) for name, _ in given]
    )
    return own


def take_over(cursor: sqlite3.Cursor, topic_id: int) -> None:
    """Make rows of the real tables of what a copy keeps: its peer owns the topic from now on."""
    kept: dict[str, list[tuple[Any, ...]]] = {table: [] for table in KINDS}
    for table, key, cells in cursor.execute(
        "SELECT kind, row_key, cells FROM copied_state WHERE topic_id = ?", (topic_id,)
    ):
        if table in kept:
            kept[table].append((topic_id, *_keys.decode(key), *_decode(cells)))
    given_up = kept.pop("dead_letters")
    for table, rows in kept.items():
        kind = KINDS[table]
        newer = _NEWER.get(table)
        if newer is None:
            cursor.execute(f"DELETE FROM {table} WHERE topic_id = ?", (topic_id,))
        if not rows:
            continue
        columns = ("topic_id", *kind.key, *kind.cells)
        upsert = ", ".join(f"{column} = excluded.{column}" for column in kind.cells)
        key = ", ".join(kind.key if table == "scheduled" else ("topic_id", *kind.key))
        cursor.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({','.join('?' * len(columns))}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {upsert}" + (f" WHERE {newer}" if newer else ""),
            rows,
        )
    give_up_again(cursor, topic_id, [GivenUp(*row[1:]) for row in given_up])
    cursor.execute("DELETE FROM copied_state WHERE topic_id = ?", (topic_id,))
