"""Commands: given what happened, when a command comes, then these events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from avx_events import Command, ConcurrencyError, EventEnvelope, EventMetadata, EventStore, ValidationError
from avx_events.testing import ManualClock, command_scenario
from examples.production_service.commands import (
    Accepted,
    ChangeEmail,
    ChangeEmailHandler,
    CreateUser,
    CreateUserHandler,
    PlaceOrder,
    PlaceOrderHandler,
    total_problem,
)
from examples.production_service.email_addresses import AddressHeldError, EmailAddresses, EmailReleased, EmailReserved
from examples.production_service.ids import NotFoundError
from examples.production_service.orders import OrderPlaced
from examples.production_service.users import EmailChanged, EmailClaimDropped, User, UserCreated

JANE = "user-00000000-0000-0000-0000-00000000000a"
JOHN = "user-00000000-0000-0000-0000-00000000000b"
COMMAND = "00000000-0000-0000-0000-00000000000c"
MAIL = "jane@example.com"


def identified(command: Command[Any], **headers: str) -> EventEnvelope[Any]:
    """Put ``command`` into an envelope with an event id that is known."""
    metadata = EventMetadata(COMMAND, command.event_type, "", 0, COMMAND, headers=headers)
    return EventEnvelope(command, metadata, command.event_type)


def long_ago() -> ManualClock:
    """Return a clock of a minute ago: what is given by it is no new reservation any more."""
    return ManualClock(datetime.now(UTC) - timedelta(minutes=1))


async def test_a_user_is_created_after_its_address_was_reserved() -> None:
    made = f"user-{COMMAND}"

    await (
        command_scenario(CreateUserHandler)
        .when(identified(CreateUser("Jane@Example.com", "Jane")))
        .then(EmailReserved(MAIL, made), UserCreated(made, "Jane@Example.com", "Jane"))
        .then_returns(Accepted(made, 2))
    )


async def test_a_command_that_comes_again_finds_the_user_that_it_made() -> None:
    made = f"user-{COMMAND}"

    await (
        command_scenario(CreateUserHandler)
        .given(EmailReserved(MAIL, made), UserCreated(made, MAIL, "Jane"), EmailChanged(made, "jane@example.org"))
        .when(identified(CreateUser(MAIL, "Jane")))
        .then_nothing()
        .then_returns(Accepted(made, 2))
    )


async def test_a_command_that_ended_after_the_reservation_goes_on_when_it_comes_again() -> None:
    made = f"user-{COMMAND}"

    await (
        command_scenario(CreateUserHandler)
        .given(EmailReserved(MAIL, made), stream=f"email-{MAIL}")
        .when(identified(CreateUser(MAIL, "Jane")))
        .then(EmailReserved(MAIL, made), UserCreated(made, MAIL, "Jane"))
    )


async def test_an_address_that_is_being_taken_is_held_for_as_long_as_a_command_may_take() -> None:
    await (
        command_scenario(CreateUserHandler)
        .given(EmailReserved(MAIL, JOHN), stream=f"email-{MAIL}")
        .when(CreateUser(MAIL, "Jane"))
        .then_raises(AddressHeldError, match="try again in (30|2[0-9]) s")
        .then_nothing()
    )


async def test_a_reservation_that_was_not_used_in_time_passes_on_and_its_holder_is_fenced_off() -> None:
    made = f"user-{COMMAND}"

    await (
        command_scenario(CreateUserHandler, clock=long_ago())
        .given(EmailReserved(MAIL, JOHN), stream=f"email-{MAIL}")
        .when(identified(CreateUser(MAIL, "Jane")))
        .then(EmailClaimDropped(JOHN, MAIL), EmailReserved(MAIL, made), UserCreated(made, MAIL, "Jane"))
    )


async def test_a_reservation_that_its_user_has_taken_never_passes_on() -> None:
    await (
        command_scenario(CreateUserHandler, clock=long_ago())
        .given(EmailReserved(MAIL, JOHN), stream=f"email-{MAIL}")
        .given(UserCreated(JOHN, MAIL, "John"))
        .when(CreateUser(MAIL, "Jane"))
        .then_raises(ValidationError, match="is taken")
        .then_nothing()
    )


async def test_who_was_fenced_off_cannot_take_the_address_any_more() -> None:
    store = EventStore(clock=long_ago())
    addresses = EmailAddresses(store)
    slow = await store.load_or_new(User, JOHN)
    await addresses.reserve(MAIL, user_id=JOHN)
    slow.create(email=MAIL, name="John")

    await addresses.reserve(MAIL, user_id=JANE)

    with pytest.raises(ConcurrencyError):
        await store.save(slow)


async def test_a_changed_address_is_reserved_before_and_the_old_one_released_after() -> None:
    await (
        command_scenario(ChangeEmailHandler)
        .given(EmailReserved(MAIL, JANE), stream=f"email-{MAIL}")
        .given(UserCreated(JANE, MAIL, "Jane"))
        .when(ChangeEmail(JANE, "jane@example.org"))
        .then(
            EmailReserved("jane@example.org", JANE),
            EmailChanged(JANE, "jane@example.org"),
            EmailReleased(MAIL, JANE),
        )
    )


async def test_a_late_release_does_not_let_go_of_an_address_that_its_user_came_back_to() -> None:
    store = EventStore()
    addresses = EmailAddresses(store)
    await addresses.reserve(MAIL, user_id=JANE)
    read_before = await addresses.held(MAIL)
    await addresses.reserve(MAIL, user_id=JANE)

    await addresses.release(read_before)

    assert (await addresses.held(MAIL)).holder_id == JANE


async def test_nobody_changes_the_address_of_nobody() -> None:
    await command_scenario(ChangeEmailHandler).when(ChangeEmail(JANE, MAIL)).then_raises(NotFoundError).then_nothing()


async def test_whoever_only_dropped_a_claim_is_no_user() -> None:
    await (
        command_scenario(ChangeEmailHandler)
        .given(EmailClaimDropped(JOHN, MAIL))
        .when(ChangeEmail(JOHN, "john@example.com"))
        .then_raises(NotFoundError)
        .then_nothing()
    )


async def test_an_order_is_kept_in_cents() -> None:
    made = f"order-{COMMAND}"

    await (
        command_scenario(PlaceOrderHandler)
        .given(UserCreated(JANE, MAIL, "Jane"))
        .when(identified(PlaceOrder(JANE, 0.29)))
        .then(OrderPlaced(made, JANE, 29))
    )


async def test_an_order_with_an_idempotency_key_is_found_by_it_after_a_crash() -> None:
    store = EventStore()
    await store.append(JANE, UserCreated(JANE, MAIL, "Jane"))
    handler = PlaceOrderHandler(store)
    order = PlaceOrder(JANE, 12.5)
    key = {"idempotency-key": "5f3c"}

    first = await handler.handle(order, identified(order, **key))
    again = await handler.handle(order, identified(order, **key))

    assert again == first
    assert first.id != f"order-{COMMAND}"


@pytest.mark.parametrize("cents", [1, 29, 57, 1_000_000_000])
def test_every_whole_number_of_cents_is_an_amount(cents: int) -> None:
    assert total_problem(PlaceOrder(JANE, cents / 100)) is None


@pytest.mark.parametrize("total", [0.0, -0.01, 0.001, 12.345, 10_000_000.01, float("nan"), float("inf")])
def test_what_is_no_amount_is_said(total: float) -> None:
    assert total_problem(PlaceOrder(JANE, total)) is not None
