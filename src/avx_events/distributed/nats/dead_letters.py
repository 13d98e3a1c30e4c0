"""Dead letters in JetStream, beside the log: they are kept until somebody redrives or removes them.

A letter is the last message of its subject. One that is too large for a message is kept in parts, which its message
names; they are written before it, under names that no other has, so that a letter is replaced at once or not at all.
A claim is a key of a bucket, written over the one that was seen there; by its age, as the server has it, it is over.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import decode_or_describe, encode, portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.bus.remote.ports import TransportOptions
from avx_events.bus.remote.redrives import encode_redrive
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    TransportUnavailableError,
    WrongLoopError,
)
from avx_events.core.tasks import TaskScope
from avx_events.distributed.nats.jetstream import ConflictError, JetStream, Stored
from avx_events.distributed.nats.names import PARTS_HEADER, Names, bucket_stream, text_of
from avx_events.distributed.nats.pipe import Pipe
from avx_events.distributed.nats.wire import Wire, WireError

_AT_ONCE: Final = 64
_PART_BYTES: Final = 256 << 10  # well below what any server takes in one message
_ALL: Final = LetterFilter()


class Claim(msgspec.Struct):
    """The value of a claim's key, as JSON.

    Attributes:
        owner: Who redrives the letter, and its how manieth claim it is.
        life_s: For how many seconds after this value was written.
    """

    owner: str = ""
    life_s: float = 0.0


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "NatsDeadLetters":
    """Open the dead letters of a namespace, on a connection of their own: for a bus in memory, or a look from outside.

    Args:
        url: As for a bus, with two of its options as the query, where they are not ``avx`` and 10 seconds:
            ``nats://localhost:4222?namespace=billing&timeout_s=5``.
        clock: Says when claims are renewed. When one is over the server says.

    Raises:
        InvalidArgumentError: The URL is none of NATS's, or an option none that a bus could have.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for credentials.
    """
    place, options = _split(url)
    wire = Wire(place, timeout_s=options.timeout_s, client={}, clock=clock)
    pipe = Pipe(wire, timeout_s=options.timeout_s, clock=clock, what="avx-events nats: dead letters")

    async def hang_up() -> None:
        await pipe.close()
        await wire.close()

    try:
        await wire.open()
        await pipe.open()
        names = Names(options.namespace, lanes=0)
        letters = NatsDeadLetters(wire, JetStream(pipe, wire.name), names, clock=clock, hang_up=hang_up)
        await letters.count()
    except BaseException:
        await hang_up()
        raise
    return letters


class NatsDeadLetters:
    """The dead letters of one namespace, as a ``DeadLetterStore``."""

    def __init__(
        self,
        wire: Wire,
        jetstream: JetStream,
        names: Names,
        *,
        clock: Clock,
        lease_s: float = LEASE_S,
        hang_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Claim nothing yet, for the running loop.

        Args:
            wire: The connection.
            jetstream: What keeps them.
            names: Of the namespace.
            clock: Says when claims are renewed.
            lease_s: How long the claim of a process that died lasts, in seconds.
            hang_up: Called last when the letters are closed; None where the connection is somebody else's.
        """
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._jetstream = jetstream
        self._names = names
        self._claims = bucket_stream(names.claims)
        self._owner = secrets.token_hex(16)
        self._numbers = count(1)
        self._lease_s = lease_s
        self._leases = ClaimLeases(self._renew, clock=clock, lease_s=lease_s)
        self._hang_up = hang_up
        self._errands = TaskScope()
        self._claimed: set[str] = set()
        self._is_made = False
        self._is_closed = False

    async def make(self, jetstream: JetStream) -> None:
        """Have ``jetstream`` make what is missing, if there was a letter.

        Raises:
            TransportUnavailableError: JetStream does not answer.
        """
        if self._is_made:
            await _make(jetstream, self._names)

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``."""
        self._check("keep a dead letter")
        try:
            await self._have_streams()
            await self._write(portable(letter.id), encode(letter))
            await self._end_claim(letter.id)
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        self._check("read a dead letter")
        stored = await self._jetstream.last_of(self._names.letters, self._names.letter(portable(letter_id)))
        return None if stored is None else await self._read(portable(letter_id), stored)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        self._check("claim a dead letter")
        name = portable(letter_id)
        if not await self._is_there(name):
            return False
        await self._have_streams()
        owner = f"{self._owner}.{next(self._numbers)}"
        try:
            is_claimed = await self._claim(name, owner) and await self._is_there(name)
        except BaseException:  # nobody is told whether it was claimed
            self._errands.spawn(self._undo(name, owner), name="avx-events nats: undo a claim")
            raise
        if is_claimed and not self._is_closed:
            self._claimed.add(letter_id)
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._check("release a dead letter")
        self._leases.drop(letter_id)
        await self._end_claim(letter_id)

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        """Have the members asked; see ``BrokerDeadLetterStore.ask_for_redrive``."""
        self._check("ask for a redrive")
        await self._wire.connected()
        try:
            self._wire.send(self._names.redrives(letter.group, letter.handler), encode_redrive(letter))
            await self._wire.echo()
        except (WireError, TimeoutError) as exc:
            raise TransportUnavailableError(self._wire.name, str(exc) or "it does not answer") from exc

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        self._check("list dead letters")
        begin = None if after is None else portable(after).encode()
        names = [name for name in await self._all_names() if begin is None or name.encode() > begin]
        wanted = _portable_filter(letter_filter)
        found: list[DeadLetter] = []
        for first in range(0, len(names), _AT_ONCE):
            if limit is not None and len(found) >= limit:
                break
            letters = await self._read_all(names[first : first + _AT_ONCE])
            found += [letter for letter in letters if wanted.matches(letter)]
            self._check("list dead letters")
        return found[:limit]

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._check("remove a dead letter")
        self._leases.drop(letter_id)  # also where that fails: its work is done
        return await self._discard(portable(letter_id))

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, and return how many went; in one step where all do."""
        self._check("remove dead letters")
        if letter_filter == _ALL:
            gone = await self._jetstream.purge(self._names.letters, ">")
            await self._jetstream.purge(self._names.parts, ">")
            await self._jetstream.purge(self._claims, ">")
            return gone
        return sum([await self._discard(letter.id) for letter in await self.select(letter_filter)])

    async def count(self) -> int:
        """Return how many letters there are."""
        self._check("count dead letters")
        info = await self._jetstream.stream(self._names.letters)
        return 0 if info is None else info.state.messages

    async def close(self) -> None:
        """Give up the claims, then the connection, if that is the letters' own. Harmless when repeated.

        Raises:
            WrongLoopError: It is called on another loop while its own runs.
        """
        if self._loop.is_running() and asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", "close")
        is_first, self._is_closed = not self._is_closed, True
        try:
            await self._leases.close()
            if is_first:
                await self._give_up_claims()
            await self._errands.finish()
        finally:
            if self._hang_up is not None:
                await self._hang_up()

    # Letters

    async def _have_streams(self) -> None:
        if not self._is_made:
            await _make(self._jetstream, self._names)
            self._is_made = True

    async def _write(self, name: str, document: bytes) -> None:
        subject, parts = self._names.letter(name), self._names.parts_of(name)
        if len(document) <= _PART_BYTES:
            await self._jetstream.write(subject, document)
            return
        prefix = f"{parts}.{secrets.token_hex(8)}"
        pieces = [document[begin : begin + _PART_BYTES] for begin in range(0, len(document), _PART_BYTES)]
        for number, piece in enumerate(pieces):
            await self._jetstream.write(f"{prefix}.{number}", piece)
        await self._jetstream.write(subject, b"", headers={PARTS_HEADER: f"{prefix} {len(pieces)}"})

    async def _read_all(self, names: Sequence[str]) -> list[DeadLetter]:
        asked = [self._jetstream.last_of(self._names.letters, self._names.letter(name)) for name in names]
        stored = [await answer for answer in asked]
        pairs = zip(names, stored, strict=True)
        return [await self._read(name, message) for name, message in pairs if message is not None]

    async def _read(self, name: str, stored: Stored) -> DeadLetter:
        document = stored.data
        prefix, _, parts = stored.headers.get(PARTS_HEADER, "").partition(" ")
        if prefix and parts.isdecimal():
            asked = [self._jetstream.last_of(self._names.parts, f"{prefix}.{number}") for number in range(int(parts))]
            found = [await answer for answer in asked]
            document = b"".join(part.data for part in found if part is not None)
        dead_at = msgspec.convert(stored.time, datetime)
        return decode_or_describe(document, id=name, handler="", error_type="", dead_at=dead_at)

    async def _is_there(self, name: str) -> bool:
        return await self._jetstream.last_of(self._names.letters, self._names.letter(name)) is not None

    async def _discard(self, name: str) -> bool:
        was_there = await self._jetstream.purge(self._names.letters, self._names.letter(name)) > 0
        if was_there:
            await self._jetstream.purge(self._names.parts, f"{self._names.parts_of(name)}.>")
            await self._jetstream.purge(self._claims, self._names.claim(name))
        return was_there

    async def _all_names(self) -> list[str]:
        every = self._names.letter("*")
        info = await self._jetstream.stream(self._names.letters, subjects=every)
        subjects: Collection[str] = () if info is None else info.state.subjects
        return sorted((text_of(subject[len(every) - 1 :]) for subject in subjects), key=str.encode)

    # Claims

    async def _claim(self, name: str, owner: str) -> bool:
        subject = self._names.claim(name)
        stored = await self._jetstream.last_of(self._claims, subject)
        if stored is not None and not await self._is_over(stored):
            return False
        return await self._write_claim(subject, owner, over=stored)

    async def _write_claim(self, subject: str, owner: str, *, over: Stored | None) -> bool:
        claim = msgspec.json.encode(Claim(owner, self._lease_s))
        try:
            await self._jetstream.write(subject, claim, expected=0 if over is None else over.seq)
        except ConflictError:  # somebody was faster; or it was this claim, which was sent twice
            stored = await self._jetstream.last_of(self._claims, subject)
            return stored is not None and _claim_in(stored).owner == owner
        return True

    async def _is_over(self, stored: Stored) -> bool:
        """Tell by the server's own time whether a claim is over: that of a message which it takes now."""
        probe = self._names.claim(f"now {secrets.token_hex(8)}")
        now = await self._jetstream.message(self._claims, await self._jetstream.write(probe, b""))
        await self._jetstream.purge(self._claims, probe)
        age = None if now is None else msgspec.convert(now.time, datetime) - msgspec.convert(stored.time, datetime)
        return age is not None and age.total_seconds() >= _claim_in(stored).life_s

    async def _own_claim(self, name: str, owner: str) -> Stored | None:
        stored = await self._jetstream.last_of(self._claims, self._names.claim(name))
        return stored if stored is not None and _claim_in(stored).owner.startswith(owner) else None

    async def _end_claim(self, letter_id: str) -> None:
        self._claimed.discard(letter_id)
        await self._remove_claim(portable(letter_id), f"{self._owner}.")

    async def _remove_claim(self, name: str, owner: str) -> None:
        own = await self._own_claim(name, owner)
        if own is not None:
            await self._jetstream.purge(self._claims, own.subject, up_to=own.seq + 1)

    async def _undo(self, name: str, owner: str) -> None:
        try:
            await self._remove_claim(name, owner)
        except AvxEventsError:  # it ends by itself
            return

    async def _give_up_claims(self) -> None:
        for letter_id in list(self._claimed):
            try:
                await self._end_claim(letter_id)
            except AvxEventsError:  # a server that is away: the claims end by themselves
                return

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        lost: list[str] = []
        for letter_id in letter_ids:
            name = portable(letter_id)
            own = await self._own_claim(name, f"{self._owner}.")
            if own is not None and await self._write_claim(own.subject, _claim_in(own).owner, over=own):
                continue
            if await self._is_there(name):
                lost.append(letter_id)
        return lost

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", action)


async def _make(jetstream: JetStream, names: Names) -> None:
    one_each = {"max_msgs_per_subject": 1}
    await jetstream.make_stream(names.parts, [f"{names.parts_of('*')}.*.*"], **one_each)
    await jetstream.make_stream(names.letters, [names.letter("*")], **one_each)
    await jetstream.make_bucket(names.claims)


def _claim_in(stored: Stored) -> Claim:
    try:
        return msgspec.json.decode(stored.data, type=Claim)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # a stranger's: it holds nothing up
        return Claim()


def _portable_filter(letter_filter: LetterFilter) -> LetterFilter:
    texts = {name: getattr(letter_filter, name) for name in ("handler", "event_type", "error_type")}
    changes = {name: portable(text) for name, text in texts.items() if text is not None}
    return msgspec.structs.replace(letter_filter, **changes)


def _split(url: str) -> tuple[str, TransportOptions]:
    expected = "a NATS URL, as 'nats://localhost:4222?namespace=avx'"
    try:
        query = urlsplit(url).query
    except ValueError as exc:
        raise InvalidArgumentError("url", url, expected=expected) from exc
    given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    if given.keys() - {"namespace", "timeout_s"}:
        raise InvalidArgumentError("url", url, expected=expected)
    if "timeout_s" in given:
        try:
            given["timeout_s"] = float(given["timeout_s"])
        except ValueError as exc:
            expected = "a finite number of seconds, more than 0"
            raise InvalidArgumentError("timeout_s", given["timeout_s"], expected=expected) from exc
    return url.partition("?")[0], TransportOptions(**given)
