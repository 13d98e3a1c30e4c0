"""Finds what serves a URL by its scheme, among the entry points that are installed."""

import re
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from avx_events.core.errors import InvalidArgumentError, UnknownSchemeError

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def serving(url: object, group: str, *, only: tuple[str, ...] | None = None, example: str) -> object:
    """Return what serves ``url``: the object of the entry point of ``group`` that is named as its scheme.

    Args:
        url: What the user gave.
        group: The group of entry points.
        only: Which schemes will do; None is all that are installed.
        example: A URL that would do, for the error.

    Raises:
        InvalidArgumentError: It is not text that begins with a scheme, or begins with none of ``only``.
        UnknownSchemeError: Nothing is installed for its scheme.
        MissingExtraError: It is there, and what it needs is not.
    """
    found = _SCHEME.match(url) if isinstance(url, str) else None
    if found is None or not isinstance(url, str):
        raise InvalidArgumentError("url", url, expected=f"a URL, as {example!r}")
    scheme = found[1].lower()
    if only is not None and scheme not in only:
        raise InvalidArgumentError("url", url, expected=f"a {only[0]}:// URL")
    installed = _installed(group)
    if scheme not in installed:
        raise UnknownSchemeError(url, installed=installed)
    served: object = installed[scheme].load()
    return served


def _installed(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
