"""Where a store is and how it is opened: a ``sqlite://`` URL, read."""

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec

from avx_events.core.arguments import seconds_in_text
from avx_events.core.errors import InvalidArgumentError
from avx_events.storage.sqlite.failures import moved_error

WriterChoice: TypeAlias = Literal["auto", "thread", "inline"]
WRITERS: Final[tuple[WriterChoice, ...]] = ("auto", "thread", "inline")

_SHAPE: Final = "'sqlite:///relative.db', 'sqlite:////absolute.db' or 'sqlite://' for memory"
_GREATEST_S: Final = 86_400.0


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed ``sqlite://`` URL.

    Attributes:
        path: The file, absolute; None for a database in memory.
        writer: What runs the writes: a ``thread``; ``inline``, the loop itself, faster where it may stand still while
            the disk works; or ``auto``, which is the thread.
        busy_timeout_s: How long a call waits for the lock of another process, in seconds. With an inline writer the
            loop itself waits.
        poll_s: How often a subscription looks for other processes' appends, in seconds.
    """

    path: str | None
    writer: WriterChoice = "auto"
    busy_timeout_s: float = 5.0
    poll_s: float = 0.1


class OpenFile:
    """The file of a store as it was when it was opened.

    Attributes:
        url: The store's.
    """

    def __init__(self, location: Location, url: str) -> None:
        """Remember which file is at ``location``, where the store of ``url`` is."""
        self.url: Final = url
        self._path = location.path
        self._identity = self._now()

    def is_in_place(self) -> bool:
        """Return whether it is still the same; what is written to one that is not would be gone with its last user."""
        return self._now() == self._identity

    def check(self) -> None:
        """Raise where it is not the same any more.

        Raises:
            StoreUnavailableError: It was removed, or another is in its place.
        """
        if not self.is_in_place():
            raise moved_error(self.url)

    def _now(self) -> tuple[int, int] | None:
        try:
            status = None if self._path is None else os.stat(self._path)  # noqa: PTH116 - twice as fast, at every append
        except OSError:
            return None
        return None if status is None else (status.st_dev, status.st_ino)


def parse(url: str) -> Location:
    """Read ``url``: a file, or memory, and options as its query, as ``sqlite:///events.db?writer=inline``.

    Raises:
        InvalidArgumentError: It is malformed, names a folder or a folder that is not there, or an option is unknown or
            out of its range.
    """
    place, _, query = url.removeprefix(url[: url.index("://") + 3]).partition("?")
    if place in {"", "/:memory:"}:
        path = None
    elif place.startswith("/") and len(place) > 1:
        path = _path(url, unquote(place[1:]))
    else:
        raise InvalidArgumentError("url", url, expected=_SHAPE)
    return _with_options(url, Location(path=path), query)


def _path(url: str, path: str) -> str:
    try:
        path.encode()
        is_folder, has_folder = Path(path).is_dir(), Path(path).parent.is_dir()
    except (ValueError, OSError) as exc:  # a lone surrogate; a name that is too long, a folder that may not be seen
        raise InvalidArgumentError("url", url, expected=f"the URL of a file ({exc})") from exc
    if "\0" in path or is_folder:
        raise InvalidArgumentError("url", url, expected="the URL of a file, not of a folder and without NUL")
    if not has_folder:
        expected = f"the URL of a file in a folder that is there ({Path(path).parent} is not)"
        raise InvalidArgumentError("url", url, expected=expected)
    return str(Path(path).absolute())  # readers open it later, when the working folder may be another


def _with_options(url: str, location: Location, query: str) -> Location:
    found: dict[str, object] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name == "writer":
            found[name] = _writer(text)
        elif name in {"busy_timeout_s", "poll_s"}:
            found[name] = seconds_in_text(name, text, most=_GREATEST_S)
        else:
            expected = "a URL with no other options than writer, busy_timeout_s and poll_s"
            raise InvalidArgumentError("url", url, expected=expected)
    return msgspec.structs.replace(location, **found)


def _writer(text: str) -> WriterChoice:
    for writer in WRITERS:
        if text == writer:
            return writer
    raise InvalidArgumentError("writer", text, expected=f"one of {', '.join(WRITERS)}")
