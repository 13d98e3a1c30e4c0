"""Dead letters in the store's own database: what a handler gave up is still there after a restart.

The relay moves its checkpoint past an event once every handler is done with it or has made a dead letter of it. So a
dead letter must be as durable as the checkpoint, or a kill after both would lose it. The event is not kept twice: a
letter has its place in the log.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from avx_events import Connection, DeadLetter, EventBus, EventStore, InvalidArgumentError, LetterFilter, StoredEvent

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS dead_letters"
    " (id TEXT PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, letter BLOB NOT NULL)"
)
_PUT: Final = "INSERT OR REPLACE INTO dead_letters (id, stream, version, letter) VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM dead_letters WHERE id = ?"
_SELECT: Final = "SELECT stream, version, letter FROM dead_letters"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode


async def prepare_table(connection: Connection) -> None:
    """Make the table where it is not there."""
    await connection.execute(_TABLE)


async def give_back_dead_letters(bus: EventBus) -> None:
    """Give each letter back to its handler, once; one of a handler that there is no more stays where it is."""
    for handler in bus.statistics().subscriptions:
        for letter in await bus.dead_letter_queue.list(handler=handler):
            await bus.republish(letter)


class StoredDeadLetters:
    """A ``DeadLetterStore`` for letters of events that come from the log; give it to ``DeadLetterQueue(store=...)``."""

    def __init__(self, store: EventStore) -> None:
        """Keep letters in the database of ``store``."""
        self._store: Final = store
        # Whoever redrives is in this process, and so is the claim: after a crash all letters are free.
        self._claimed: Final[set[str]] = set()

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id.

        Raises:
            InvalidArgumentError: Its event does not come from the log.
        """
        stored = letter.envelope
        if not isinstance(stored, StoredEvent):
            raise InvalidArgumentError("letter", letter.id, expected="of an event that the relay published")
        content = _encode(msgspec.structs.replace(letter, envelope=None))
        async with self._store.transaction() as connection:
            await connection.execute(_PUT, letter.id, stored.stream, stored.version, content)
        self._claimed.discard(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        row = await self._store.fetch_one(f"{_SELECT} WHERE id = ?", letter_id)
        return None if row is None else await self._letter(row)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; False where it is already."""
        if letter_id in self._claimed:
            return False
        self._claimed.add(letter_id)
        return True

    async def release(self, letter_id: str) -> None:
        """Undo a claim."""
        self._claimed.discard(letter_id)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        found: list[DeadLetter] = []
        for row in await self._store.fetch(f"{_SELECT} WHERE id > ? ORDER BY id", after or ""):
            if len(found) == limit:
                break
            letter = await self._letter(row)
            if letter_filter.matches(letter):
                found.append(letter)
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._claimed.discard(letter_id)
        async with self._store.transaction() as connection:
            return await connection.execute(_DELETE, letter_id) > 0

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match."""
        letters = await self.select(letter_filter)
        self._claimed.difference_update(letter.id for letter in letters)
        async with self._store.transaction() as connection:
            return sum([await connection.execute(_DELETE, letter.id) for letter in letters])

    async def count(self) -> int:
        """Return how many letters there are."""
        row = await self._store.fetch_one("SELECT count(*) FROM dead_letters")
        return 0 if row is None else int(row[0])

    async def close(self) -> None:
        """Leave the database to the store, whose it is."""

    async def _letter(self, row: Sequence[Any]) -> DeadLetter:
        stream, version, content = row
        events = self._store.read_stream(stream, after=version - 1, until_version=version, unknown="keep")
        (stored,) = [stored async for stored in events]
        return msgspec.structs.replace(_decode(content), envelope=stored)
