"""Finds the engine of a URL by its scheme, among those that are installed."""

import re
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from avx_events.core.errors import InvalidArgumentError, UnknownSchemeError
from avx_events.store.ports import ENTRY_POINT_GROUP, EngineFactory

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRAS: Final = {"postgresql": "postgres", "postgres": "postgres"}


def engine_factory(url: object) -> EngineFactory:
    """Return what opens the store at ``url``.

    Raises:
        InvalidArgumentError: It is not text that begins with a scheme.
        UnknownSchemeError: No engine is installed for its scheme.
        MissingExtraError: The engine is there, and what it needs is not.
    """
    found = _SCHEME.match(url) if isinstance(url, str) else None
    if found is None or not isinstance(url, str):
        raise InvalidArgumentError("url", url, expected="a URL, as 'sqlite:///events.db' or 'sqlite://' for memory")
    scheme = found[1].lower()
    installed = _installed()
    if scheme not in installed:
        raise UnknownSchemeError(url, installed=installed, extra=_EXTRAS.get(scheme))
    return cast("EngineFactory", installed[scheme].load())


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
