"""The pages as a browser gets them: an empty frame each, which a script fills, and the files that it needs."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import jinja2
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, RefusedError
from avx_events.apps.console.safety import SESSION, cookie_header, session_of
from avx_events.apps.console.sessions import LIFETIME_S, Session, Sessions

_HERE: Final = Path(__file__).parent
_STATIC: Final = _HERE / "static"
_MOST_BYTES: Final = 4_096

PAGES: Final[Mapping[str, str]] = {
    "live": "Live events",
    "streams": "Streams",
    "letters": "Dead letters",
    "handlers": "Handlers",
    "projections": "Projections",
}
"""The pages, by the name of their path and script."""

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """The endpoints of pages, of their files, and of signing in."""

    def __init__(self, sessions: Sessions) -> None:
        """Serve whom ``sessions`` know."""
        self._sessions: Final = sessions
        self._files: Final = {file.name: file for file in _STATIC.iterdir() if file.suffix in _TYPES}
        self._version: Final = _digest_of(self._files)
        loader = jinja2.FileSystemLoader(_HERE / "templates")
        self._templates: Final = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.front),
            *(Route(f"/{name}", self.page) for name in PAGES),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/api/session", self.session),
            Route("/static/{version}/{name}", self.file),
        ]

    async def front(self, request: Request) -> Response:
        """``GET /``: the first of the pages."""
        return RedirectResponse(f"{_base(request)}/live", 307)

    async def page(self, request: Request) -> Response:
        """``GET /live`` and so on."""
        name = request.url.path.rpartition("/")[2]
        return self._render("page.html", request, name=name, title=PAGES[name])

    async def login(self, request: Request) -> Response:
        """``GET /login``: the form; ``POST``: a session for who has the token."""
        if request.method == "GET":
            return self._login_page(request, 200, problem="", wanted=request.query_params.get("next", ""))
        form = await _form_of(request)
        if not self._sessions.is_token(form.get("token", "")):
            return self._login_page(request, 403, problem="That is not the token.", wanted=form.get("next", ""))
        wanted = form.get("next", "").lstrip("/")
        answer = RedirectResponse(f"{_base(request)}/{wanted if wanted in PAGES else 'live'}", 303)
        session = self._sessions.begin(form.get("operator", ""))
        cookie = cookie_header(self._sessions.cookie(session), request.scope, max_age_s=LIFETIME_S)
        answer.headers.append("Set-Cookie", cookie)
        return answer

    async def logout(self, request: Request) -> Response:
        """``POST /logout``: the browser forgets the session."""
        answer = JsonResponse({"login": f"{_base(request)}/login"})
        answer.headers.append("Set-Cookie", cookie_header("", request.scope, max_age_s=0))
        return answer

    async def session(self, request: Request) -> Response:
        """``GET /api/session``: who looks, and the token of their forms."""
        session = session_of(request)
        return JsonResponse({"operator": session.operator, "form_token": self._sessions.form_token(session)})

    async def file(self, request: Request) -> Response:
        """``GET /static/{version}/{name}``: a file; with another content it has another version, so it is kept."""
        file = self._files.get(request.path_params["name"])
        if file is None or request.path_params["version"] != self._version:
            raise RefusedError(404, "There is no such file; load the page again.")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=headers)

    def _login_page(self, request: Request, status: int, *, problem: str, wanted: str) -> Response:
        return self._render("login.html", request, status, problem=problem, wanted=wanted)

    def _render(self, template: str, request: Request, status: int = 200, **values: object) -> Response:
        base = _base(request)
        session: Session | None = request.scope.get(SESSION)
        text = self._templates.get_template(template).render(
            base=base,
            static=f"{base}/static/{self._version}",
            pages=PAGES,
            operator="" if session is None else session.operator,
            form_token="" if session is None else self._sessions.form_token(session),
            needs_token=self._sessions.needs_token,
            **values,
        )
        return HTMLResponse(text, status)


def _base(request: Request) -> str:
    base: str = request.scope.get("root_path", "")
    return base


def _digest_of(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return digest.hexdigest()[:16]


async def _form_of(request: Request) -> Mapping[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise RefusedError(413, "That is too much for a form.")
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
