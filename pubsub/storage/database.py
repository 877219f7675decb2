"""How connections to peer.db are opened.

One engine writes, with a single connection that also does all checkpoints; any other is `query_only`. No
connection uses mmap. SQLite 3.7.0 to 3.51.2 can damage a WAL file when two connections write or checkpoint at
once (https://sqlite.org/wal.html, "the WAL-reset bug"); with one writer that cannot happen.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import QueuePool, StaticPool

BUSY_TIMEOUT_SECONDS = 5.0
CACHE_KIB = 2048

_COMMON = (
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = MEMORY",
)


def _connect(path: Path, options: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # no transactions behind our back: we say BEGIN ourselves
        check_same_thread=False,
        cached_statements=64,
    )
    for pragma in pragmas:
        connection.execute(pragma).close()
    return connection


def writer_engine(path: Path) -> Engine:
    """The engine that may write; its one connection lasts until the engine is disposed of."""
    pragmas = (
        *_COMMON,
        "PRAGMA synchronous = FULL",
        "PRAGMA wal_autocheckpoint = 0",
        # Some builds overwrite every page that becomes free: retention would write twice as much.
        "PRAGMA secure_delete = FAST",
    )
    return create_engine(
        "sqlite+pysqlite://", creator=lambda: _connect(path, "mode=rwc", pragmas), poolclass=StaticPool
    )


def reader_engine(path: Path, pool_size: int = 1) -> Engine:
    """An engine whose connections, at most `pool_size`, only read."""
    pragmas = (*_COMMON, "PRAGMA query_only = ON")
    return create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(path, "mode=ro", pragmas),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
    )


def has_wal_reset_bug(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can damage a WAL file under two writers. See the module's text."""
    return (3, 7, 0) <= version <= (3, 51, 2)
