"""The wheel, built and installed into a fresh environment, away from the checkout.

What is held: it carries the migrations, the Lua scripts and the type marker; and what is installed from it runs,
creates a peer's file and upgrades an older one. Its dependencies are lent by the environment that runs the tests,
so that no network is needed.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 100

# Runs in the fresh environment, in an empty directory.
CREATE_AND_UPGRADE = """
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import pubsub
from pubsub.storage.migrate import HEAD_REVISION, migrations_directory, upgrade

package = Path(pubsub.__file__).parent
assert package.is_relative_to(sys.prefix), f"pubsub came from {package}, not from the wheel"
assert Path(migrations_directory()).is_relative_to(package), migrations_directory()

def look(path):
    # What the file has, and the revision that it says it has.
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        names = set(connection.scalars(text("select type || ' ' || name from sqlite_master")))
        revision = connection.scalar(text("select version_num from alembic_version"))
    engine.dispose()
    return names, revision

def make_older(path, revision):
    # The file as a version of pubsub that ended at `revision` left it.
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    assert look(path)[1] == revision

created = Path("created.db")
upgrade(created)
names, revision = look(created)
assert {"table topics", "table messages", "view topic_messages"} <= names, names
assert revision == HEAD_REVISION

revisions = [script.revision for script in ScriptDirectory(migrations_directory()).walk_revisions()]
assert HEAD_REVISION in revisions
for revision in revisions:
    older = Path(f"older-{revision}.db")
    make_older(older, revision)
    upgrade(older)
    assert look(older) == look(created), (revision, look(older))
print("created and upgraded")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist of the checkout and a wheel built from that sdist."""
    directory = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT), cwd=directory)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("peer_pubsub-*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of a fresh environment with the wheel installed."""
    directory = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", str(directory), cwd=directory)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=directory)
    # A path line in a .pth file comes after the environment's own packages, and .pth files found *there* are not read:
    # so the dependencies are lent, but an editable install of the checkout stays out of sight.
    site = next(directory.glob("lib/python*/site-packages"))
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "lent.pth").write_text("\n".join(sorted(lent)) + "\n")
    return directory / "bin"


def run(*command: str, cwd: Path) -> str:
    """Run a command away from the checkout, with nothing of the checkout's environment; give what it printed."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    result = subprocess.run(
        command,
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert result.returncode == 0, (
        f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    )
    return result.stdout


def version() -> str:
    match = re.search(r'^__version__ = "(.+)"$', (ROOT / "pubsub/version.py").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def checked_in(directory: str, pattern: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / directory).rglob(pattern) if path.is_file()}


def test_the_wheel_carries_code_migrations_scripts_and_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    migrations = checked_in("migrations", "*.py") | checked_in("migrations", "*.mako")
    lua = checked_in("pubsub/registry", "*.lua")
    assert migrations
    assert lua
    assert {f"pubsub/{name}" for name in migrations} <= names
    assert lua | checked_in("pubsub", "*.py") | {"pubsub/py.typed"} <= names


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert top == {"pubsub", f"peer_pubsub-{version()}.dist-info"}
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


def test_the_source_distribution_carries_what_the_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(built / f"peer_pubsub-{version()}.tar.gz") as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert checked_in("migrations", "*.py") <= names
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "README.md", "Makefile"} <= names
    assert not [name for name in names if name.startswith(".venv/")]


def test_the_installed_command_says_its_version(environment: Path, tmp_path: Path) -> None:
    assert version() in run(str(environment / "pubsub"), "--version", cwd=tmp_path)


def test_the_installed_wheel_creates_and_upgrades_a_peers_file(environment: Path, tmp_path: Path) -> None:
    script = tmp_path / "create_and_upgrade.py"
    script.write_text(CREATE_AND_UPGRADE)
    assert "created and upgraded" in run(str(environment / "python"), str(script), cwd=tmp_path)


def test_the_installed_wheel_runs_a_peer_and_keeps_its_messages(environment: Path, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "import asyncio, pubsub\n"
        "from pubsub.index import IndexServer\n"
        "from pubsub.model import Address\n"
        "from pubsub.registry import EmbeddedRegistry\n"
        "async def main():\n"
        "    index = IndexServer(EmbeddedRegistry('127.0.0.1:0'), listen=Address('127.0.0.1', 0))\n"
        "    async with index, pubsub.Peer('alice', data='./alice', index=str(index.address)) as peer:\n"
        "        await peer.create_topic('sensors.temp')\n"
        "        assert await peer.publish('sensors.temp', b'21.5') == 0\n"
        "    async with pubsub.Peer('alice', data='./alice', index='127.0.0.1:1') as peer:\n"
        "        assert await peer.publish('sensors.temp', b'21.6') == 1\n"
        "asyncio.run(main())\n"
    )
    run(str(environment / "python"), str(script), cwd=tmp_path)
    assert (tmp_path / "alice" / "peer.db").stat().st_size > 0
