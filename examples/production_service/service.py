"""The service without its edge: the parts, put together, in the order in which they start and stop.

Without a broker, handlers follow the store's own log. With one, a relay brings the log to it, and handlers are a group
there. In both ways each keeps its place over restarts, and several processes share the work.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import Final, TypeVar

from avx_events import (
    AvxEventsError,
    CommandBus,
    DeadLetterNotFoundError,
    DeadLetterQueue,
    EventBus,
    EventStore,
    Inspector,
    LogBus,
    ProjectionFailedError,
    ProjectionLagError,
    Projector,
    Relay,
    StoreSchemaError,
)
from avx_events.observability import Metrics, SettingError, Settings, Tracing
from avx_events.observability.settings import EventsSettings
from examples.production_service.commands import Accepted, command_bus
from examples.production_service.http.request_metrics import RequestMetrics
from examples.production_service.read_models import OrderBook, ReadModels, UserDirectory
from examples.production_service.readiness import CHECK_EVERY_S, Dependencies
from examples.production_service.reports import REPORTS, MetricsSnapshot, Reports
from examples.production_service.welcome import LogMailer, Mailer, send_welcome_mails

READ_MODEL_TIMEOUT_S: Final = 5.0
LEASE_S: Final = 5.0
"""How long what a process had in hand when it was killed waits for another."""

OpenedT = TypeVar("OpenedT")


class Service:
    """The running parts; ``running_service`` makes one.

    Attributes:
        store: The events.
        bus: Where handlers are: on the store's log, or on the broker.
        reports: What the service says of itself.
        projector: Keeps the read models.
        read_models: Where queries go.
        relay: Brings the store's events to the broker; None where there is none.
        commands: Where commands go.
        metrics: What a scrape is answered with.
        requests: What the edge counts.
        dependencies: Whether store and broker are there.
        is_stopping: Whether it is about to end.
        damage: What a request found that the store cannot read any more; only a restart on a sound file ends it.
    """

    def __init__(
        self,
        store: EventStore,
        bus: EventBus,
        reports_bus: EventBus,
        *,
        projector: Projector,
        read_models: ReadModels,
        relay: Relay | None,
        caught_up_at: int,
    ) -> None:
        """Be ready once the projections have come to position ``caught_up_at``."""
        self.store: Final = store
        self.bus: Final = bus
        self.projector: Final = projector
        self.read_models: Final = read_models
        self.relay: Final = relay
        self.commands: Final[CommandBus] = command_bus(store)
        self.metrics: Final = Metrics()
        self.requests: Final = RequestMetrics(self.metrics.registry)
        self.reports: Final = Reports(reports_bus, self.metrics.registry)
        self.dependencies: Final = Dependencies(store, reports_bus)
        self.is_stopping = False
        self.damage: StoreSchemaError | None = None
        self._caught_up_at: Final = caught_up_at
        self._began_at: Final = monotonic()

    async def is_in_read_models(self, accepted: Accepted) -> bool:
        """Wait until the read models know of ``accepted``; False where that takes too long, or never comes."""
        try:
            await self.projector.caught_up(accepted.position, timeout_s=READ_MODEL_TIMEOUT_S)
        except (ProjectionLagError, ProjectionFailedError):
            return False
        return True

    def not_ready(self) -> Mapping[str, str]:
        """Return the parts that are not ready, each with the reason; none where all are."""
        return {**self.dependencies.problems, **self._own_problems()}

    async def look(self) -> None:
        """Look whether store and broker are there, and report it."""
        await self.dependencies.look(self._own_problems())

    def snapshot(self) -> MetricsSnapshot:
        """Return what was done until now, in this process."""
        counts = self.bus.statistics()
        return MetricsSnapshot(
            published=sum(bus.statistics().published for bus in {self.bus, self.reports.bus}),
            handled=counts.handled,
            dead_lettered=counts.dead_lettered,
            queued=counts.queued,
            requests=self.requests.count,
            uptime_s=monotonic() - self._began_at,
        )

    def _own_problems(self) -> Mapping[str, str]:
        problems: dict[str, str] = {}
        if self.is_stopping:
            problems["service"] = "stopping"
        if self.damage is not None:
            problems["store"] = f"damaged: {self.damage.problem}"
        for name, projection in self.projector.statistics().items():
            if projection.state != "following":
                problems[f"projection {name}"] = projection.state
            elif projection.position < self._caught_up_at:
                problems[f"projection {name}"] = f"at position {projection.position} of {self._caught_up_at}"
        if self.relay is not None and self.relay.statistics().state == "failed":
            problems["relay"] = "failed"
        return problems


@asynccontextmanager
async def running_service(
    settings: Settings, *, mailer: Mailer | None = None, tells_groups: bool = True
) -> AsyncGenerator[Service, None]:
    """Run a service as ``settings`` say, and stop it in good order at the end of the block.

    It stops in the reverse order of its start: reports, the relay, the bus, which lets handlers finish, the projections
    between two transactions, and the store. What is not done by then is done after the next start. Dead letters are
    given back to their handlers when it starts.

    Args:
        settings: What with.
        mailer: Sends mails; into the log if not given.
        tells_groups: Whether its metrics say how far the groups of the broker are, which costs the broker something:
            one of several processes is enough.

    Raises:
        SettingError: The store or the broker cannot be used now.
    """
    events = settings.events
    async with AsyncExitStack() as parts:
        store = await _opened("AVX_EVENTS__STORE_URL", EventStore.connect(events.store_url))
        await parts.enter_async_context(store)
        async with store.transaction() as connection:
            read_models = ReadModels(store, connection.dialect)
        last_position = await store.last_position()
        projector = await parts.enter_async_context(Projector(store, UserDirectory(), OrderBook()))
        bus, reports_bus, relay = await buses(parts, settings, store)
        send_welcome_mails(bus, store, LogMailer() if mailer is None else mailer)
        service = Service(
            store,
            bus,
            reports_bus,
            projector=projector,
            read_models=read_models,
            relay=relay,
            caught_up_at=last_position,
        )
        _observe(service, reports_bus)
        if tells_groups and events.bus_url is not None:
            looking = Inspector.connect(events.bus_url, namespace=events.namespace)
            inspector = await parts.enter_async_context(await _opened("AVX_EVENTS__BUS_URL", looking))
            service.metrics.add_groups(inspector)
        await parts.enter_async_context(reports_bus)
        if bus is not reports_bus:
            await parts.enter_async_context(bus)
        if relay is not None:
            await parts.enter_async_context(relay)
        await parts.enter_async_context(service.reports)
        await give_back_dead_letters(bus)
        await service.look()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(service), name="readiness")
            telling = tasks.create_task(_tell(service, every_s=events.snapshot_s), name="snapshots")
            try:
                yield service
            finally:
                watching.cancel()
                telling.cancel()


async def give_back_dead_letters(bus: EventBus) -> None:
    """Give each letter back to its handler, once; one of a handler that there is no more stays where it is.

    So do those of other groups that keep theirs in the same place, and those whose bytes could not be read.
    """
    for handler in bus.statistics().subscriptions:
        for letter in await bus.dead_letter_queue.list(handler=handler):
            if letter.group == (bus.group or "") and letter.envelope is not None:
                with suppress(DeadLetterNotFoundError):  # another process was faster
                    await bus.republish(letter)


def relay_to(broker: EventBus, store: EventStore, letters: DeadLetterQueue, events: EventsSettings) -> Relay:
    """Return a relay that brings the log of ``store`` to ``broker``.

    However many processes have one, of this service or beside it, one of them publishes: they have one name.
    """
    return Relay(
        store,
        broker,
        name=f"to-{events.namespace}",
        lease_s=LEASE_S,
        dead_letter_queue=letters,
        drain_timeout_s=events.drain_timeout_s,
    )


async def buses(
    parts: AsyncExitStack, settings: Settings, store: EventStore
) -> tuple[EventBus, EventBus, Relay | None]:
    """Return the bus of handlers, that of reports, and the relay between store and broker, if there is one."""
    events = settings.events
    if events.bus_url is None:
        bus = await LogBus.connect(
            store, group=events.group, start="earliest", lease_s=LEASE_S, drain_timeout_s=events.drain_timeout_s
        )
        return bus, EventBus(name="reports"), None
    letters = await _opened("AVX_EVENTS__STORE_URL", DeadLetterQueue.connect(events.store_url))
    await parts.enter_async_context(letters)
    broker = await _opened(
        "AVX_EVENTS__BUS_URL",
        EventBus.connect(
            events.bus_url,
            group=events.group,
            namespace=events.namespace,
            start="earliest",
            redeliver_after_s=LEASE_S,
            dead_letter_queue=letters,
            drain_timeout_s=events.drain_timeout_s,
        ),
    )
    return broker, broker, relay_to(broker, store, letters, events)


async def _opened(name: str, opening: Awaitable[OpenedT]) -> OpenedT:
    try:
        return await opening
    except AvxEventsError as exc:
        raise SettingError(name, f"cannot be used: {exc}", source="the settings") from exc


def _observe(service: Service, reports_bus: EventBus) -> None:
    tracing = Tracing(parent=True, without=REPORTS)  # a report of each request and each look is no work to be traced
    tracing.observe(service.store)
    for name, bus in {"reports": reports_bus, "service": service.bus}.items():
        if name == "service" or bus is not service.bus:
            tracing.observe(bus)
            service.metrics.add_bus(bus, name=name)
    service.metrics.add_projector(service.projector)


async def _watch(service: Service) -> None:
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        await service.look()


async def _tell(service: Service, *, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        service.reports.tell(service.snapshot())
