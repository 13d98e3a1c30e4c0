"""The service without its edge: the parts, put together, in the order in which they start and stop."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from avx_events import (
    CommandBus,
    DeadLetterQueue,
    EventBus,
    EventStore,
    ProjectionFailedError,
    ProjectionLagError,
    Projector,
    StoreSchemaError,
)
from examples.production_service.commands import Accepted, command_bus
from examples.production_service.dead_letters import StoredDeadLetters, give_back_dead_letters, prepare_table
from examples.production_service.read_models import OrderBook, ReadModels, UserDirectory
from examples.production_service.relay import Relay
from examples.production_service.welcome import LogMailer, Mailer, send_welcome_mails

READ_MODEL_TIMEOUT_S: Final = 5.0
DRAIN_TIMEOUT_S: Final = 5


class Service:
    """The running parts; ``running_service`` makes one.

    Attributes:
        store: The events.
        commands: Where commands go.
        read_models: Where queries go.
        projector: Keeps the read models.
        bus: Where handlers are.
        relay: Brings the store's events to the bus.
        is_stopping: Whether it is about to end.
        damage: What a request found that the store cannot read any more; only a restart on a sound file ends it.
    """

    def __init__(
        self, store: EventStore, bus: EventBus, projector: Projector, relay: Relay, *, caught_up_at: int
    ) -> None:
        """Be ready once projections and relay have come to position ``caught_up_at``."""
        self.store: Final = store
        self.bus: Final = bus
        self.projector: Final = projector
        self.relay: Final = relay
        self.commands: Final[CommandBus] = command_bus(store)
        self.read_models: Final = ReadModels(store)
        self.is_stopping = False
        self.damage: StoreSchemaError | None = None
        self._caught_up_at: Final = caught_up_at

    async def is_in_read_models(self, accepted: Accepted) -> bool:
        """Wait until the read models know of ``accepted``; False where that takes too long, or never comes."""
        try:
            await self.projector.caught_up(accepted.position, timeout_s=READ_MODEL_TIMEOUT_S)
        except (ProjectionLagError, ProjectionFailedError):
            return False
        return True

    def not_ready(self) -> Mapping[str, str]:
        """Return the parts that are not ready, each with the reason; none where all are."""
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
        if self.relay.failure is not None:
            problems["relay"] = f"failed: {self.relay.failure}"
        elif self.relay.position < self._caught_up_at:
            problems["relay"] = f"at position {self.relay.position} of {self._caught_up_at}"
        return problems


@asynccontextmanager
async def running_service(store_url: str, *, mailer: Mailer | None = None) -> AsyncGenerator[Service, None]:
    """Run a service on the store at ``store_url``, and stop it in good order at the end of the block.

    It stops in the reverse order of its start: the relay finishes the batch that handlers have, the bus lets them end,
    the projections stop between two transactions, the store writes what was accepted and closes. What is not done by
    then is done after the next start. Dead letters are given back to their handlers when it starts.

    Raises:
        UsageError: The URL is malformed, or its engine is not installed.
        StoreSchemaError: There is something else at that place, or a store of a newer version.
        StoreUnavailableError: It cannot be opened now.
    """
    async with await EventStore.connect(store_url) as store:
        async with store.transaction() as connection:
            await prepare_table(connection)
        last_position = await store.last_position()
        bus = EventBus(
            dead_letter_queue=DeadLetterQueue(store=StoredDeadLetters(store)), drain_timeout_s=DRAIN_TIMEOUT_S
        )
        send_welcome_mails(bus, store, LogMailer() if mailer is None else mailer)
        async with (
            Projector(store, UserDirectory(), OrderBook()) as projector,
            bus,
            Relay(store, bus, drain_timeout_s=DRAIN_TIMEOUT_S) as relay,
        ):
            await give_back_dead_letters(bus)
            yield Service(store, bus, projector, relay, caught_up_at=last_position)
