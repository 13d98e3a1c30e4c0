"""Dead letters in a broker, whose clock says when a claim is over. It is nobody's to move, so the claim's end is."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from avx_events import DeadLetterQueue
from avx_events.testing import DurableDeadLetterStoreContract
from avx_events.testing.dead_letter_store_contract import a_letter
from avx_events.testing.own_loop import on_its_own_loop


class LettersInBroker(DurableDeadLetterStoreContract):
    """A namespace for each test; a class of a broker says where it is, and how time goes by there."""

    def be_at(self, place: str) -> None:
        """Be at the broker of a URL, in a namespace that no other test has."""
        self.place, self.namespace = place, f"letters-{uuid4().hex}"

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        return await DeadLetterQueue.connect(f"{self.place}?namespace={self.namespace}", **options)

    async def pass_by(self, for_s: float) -> None:
        """Let the claim of letter 1 be so much nearer to its end."""
        raise NotImplementedError

    @on_its_own_loop
    async def test_a_claim_that_nobody_renews_ends_and_not_before(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as dead, await self.connect(tmp_path) as other:
            await dead.add(a_letter(1))
            assert await dead.claim("letter-0001")
            await self.pass_by(self.lease_s - 10)
            assert await other.claim("letter-0001") is None
            await self.pass_by(10)
            assert await other.claim("letter-0001") is not None

            # It was not dead after all. What it does now does not take the letter away from who has it.
            await dead.add(a_letter(1, redrives=1))
            await dead.release("letter-0001")
            assert (await other.get("letter-0001")).redrives == 1
            assert await dead.claim("letter-0001") is None
