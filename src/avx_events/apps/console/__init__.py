"""The web console: a look into a running system, and a hand on its dead letters.

``Console`` is an ASGI application that runs alone or inside of another one.
"""

from avx_events.core.errors import MissingExtraError

try:
    import jinja2 as _jinja2
    import starlette as _starlette
    import uvicorn as _uvicorn
except ImportError as exc:
    raise MissingExtraError("Console", "console") from exc

from avx_events.apps.console.command import run, serve, serve_urls
from avx_events.apps.console.console import Console

del _jinja2, _starlette, _uvicorn

__all__ = ["Console", "run", "serve", "serve_urls"]
