"""Commands that change, queries that read, and a projection in between, on SQLite.

    python examples/cqrs.py

A theatre sells its seats. What is sold is decided on events; who sits where is read from a table that is made of them.
"""

import asyncio
import logging
import sys
from tempfile import TemporaryDirectory

from avx_events import (
    AggregateRoot,
    Command,
    CommandBus,
    CommandHandler,
    Connection,
    Event,
    EventStore,
    Projection,
    Projector,
    Query,
    QueryBus,
    ValidationError,
    handles,
)
from avx_events.patterns.cqrs import idempotency_key, log_dispatch, retry_on_conflict, validate


class SeatsSold(Event, aggregate_id="show"):
    show: str
    guest: str
    seats: tuple[int, ...]


class Show(AggregateRoot):
    free: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)

    def sell(self, guest: str, count: int) -> tuple[int, ...]:
        if count > len(self.free):
            raise ValidationError(f"{len(self.free)} seats are left, {guest} wants {count}")
        seats = self.free[:count]
        self.record(SeatsSold(self.id, guest, seats))
        return seats

    def apply(self, event: SeatsSold) -> None:
        self.free = tuple(seat for seat in self.free if seat not in event.seats)


# The side that changes: each command has one handler, and in brackets the type of its result.
class BuySeats(Command[tuple[int, ...]]):
    show: str
    guest: str
    count: int


class BuySeatsHandler(CommandHandler[BuySeats, tuple[int, ...]]):
    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def handle(self, command: BuySeats) -> tuple[int, ...]:
        show = await self._store.load_or_new(Show, command.show)
        seats = show.sell(command.guest, command.count)
        await self._store.save(show)
        return seats


def count_problem(command: BuySeats) -> str | None:
    return None if 1 <= command.count <= 4 else f"count must be 1 to 4, not {command.count}"


# In between: each event changes rows exactly once, in the transaction that also remembers how far we are.
class Seating(Projection, name="seating", version=1):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS seating")
        await connection.execute("CREATE TABLE seating (show TEXT, seat INTEGER, guest TEXT, UNIQUE (show, seat))")

    @handles(SeatsSold)
    async def seat(self, event: SeatsSold, connection: Connection) -> None:
        for seat in event.seats:
            await connection.execute("INSERT INTO seating VALUES (?, ?, ?)", event.show, seat, event.guest)


# The side that reads.
class GetSeating(Query[dict[int, str]]):
    show: str


async def sell_seats(store: EventStore, projector: Projector) -> None:
    middleware = [  # from the outermost to the innermost
        log_dispatch(),
        idempotency_key(store),  # a command that comes again with its key gets the first result
        validate({BuySeats: count_problem}),  # before the handler sees it
        retry_on_conflict(),  # the handler again, where another writer was faster
    ]
    commands, queries = CommandBus(middleware=middleware), QueryBus()
    commands.register(BuySeatsHandler(store))

    @queries.handler  # a function serves as well as a class, for commands too
    async def get_seating(query: GetSeating) -> dict[int, str]:
        rows = await store.fetch("SELECT seat, guest FROM seating WHERE show = ?", query.show)
        return dict(rows)

    print("Ada clicks twice, and buys once:")
    for _ in range(2):
        seats = await commands.dispatch(BuySeats("Hamlet", "Ada", 2), headers={"idempotency-key": "click-1"})
        print(f"  seats {seats}")

    print("\nTwo people buy at the same moment:")
    async with asyncio.TaskGroup() as tasks:
        for guest in ("Bob", "Cleo"):
            tasks.create_task(commands.dispatch(BuySeats("Hamlet", guest, 2)))

    print("\nWhat cannot be done says why:")
    for command in (BuySeats("Hamlet", "Dan", 9), BuySeats("Hamlet", "Dan", 3)):
        try:
            await commands.dispatch(command)
        except ValidationError as exc:
            print(f"  ValidationError: {exc}")

    await projector.caught_up()  # read your own writes: until the table has all that was sold
    seating = await queries.ask(GetSeating("Hamlet"))  # type checkers know that it is a dict[int, str]
    print(f"\nSeats {sorted(seating)} are taken, by {sorted(set(seating.values()))}")


async def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="  log: %(message)s")
    with TemporaryDirectory() as folder:
        store = await EventStore.connect(f"sqlite:///{folder}/theatre.db")
        async with store, Projector(store, Seating()) as projector:
            await sell_seats(store, projector)


if __name__ == "__main__":
    asyncio.run(main())
