"""Opening a peer's file: it is checked, brought to the newest schema, counted as started once more, and read.

A damaged file is refused and left as it is; or it is kept under another name and an empty one takes its place, where
that is wanted or where nothing is lost by it.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from pathlib import Path
from typing import cast

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pubsub.config import StorageSettings
from pubsub.errors import DamagedFileError, DataDirectoryError
from pubsub.storage.copies import decode_configs, decode_names, decode_proposal
from pubsub.storage.cursors import Cursor, load_cursors
from pubsub.storage.database import writer_engine
from pubsub.storage.directory import cannot_use, check_file, damaged, move_aside
from pubsub.storage.epochs import load_epochs
from pubsub.storage.groups import StoredGroup, load_groups
from pubsub.storage.migrate import upgrade
from pubsub.storage.producers import Producers
from pubsub.storage.remains import beyond_mending, has_replicated, read_remains
from pubsub.storage.topic import OWNER, Topic
from pubsub.storage.wal_check import frames_lost

log = logging.getLogger("pubsub.storage")


class Contents(msgspec.Struct, kw_only=True):
    """What a file holds besides messages."""

    node_id: str
    """Names the data directory: 32 hex digits."""
    starts: int
    """How often a peer has been started on it, this time included."""
    topics: list[Topic]
    groups: list[StoredGroup]
    cursors: list[Cursor]
    scheduled: dict[int, tuple[int, int]]
    """Topic id -> how many messages are held for later, and when the first is due."""


def open_file(path: Path, name: str, settings: StorageSettings, *, set_damaged_aside: bool) -> Contents:
    """Open the file of the peer `name`, or make it; the caller has the directory's lock.

    Raises:
        DataDirectoryError: it cannot be used, or is another peer's.
        DamagedFileError, NewerSchemaError: it is refused, and left as it is.
    """
    try:
        return _open(path, name, settings, node_id="", starts=0)
    except DamagedFileError as error:
        remains = read_remains(path, name)
        if not set_damaged_aside and not (remains is not None and remains.had_elsewhere):
            raise
        kept = move_aside(path)
        log.error("%s; it is kept as %s, and this peer begins empty", error, kept.name)
        node_id, starts = ("", 0) if remains is None else (remains.node_id, remains.starts)
        return _open(path, name, settings, node_id=node_id, starts=starts)


def _open(path: Path, name: str, settings: StorageSettings, *, node_id: str, starts: int) -> Contents:
    """`node_id`, `starts`: of the file that stood in this one's place, where this one is new."""
    try:
        check_file(path, settings.quick_check_bytes)
        _check_log(path)
        upgrade(path)
        engine = writer_engine(path)
        try:
            with engine.connect() as connection:
                # In one transaction: a file that is refused after all is left as it is.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                node_id, starts = _identify(connection, path, name, node_id, starts)
                contents = _load(connection, node_id, starts)
                if (topic := beyond_mending(connection, name)) is not None:
                    raise damaged(path, f"the copy of topic {topic} in it cannot be mended")
                _save_producers(connection)
                connection.commit()
        finally:
            engine.dispose()
    except DBAPIError as error:
        raise cannot_use(path, error) from error
    except (msgspec.MsgspecError, TypeError, KeyError, sqlite3.Error) as error:
        raise damaged(path, str(error)) from error
    return contents


def _check_log(path: Path) -> None:
    lost = frames_lost(path)
    if lost:
        why = f"{lost} pages or more of its write-ahead log cannot be read, and what they held is gone"
        if has_replicated(path):  # a shorter log must not pass for the whole one
            raise damaged(path, why)
        log.error("%s was damaged: %s; topics may end sooner than they did", path, why)


def _identify(connection: Connection, path: Path, name: str, node_id: str, starts: int) -> tuple[str, int]:
    """Count this start."""
    row = connection.exec_driver_sql("SELECT id, name, starts FROM node").one_or_none()
    now_us = time.time_ns() // 1000
    if row is None:
        node_id, starts = node_id or secrets.token_hex(16), starts + 1
        connection.exec_driver_sql("INSERT INTO node VALUES (?, ?, ?, ?)", (node_id, name, starts, now_us))
        return node_id, starts
    if row[1] != name:
        raise DataDirectoryError(
            f"the data directory {path.parent} belongs to peer {row[1]}, not {name}: "
            f"start it as {row[1]} or give another with --data"
        )
    connection.exec_driver_sql("UPDATE node SET starts = ?, written_at = ?", (row[2] + 1, now_us))
    return row[0], row[2] + 1


def _load(connection: Connection, node_id: str, starts: int) -> Contents:
    topics = _load_topics(connection)
    for topic_id, epochs in load_epochs(connection).items():
        topics[topic_id].epochs = epochs
    scheduled = connection.exec_driver_sql(
        "SELECT topic_id, count(*), min(due_at) FROM scheduled GROUP BY topic_id"
    )
    return Contents(
        node_id=node_id,
        starts=starts,
        topics=list(topics.values()),
        groups=load_groups(connection),
        cursors=load_cursors(connection),
        scheduled={topic_id: (count, first_us) for topic_id, count, first_us in scheduled},
    )


def _load_topics(connection: Connection) -> dict[int, Topic]:
    topics = {}
    for row in connection.exec_driver_sql(
        "SELECT id, name, role, owner, epoch, first_offset, next_offset, committed, policy, created_at, "
        "set_aside, messages, bytes AS size_bytes, compacted_to, replicas, in_sync, version, owner_address, "
        "sound, promised, configs, proposal FROM topics"
    ):
        values = dict(row._mapping)
        values["policy"] = msgspec.json.decode(values["policy"])
        values["created_us"] = values.pop("created_at")
        for names in ("replicas", "in_sync"):
            values[names] = decode_names(values[names])
        values["configs"] = decode_configs(values["configs"])
        values["proposal"] = decode_proposal(values["proposal"])
        if values["role"] == OWNER:
            values["taken_up_at"] = values["next_offset"]
        topics[values["id"]] = Topic(**values)
    return topics


def _save_producers(connection: Connection) -> None:
    """Take over what the log tells of producers beyond their rows: a start after a crash."""
    cursor = cast(sqlite3.Cursor, connection.connection.cursor())
    Producers().save(cursor)
    cursor.close()
