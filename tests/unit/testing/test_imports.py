"""What importing the testing package costs, and what it gives."""

import subprocess
import sys

import pytest

from avx_events import testing


def test_nothing_but_the_contracts_needs_pytest() -> None:
    script = """
import sys
import avx_events.testing as testing
assert "avx_events.testing.mock_bus" not in sys.modules
for name in testing.__all__:
    if not name.endswith("Contract"):
        getattr(testing, name)
found = {"pytest", "_pytest", "hypothesis"} & set(sys.modules)
assert not found, found
"""

    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


@pytest.mark.parametrize("name", testing.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(testing, name).__doc__
    assert name in dir(testing)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Nothing'"):
        _ = testing.Nothing
