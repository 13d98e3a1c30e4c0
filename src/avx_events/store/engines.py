"""Finds the engine of a URL by its scheme, among those that are installed."""

from typing import cast

from avx_events.core.schemes import serving
from avx_events.store.ports import ENTRY_POINT_GROUP, EngineFactory


def engine_factory(url: object) -> EngineFactory:
    """Return what opens the store at ``url``.

    Raises:
        InvalidArgumentError: It is not text that begins with a scheme.
        UnknownSchemeError: No engine is installed for its scheme.
        MissingExtraError: The engine is there, and what it needs is not.
    """
    return cast("EngineFactory", serving(url, ENTRY_POINT_GROUP, example="sqlite:///events.db"))
