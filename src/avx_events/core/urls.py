"""URLs as they may be shown."""

import re
from typing import Final

_PASSWORD: Final = re.compile(r"(?<=://)([^\s/@:]*):\S*@")


def without_password(url: str) -> str:
    """Return ``url``, or a text with one in it, with stars for its password."""
    return _PASSWORD.sub(r"\1:***@", url)
