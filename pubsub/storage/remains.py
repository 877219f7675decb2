"""What a damaged file still tells: whose it was, whether other peers have all of it, and what in it is beyond mending.

Reads only, and believes nothing that it cannot read whole: the tables of topics and cursors are small, and usually far
from the page that is damaged.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pubsub.storage.database import reader_engine

DAMAGED = "damaged: "
"""How `topics.set_aside` begins of a copy that cannot be mended where it is."""


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's text."""

    node_id: str
    starts: int
    had_elsewhere: bool
    """Each of its topics is on other peers too, at least one of which was in sync; and nothing else was kept here."""


def read_remains(path: Path, name: str) -> Remains | None:
    """What the file of the peer `name` still tells; None: nothing that can be relied on."""
    engine = reader_engine(path)
    try:
        with engine.connect() as connection:
            row = connection.exec_driver_sql("SELECT id, name, starts FROM node").one_or_none()
            if row is None or row[1] != name or len(row[0]) != 32:
                return None
            return Remains(node_id=row[0], starts=row[2], had_elsewhere=had_elsewhere(connection, name))
    except (DBAPIError, msgspec.MsgspecError, TypeError):
        return None
    finally:
        engine.dispose()


def had_elsewhere(connection: Connection, name: str) -> bool:
    """Whether other peers have all that is in the file of the peer `name`. See `Remains`."""
    try:
        sql = f"SELECT in_sync FROM topics WHERE set_aside IS NULL OR set_aside LIKE '{DAMAGED}%'"
        topics = connection.exec_driver_sql(sql).all()
        others = [set(msgspec.json.decode(text or "[]", type=list[str])) - {name} for (text,) in topics]
        sql = "SELECT count(*) FROM cursors WHERE topic_id NOT IN (SELECT id FROM topics)"
        return bool(others) and all(others) and connection.exec_driver_sql(sql).scalar() == 0
    except (DBAPIError, msgspec.MsgspecError, TypeError):
        return False


def beyond_mending(connection: Connection, name: str) -> str | None:
    """The name of a topic that can only be filled again in a new file, if other peers have all of this one.

    Raises:
        DBAPIError: the file cannot be read.
    """
    sql = f"SELECT name FROM topics WHERE replicas IS NOT NULL AND set_aside LIKE '{DAMAGED}%' LIMIT 1"
    topic = connection.exec_driver_sql(sql).scalar()
    return topic if topic is not None and had_elsewhere(connection, name) else None


def has_replicated(path: Path) -> bool:
    """Whether topics in a file are on other peers too."""
    engine = reader_engine(path)
    try:
        with engine.connect() as connection:
            sql = "SELECT count(*) FROM topics WHERE replicas IS NOT NULL"
            return bool(connection.exec_driver_sql(sql).scalar())
    except DBAPIError:  # of an older schema, which had none
        return False
    finally:
        engine.dispose()
