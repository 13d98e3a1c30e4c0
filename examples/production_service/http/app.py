"""The routes: each reads a request, dispatches a command or asks a read model, and answers."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib.util import find_spec
from typing import Final, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from avx_events import Command, StoreSchemaError
from avx_events.observability.metrics import CONTENT_TYPE
from examples.production_service.commands import Accepted, ChangeEmail, CreateUser, PlaceOrder
from examples.production_service.http.answers import (
    EXCEPTION_HANDLERS,
    JsonResponse,
    UnexpectedErrors,
    error_response,
)
from examples.production_service.http.correlation import Correlation
from examples.production_service.http.measuring import Measuring
from examples.production_service.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    check_query,
    dispatch_headers,
    read_json,
    read_whole,
)
from examples.production_service.http.stopping import Stopping
from examples.production_service.ids import NotFoundError
from examples.production_service.read_models import UserView
from examples.production_service.service import Service
from examples.production_service.users import load_user

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    email: str
    name: str


class NewEmail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    email: str


class NewOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: str
    total: float


def http_app(
    service: Service, *, scrape: Callable[[], Awaitable[bytes]] | None = None, pages: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the ASGI application of ``service``.

    Args:
        service: Answers.
        scrape: What ``/metrics`` is answered with; the figures of ``service`` if not given.
        pages: What there is beside its own routes, as ``Mount("/console", app)``; counted as route ``none``, and not
            traced.
    """
    api = Api(service, scrape=service.metrics.text if scrape is None else scrape)
    routes = [
        resource("/users", query=("after", "limit"), GET=api.list_users, POST=api.create_user),
        resource("/users/{user_id}", query=("at_version",), GET=api.show_user, PATCH=api.change_email),
        resource("/users/{user_id}/history", GET=api.show_history),
        resource("/orders", POST=api.place_order),
        resource("/orders/{order_id}", GET=api.show_order),
        resource("/health", GET=api.health),
        resource("/ready", GET=api.ready),
        resource("/metrics", GET=api.metrics),
    ]
    exception_handlers = {**EXCEPTION_HANDLERS, StoreSchemaError: api.note_damage}
    middleware = [
        *_tracing(quiet=["/health", "/ready", "/metrics", *(page.path for page in pages if isinstance(page, Mount))]),
        Middleware(Measuring, metrics=service.requests, reports=service.reports, routes=routes),
        Middleware(Stopping, service=service),
        Middleware(Correlation),
        Middleware(UnexpectedErrors),
    ]
    app = Starlette(routes=[*routes, *pages], middleware=middleware, exception_handlers=exception_handlers)
    app.router.redirect_slashes = False  # to where the client's own Host header says
    return app


def _tracing(*, quiet: Collection[str]) -> list[Middleware]:
    """Return the middleware that traces requests, but those for ``quiet``, where an OpenTelemetry SDK is set up."""
    if find_spec("opentelemetry") is None:
        return []
    from avx_events.observability.sending import providers  # noqa: PLC0415 - it imports OpenTelemetry
    from examples.production_service.http.tracing import RequestSpans  # noqa: PLC0415 - likewise

    made = providers(None, None)
    return [] if made is None else [Middleware(RequestSpans, tracers=made[0], meters=made[1], without=quiet)]


def resource(path: str, *, query: Collection[str] = (), **endpoints: Endpoint) -> Route:
    """Return the one route of ``path``, so that a method it does not take is told all that it does.

    Args:
        path: The pattern.
        query: The query parameters that GET takes; other methods take none.
        endpoints: What answers each method.
    """

    async def answer(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        check_query(request, query if method == "GET" else ())
        return await endpoints[method](request)

    return Route(path, answer, methods=list(endpoints))


class Api:
    """The endpoints."""

    def __init__(self, service: Service, *, scrape: Callable[[], Awaitable[bytes]]) -> None:
        """Answer for ``service``, and ``/metrics`` by ``scrape``."""
        self._service: Final = service
        self._scrape: Final = scrape

    async def create_user(self, request: Request) -> Response:
        """``POST /users {"email", "name"}``."""
        new = await read_json(request, NewUser)
        accepted = await self._dispatch(request, CreateUser(new.email, new.name))
        return await self._made("user_id", accepted, f"/users/{accepted.id}")

    async def change_email(self, request: Request) -> Response:
        """``PATCH /users/{user_id} {"email"}``: the user as it is then."""
        new = await read_json(request, NewEmail)
        accepted = await self._dispatch(request, ChangeEmail(request.path_params["user_id"], new.email))
        if not await self._service.is_in_read_models(accepted):
            return JsonResponse({"user_id": accepted.id}, 202)
        return JsonResponse(await self._service.read_models.user(accepted.id))

    async def list_users(self, request: Request) -> Response:
        """``GET /users?limit=&after=``: in the order in which they came; a ``Link`` header leads to the next page."""
        limit = read_whole(request, "limit", most=MAX_LIMIT) or DEFAULT_LIMIT
        after = request.query_params.get("after")
        found = await self._service.read_models.users(after=after, limit=limit)
        if found is None:
            return error_response(422, f"after must be the user_id of a user, not {after!r}")
        headers: dict[str, str] = {}
        if len(found) == limit:
            headers["Link"] = f'</users?limit={limit}&after={found[-1].user_id}>; rel="next"'
        return JsonResponse(found, headers=headers)

    async def show_user(self, request: Request) -> Response:
        """``GET /users/{user_id}``; with ``?at_version=`` as it was."""
        user_id = request.path_params["user_id"]
        at_version = read_whole(request, "at_version")
        if at_version is not None:
            past = await load_user(self._service.store, user_id, at_version=at_version)
            return JsonResponse(UserView(past.id, past.email, past.name, past.version))
        found = await self._service.read_models.user(user_id)
        if found is None:
            raise NotFoundError("user", user_id)
        return JsonResponse(found)

    async def show_history(self, request: Request) -> Response:
        """``GET /users/{user_id}/history``: its events, oldest first."""
        user = await load_user(self._service.store, request.path_params["user_id"])
        return JsonResponse(
            [
                {
                    "version": stored.version,
                    "event_type": stored.metadata.event_type,
                    "timestamp": stored.metadata.time,
                    "data": stored.event,
                }
                async for stored in self._service.store.read_stream(user.id)
            ]
        )

    async def place_order(self, request: Request) -> Response:
        """``POST /orders {"user_id", "total"}``."""
        new = await read_json(request, NewOrder)
        accepted = await self._dispatch(request, PlaceOrder(new.user_id, new.total))
        return await self._made("order_id", accepted, f"/orders/{accepted.id}")

    async def show_order(self, request: Request) -> Response:
        """``GET /orders/{order_id}``."""
        order_id = request.path_params["order_id"]
        found = await self._service.read_models.order(order_id)
        if found is None:
            raise NotFoundError("order", order_id)
        return JsonResponse(found)

    async def health(self, _: Request) -> Response:
        """``GET /health``: whether the process lives; whoever asks restarts it where it does not answer."""
        return JsonResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """``GET /ready``: whether requests should be sent here, and if not, which part is not ready and why."""
        problems = self._service.not_ready()
        if not problems:
            return JsonResponse({"status": "ready"})
        sentence = ", ".join(f"{part} is {problem}" for part, problem in problems.items())
        return JsonResponse({"error": sentence, "not_ready": problems}, 503)

    async def metrics(self, _: Request) -> Response:
        """``GET /metrics``."""
        return Response(await self._scrape(), headers={"Content-Type": CONTENT_TYPE})

    async def note_damage(self, _: Request, exc: Exception) -> Response:
        """Let ``/ready`` say that the store is damaged; the answer is that of any error that nobody expected."""
        if isinstance(exc, StoreSchemaError):
            self._service.damage = exc
        raise exc

    async def _dispatch(self, request: Request, command: Command[Accepted]) -> Accepted:
        return await self._service.commands.dispatch(command, headers=dispatch_headers(request))

    async def _made(self, id_name: str, accepted: Accepted, location: str) -> Response:
        """Answer 201 once the read model has it, or 202 where it is in the store and the read model is late."""
        status = 201 if await self._service.is_in_read_models(accepted) else 202
        return JsonResponse({id_name: accepted.id}, status, {"Location": location})
