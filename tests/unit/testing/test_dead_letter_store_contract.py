"""The contract of dead letter stores can be failed: what a store gets wrong, one of its tests says."""

from pathlib import Path
from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue, LetterFilter, MemoryDeadLetters
from avx_events.testing import DeadLetterStoreContract


class Forgetful(MemoryDeadLetters):
    """Takes a letter for as new as its id, and keeps the first."""

    async def put(self, letter: DeadLetter) -> None:
        if letter.id not in self._letters:
            await super().put(letter)


class Endless(MemoryDeadLetters):
    """Begins each page at the beginning."""

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        return await super().select(letter_filter, limit=limit)


class Generous(MemoryDeadLetters):
    """Gives a letter to whoever asks."""

    async def claim(self, letter_id: str) -> bool:
        return letter_id in self._letters


class Possessive(MemoryDeadLetters):
    """Never ends a claim."""

    async def release(self, letter_id: str) -> None:
        pass


class Thorough(MemoryDeadLetters):
    """Purges more than it was told to."""

    async def purge(self, letter_filter: LetterFilter) -> int:
        return await super().purge(LetterFilter(handler=letter_filter.handler))


@pytest.mark.parametrize(
    ("store_class", "test"),
    [
        (Forgetful, "test_a_letter_that_is_added_again_is_replaced"),
        (Endless, "test_letters_come_in_the_order_of_their_ids_whole_or_in_pages"),
        (Generous, "test_of_many_claims_one_is_given"),
        (Possessive, "test_a_claim_ends_when_it_is_released_or_its_letter_is_replaced_or_gone"),
        (Thorough, "test_filters_find_what_passes_all_of_them_and_a_purge_takes_it"),
    ],
)
def test_a_store_that_is_wrong_fails(store_class: type[MemoryDeadLetters], test: str, tmp_path: Path) -> None:
    class Contract(DeadLetterStoreContract):
        async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
            return DeadLetterQueue(store=store_class(1_000))

    with pytest.raises(AssertionError):
        getattr(Contract(), test)(tmp_path)
