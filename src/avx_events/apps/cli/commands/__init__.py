"""The commands, a module for each group of them.

A new command is a new module here: what has a function ``add_to(app)`` is found by itself.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

from cyclopts import App


class CommandModule(Protocol):
    """A module of this package."""

    def add_to(self, app: App) -> None:
        """Add its commands to ``app``."""
        ...


def command_modules() -> Iterator[CommandModule]:
    """Give the modules of this package, by name."""
    for found in iter_modules(__path__, f"{__name__}."):
        yield cast("CommandModule", import_module(found.name))
