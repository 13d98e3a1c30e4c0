"""Commands: what can be asked of the service, what is acceptable, and how it is carried out.

Handlers decide with the aggregates and append their events; nothing is written anywhere else. Each may be repeated: the
id of what it makes comes from the idempotency key, or else from the command itself, so that a command that comes again
after a crash finds what it made.
"""

import math
import re
from typing import Any, Final

import msgspec

from avx_events import (
    Command,
    CommandBus,
    CommandHandler,
    Event,
    EventEnvelope,
    EventStore,
    IdempotencyKeyReusedError,
    ValidationError,
)
from avx_events.patterns.cqrs import idempotency_key, log_dispatch, retry_on_conflict, validate
from examples.production_service.email_addresses import EmailAddresses, is_same_address, spelling_for_all
from examples.production_service.ids import NotFoundError, id_for, key_of
from examples.production_service.orders import Order, OrderPlaced
from examples.production_service.users import User, UserCreated, load_user

COMMAND_TIMEOUT_S: Final = 5.0

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_LONGEST_EMAIL: Final = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
_LONGEST_NAME: Final = 200
_GREATEST_TOTAL: Final = 10_000_000


class Accepted(msgspec.Struct, frozen=True):
    """What was carried out.

    Attributes:
        id: Of the user or order.
        position: The place in the log that a read model must have reached to know of it.
    """

    id: str
    position: int


class CreateUser(Command[Accepted], event_type="shop.create.user"):
    email: str
    name: str


class ChangeEmail(Command[Accepted], event_type="shop.change.email"):
    user_id: str
    email: str


class PlaceOrder(Command[Accepted], event_type="shop.place.order"):
    user_id: str
    total: float


def email_problem(command: CreateUser | ChangeEmail) -> str | None:
    """Return what is wrong with the address of ``command``."""
    # Both spellings: one character may stand for eighteen, blanks among them.
    if _is_address(command.email) and _is_address(spelling_for_all(command.email)):
        return None
    return f"email must be an address as 'jane@example.com' of up to {_LONGEST_EMAIL} characters"


def name_problem(command: CreateUser) -> str | None:
    """Return what is wrong with the name of ``command``."""
    name = command.name
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        return f"name must be 1 to {_LONGEST_NAME} printable characters, not blank"
    return None


def total_problem(command: PlaceOrder) -> str | None:
    """Return what is wrong with the total of ``command``."""
    total = command.total
    if not 0 < total <= _GREATEST_TOTAL or not math.isclose(total * 100, round(total * 100), abs_tol=1e-6):
        return f"total must be an amount above 0 and up to {_GREATEST_TOTAL:,}, with at most two decimals"
    return None


class CreateUserHandler(CommandHandler[CreateUser, Accepted]):
    """Registers a user under an address that nobody else has."""

    def __init__(self, store: EventStore) -> None:
        self._store: Final = store
        self._addresses: Final = EmailAddresses(store)

    async def handle(self, command: CreateUser, envelope: EventEnvelope[Any]) -> Accepted:
        """Return the new user, or the one that this same command made before."""
        user = await self._store.load_or_new(User, id_for("user", envelope))
        if user.is_registered:
            return await _made_before(self._store, UserCreated(user.id, command.email, command.name), envelope)
        await self._addresses.reserve(command.email, user_id=user.id)
        user.create(email=command.email, name=command.name)
        result = await self._store.save(user)
        return Accepted(user.id, result.position)


class ChangeEmailHandler(CommandHandler[ChangeEmail, Accepted]):
    """Gives a user another address that nobody else has, and lets go of the old one."""

    def __init__(self, store: EventStore) -> None:
        self._store: Final = store
        self._addresses: Final = EmailAddresses(store)

    async def handle(self, command: ChangeEmail) -> Accepted:
        """Return the user; nothing happens where it has the address already."""
        user = await load_user(self._store, command.user_id)
        old = await self._addresses.held(user.email)  # before the change: see EmailAddresses.release
        is_other = not is_same_address(user.email, command.email)
        if is_other:
            await self._addresses.reserve(command.email, user_id=user.id)
        user.change_email(command.email)
        result = await self._store.save(user)
        if is_other:
            await self._addresses.release(old)
        # Where nothing happened, what happened before is what a read model must know.
        return Accepted(user.id, result.position or await self._store.last_position())


class PlaceOrderHandler(CommandHandler[PlaceOrder, Accepted]):
    """Places an order for a user that exists."""

    def __init__(self, store: EventStore) -> None:
        self._store: Final = store

    async def handle(self, command: PlaceOrder, envelope: EventEnvelope[Any]) -> Accepted:
        """Return the new order, or the one that this same command made before."""
        try:
            user = await load_user(self._store, command.user_id)
        except NotFoundError as exc:
            message = f"user_id {command.user_id!r} is no user"
            raise ValidationError(message) from exc
        order = await self._store.load_or_new(Order, id_for("order", envelope))
        total_cents = round(command.total * 100)
        if order.is_placed:
            return await _made_before(self._store, OrderPlaced(order.id, user.id, total_cents), envelope)
        order.place(user_id=user.id, total_cents=total_cents)
        result = await self._store.save(order)
        return Accepted(order.id, result.position)


def command_bus(store: EventStore) -> CommandBus:
    """Return the bus that carries out all commands of the service on ``store``."""
    bus = CommandBus(
        middleware=[
            log_dispatch(),
            idempotency_key(store, timeout_s=COMMAND_TIMEOUT_S),
            validate(
                {
                    CreateUser: (email_problem, name_problem),
                    ChangeEmail: email_problem,
                    PlaceOrder: total_problem,
                }
            ),
            retry_on_conflict(),
        ]
    )
    bus.register(CreateUserHandler(store))
    bus.register(ChangeEmailHandler(store))
    bus.register(PlaceOrderHandler(store))
    return bus


def _is_address(text: str) -> bool:
    return len(text) <= _LONGEST_EMAIL and text.isprintable() and _EMAIL.fullmatch(text) is not None


async def _made_before(store: EventStore, expected: Event, command: EventEnvelope[Any]) -> Accepted:
    """Return where ``expected`` is in the log, which ``command`` led to when it came before."""
    async for stored in store.read_stream(expected.aggregate_id()):
        if stored.event == expected:
            return Accepted(stored.stream, stored.position)
    raise IdempotencyKeyReusedError(command.metadata.event_type, key_of(command) or command.metadata.event_id)
