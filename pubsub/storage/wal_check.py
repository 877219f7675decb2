"""Whether SQLite has left part of a write-ahead log unread that was on disk: a damaged log ends where it is damaged.

SQLite takes a write-ahead log up to the last commit before the first frame that does not fit its checksum. That is
right for what a crash has cut short, which is the last transaction at most: each is synced before the next is written.
Frames of this log behind a commit that was not taken mean that something in between was damaged, and acknowledged
messages are gone. Reads only. Format: https://sqlite.org/walformat.html
"""

from __future__ import annotations

import struct
from pathlib import Path

from pubsub.storage.database import reader_engine

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">4I")
_FRAME_BYTES = 24
_SHM_FRAMES = struct.Struct("=I")
_SHM_FRAMES_AT = 16


def frames_lost(path: Path) -> int:
    """How many frames, behind the first damaged one, SQLite does not take; 0: none that was synced."""
    wal, shm = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    try:
        if not wal.exists() or wal.stat().st_size <= _HEADER.size:
            return 0
        engine = reader_engine(path)
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").close()  # it reads the log
                with shm.open("rb") as file:
                    file.seek(_SHM_FRAMES_AT)
                    (taken,) = _SHM_FRAMES.unpack(file.read(_SHM_FRAMES.size))
                return _behind(wal, taken)
        finally:
            engine.dispose()
    except (OSError, struct.error):
        return 0


def _behind(wal: Path, taken: int) -> int:
    with wal.open("rb") as file:
        _, _, page_bytes, _, *salts, _, _ = _HEADER.unpack(file.read(_HEADER.size))
        number, committed_at = taken, -1
        while True:
            file.seek(_HEADER.size + number * (_FRAME_BYTES + page_bytes))
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                break
            _, pages_after_commit, *frame_salts = _FRAME.unpack(head)
            if frame_salts != salts:  # of an earlier log; or this is the damage
                if number > taken:
                    break
            elif committed_at >= 0:
                return number - taken
            elif pages_after_commit:
                committed_at = number
            number += 1
    return 0
