"""A command that is dispatched again with the same idempotency key gives the first result, and is not carried out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from avx_events.core import arguments
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.codec import encode_data
from avx_events.core.errors import (
    AvxEventsError,
    DecodeError,
    EncodeError,
    HandlerTimeoutError,
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    ResultNotKeptError,
)
from avx_events.core.event import Command, schema_of
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope
from avx_events.core.results import ResultType
from avx_events.core.tasks import CLEANUP_GRACE_S, TaskScope, is_interrupted
from avx_events.patterns.cqrs.ledgers import Entry, Ledger, MemoryLedger, Place, StoreLedger
from avx_events.patterns.cqrs.routes import CallNext, Middleware
from avx_events.patterns.pause import pause
from avx_events.store.event_store import EventStore

KeyOf: TypeAlias = Callable[[EventEnvelope[Any]], str | None]
"""Returns the idempotency key of a command, or None where it has none."""

log = logging.getLogger("avx_events.cqrs")

IDEMPOTENCY_HEADER: Final = "idempotency-key"

_LONGEST_KEY: Final = 255
# A claim outlives the attempt that made it by so much, so that clocks of two processes may differ.
_GRACE_S: Final = 5.0
# How often a claim of another process is looked at: at first, and at last.
_FIRST_LOOK_S: Final = 0.02
_LAST_LOOK_S: Final = 0.5


def key_in_headers(envelope: EventEnvelope[Any]) -> str | None:
    """Return the header ``idempotency-key`` of a command, None where it has none."""
    return envelope.metadata.headers.get(IDEMPOTENCY_HEADER)


def idempotency_key(
    store: EventStore | None = None,
    *,
    key: KeyOf = key_in_headers,
    timeout_s: float = 60.0,
    expires_s: float = 86_400.0,
    clock: Clock = SYSTEM_CLOCK,
) -> Middleware:
    """Carry a command out once for each idempotency key, and give its result to every dispatch with that key.

    ``await commands.dispatch(CreateUser(...), headers={"idempotency-key": "5f3c"})`` twice makes one user. A second
    dispatch that comes while the first still runs waits for it. A key belongs to a command class and to the values
    that the command had first. A command without a key passes, as do queries.

    The result is written as JSON and read back as the type that the command class names, ``CreateUser(Command[str])``,
    so everybody, the first one too, gets a copy of what was kept. It is kept for ``expires_s``: in the table
    ``avx_idempotency`` of the store's database, across restarts and for all processes on it; without a store in
    memory, for this process and this bus, at most 10,000 of them, the oldest going first.

    An attempt that fails, is cancelled or takes longer than ``timeout_s`` is not kept: its caller gets the error, the
    key is free, and one of those who waited carries the command out in its turn. Once the handler has returned, its
    result is kept also where the dispatch is cancelled meanwhile. A process that is killed between
    carrying out and keeping leaves its claim behind; the key is free when that ends, ``timeout_s`` and 5 seconds after
    it began, and what the command did by then is the handler's own to recognise.

    Args:
        store: Keeps the results in its database; in memory if not given.
        key: Returns a command's key, text of up to 255 characters, or None.
        timeout_s: How long one attempt may take, in seconds of real time; a handler in a thread is not ended by it.
        expires_s: How long a result is kept, in seconds.
        clock: Tells when that is over.

    Returns:
        A middleware that raises, besides what the handler does: ``IdempotencyKeyReusedError`` where the key came with
        other values; ``HandlerTimeoutError``; ``ResultNotKeptError`` where the command was carried out but its result
        cannot be kept, now and at every repetition, or no longer be read; ``TransactionError`` where
        ``store`` is in memory; ``StoreUnavailableError`` where nothing was done.

    Raises:
        InvalidArgumentError: A time is no number of seconds above 0.
    """
    arguments.seconds("timeout_s", timeout_s)
    arguments.seconds("expires_s", expires_s)
    ledger: Ledger = MemoryLedger(clock) if store is None else StoreLedger(store, clock)
    desk = _Desk(ledger, timeout_s=timeout_s, expires_s=expires_s, clock=clock)

    async def once_for_each_key(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        text = key(envelope) if isinstance(envelope.event, Command) else None
        if text is None:
            return await call_next(envelope)
        return await desk.serve((_first_name(envelope), _checked(text)), envelope, call_next)

    return once_for_each_key


class _Desk:
    """Serves one dispatch for each key at a time; those of other processes it meets in the ledger."""

    def __init__(self, ledger: Ledger, *, timeout_s: float, expires_s: float, clock: Clock) -> None:
        self._ledger: Final = ledger
        self._timeout_s: Final = timeout_s
        self._expires_s: Final = expires_s
        self._clock: Final = clock
        self._errands: Final = TaskScope()
        self._turns: dict[Place, _Turn] = {}
        self._result_types: dict[type, ResultType] = {}

    async def serve(self, place: Place, envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        """Return the result kept at ``place``, or carry the command out and keep it."""
        command: object = envelope.event
        result_type = self._result_type(type(command))
        claim = Entry(_fingerprint(command), new_id(self._clock.time_ns()))
        async with self._turn(place):
            spent = await self._claim(place, claim)
            if spent is None:
                spent = await self._carry_out(place, claim, envelope, call_next, result_type)
        if spent.outcome is None:
            raise ResultNotKeptError(*place, f"{spent.problem}")
        try:
            return result_type.kept(spent.outcome)
        except DecodeError as exc:  # the command class said something else when it was kept
            problem = f"what was kept cannot be read as what the command class says it is: {exc.problem}"
            raise ResultNotKeptError(*place, problem) from exc

    @asynccontextmanager
    async def _turn(self, place: Place) -> AsyncGenerator[None, None]:
        turn = self._turns.setdefault(place, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[place]

    async def _claim(self, place: Place, claim: Entry) -> Entry | None:
        """Return None when the key is ours, or the entry when it is spent; waits while another process has it."""
        look_s, lasts_s = _FIRST_LOOK_S, self._timeout_s + _GRACE_S
        while True:
            try:
                existing = await self._ledger.claim(place, claim, lasts_s=lasts_s)
            except AvxEventsError:  # nothing was written
                raise
            except BaseException as exc:  # it may have been committed all the same
                await self._release(place, claim, exc)
                raise
            if existing is None:
                return None
            if existing.fingerprint != claim.fingerprint:
                raise IdempotencyKeyReusedError(*place)
            if existing.is_spent:
                return existing
            await pause(self._clock, look_s)
            look_s = min(look_s * 2, _LAST_LOOK_S)

    async def _carry_out(
        self,
        place: Place,
        claim: Entry,
        envelope: EventEnvelope[Any],
        call_next: CallNext,
        result_type: ResultType,
    ) -> Entry:
        try:
            result = await self._attempt(envelope, call_next)
        except BaseException as exc:
            await self._release(place, claim, exc)
            raise
        spent = _spent(claim, result_type, result)
        keeping = self._ledger.spend(place, spent, lasts_s=self._expires_s)
        failure = await self._finish(keeping, f"keep the result of {place[0]} {place[1]!r}")
        if failure is not None:
            raise ResultNotKeptError(*place, str(failure), result=result) from failure
        if spent.problem is not None:
            raise ResultNotKeptError(*place, spent.problem, result=result)
        return spent

    async def _attempt(self, envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline:
                return await call_next(envelope)
        except TimeoutError as exc:
            if deadline.expired():
                raise HandlerTimeoutError(envelope.metadata.event_type, self._timeout_s) from exc
            raise

    async def _release(self, place: Place, claim: Entry, cause: BaseException) -> None:
        releasing = self._ledger.release(place, claim.owner)
        purpose = f"free the key of {place[0]} {place[1]!r}"
        failure = await self._finish(releasing, purpose, longest_s=CLEANUP_GRACE_S if is_interrupted(cause) else None)
        if failure is not None:  # what the handler raised is what its caller must hear of
            note = f"idempotency key {place[1]!r} stays claimed for up to {self._timeout_s:g} s more: {failure}"
            cause.add_note(note)

    async def _finish(
        self, step: Coroutine[Any, Any, None], purpose: str, *, longest_s: float | None = None
    ) -> AvxEventsError | None:
        """Take ``step`` to its end, whoever is cancelled meanwhile, and return what it failed of.

        A caller that is cancelled is held up for ``CLEANUP_GRACE_S`` at most: it may itself have what the step waits
        for. One that was cancelled before passes that as ``longest_s``. The step goes on; what it fails of then is in
        the log.
        """
        failures: list[AvxEventsError] = []
        is_heard = True

        async def take() -> None:
            try:
                await step
            except AvxEventsError as exc:
                failures.append(exc)
                if not is_heard:
                    log.error("could not %s: %s", purpose, exc)  # noqa: TRY400 - the text says it all

        task = self._errands.spawn(take(), name=f"avx-events: {purpose}")
        try:
            await asyncio.wait({task}, timeout=longest_s)
        except asyncio.CancelledError:
            is_heard = False
            await asyncio.wait({task}, timeout=CLEANUP_GRACE_S)
            raise
        if not task.done():
            is_heard = False
            return None
        task.result()
        return failures[0] if failures else None

    def _result_type(self, command_class: type) -> ResultType:
        found = self._result_types.get(command_class)
        if found is None:
            found = self._result_types[command_class] = ResultType(command_class, Command)
        return found


class _Turn:
    """The dispatches of one key in this process: one has the lock, the others wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock: Final = asyncio.Lock()
        self.users = 0


def _spent(claim: Entry, result_type: ResultType, result: object) -> Entry:
    """Return the entry that keeps ``result``, or says why it does not."""
    try:
        return Entry(claim.fingerprint, claim.owner, outcome=result_type.keep(result))
    except EncodeError as exc:
        return Entry(claim.fingerprint, claim.owner, problem=exc.problem)


def _first_name(envelope: EventEnvelope[Any]) -> str:
    """Return the event type that the command's class had first: a key that was used then is no new one today."""
    command: object = envelope.event
    return schema_of(command).names[-1]


def _fingerprint(command: object) -> bytes:
    return blake2b(encode_data(command), digest_size=16).digest()


def _checked(key: object) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST_KEY or not key.isprintable():
        expected = f"text of 1 to {_LONGEST_KEY} printable characters"
        raise InvalidArgumentError("idempotency key", key, expected=expected)
    return key
