"""The commands, a module for each group of them.

A new command is a new module here: what has a function ``add_to(app)`` is found by itself.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Final, Protocol, cast

from cyclopts import App

PLACES: Final[Mapping[str, str]] = {
    "asyncapi": "describe",
    "console": "console",
    "dead-letters": "dead_letters",
    "demo": "demo",
    "describe": "describe",
    "doctor": "inspect",
    "explain": "describe",
    "groups": "inspect",
    "projections": "projections",
    "publish": "publish",
    "replay": "replay",
    "show": "streams",
    "streams": "streams",
    "tail": "tail",
}
"""Which module has a command, so that the others need not be loaded for it; one that is not here is found as well."""


class CommandModule(Protocol):
    """A module of this package.

    Attributes:
        __name__: Its name, as Python has it.
    """

    __name__: str

    def add_to(self, app: App) -> None:
        """Add its commands to ``app``."""
        ...


def command_modules(command: str | None = None) -> Iterator[CommandModule]:
    """Give the modules of this package, by name; of a command that has its place here, only that one."""
    place = None if command is None else PLACES.get(command)
    for name in [found.name for found in iter_modules(__path__)] if place is None else [place]:
        yield cast("CommandModule", import_module(f"{__name__}.{name}"))
