"""Creating peer.db, and bringing an older one up to date.

The migrations are Alembic scripts: in `migrations/` of a checkout, in `pubsub/migrations/` of an installed
wheel. Alembic is imported only when an older file is met. A new one is made straight from the schema and marked
with its revision: the same tables, as a test demands, in a tenth of the time and without Alembic in memory.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from pubsub.errors import InternalError, NewerSchemaError
from pubsub.storage.database import writer_engine
from pubsub.storage.schema import HEAD_REVISION, PAGE_BYTES, TOPIC_MESSAGES_VIEW, metadata

__all__ = ["HEAD_REVISION", "migrations_directory", "stored_revision", "upgrade"]


def migrations_directory() -> Path:
    """Where the Alembic scripts are."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "migrations", package.parent / "migrations"):
        if (directory / "env.py").is_file():
            return directory
    raise InternalError(f"the migrations are missing from this installation of pubsub ({package})")


def stored_revision(connection: Connection) -> str | None:
    """The revision of the file behind `connection`, or None where it holds no tables of ours yet."""
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    if not connection.exec_driver_sql(query).scalar():
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def known_revisions() -> set[str]:
    """Every revision that this version of pubsub can start from."""
    return {script.name.partition("_")[0] for script in (migrations_directory() / "versions").glob("*.py")}


def upgrade(path: Path) -> None:
    """Create `path`, or bring its schema to `HEAD_REVISION`; all of it in one transaction, or nothing.

    Raises:
        NewerSchemaError: a newer version of pubsub wrote the file; it is left as it is.
        sqlalchemy.exc.DBAPIError: the file cannot be read or written.
    """
    engine = writer_engine(path)
    try:
        with engine.connect() as connection:
            stored = stored_revision(connection)
            if stored == HEAD_REVISION:
                return
            if stored is not None and stored not in known_revisions():
                raise NewerSchemaError(
                    f"{path} has schema {stored}, this version of pubsub knows up to {HEAD_REVISION}: "
                    "upgrade pubsub; the file was left as it is"
                )
            if stored is None:
                connection.exec_driver_sql(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.rollback()
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if stored is None:
                _create(connection)
            else:
                _run_alembic(connection)
            connection.commit()
    finally:
        engine.dispose()


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.exec_driver_sql(TOPIC_MESSAGES_VIEW)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version ("
        "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD_REVISION,))


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
