"""What the tables of a version are called: as they are read, or while it is built beside an older one."""

import re
from typing import Final, TypeGuard

LONGEST_IDENTIFIER: Final = 63
"""Of PostgreSQL, which cuts off what is longer."""

# Lower case, as PostgreSQL takes unquoted names; "__" stands before the version.
_IDENTIFIER: Final = re.compile(r"(?!.*__)[a-z_][a-z0-9_]*")


def is_identifier(name: object) -> TypeGuard[str]:
    """Return whether ``name`` can name a table or an index of a projection, and get a version behind it."""
    return isinstance(name, str) and _IDENTIFIER.fullmatch(name) is not None and not name.endswith("_")


def name_beside(name: object, version: int) -> str:
    """Return the name that only this version has."""
    return f"{name}__{version}"


def index_name(name: object, version: int, build: int) -> str:
    """Return the name that only one build of a version has: built anew, it stands beside the one before."""
    return f"{name_beside(name, version)}{'b' if build else ''}"


def quoted(name: str) -> str:
    """Return an identifier as SQL takes it, also where it is a word of SQL, as ``order``."""
    return f'"{name}"'
