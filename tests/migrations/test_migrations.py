"""The migrations and the schema must lead to the same tables, from every revision there ever was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from pubsub.errors import NewerSchemaError
from pubsub.storage.database import writer_engine
from pubsub.storage.migrate import HEAD_REVISION, known_revisions, migrations_directory, upgrade
from pubsub.storage.schema import metadata


def migrate_to(path: Path, revision: str) -> None:
    engine = writer_engine(path)
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrations_directory()))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


def tables(path: Path) -> dict[str, str]:
    """Every object of a file with its SQL, spelled alike."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: " ".join(sql.split()).replace("( ", "(").replace(" )", ")") for name, sql in rows}


def test_schema_and_replayed_migrations_give_the_same_file(tmp_path: Path) -> None:
    upgrade(tmp_path / "created.db")
    migrate_to(tmp_path / "migrated.db", "head")
    assert tables(tmp_path / "created.db") == tables(tmp_path / "migrated.db")


def test_models_and_migrations_do_not_differ(tmp_path: Path) -> None:
    migrate_to(tmp_path / "peer.db", "head")
    engine = writer_engine(tmp_path / "peer.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


@pytest.mark.parametrize("revision", sorted(known_revisions()))
def test_every_revision_upgrades_to_the_newest(tmp_path: Path, revision: str) -> None:
    migrate_to(tmp_path / "old.db", revision)
    upgrade(tmp_path / "old.db")
    upgrade(tmp_path / "new.db")
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")


def test_head_revision_is_the_newest_script() -> None:
    assert max(known_revisions()) == HEAD_REVISION


def test_a_newer_file_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "peer.db"
    upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(NewerSchemaError, match=r"9999.*upgrade pubsub"):
        upgrade(path)
    assert path.read_bytes() == before
