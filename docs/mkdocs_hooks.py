"""What the site of the documentation adds to the folder ``docs``.

Pages that stand elsewhere in the repository for those who read it there, files that pages link to, and a page for each
module whose names are public. Links are those of the repository; here they are led to where the site has their targets.
"""
# ruff: noqa: INP001 - mkdocs loads it by its path

import posixpath
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Final, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import avx_events
import avx_events.apps.console
import avx_events.distributed
import avx_events.observability
import avx_events.testing

ROOT: Final = Path(__file__).parent.parent
PLACES: Final = {
    "README.md": "overview.md",
    "PRODUCTION_GUIDE.md": "production-guide.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deployment.md",
    "examples/production_service/README.md": "production-service.md",
}
"""Pages outside of ``docs``, and where the site has them."""

_LANGUAGES: Final = {".py": "python", ".json": "json", ".toml": "toml", ".yaml": "yaml"}
_CODE: Final = r"^```.*?^```$|`[^`\n]+`"
_LINK: Final = r"\[((?:[^\]\n]|\n(?!\n))*)\]\((?!\w+:|#)([^)\s#]*)(#[^)\s]*)?\)"
_CODE_OR_LINK: Final = re.compile(f"{_CODE}|{_LINK}", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in ``docs``."""
    for source, target in PLACES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text("utf-8")))
    for source in sorted(_linked_files()):
        files.append(File.generated(config, _place_of(source), content=_listing(source)))
    modules = _public_modules()
    for module, names in modules.items():
        content = "\n\n".join([f"# {module}", *(f"::: {module}.{name}" for name in names)])
        files.append(File.generated(config, _page_of(module), content=content))
    _section(config, "Reference").append(
        {"Modules": [{module.removeprefix("avx_events."): _page_of(module)} for module in modules]}  # as room is narrow
    )
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Lead links to where the site has what they mean in the repository."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown
    return relinked(markdown, source=_source_of(here), here=here)


def relinked(markdown: str, *, source: str, here: str) -> str:
    """Return ``markdown`` with links of the site.

    Args:
        markdown: A page.
        source: The page's path in the repository.
        here: Its path on the site.
    """

    def lead(found: re.Match[str]) -> str:
        text, path, heading = found[1], found[2], found[3] or ""
        if text is None:  # code
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if (ROOT / target).is_dir():
            readme = posixpath.join(target, "README.md")
            if readme not in PLACES:
                return text if text.startswith("`") else f"{text} (`{target}`)"
            target = readme
        return f"[{text}]({posixpath.relpath(_place_of(target), posixpath.dirname(here) or '.')}{heading})"

    return _CODE_OR_LINK.sub(lead, markdown)


def _place_of(source: str) -> str:
    """Return where the site has a file of the repository."""
    if source in PLACES:
        return PLACES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return f"source/{source.replace('.', '-')}.md"


def _source_of(place: str) -> str:
    """Return which file of the repository a page of the site is."""
    return next((source for source, target in PLACES.items() if target == place), f"docs/{place}")


@cache
def _linked_files() -> frozenset[str]:
    """Find the files that pages link to and that are no pages."""
    found: set[str] = set()
    for page in [*PLACES, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]:
        for link in _CODE_OR_LINK.finditer((ROOT / page).read_text("utf-8")):
            if link[1] is not None:
                target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[2]))
                if (ROOT / target).is_file() and target not in PLACES and not target.startswith("docs/"):
                    found.add(target)
    return frozenset(found)


def _listing(source: str) -> str:
    path = ROOT / source
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# {source}\n\n````{language}\n{path.read_text('utf-8')}````\n"


def _public_modules() -> dict[str, list[str]]:
    """Return the names that users import, by the module that has them."""
    modules: dict[str, list[str]] = defaultdict(list)
    places = (
        avx_events,
        avx_events.apps.console,
        avx_events.distributed,
        avx_events.observability,
        avx_events.testing,
    )
    for package in places:
        for name in package.__all__:
            module = getattr(getattr(package, name), "__module__", "")
            if module.startswith("avx_events.") and name not in modules[module]:
                modules[module].append(name)
    return {module: sorted(names) for module, names in sorted(modules.items()) if names}


def _page_of(module: str) -> str:
    return f"reference/modules/{module}.md"


def _section(config: MkDocsConfig, title: str) -> list[object]:
    """Return the pages of a section of the navigation."""
    navigation = cast("list[dict[str, list[object]]]", config["nav"])
    return next(entry[title] for entry in navigation if title in entry)
