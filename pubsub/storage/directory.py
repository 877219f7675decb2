"""The data directory: who may use it, and whether its file is sound. Nothing here changes a file that is refused.

`move_aside` gives it another name, for whoever has decided to begin anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from pubsub.errors import DamagedFileError, DataDirectoryError, NewerSchemaError, StorageError
from pubsub.storage.database import reader_engine
from pubsub.storage.migrate import known_revisions, stored_revision
from pubsub.storage.schema import HEAD_REVISION

DATABASE = "peer.db"
LOCK = "peer.lock"

DAMAGED = f"{DATABASE}.damaged-"
"""What the names of files begin with that were moved aside."""

_MAGIC = b"SQLite format 3\x00"


class DirectoryLock:
    """Holds a data directory for this process, by flock: it ends with the process, however that ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the directory if it is missing, and take it.

        Raises:
            DataDirectoryError: it is in use (by whom is said), not writable, or not a directory.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise DataDirectoryError(
                f"{self.directory} is not a directory; give another with --data"
            ) from error
        except OSError as error:
            raise DataDirectoryError(
                f"the data directory {self.directory} cannot be written to: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 64).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataDirectoryError(f"{self.directory} cannot be locked: {error.strerror}") from error
            raise DataDirectoryError(
                f"the data directory {self.directory} is in use by process {holder or 'unknown'}; "
                "each peer needs a directory of its own"
            ) from error
        self._descriptor = descriptor
        try:
            _sync_names(self.directory.parent, self.directory)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # a full disk: the lock holds all the same, only its holder is not named
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                self.release()
                raise DataDirectoryError(
                    f"the data directory {self.directory} cannot be written to: {error.strerror}"
                ) from error

    def release(self) -> None:
        """Let go of the directory. Idempotent. The lock file stays: deleting it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _sync_names(*directories: Path) -> None:
    """Have the names of new files and directories survive a power loss.

    Raises:
        OSError: one cannot be synced.
    """
    for directory in directories:
        try:
            descriptor = os.open(directory, os.O_RDONLY)
        except PermissionError:  # a parent may be passed through without being read: then it cannot be synced
            continue
        try:
            os.fsync(descriptor)
        except OSError as error:  # some network file systems cannot, and need not
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def check_file(path: Path, quick_check_bytes: int) -> None:
    """Refuse a file that is no sound database of ours; a missing one, or one without any table, is fine.

    Reads only. Files of up to `quick_check_bytes` are checked whole, larger ones in their structure.

    Raises:
        DamagedFileError: it is damaged, or not an SQLite database.
        NewerSchemaError: a newer version of pubsub wrote it.
        DataDirectoryError: it cannot be read, or cannot be used now: a full disk, say.
    """
    try:
        size = path.stat().st_size if path.exists() else 0
        if size == 0:
            return
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    if magic != _MAGIC:
        raise damaged(path, "it is not an SQLite database")
    engine = reader_engine(path)
    try:
        with engine.connect() as connection:
            revision = stored_revision(connection)
            if revision is None:
                # The first start may have been cut short after SQLite wrote the file's header: no table, no harm.
                if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar():
                    raise damaged(path, "it is a database, but not one of pubsub")
                return
            if revision != HEAD_REVISION and revision not in known_revisions():
                raise NewerSchemaError(
                    f"{path} has schema {revision}, this version of pubsub knows up to {HEAD_REVISION}: "
                    "upgrade pubsub; the file was left as it is"
                )
            if size <= quick_check_bytes:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if found != "ok":
                    raise damaged(path, str(found))
            ends = connection.exec_driver_sql(
                "SELECT name, next_offset, (SELECT max(offset) + 1 FROM messages WHERE topic_id = id) FROM topics"
            ).all()
            for name, next_offset, end in ends:
                if end is not None and end > next_offset:
                    raise damaged(path, f"topic {name} has messages beyond its next offset {next_offset}")
    except DBAPIError as error:
        raise cannot_use(path, error) from error
    finally:
        engine.dispose()


_NOT_THE_FILES_FAULT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def cannot_use(path: Path, error: DBAPIError) -> StorageError:
    """What an error of SQLite says of a file that is being opened: damaged, or sound for all we know."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _NOT_THE_FILES_FAULT and code != sqlite3.SQLITE_IOERR_SHORT_READ:
        return DataDirectoryError(
            f"{path} cannot be used: {error.orig}; see whether the disk is full or failing. It was left as it is"
        )
    return damaged(path, str(error.orig))


def damaged(path: Path, why: str) -> DamagedFileError:
    """The error that refuses a file, and says what can be done."""
    return DamagedFileError(
        f"{path} is damaged: {why}. It was left as it is: restore it from a backup; or start the peer once with "
        "--set-damaged-aside, which keeps the file under another name and begins empty: other peers' copies fill "
        "topics with replicas again, what this peer alone had is then in that file only"
    )


def move_aside(path: Path) -> Path:
    """Give a damaged file, with what belongs to it, a name by which nobody opens it; returns that.

    Raises:
        DataDirectoryError: the directory cannot be written to.
    """
    kept = path.with_name(f"{DAMAGED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    number = 1
    while kept.exists():
        kept = path.with_name(f"{kept.name.partition('.again')[0]}.again{number}")
        number += 1
    try:
        # The database first: a write-ahead log that is left without one is no harm, SQLite deletes it.
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))
        _sync_names(path.parent)
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be moved aside: {error.strerror}") from error
    return kept


def moved_aside(directory: Path) -> list[str]:
    """The names of the files that were, oldest first."""
    found = (path.name for path in directory.glob(f"{DAMAGED}*"))
    return sorted(name for name in found if not name.endswith(("-wal", "-shm")))
