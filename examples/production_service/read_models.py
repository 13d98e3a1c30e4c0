"""Read models: tables in the store's own database, kept by projections, read by queries."""

from typing import Any, Final

import msgspec

from avx_events import Connection, EventStore, Projection, StoredEvent, handles
from avx_events.store.ports import Dialect
from examples.production_service.orders import OrderPlaced
from examples.production_service.sql import in_dialect
from examples.production_service.users import EmailChanged, UserCreated, UserEvent


class UserView(msgspec.Struct, frozen=True):
    """A user as queries see it.

    Attributes:
        user_id: Its id.
        email: Its address now.
        name: Its name.
        version: How many events it has; ``at_version`` takes each from 1 to this.
    """

    user_id: str
    email: str
    name: str
    version: int


class OrderView(msgspec.Struct, frozen=True):
    """An order as queries see it.

    Attributes:
        order_id: Its id.
        user_id: Whose it is.
        total: The amount.
        version: How many events it has.
    """

    order_id: str
    user_id: str
    total: float
    version: int


class UserDirectory(Projection, name="users", version=1):
    """The table ``users``, in the order in which they came."""

    async def setup(self, connection: Connection) -> None:
        """Make the table."""
        await connection.execute("DROP TABLE IF EXISTS users")
        await connection.execute(
            "CREATE TABLE users (number BIGINT PRIMARY KEY, user_id TEXT NOT NULL UNIQUE,"
            " email TEXT NOT NULL, name TEXT NOT NULL, version BIGINT NOT NULL)"
        )

    @handles(UserCreated)
    async def add(self, event: UserCreated, connection: Connection, stored: StoredEvent[UserCreated]) -> None:
        """Add a user under the position of its event, which no other has and which only rises."""
        await connection.execute_later(
            in_dialect(
                "INSERT INTO users (number, user_id, email, name, version) VALUES (?, ?, ?, ?, ?)", connection.dialect
            ),
            stored.position,
            event.user_id,
            event.email,
            event.name,
            stored.version,
        )

    @handles(EmailChanged)
    async def change_email(self, event: EmailChanged, connection: Connection) -> None:
        """Replace the address."""
        change = in_dialect("UPDATE users SET email = ? WHERE user_id = ?", connection.dialect)
        await connection.execute_later(change, event.new_email, event.user_id)

    @handles(UserEvent)
    async def count(self, event: UserEvent, connection: Connection, stored: StoredEvent[UserEvent]) -> None:
        """Keep the version, whatever happened to the user."""
        change = in_dialect("UPDATE users SET version = ? WHERE user_id = ?", connection.dialect)
        await connection.execute_later(change, stored.version, event.user_id)


class OrderBook(Projection, name="orders", version=1):
    """The table ``orders``."""

    async def setup(self, connection: Connection) -> None:
        """Make the table."""
        await connection.execute("DROP TABLE IF EXISTS orders")
        await connection.execute(
            "CREATE TABLE orders (order_id TEXT PRIMARY KEY, user_id TEXT NOT NULL,"
            " total_cents BIGINT NOT NULL, version BIGINT NOT NULL)"
        )

    @handles(OrderPlaced)
    async def add(self, event: OrderPlaced, connection: Connection, stored: StoredEvent[OrderPlaced]) -> None:
        """Add an order."""
        await connection.execute_later(
            in_dialect(
                "INSERT INTO orders (order_id, user_id, total_cents, version) VALUES (?, ?, ?, ?)", connection.dialect
            ),
            event.order_id,
            event.user_id,
            event.total_cents,
            stored.version,
        )


class ReadModels:
    """What queries ask. They read on connections of their own, and never wait for writers."""

    def __init__(self, store: EventStore, dialect: Dialect) -> None:
        """Read the tables in the database of ``store``, which takes SQL of ``dialect``."""
        self._store: Final = store
        self._dialect: Final[Dialect] = dialect

    async def user(self, user_id: str) -> UserView | None:
        """Return a user, or None."""
        row = await self._fetch_one("SELECT user_id, email, name, version FROM users WHERE user_id = ?", user_id)
        return None if row is None else UserView(*row)

    async def users(self, *, after: str | None, limit: int) -> list[UserView] | None:
        """Return up to ``limit`` users in the order in which they came, those after user ``after`` if it is given.

        None where there is no user ``after``.
        """
        number = 0
        if after is not None:
            row = await self._fetch_one("SELECT number FROM users WHERE user_id = ?", after)
            if row is None:
                return None
            number = row[0]
        page = in_dialect(
            "SELECT user_id, email, name, version FROM users WHERE number > ? ORDER BY number LIMIT ?", self._dialect
        )
        rows = await self._store.fetch(page, number, limit)
        return [UserView(*row) for row in rows]

    async def order(self, order_id: str) -> OrderView | None:
        """Return an order, or None."""
        row = await self._fetch_one(
            "SELECT order_id, user_id, total_cents, version FROM orders WHERE order_id = ?", order_id
        )
        if row is None:
            return None
        found_id, user_id, total_cents, version = row
        return OrderView(found_id, user_id, total_cents / 100, version)

    async def _fetch_one(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        return await self._store.fetch_one(in_dialect(sql, self._dialect), *params)
