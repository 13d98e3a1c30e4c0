"""Stores for process managers: each test runs on SQLite, and on PostgreSQL where it is marked to."""

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite://", "sqlite:///{folder}/store.db", pytest.param("postgresql", marks=pytest.mark.live)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where the store of this test is."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return str(request.param).format(folder=tmp_path)
