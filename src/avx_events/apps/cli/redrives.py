"""How dead letters are given back from a shell: by the application, loaded here, or by members that run elsewhere."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from avx_events.apps.cli.application import Application
from avx_events.apps.cli.output import note, print_json, progress
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.redrive_outcome import redrive_state, state_after_wait
from avx_events.core.errors import (
    AvxEventsError,
    DeadLetterNotFoundError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
    UnsupportedError,
)
from avx_events.patterns.projection import Projector

_ASKED_AT_ONCE: Final = 100
_LOOK_S: Final = 0.1
_UNANSWERED: Final = "unanswered"
_NOT_THERE: Final = "not there"
_OF_THE_SAME: Final = "one whose dead letters are those of the URL"


async def by_application(
    queue: DeadLetterQueue, application: Application, letter_ids: Sequence[str], *, as_json: bool
) -> Counter[str]:
    """Redrive letters in this process, and count what became of them.

    Raises:
        InvalidArgumentError: The application has no dead letters, or others, or a letter has no event.
    """

    async def outcomes() -> AsyncIterator[tuple[str, str]]:
        for letter_id in letter_ids:
            try:
                letter = await queue.get(letter_id)
            except DeadLetterNotFoundError as exc:
                note(str(exc))
                yield letter_id, _NOT_THERE
            else:
                yield letter_id, await _redriven(queue, letter, application)

    return await _counted(outcomes(), len(letter_ids), as_json=as_json)


async def by_members(
    queue: DeadLetterQueue, letter_ids: Sequence[str], *, timeout_s: float, as_json: bool
) -> Counter[str]:
    """Ask running members to redrive letters, some at a time, and count what became of them.

    Args:
        queue: Where the letters are: in a broker.
        letter_ids: Which.
        timeout_s: How long to wait for the next of them to be done.
        as_json: Print each outcome.
    """
    return await _counted(_outcomes(queue, letter_ids, timeout_s), len(letter_ids), as_json=as_json)


async def _counted(outcomes: AsyncIterator[tuple[str, str]], total: int, *, as_json: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    with progress("redriving", total) as step:
        async for letter_id, outcome in outcomes:
            counts[outcome] += 1
            if as_json:
                print_json({"id": letter_id, "outcome": outcome})
            step()
    return counts


async def _redriven(queue: DeadLetterQueue, letter: DeadLetter, application: Application) -> str:
    if isinstance(application, Projector):
        try:
            is_done = await application.redrive(letter)
        except (AvxEventsError, OSError):
            raise
        except Exception:  # noqa: BLE001 - the projector has kept it in the letter
            return "failed again"
        return "redriven" if is_done else "needed no redrive"
    try:
        if not await application.republish(letter.id):
            return "claimed by another"
    except NoDeadLetterQueueError as exc:
        expected = "a bus that has these dead letters: EventBus(dead_letter_queue=await DeadLetterQueue.connect(url))"
        raise InvalidArgumentError("--app", "a bus without dead letters", expected=expected) from exc
    except NoHandlerError:
        return f"without a handler ({letter.handler})"
    except DeadLetterNotFoundError:
        if not await _is_there(queue, letter.id):
            return _NOT_THERE
        raise InvalidArgumentError("--app", "a bus with other dead letters", expected=_OF_THE_SAME) from None
    await application.settled()
    return "failed again" if await _is_there(application.dead_letter_queue, letter.id) else "redriven"


async def _outcomes(
    queue: DeadLetterQueue, letter_ids: Sequence[str], timeout_s: float
) -> AsyncIterator[tuple[str, str]]:
    silent: set[tuple[str, str]] = set()  # those who did not answer are not asked again
    for first in range(0, len(letter_ids), _ASKED_AT_ONCE):
        asked: dict[str, DeadLetter] = {}
        for letter_id in letter_ids[first : first + _ASKED_AT_ONCE]:
            letter = await _asked(queue, letter_id, silent)
            if isinstance(letter, str):
                yield letter_id, letter
            else:
                asked[letter_id] = letter
        async for letter_id, outcome in _ends(queue, asked, timeout_s):
            if outcome == _UNANSWERED:
                _tell_silent(asked[letter_id], silent)
            yield letter_id, outcome


async def _asked(queue: DeadLetterQueue, letter_id: str, silent: set[tuple[str, str]]) -> DeadLetter | str:
    """Ask for one letter; return it as it was then, or why nobody was asked."""
    try:
        letter = await queue.get(letter_id)
        if (letter.group, letter.handler) in silent:
            return _UNANSWERED
        return await queue.ask_for_redrive(letter)
    except DeadLetterNotFoundError as exc:
        note(str(exc))
        return _NOT_THERE
    except (UnsupportedError, InvalidArgumentError) as exc:
        note(str(exc))
        return "refused"


async def _ends(
    queue: DeadLetterQueue, asked: Mapping[str, DeadLetter], timeout_s: float
) -> AsyncIterator[tuple[str, str]]:
    loop = asyncio.get_running_loop()
    left = dict(asked)
    deadline = loop.time() + timeout_s
    while left and loop.time() < deadline:
        await asyncio.sleep(_LOOK_S)
        for letter_id, before in [*left.items()]:
            state, _ = await redrive_state(queue, before)
            if state != "not done":
                del left[letter_id]
                deadline = loop.time() + timeout_s
                yield letter_id, state
    for letter_id, before in left.items():
        late, _ = await state_after_wait(queue, before)
        yield letter_id, late


def _tell_silent(letter: DeadLetter, silent: set[tuple[str, str]]) -> None:
    if (letter.group, letter.handler) not in silent:
        silent.add((letter.group, letter.handler))
        whose = f"of group {letter.group!r} that has handler {letter.handler!r}"
        note(f"no running member {whose} has answered: start one, or give --app")


async def _is_there(queue: DeadLetterQueue, letter_id: str) -> bool:
    """Tell whether the queue holds a letter."""
    try:
        await queue.get(letter_id)
    except DeadLetterNotFoundError:
        return False
    return True
