"""Fixtures of the acceptance tests: sites of real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import Site, open_site


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An index and the peer alice, for all tests of a module: each uses topics of its own and stops nothing."""
    with open_site(tmp_path_factory.mktemp("site"), "alice") as site:
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An index and the peer alice of this test's own."""
    with open_site(tmp_path, "alice", ttl=1) as site:
        yield site
