"""The site is built without a warning, so without a dead link, and needs nobody else's servers."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from docs.mkdocs_hooks import relinked
from tests.docs.pages import ROOT

PAGES: Final = (
    "index.html",
    "overview.html",
    "production-guide.html",
    "tutorial/index.html",
    "coming-from/celery.html",
)
CLASS: Final = "reference/modules/avx_events.apps.console.console.html"
MODULE: Final = "reference/modules/avx_events.bus.event_bus.html"
# What a browser fetches by itself when it shows a page.
FETCHED: Final = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link[^>]+rel="(?:stylesheet|preload)"[^>]*href="([^"]+)"'
    r'|<link[^>]+href="([^"]+)"[^>]+rel="(?:stylesheet|preload)"'
)


def build(folder: Path, *, settings: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    """Build the site into ``folder``."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # with --quiet, warnings are not counted
    return subprocess.run(  # noqa: S603 - our own pages
        [*command, "--config-file", str(settings), "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [*PAGES, CLASS, MODULE])
def test_a_page_is_there_and_fetches_nothing_from_elsewhere(site: Path, page: str) -> None:
    text = (site / page).read_text("utf-8")

    fetched = [url for found in FETCHED.findall(text) for url in found if url]
    assert fetched
    assert [url for url in fetched if "//" in url] == []


@pytest.mark.timeout(300)
def test_the_page_of_a_module_has_what_its_docstrings_say(site: Path) -> None:
    text = (site / MODULE).read_text("utf-8")

    assert (
        "Events that a handler of this member may have" in re.sub(r"<[^>]+>|\s+", " ", text) or "publish_many" in text
    )
    assert "Raises:" in text


@pytest.mark.timeout(300)
def test_the_page_of_a_class_says_what_its_constructor_takes(site: Path) -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", (site / CLASS).read_text("utf-8"))

    assert "allowed_hosts : Iterable" in re.sub(" +", " ", text)
    assert "whoever made it closes it, after the console" in text


@pytest.mark.timeout(300)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[nowhere](gone.md)\n")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[0]
    settings = re.sub(r"^(?:hooks|plugins):.*?^(?=\S)", "", settings, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(settings)

    done = build(tmp_path / "site", settings=tmp_path / "mkdocs.yml")

    assert done.returncode == 1
    assert "gone.md" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](../explanation/store.md#on-disk)", "[a](../explanation/store.md#on-disk)"),
        ("[a](../../README.md)", "[a](../overview.md)"),
        ("[a](../../PRODUCTION_GUIDE.md#tuning)", "[a](../production-guide.md#tuning)"),
        ("[a](../../examples/cqrs.py)", "[a](../source/examples/cqrs-py.md)"),
        ("[a](../../tests/live)", "a (`tests/live`)"),
        ("[a](https://example.com) [b](#here)", "[a](https://example.com) [b](#here)"),
        ("`[a](../../README.md)`", "`[a](../../README.md)`"),
        ("```md\n[a](../../README.md)\n```", "```md\n[a](../../README.md)\n```"),
    ],
)
def test_links_of_the_repository_are_led_to_those_of_the_site(link: str, led: str) -> None:
    assert relinked(link, source="docs/how-to/page.md", here="how-to/page.md") == led
