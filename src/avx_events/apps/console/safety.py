"""What stands before every page: who may ask, from where, and what a browser is told of our answers."""

from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avx_events.apps.console.answers import RefusedError, error_response
from avx_events.apps.console.sessions import Session, Sessions
from avx_events.core.arguments import text
from avx_events.core.errors import InvalidArgumentError

COOKIE: Final = "avx_console"
SESSION: Final = "avx_console_session"
"""Where the session of a request is, in its scope."""

_READS: Final = ("GET", "HEAD", "OPTIONS")
_OPEN_PATHS: Final = ("/login", "/static/")
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")

POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""What a browser may load and run for our pages: what we serve, and nothing that stands in a page itself."""

_TOLD: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Safety:
    """Middleware: refuses whoever may not ask, and what another site asks through somebody's browser.

    Without a token only this machine is answered: a client on loopback that calls the console by a name of loopback,
    so that a page of a name that was bound to 127.0.0.1 meanwhile (DNS rebinding) gets nothing. With a token each
    request shows it (``Authorization: Bearer``) or the session of a login. What changes something comes from a page of
    ours: its ``Origin`` is the host that was asked, and it knows the session's form token.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, allowed_hosts: Iterable[str] = ()) -> None:
        """Stand before ``app``.

        Args:
            app: What answers.
            sessions: Who is let in.
            allowed_hosts: By which names the console may be called, beside those of loopback; with a token and none
                given, by any.

        Raises:
            InvalidArgumentError: A host is no text, or one text is given instead of several.
        """
        if isinstance(allowed_hosts, str):
            raise InvalidArgumentError(
                "allowed_hosts", allowed_hosts, expected="several names, as ('ops.example.com',)"
            )
        self._app: Final = app
        self._sessions: Final = sessions
        self._hosts: Final = frozenset(text("allowed_hosts", host).lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return  # no websockets here; lifespans do not come this far
        headers = Headers(scope=scope)
        new_session: Session | None = None

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                _tell(MutableHeaders(scope=message), scope, self._cookie_for(new_session, scope))
            await send(message)

        try:
            self._check_host(scope, headers)
            session, is_bearer = self._session_of(headers)
            if session is None and not self._sessions.needs_token:
                session = new_session = self._sessions.begin()
            self._check_write(scope, headers, session, is_bearer=is_bearer)
        except RefusedError as exc:
            await error_response(exc.status, str(exc), code=exc.code)(scope, receive, send_safely)
            return
        scope[SESSION] = session
        answer = self._app if session is not None or _is_open(scope) else _please_log_in(scope)
        await answer(scope, receive, send_safely)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        name = host_name(headers.get("host", ""))
        if not self._sessions.needs_token and not _is_loopback_client(scope):
            raise RefusedError(403, "Without a token this console answers its own machine only.", code="host")
        is_known = name in _LOOPBACK_NAMES or name in self._hosts
        if not is_known and (self._hosts or not self._sessions.needs_token):
            raise RefusedError(403, "This console is not called by that name; see allowed_hosts.", code="host")

    def _session_of(self, headers: Headers) -> tuple[Session | None, bool]:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._sessions.is_token(given.strip()):
            return self._sessions.begin(headers.get("x-operator", "")), True
        cookie = _cookie_in(headers)
        return (None if cookie is None else self._sessions.read(cookie)), False

    def _check_write(self, scope: Scope, headers: Headers, session: Session | None, *, is_bearer: bool) -> None:
        if scope["method"] in _READS or is_bearer:
            return
        if not _is_from_here(headers):
            raise RefusedError(403, "Another site sent this through your browser; nothing was done.", code="origin")
        if _is_open(scope):
            return
        if session is None:
            raise RefusedError(401, "You are not signed in, or no longer.", code="session")
        if not self._sessions.is_form_token(session, headers.get("x-form-token", "")):
            raise RefusedError(403, "The page is of another session; load it again.", code="form_token")

    def _cookie_for(self, session: Session | None, scope: Scope) -> str | None:
        return None if session is None else cookie_header(self._sessions.cookie(session), scope)


def session_of(request: Request) -> Session:
    """Return the session of a request that was let in."""
    session: Session = request.scope[SESSION]
    return session


def cookie_header(value: str, scope: Scope, *, max_age_s: int | None = None) -> str:
    """Return the ``Set-Cookie`` of our cookie: for this console alone, out of the reach of scripts and other sites."""
    parts = [f"{COOKIE}={value}", f"Path={scope.get('root_path') or '/'}", "HttpOnly", "SameSite=Strict"]
    if scope.get("scheme") == "https":
        parts.append("Secure")
    if max_age_s is not None:
        parts.append(f"Max-Age={max_age_s}")
    return "; ".join(parts)


def host_name(host: str) -> str:
    """Return a ``Host`` header without its port, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(address: str) -> bool:
    """Tell whether ``address`` is one of this machine that no other reaches."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_loopback_client(scope: Scope) -> bool:
    client = scope.get("client")
    return client is not None and is_loopback(client[0])


def _cookie_in(headers: Headers) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _is_from_here(headers: Headers) -> bool:
    """Tell whether a page of the host that is asked sends this, or a program that is no browser."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in {"same-origin", "none"}
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:
        return False


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_open(scope: Scope) -> bool:
    return _path(scope).startswith(_OPEN_PATHS)


def _please_log_in(scope: Scope) -> Response:
    path = _path(scope)
    if path.startswith("/api/"):
        return error_response(401, "You are not signed in, or no longer.", code="session")
    base = scope.get("root_path", "")
    return RedirectResponse(f"{base}/login?next={quote(path, safe='/')}", 303)


def _tell(headers: MutableHeaders, scope: Scope, cookie: str | None) -> None:
    for name, value in _TOLD.items():
        headers[name] = value
    if not _path(scope).startswith("/static/"):
        headers["Cache-Control"] = "no-store"
    if cookie is not None:
        headers.append("Set-Cookie", cookie)
