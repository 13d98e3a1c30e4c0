"""Every Python block of README.md, its neighbours and the pages in docs/ runs.

The blocks of one page run from top to bottom as in ``python -m asyncio``: ``await`` needs no function around it, and
one event loop, one namespace and one empty working folder serve them all.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[2]


def documents(root: Path) -> list[Path]:
    """Return the pages with Python blocks, nested folders included."""
    pages = sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")])
    return [page for page in pages if "```py" in page.read_text("utf-8")]


def blocks(page: Path) -> Iterator[CodeType]:
    """Compile the Python blocks of ``page``; tracebacks show the lines of the page."""
    for example in Document.parse(str(page), CodeBlockParser(language="python")).examples():
        lines_above = "\n" * (example.line + example.parsed.line_offset)
        yield compile(
            lines_above + example.parsed, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )


async def run(page: Path, namespace: dict[str, object]) -> int:
    """Run the blocks of ``page`` on this loop, and count them."""
    count = 0
    for block in blocks(page):
        result = eval(block, namespace)  # noqa: S307 - our own documents
        if inspect.iscoroutine(result):
            await result
        count += 1
    return count


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The same module for each document, so that a class made again in another is no second one."""
    module = ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)  # dataclasses and annotations look it up
    monkeypatch.chdir(tmp_path)
    return module.__dict__


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in documents(ROOT)])
async def test_every_block_runs(page: Path, namespace: dict[str, object]) -> None:
    assert await run(page, namespace)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in documents(ROOT)])
def test_no_block_escapes_by_its_spelling(page: Path) -> None:
    spellings = re.findall(r"^\W*(?:```+|~~~+)\s*(py.*)$", page.read_text("utf-8"), flags=re.MULTILINE | re.IGNORECASE)

    assert set(spellings) == {"python"}


def test_pages_in_nested_folders_are_found(tmp_path: Path) -> None:
    pages = [tmp_path / name for name in ("README.md", "docs/how-to/deep/one.md", "docs/two.md")]
    for page in pages:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("```python\nassert True\n```\n")

    assert documents(tmp_path) == pages


async def test_the_blocks_of_a_page_share_a_loop_and_a_namespace(tmp_path: Path, namespace: dict[str, object]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport asyncio\nloop = asyncio.get_running_loop()\n```\n"
        "```console\n$ false\n```\n"
        "- in a list\n\n  ```python\n  async with asyncio.timeout(1):\n      await asyncio.sleep(0)\n  ```\n"
        "```python\nassert loop is asyncio.get_running_loop()\nassert __name__ == 'docs'\n```\n"
    )

    assert await run(page, namespace) == 3


async def test_a_failing_block_is_found_at_its_line(tmp_path: Path, namespace: dict[str, object]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nawait None\n```\n")

    with pytest.raises(TypeError) as failure:
        await run(page, namespace)

    assert (str(failure.traceback[-1].path), failure.traceback[-1].lineno) == (str(page), 3)
