"""A browser for each test that looks at pages."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.live.browser import Browser, browser_in
from tests.servers.software import MissingServerError


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    folder = tmp_path / "browser"
    folder.mkdir()
    try:
        async with browser_in(folder) as running:
            yield running
    except MissingServerError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
