"""The tests on the page about testing are tests: they pass when pytest runs them, in a project of their own."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-with-avx-events.md"


def test_every_test_on_the_page_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    pytester.makepyfile(test_users=source)
    settings = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    pytester.makeini(f"[pytest]\n{settings}\naddopts = --strict-markers -p avx_events -p asyncio\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    result = pytester.runpytest_subprocess(timeout=30)

    result.assert_outcomes(passed=len(re.findall(r"^(?:async )?def test_", source, flags=re.MULTILINE)))
