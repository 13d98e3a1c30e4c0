"""What is done with dead letters: given back, mended, removed, once each, and who was first."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from avx_events.apps.console.answers import missing
from avx_events.apps.console.given import Given
from avx_events.apps.console.masking import Masking, unmasked
from avx_events.apps.console.views import fields_of, letter_view
from avx_events.apps.mending import with_data
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.redrive_outcome import LateState, redrive_state, state_after_wait
from avx_events.core.errors import (
    DeadLetterNotFoundError,
    DecodeError,
    NoDeadLetterQueueError,
    NoHandlerError,
    UsageError,
    ValidationError,
)
from avx_events.core.event import UnknownEvent
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.pause import pause
from avx_events.patterns.projection.letters import now, projection_of

State: TypeAlias = Literal["handled", "failed_again", "in_line", "taken", "gone", "removed", "edited", "refused"]

REMEMBERED: Final = 10_000
_OUTCOME_S: Final = 2.0
_ANSWERS_WITHIN_S: Final = 15.0
"""How long members of other processes may take: those at Kafka hear of the first request after ten seconds or so."""
_LOOK_S: Final = 0.05
_REMOVED: Final = "removed"


class Outcome(msgspec.Struct, frozen=True):
    """What became of one letter.

    Attributes:
        id: The letter's.
        state: ``handled``, ``failed_again``, ``in_line`` (its handler has not ended yet), ``taken`` (somebody else was
            first), ``gone``, ``removed``, ``edited`` or ``refused``.
        says: The same in a sentence.
    """

    id: str
    state: State
    says: str


class Deed(msgspec.Struct, frozen=True):
    """What somebody has done with a letter.

    Attributes:
        operator: Who.
        verb: What, in the past.
        at: When.
    """

    operator: str
    verb: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.operator} {self.verb} it at {self.at:%H:%M:%S} UTC"


class _Begun(msgspec.Struct, frozen=True):
    """A letter that was given back.

    Attributes:
        before: The letter as it was.
        is_asked: Whether members of other processes were asked, who may not be there.
    """

    before: DeadLetter
    is_asked: bool


class LetterDesk:
    """Gives letters back, mends and removes them, for several people at once.

    Whatever is done with a letter begins with a claim, which the queue gives to one of all who ask, in whatever
    process; the desk remembers who did what here, so that the others can be told.
    """

    def __init__(self, given: Given, masking: Masking) -> None:
        """Work on the queue of ``given``, through its bus and projector."""
        self._given: Final = given
        self._masking: Final = masking
        self._deeds: OrderedDict[str, Deed] = OrderedDict()
        self._busy: dict[str, str] = {}

    @property
    def queue(self) -> DeadLetterQueue:
        """The queue.

        Raises:
            RefusedError: There is none.
        """
        if self._given.queue is None:
            raise missing("dead letter queue", "Give it dead_letter_queue=, or a bus= that has one.")
        return self._given.queue

    def deed_of(self, letter_id: str) -> Deed | None:
        """Return what was done last with a letter here; None where nothing was."""
        return self._deeds.get(letter_id)

    async def redrive(self, letter_ids: Sequence[str], *, operator: str) -> list[Outcome]:
        """Give letters back to their handlers, each once, and tell what became of them within two seconds.

        Where the handlers run in other processes their members are asked, and have fifteen seconds.
        """
        outcomes: dict[str, Outcome] = {}
        begun: dict[str, _Begun] = {}
        try:
            for letter_id in letter_ids:
                one = await self._begin(letter_id, operator)
                if isinstance(one, Outcome):
                    outcomes[letter_id] = one
                else:
                    begun[letter_id] = one
            outcomes |= await self._ends(begun)
        finally:
            for letter_id in begun:
                self._busy.pop(letter_id, None)
        return [outcomes[letter_id] for letter_id in letter_ids]

    async def remove(self, letter_ids: Sequence[str], *, operator: str) -> list[Outcome]:
        """Forget letters, but for those that somebody gives back just now."""
        return [await self._remove(letter_id, operator) for letter_id in letter_ids]

    async def edit(self, letter_id: str, text: str, *, operator: str) -> Outcome:
        """Replace the data of a letter's event; its metadata stays.

        Args:
            letter_id: Which letter.
            text: The fields as JSON; what was hidden and is not edited stays as it was.
            operator: Who does so.

        Raises:
            RefusedError: There is no queue.
            ValidationError: The data is no JSON object or does not fit the event's class, or its letter could never be
                read.
        """
        try:
            letter = await self.queue.claim(letter_id)
        except DeadLetterNotFoundError:
            return self._gone(letter_id)
        if letter is None:
            return self._taken(letter_id)
        try:
            edited = edited_letter(letter, text, self._masking)
        except BaseException:
            await self.queue.release(letter_id)
            raise
        await self.queue.add(edited)  # which ends the claim
        self._remember(letter_id, operator, "edited")
        says = "Edited; no class of its type checked it here." if isinstance(edited.event, UnknownEvent) else "Edited."
        return Outcome(letter_id, "edited", says)

    async def _begin(self, letter_id: str, operator: str) -> _Begun | Outcome:
        """Give one letter back, and keep others from it here until that has an end; or return why it was not."""
        if letter_id in self._busy:
            return Outcome(letter_id, "taken", f"{self._busy[letter_id]} was first and redrives it just now.")
        self._busy[letter_id] = operator
        try:
            begun = await self._given_back(letter_id)
        except BaseException:
            del self._busy[letter_id]
            raise
        if isinstance(begun, Outcome):
            del self._busy[letter_id]
        else:
            self._remember(letter_id, operator, "asked to redrive" if begun.is_asked else "redrove")
        return begun

    async def _given_back(self, letter_id: str) -> _Begun | Outcome:
        try:
            begun = await self._give_back(await self.queue.get(letter_id))
            if begun is None:
                await self.queue.get(letter_id)  # a projector takes away what needs no redrive any more
        except DeadLetterNotFoundError:
            return self._gone(letter_id)
        except NoHandlerError as exc:
            problem = f"{exc}. Give the console the bus or projector of the process that has this handler."
            return Outcome(letter_id, "refused", problem)
        except UsageError as exc:
            return Outcome(letter_id, "refused", str(exc))
        return self._taken(letter_id) if begun is None else begun

    async def _give_back(self, letter: DeadLetter) -> _Begun | None:
        """Give a letter back, or ask those for it who can; None where somebody else does so."""
        given = self._given
        if given.projector is not None and projection_of(letter) in given.projector.statistics():
            return _Begun(letter, is_asked=False) if await _redriven_by_projector(given, letter) else None
        try:
            return _Begun(letter, is_asked=False) if await _redriven_by_bus(given, letter) else None
        except (NoHandlerError, NoDeadLetterQueueError):
            if not self.queue.reaches_members:
                raise
        return _Begun(await self.queue.ask_for_redrive(letter), is_asked=True)

    async def _ends(self, begun: Mapping[str, _Begun]) -> dict[str, Outcome]:
        clock = self._given.clock
        began_s = clock.monotonic()
        outcomes: dict[str, Outcome] = {}
        left = dict(begun)
        while left:
            for letter_id, one in [*left.items()]:
                state, letter = await redrive_state(self.queue, one.before)
                late: LateState | None = None if state == "not done" else state
                if late is None and clock.monotonic() >= began_s + _patience_s(one):
                    late, letter = await self._late_state(one)
                if late is not None:
                    outcomes[letter_id] = self._outcome(letter, late)
                    del left[letter_id]
            if left:
                await pause(clock, _LOOK_S)
        return outcomes

    async def _late_state(self, one: _Begun) -> tuple[LateState, DeadLetter]:
        """Return what is to be told now; a bus of this process is known to have what it was given in line."""
        return await state_after_wait(self.queue, one.before) if one.is_asked else ("in line", one.before)

    def _outcome(self, letter: DeadLetter, state: LateState) -> Outcome:
        deed = self._deeds.get(letter.id)
        if state == "redriven":
            if deed is not None and deed.verb == _REMOVED:
                return self._gone(letter.id)
            return Outcome(letter.id, "handled", f"{letter.handler} has handled it now.")
        if state == "failed again":
            error = letter_view(letter, self._masking)["error"]
            return Outcome(letter.id, "failed_again", f"{letter.handler} failed again: {error}")
        if state == "unanswered":
            who = f"No running member of group {letter.group!r} that has {letter.handler}"
            problem = f"{who} has answered, and nothing was done: start one, then redrive it."
            return Outcome(letter.id, "refused", problem)
        return Outcome(letter.id, "in_line", f"It is in line for {letter.handler}, which has not ended yet.")

    async def _remove(self, letter_id: str, operator: str) -> Outcome:
        try:
            claimed = await self.queue.claim(letter_id)
        except DeadLetterNotFoundError:
            return self._gone(letter_id)
        if claimed is None:
            return self._taken(letter_id)
        try:
            await self.queue.resolve(letter_id)
        except BaseException:
            await self.queue.release(letter_id)
            raise
        self._remember(letter_id, operator, _REMOVED)
        return Outcome(letter_id, "removed", "Removed.")

    def _taken(self, letter_id: str) -> Outcome:
        first = self._busy.get(letter_id) or self._deeds.get(letter_id)
        says = f"{first}" if isinstance(first, Deed) else "Somebody else, of another console or process,"
        verb = ", and it is not done yet" if isinstance(first, Deed) else " redrives it just now"
        return Outcome(letter_id, "taken", f"{says}{verb}.")

    def _gone(self, letter_id: str) -> Outcome:
        deed = self._deeds.get(letter_id)
        says = "It is not there any more" if deed is None else f"{deed} and it is not there any more"
        return Outcome(letter_id, "gone", f"{says}.")

    def _remember(self, letter_id: str, operator: str, verb: str) -> None:
        self._deeds[letter_id] = Deed(operator, verb, now(self._given.clock))
        self._deeds.move_to_end(letter_id)
        while len(self._deeds) > REMEMBERED:
            self._deeds.popitem(last=False)


def _patience_s(one: _Begun) -> float:
    return _ANSWERS_WITHIN_S if one.is_asked else _OUTCOME_S


def edited_letter(letter: DeadLetter, text: str, masking: Masking) -> DeadLetter:
    """Return ``letter`` with the data of ``text`` in its event, all else as it was.

    Raises:
        ValidationError: The text is no JSON object or does not fit the event's class, or the letter has no event.
    """
    envelope = letter.envelope
    if envelope is None:
        raise ValidationError("the bytes of this letter could not be read: there are no fields to edit")
    try:
        edited = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as exc:
        raise ValidationError(f"that is no JSON object: {exc}") from exc
    event: object = envelope.event
    original = fields_of(event)
    masked = masking.masked(original, type(event))
    try:
        mended = _with_data(envelope, unmasked(edited, masked.value, original))
    except DecodeError as exc:
        raise ValidationError(masked.scrubbed(_problem_of(exc))) from exc
    return msgspec.structs.replace(letter, envelope=mended)


def _with_data(envelope: EventEnvelope[Any], data: Mapping[str, Any]) -> EventEnvelope[Any]:
    event: object = envelope.event
    if isinstance(event, UnknownEvent):
        return msgspec.structs.replace(envelope, event=msgspec.structs.replace(event, data=data))
    return with_data(envelope, msgspec.json.encode(data))


def _problem_of(exc: DecodeError) -> str:
    """Return what does not fit, without the data: pydantic repeats parts of it, and hidden values cut in two."""
    errors: Any = getattr(exc.__cause__, "errors", None)
    if not callable(errors):
        return str(exc)
    found: Any = errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in found)


async def _redriven_by_bus(given: Given, letter: DeadLetter) -> bool:
    if given.bus is None:
        raise NoHandlerError(f"dead letters of {letter.handler!r}", known=())
    return await given.bus.republish(letter)


async def _redriven_by_projector(given: Given, letter: DeadLetter) -> bool:
    assert given.projector is not None  # noqa: S101 - for the type checker
    try:
        return await given.projector.redrive(letter)
    except (UsageError, DeadLetterNotFoundError):
        raise
    except Exception:  # what a handler raised: the letter says it
        current = await given.queue.get(letter.id) if given.queue is not None else letter
        if current.redrives > letter.redrives:
            return True
        raise
