"""No two users have one e-mail address: decided in the store, by a stream for each address that says who holds it.

A unique index in a read model would decide too late: it learns of a user after the answer was given. An append with an
expected version is decided at once, so an address is reserved in its own stream before its user takes it. These are two
appends, and a process may end between them. Then the address is held by somebody who does not have it, and after
``GRACE`` whoever wants it may have it; until then ``AddressHeldError`` says when that is. That no slow request takes it
all the same does not rest on the clock: before the reservation passes on, ``EmailClaimDropped`` goes into the stream of
its holder, whose own append then finds another version than it expects.

| ended after | what is left | what comes of it |
|---|---|---|
| the reservation, before the user has the address | a reservation nobody uses | another may take it after ``GRACE`` |
| the user has a new address, before the old one is released | the same, of the old address | the same |
"""

import math
import unicodedata
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from avx_events import AggregateRoot, ConcurrencyError, Event, EventStore, ValidationError
from examples.production_service.users import User

GRACE: Final = timedelta(seconds=30)
"""How long a reservation that is not used is nobody else's: longer than any command takes."""

_PREFIX: Final = "email-"


class EmailReserved(Event, event_type="shop.email.reserved", aggregate_id="address"):
    address: str
    user_id: str


class EmailReleased(Event, event_type="shop.email.released", aggregate_id="address"):
    address: str
    user_id: str


class EmailAddress(AggregateRoot):
    """An address, and who holds it; its id is the name of its stream."""

    holder_id: str = ""

    @property
    def address(self) -> str:
        """The address itself, in the one spelling that stands for all."""
        return self.id.removeprefix(_PREFIX)

    def reserve(self, user_id: str) -> None:
        """Let ``user_id`` hold it; recorded also where it does, so that an older release finds another version."""
        self.record(EmailReserved(self.address, user_id))

    def release(self) -> None:
        """Let nobody hold it."""
        self.record(EmailReleased(self.address, self.holder_id))

    def apply(self, event: Event) -> None:
        """Change as ``event`` says."""
        match event:
            case EmailReserved(user_id=user_id):
                self.holder_id = user_id
            case _:
                self.holder_id = ""


class AddressHeldError(ConcurrencyError):
    """Somebody was first to reserve an address and does not have it yet: decide again, at once or after ``free_in_s``.

    Who ended in between leaves it so; who did not has the address within milliseconds.
    """

    def __init__(self, address: EmailAddress, email: str, *, free_in_s: int) -> None:
        """Name the address, and the seconds after which whoever holds it has it or has it no more."""
        super().__init__(address.id, expected=0, actual=address.version)
        self.email, self.free_in_s = email, free_in_s

    def __str__(self) -> str:
        """Say it to the client."""
        return f"email {self.email!r} is held by another request that may have ended; try again in {self.free_in_s} s"


class EmailAddresses:
    """Reserves and releases addresses."""

    def __init__(self, store: EventStore) -> None:
        self._store: Final = store

    async def reserve(self, email: str, *, user_id: str) -> None:
        """Let ``user_id``, whose aggregate the caller has loaded before, hold ``email``.

        Raises:
            ValidationError: Another user has it.
            AddressHeldError: Another user is about to have it, or never will.
            ConcurrencyError: Somebody else was faster; load and decide again.
        """
        address = await self.held(email)
        if address.holder_id not in {"", user_id}:
            await self._take_from_holder(address, email)
        address.reserve(user_id)
        await self._store.save(address)

    async def held(self, email: str) -> EmailAddress:
        """Return who holds ``email`` now; what ``release`` needs to be told."""
        return await self._store.load_or_new(EmailAddress, stream_of(email))

    async def release(self, address: EmailAddress) -> None:
        """Let nobody hold ``address``, which was read before its holder changed to another one.

        Nothing is done where it was reserved since: its holder has come back to it.
        """
        address.release()
        with suppress(ConcurrencyError):
            await self._store.save(address)

    async def _take_from_holder(self, address: EmailAddress, email: str) -> None:
        holder = await self._store.load_or_new(User, address.holder_id)
        if is_same_address(holder.email, email):
            message = f"email {email!r} is taken"
            raise ValidationError(message)
        free_in_s = math.ceil((await self._reserved_at(address) + GRACE - datetime.now(UTC)).total_seconds())
        if free_in_s > 0:
            raise AddressHeldError(address, email, free_in_s=free_in_s)
        holder.drop_claim(email)
        await self._store.save(holder)

    async def _reserved_at(self, address: EmailAddress) -> datetime:
        (newest,) = [
            stored
            async for stored in self._store.read_stream(
                address.id, after=address.version - 1, until_version=address.version
            )
        ]
        return newest.recorded_at


def spelling_for_all(email: str) -> str:
    """Return the one spelling of ``email`` that stands for all that a person would take for the same address."""
    return unicodedata.normalize("NFKC", email).casefold()


def stream_of(email: str) -> str:
    """Return the stream of ``email``, the same for all its spellings."""
    return f"{_PREFIX}{spelling_for_all(email)}"


def is_same_address(one: str, other: str) -> bool:
    """Return whether both are one address."""
    return spelling_for_all(one) == spelling_for_all(other)
