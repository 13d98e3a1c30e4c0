"""Programs that are not Python packages, which a machine may not have."""

import os

import pytest

from tests.servers.software import MissingServerError, program


def needed(name: str) -> str:
    """Return where a program is; the test is skipped where it is missing, and fails where ``CI`` is ``true``."""
    try:
        return program(name)
    except MissingServerError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
