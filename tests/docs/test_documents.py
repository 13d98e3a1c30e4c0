"""Every snippet of README.md, its neighbours and the pages in docs/ runs, and every link leads somewhere.

The snippets of one page run from top to bottom as in ``python -m asyncio``: ``await`` needs no function around it, and
one event loop, one namespace and one empty working folder serve them all.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import ROOT, dead_links, pages, snippets

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages(ROOT)]
PAGES_WITH_SNIPPETS = [
    pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages(ROOT) if any(True for _ in snippets(page))
]


async def run(page: Path, namespace: dict[str, object], *, readdressed: Callable[[str], str] = str) -> int:
    """Run the snippets of ``page`` on this loop, ``readdressed`` each, and count them."""
    count = 0
    for snippet in snippets(page, readdressed=readdressed):
        result = eval(snippet, namespace)  # noqa: S307 - our own documents
        if inspect.iscoroutine(result):
            await result
        count += 1
    return count


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The same module for each document, so that a class made again in another is no second one.

    Afterwards the event types of its classes are free for other tests.
    """
    module = ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)  # dataclasses and annotations look it up
    monkeypatch.chdir(tmp_path)
    yield module.__dict__
    module.__dict__.clear()


@pytest.mark.parametrize("page", PAGES_WITH_SNIPPETS)
async def test_every_snippet_runs(
    page: Path, namespace: dict[str, object], at_our_brokers: Callable[[str], str]
) -> None:
    assert await run(page, namespace, readdressed=at_our_brokers)


@pytest.mark.live
async def test_the_page_on_connecting_runs_on_nats_with_no_change_but_the_url(
    namespace: dict[str, object], at_our_brokers: Callable[[str], str]
) -> None:
    def on_nats(text: str) -> str:
        return at_our_brokers(text.replace('URL = "redis://localhost:6379"', 'URL = "nats://localhost:4222"'))

    assert await run(ROOT / "docs/how-to/connect-to-a-broker.md", namespace, readdressed=on_nats)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes_by_its_spelling(page: Path) -> None:
    spellings = re.findall(r"^\W*(?:```+|~~~+)\s*(py.*)$", page.read_text("utf-8"), flags=re.MULTILINE | re.IGNORECASE)

    assert set(spellings) <= {"python"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# It is there, once\n"
        "[here](#it-is-there-once) [itself](page.md) [the web](https://example.com) [both](page.md#it-is-there-once)\n"
        "[no file](gone.md) [no heading](#gone) [neither](page.md#gone)\n"
    )

    assert dead_links(page) == ["[no file](gone.md)", "[no heading](#gone)", "[neither](page.md#gone)"]


def test_pages_in_nested_folders_are_found(tmp_path: Path) -> None:
    written = [tmp_path / name for name in ("README.md", "docs/how-to/deep/one.md", "docs/two.md")]
    for page in written:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()

    assert pages(tmp_path) == written


async def test_the_snippets_of_a_page_share_a_loop_and_a_namespace(
    tmp_path: Path, namespace: dict[str, object]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport asyncio\nloop = asyncio.get_running_loop()\n```\n"
        "```console\n$ false\n```\n"
        "```python\nasyncio.run(main())\n```\n"
        "- in a list\n\n  ```python\n  async with asyncio.timeout(1):\n      await asyncio.sleep(0)\n  ```\n"
        "```python\nassert loop is asyncio.get_running_loop()\nassert __name__ == 'docs'\n```\n"
    )

    assert await run(page, namespace) == 3


async def test_a_failing_snippet_is_found_at_its_line(tmp_path: Path, namespace: dict[str, object]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nawait None\n```\n")

    with pytest.raises(TypeError) as failure:
        await run(page, namespace)

    assert (str(failure.traceback[-1].path), failure.traceback[-1].lineno) == (str(page), 3)
