"""Where a store is and how it is opened: a ``postgresql://`` URL, read."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from avx_events.core.arguments import seconds_in_text
from avx_events.core.errors import InvalidArgumentError

_SHAPE: Final = "'postgresql://user:password@host:5432/database'"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_GREATEST_S: Final = 86_400.0
_MOST_CONNECTIONS: Final = 1_000
_OPTIONS: Final = ("schema", "pool_size", "timeout_s", "poll_s")


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed ``postgresql://`` URL.

    Attributes:
        dsn: What the client library connects to: the URL without the options below.
        name: What errors and logs call the store: the URL without password and options.
        schema: The schema of the store's tables; None for the first of the user's own search path. It must be there.
            Queries and transactions of the store's user find the tables of ``public`` as well.
        pool_size: The most connections for our own reads, as many for those of the store's user, and as many for
            transactions; there are three more: one appends, one listens and one keeps snapshots. They are opened when
            they are needed.
        timeout_s: How long the server may be away or silent before a call fails, in seconds.
        poll_s: How often a subscription looks for other processes' appends where it was not woken up, in seconds.
    """

    dsn: str
    name: str
    schema: str | None = None
    pool_size: int = 4
    timeout_s: float = 10.0
    poll_s: float = 1.0

    def settings(self, **more: str) -> dict[str, str]:
        """Return the settings of a session in this place, and ``more``."""
        settings = dict(more)
        if "application_name=" not in self.dsn:
            settings["application_name"] = "avx-events"
        if self.schema is not None:
            settings.setdefault("search_path", f'"{self.schema}", public')
        return settings

    def own_settings(self, **more: str) -> dict[str, str]:
        """Return the settings of a session that sees the store's schema only, not another store's in ``public``."""
        path = {} if self.schema is None else {"search_path": f'"{self.schema}"'}
        return self.settings(**path, **more)


def parse(url: str) -> Location:
    """Read ``url``; as its query it takes the options of ``Location``, and those of libpq, as ``sslmode=verify-full``.

    Raises:
        InvalidArgumentError: It is malformed, or an option is out of its range.
    """
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        parts.port  # noqa: B018 - raises where it is no number
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as exc:
        if "," not in url:  # several hosts have ports that are no number for Python
            shown = url[: url.index("://") + 3] + url.rpartition("@")[2]  # without a password
            raise InvalidArgumentError("url", shown, expected=f"a URL as {_SHAPE} ({exc})") from exc
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        query = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, text) for name, text in query if name not in _OPTIONS]
    bare = url.partition("?")[0]
    dsn = f"{bare}?{urlencode(kept, safe='/', quote_via=quote)}" if kept else bare
    name = f"{parts.scheme}://{place}{parts.path}"
    return _with_options(dict(query), Location(dsn=dsn, name=name))


def _with_options(query: Mapping[str, str], location: Location) -> Location:
    found: dict[str, Any] = {}
    if "schema" in query:
        found["schema"] = _schema(query["schema"])
    if "pool_size" in query:
        found["pool_size"] = _count("pool_size", query["pool_size"])
    for name in ("timeout_s", "poll_s"):
        if name in query:
            found[name] = seconds_in_text(name, query[name], most=_GREATEST_S)
    return msgspec.structs.replace(location, **found)


def _schema(text: str) -> str:
    if _SCHEMA.fullmatch(text) is None:
        expected = "1 to 63 small letters, digits and '_', no digit first"
        raise InvalidArgumentError("schema", text, expected=expected)
    return text


def _count(name: str, text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 1 <= int(text[:9]) <= _MOST_CONNECTIONS):
        raise InvalidArgumentError(name, text, expected=f"a whole number, 1 to {_MOST_CONNECTIONS:,}")
    return int(text)
