"""Dead letters in JetStream, beside the log: they are kept until somebody redrives or removes them."""

import asyncio
import logging
from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec

from avx_events.bus import dead_letter_codec as codec
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.errors import AvxEventsError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.nats.jetstream import ConflictError, JetStream, Stored
from avx_events.distributed.nats.names import PARTS_HEADER, Names, bucket_stream, text_of

log = logging.getLogger("avx_events")

_PAGE: Final = 200
_CLAIM_S: Final = 30.0
_RENEWALS_IN_A_CLAIM: Final = 3
_PART_BYTES: Final = 256 << 10  # well below what any server takes in one message


class NatsDeadLetters:
    """The dead letters of one namespace; a claim lasts as long as its process gives signs of life."""

    def __init__(self, jetstream: JetStream, names: Names) -> None:
        """Claim nothing yet."""
        self._jetstream = jetstream
        self._names = names
        self._claims = bucket_stream(names.claims)
        self._holder = uuid4().hex
        self._claimed: dict[str, int] = {}  # id -> number of the claim
        self._is_made = False
        self._tasks = TaskScope()

    async def make(self, jetstream: JetStream) -> None:
        """Have ``jetstream`` make what is missing, if there was a letter.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        if self._is_made:
            await _make(jetstream, self._names)

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; its claim ends."""
        if not self._is_made:
            await _make(self._jetstream, self._names)
            self._is_made = True
        document = codec.encode(letter)
        subject = self._names.letter(letter.id)
        if len(document) <= _PART_BYTES:
            await self._jetstream.write(subject, document)
        else:
            await self._put_in_parts(letter.id, subject, document)
        await self._end_claim(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        stored = await self._jetstream.last_of(self._names.letters, self._names.letter(letter_id))
        return None if stored is None else await self._read(letter_id, stored)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; False where it is, or is not there."""
        if await self.get(letter_id) is None:
            return False
        await _make(self._jetstream, self._names)  # whoever put it may have been another process
        self._is_made = True
        subject = self._names.claim(letter_id)
        stored = await self._jetstream.last_of(self._claims, subject)
        if stored is not None and not stored.is_deleted and not await self._is_over(stored):
            return False
        expected = 0 if stored is None else stored.seq
        try:
            number = await self._jetstream.write(subject, self._holder.encode(), expected=expected)
        except ConflictError:  # somebody was faster
            return False
        if await self.get(letter_id) is None:  # it was redriven meanwhile
            await self._jetstream.purge(self._claims, subject)
            return False
        self._claimed[letter_id] = number
        if not self._tasks:
            self._tasks.spawn(self._renew(), name="avx-events nats: renew claims")
        return True

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this process."""
        number = self._claimed.pop(letter_id, None)
        if number is not None:
            await self._jetstream.purge(self._claims, self._names.claim(letter_id), up_to=number + 1)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        found: list[DeadLetter] = []
        for letter_id in await self._ids():
            if limit is not None and len(found) >= limit:
                break
            if after is None or letter_id > after:
                letter = await self.get(letter_id)
                if letter is not None and letter_filter.matches(letter):
                    found.append(letter)
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        was_there = await self._jetstream.purge(self._names.letters, self._names.letter(letter_id)) > 0
        if was_there:
            await self._jetstream.purge(self._names.parts, f"{self._names.parts_of(letter_id)}.>")
        await self._end_claim(letter_id)
        return was_there

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, and return how many went."""
        gone = 0
        while letters := await self.select(letter_filter, limit=_PAGE):
            for letter in letters:
                gone += await self.discard(letter.id)
        return gone

    async def count(self) -> int:
        """Return how many letters there are."""
        info = await self._jetstream.stream(self._names.letters)
        return 0 if info is None else info.state.messages

    async def close(self) -> None:
        """Give up the claims. The connection is the bus's."""
        await self._tasks.cancel()
        for letter_id in list(self._claimed):
            await self.release(letter_id)

    async def _put_in_parts(self, letter_id: str, subject: str, document: bytes) -> None:
        prefix = f"{self._names.parts_of(letter_id)}.{uuid4().hex}"
        parts = [document[begin : begin + _PART_BYTES] for begin in range(0, len(document), _PART_BYTES)]
        for number, part in enumerate(parts):
            await self._jetstream.write(f"{prefix}.{number}", part)
        await self._jetstream.write(subject, b"", headers={PARTS_HEADER: f"{prefix} {len(parts)}"})

    async def _read(self, letter_id: str, stored: Stored) -> DeadLetter | None:
        prefix, _, count = stored.headers.get(PARTS_HEADER, "").partition(" ")
        if not prefix:
            return codec.decode(stored.data)
        document = b""
        for number in range(int(count)):
            part = await self._jetstream.last_of(self._names.parts, f"{prefix}.{number}")
            if part is None:
                log.error("a part of dead letter %s is gone", letter_id)
                return None
            document += part.data
        return codec.decode(document)

    async def _ids(self) -> list[str]:
        every = self._names.letter("*")
        info = await self._jetstream.stream(self._names.letters, subjects=every)
        return [] if info is None else sorted(text_of(subject[len(every) - 1 :]) for subject in info.state.subjects)

    async def _end_claim(self, letter_id: str) -> None:
        self._claimed.pop(letter_id, None)
        await self._jetstream.purge(self._claims, self._names.claim(letter_id))

    async def _is_over(self, claim: Stored) -> bool:
        """Tell whether a claim was not renewed for so long, by the server's own time, that its process is dead."""
        probe = f"{self._names.claim('now')}.{uuid4().hex}"
        now = await self._jetstream.message(self._claims, await self._jetstream.write(probe, b""))
        await self._jetstream.purge(self._claims, probe)
        if now is None:
            return False
        age = msgspec.convert(now.time, datetime) - msgspec.convert(claim.time, datetime)
        return age.total_seconds() >= _CLAIM_S

    async def _renew(self) -> None:
        while self._claimed:
            await asyncio.sleep(_CLAIM_S / _RENEWALS_IN_A_CLAIM)
            for letter_id, number in list(self._claimed.items()):
                try:
                    renewed = await self._jetstream.write(
                        self._names.claim(letter_id), self._holder.encode(), expected=number
                    )
                except (AvxEventsError, ConflictError) as exc:
                    log.warning("the claim of dead letter %s is not renewed: %s", letter_id, exc)
                else:
                    if letter_id in self._claimed:
                        self._claimed[letter_id] = renewed


async def _make(jetstream: JetStream, names: Names) -> None:
    one_each = {"max_msgs_per_subject": 1}
    await jetstream.make_stream(names.parts, [f"{names.parts_of('*')}.*.*"], **one_each)
    await jetstream.make_stream(names.letters, [names.letter("*")], **one_each)
    await jetstream.make_bucket(names.claims)
