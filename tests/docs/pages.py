"""The pages of this repository, and what can be run of them: snippets and programs.

A Python block that calls ``asyncio.run()`` is a program: it is whole. All others are snippets, which continue those
above them on their page.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Final, NamedTuple

from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

ROOT: Final = Path(__file__).parents[2]

_BLOCK_AND_OUTPUT: Final = re.compile(r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")
_HEADING: Final = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Program(NamedTuple):
    """A program on a page.

    Attributes:
        place: The page and the line of its block.
        source: Its text.
        output: What the text block that follows it shows; empty where none does.
    """

    place: str
    source: str
    output: str

    @property
    def is_test_file(self) -> bool:
        """Whether it is for pytest."""
        return "\ndef test_" in self.source


def pages(root: Path) -> list[Path]:
    """Return all pages, nested folders included."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("deploy/*.md")])


def snippets(page: Path, *, readdressed: Callable[[str], str] = str) -> Iterator[CodeType]:
    """Compile the snippets of ``page``, ``readdressed`` each; tracebacks show the lines of the page."""
    for example in Document.parse(str(page), CodeBlockParser(language="python")).examples():
        if not _is_program(example.parsed):
            source = "\n" * (example.line + example.parsed.line_offset) + readdressed(example.parsed)
            yield compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def programs(page: Path) -> list[Program]:
    """Return the programs of ``page``."""
    text = page.read_text("utf-8")
    return [
        Program(f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}", block[1], block[2] or "")
        for block in _BLOCK_AND_OUTPUT.finditer(text)
        if _is_program(block[1])
    ]


def dead_links(page: Path) -> list[str]:
    """Return the links of ``page`` to files, or to headings of pages, that are not there."""
    return [link[0] for link in _LINK.finditer(page.read_text("utf-8")) if not _is_there(page, link[1], link[2])]


def _is_program(source: str) -> bool:
    return "asyncio.run(" in source


def _is_there(page: Path, file: str, heading: str | None) -> bool:
    target = page.parent / file if file else page
    return target.exists() and (heading is None or heading in _anchors(target))


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
