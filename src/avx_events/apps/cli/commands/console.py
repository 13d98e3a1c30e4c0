"""``console``: the web console of what is at URLs."""

import os

from cyclopts import App

from avx_events.apps.cli.opening import kind_of, refuse_missing_file
from avx_events.apps.cli.output import print_line
from avx_events.core.errors import InvalidArgumentError, MissingExtraError

_TOKEN = "AVX_EVENTS__CONSOLE_TOKEN"  # noqa: S105 - the name of a setting


def add_to(app: App) -> None:
    """Add the command."""
    app.command(console)


async def console(
    *urls: str,
    dead_letters: str | None = None,
    namespace: str = "avx",
    host: str = "127.0.0.1",
    port: int = 8090,
    allowed_host: list[str] | None = None,
    mask: list[str] | None = None,
) -> None:
    """Show a store, a broker or both in a browser, until Ctrl-C: live events, streams, dead letters and groups.

    On another address than this machine's own it needs a token of 16 characters or more, in the environment variable
    AVX_EVENTS__CONSOLE_TOKEN: on the command line others could read it.

    Args:
        urls: A store, a broker, or one of each.
        dead_letters: Where the dead letters are; if not given, those of the broker, or without one those of the store.
        namespace: Of the buses at the broker.
        host: The address to listen at.
        port: The port; 0 is a free one.
        allowed_host: By which name the console may be called, beside those of this machine.
        mask: The name of a field that is hidden wherever it is.
    """
    places = _places(urls)
    for url in (*urls, *(() if dead_letters is None else (dead_letters,))):
        refuse_missing_file(url)
    try:
        from avx_events.apps.console import serve_urls  # noqa: PLC0415 - it needs an extra of its own
    except ImportError as exc:
        raise MissingExtraError("avx-events console", "console") from exc
    await serve_urls(
        store_url=places.get("store"),
        broker_url=places.get("broker"),
        dead_letters_url=dead_letters,
        namespace=namespace,
        masked_fields=mask or (),
        token=os.environ.get(_TOKEN) or None,
        allowed_hosts=allowed_host or (),
        host=host,
        port=port,
        on_started=lambda url: print_line(f"The console is at {url}"),
    )


def _places(urls: tuple[str, ...]) -> dict[str, str]:
    places: dict[str, str] = {}
    for url in urls:
        kind = kind_of(url)
        if kind in places:
            raise InvalidArgumentError("urls", url, expected=f"one {kind} at most; {places[kind]!r} is one already")
        places[kind] = url
    if not places:
        raise InvalidArgumentError("urls", urls, expected="the URL of a store or of a broker, or one of each")
    return places
