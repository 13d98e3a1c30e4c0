"""The console: an ASGI application around what it was given."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Self

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avx_events.apps.console.answers import EXCEPTION_HANDLERS, error_response
from avx_events.apps.console.given import Given, Latencies
from avx_events.apps.console.handlers import Handlers
from avx_events.apps.console.letter_desk import LetterDesk
from avx_events.apps.console.letters import Letters
from avx_events.apps.console.live import Live
from avx_events.apps.console.live_feed import LiveFeed
from avx_events.apps.console.masking import Masking
from avx_events.apps.console.pages import Pages
from avx_events.apps.console.projections import Projections
from avx_events.apps.console.safety import Safety
from avx_events.apps.console.sampling import Sampler
from avx_events.apps.console.sessions import Sessions
from avx_events.apps.console.streams import Streams
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.delivering_bus import DeliveringBus
from avx_events.bus.remote.inspection import Inspector
from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import InvalidArgumentError, NoDeadLetterQueueError, NotRunningError
from avx_events.core.tasks import TaskScope
from avx_events.patterns.projection import Projector
from avx_events.store.event_store import EventStore

if TYPE_CHECKING:
    from avx_events.store.aggregates import Aggregate

_WHAT: Final = "the console"


class Console:
    """A web console, as an ASGI application: ``async with Console(store=store) as console:``.

    Run it alone with ``serve``, or mount it, ``Mount("/console", console)``, in a service that enters it for as long
    as it runs itself. What it is not given it has no page of, but says how to give it.

    Without a ``token`` it answers its own machine only. Fields whose type is marked, as ``email: Personal[str]``, are
    hidden in every page, and so are all that are called one of ``masked_fields``.
    """

    def __init__(
        self,
        *,
        store: EventStore | None = None,
        bus: DeliveringBus | None = None,
        broker_url: str | None = None,
        namespace: str = "avx",
        dead_letter_queue: DeadLetterQueue | None = None,
        projector: Projector | None = None,
        inspector: Inspector | None = None,
        latencies: Latencies | None = None,
        aggregates: "Mapping[str, type[Aggregate]] | None" = None,
        masked_fields: Iterable[str] = (),
        token: str | None = None,
        allowed_hosts: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Show what is given; whoever made it closes it, after the console.

        Args:
            store: Streams, states, causes and effects.
            bus: A bus of this process: its handlers, its events, and redrives to its handlers.
            broker_url: Where live events come from, of all processes; else they come from the bus, else the store.
            namespace: Of the buses at ``broker_url``.
            dead_letter_queue: The dead letters; those of the bus if not given.
            projector: The projections.
            inspector: Tells of the groups of a broker.
            latencies: Gives for each handler, by name, seconds by percentile.
            aggregates: The classes whose states the pages of streams show, by what the names of their streams begin
                with, as ``{"user-": User}``.
            masked_fields: Names of fields that are hidden wherever they are, also in events of types unknown here.
            token: What everybody must know who looks, 16 characters or more; None answers this machine only.
            allowed_hosts: By which names of hosts the console may be called, beside those of loopback; with a token,
                none given are any.
            clock: Time.

        Raises:
            InvalidArgumentError: A value is not acceptable.
        """
        arguments.optional("store", store, EventStore)
        arguments.optional("bus", bus, DeliveringBus)
        arguments.optional("dead_letter_queue", dead_letter_queue, DeadLetterQueue)
        arguments.optional("projector", projector, Projector)
        arguments.optional("inspector", inspector, Inspector)
        given = Given(
            store=store,
            bus=bus,
            broker_url=None if broker_url is None else arguments.text("broker_url", broker_url),
            namespace=arguments.text("namespace", namespace),
            queue=dead_letter_queue if dead_letter_queue is not None else _queue_of(bus),
            projector=projector,
            inspector=inspector,
            latencies=latencies,
            aggregates=_checked_aggregates(aggregates or {}),
            clock=clock,
        )
        masking = Masking(masked_fields)
        sessions = Sessions(token, clock=clock)
        self._feed: Final = LiveFeed(given, masking)
        self._sampler: Final = Sampler(given)
        self._tasks: Final = TaskScope()
        self._is_entered = False
        self._is_running = False
        parts = (
            Pages(sessions),
            Live(given, self._feed, masking),
            Letters(given, LetterDesk(given, masking), masking),
            Streams(given, masking),
            Handlers(given, self._sampler),
            Projections(given),
        )
        routes = [route for part in parts for route in part.routes()]
        self._app: Final[ASGIApp] = Safety(_application(routes), sessions=sessions, allowed_hosts=allowed_hosts)
        self.needs_token: Final = sessions.needs_token

    async def __aenter__(self) -> Self:
        """Begin to look.

        Raises:
            NotRunningError: It was entered before; make a new one.
        """
        if self._is_entered:
            raise NotRunningError(_WHAT, "enter it a second time")
        self._is_entered = self._is_running = True
        self._tasks.spawn(self._feed.run(), name="avx-events console: live events")
        self._tasks.spawn(self._sampler.run(), name="avx-events console: statistics")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Look no more; pages that are open are told that the server has gone."""
        self.end_streams()
        self._is_running = False
        await self._tasks.cancel()

    def end_streams(self) -> None:
        """End the answers that would go on for ever, so that a server can stop."""
        self._feed.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; as the application of a server, live as long as that does."""
        if scope["type"] == "lifespan":
            await self._live_with_server(receive, send)
        elif scope["type"] == "http":
            app = self._app if self._is_running else _not_running()
            await app(scope, receive, send)

    async def _live_with_server(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        stopped: Message = {"type": "lifespan.shutdown.complete"}
        await send(stopped)


def _application(routes: list[Route]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False  # to where the client's own Host header says
    return app


def _not_running() -> Response:
    problem = "The console does not run: enter it, 'async with console:', for as long as the service runs."
    return error_response(503, problem, code="not_running")


def _queue_of(bus: DeliveringBus | None) -> DeadLetterQueue | None:
    if bus is None:
        return None
    try:
        return bus.dead_letter_queue
    except NoDeadLetterQueueError:
        return None


def _checked_aggregates(aggregates: "Mapping[str, type[Aggregate]]") -> "Mapping[str, type[Aggregate]]":
    given: list[tuple[object, object]] = [*aggregates.items()]
    for prefix, aggregate in given:
        if not (isinstance(prefix, str) and hasattr(aggregate, "__avx_aggregate__")):
            expected = "aggregate classes by what the names of their streams begin with, as {'user-': User}"
            raise InvalidArgumentError("aggregates", {prefix: aggregate}, expected=expected)
    return dict(aggregates)
