"""What became of a dead letter that other processes were asked to redrive, as its queue shows.

| state | what it says |
|---|---|
| redriven | it has left the queue |
| failed again | it was updated since |
| not done | neither, as yet |
| in line | it was waited for: somebody has claimed it, and has not ended |
| unanswered | it was waited for: nobody has claimed it |
"""

from typing import Literal, TypeAlias

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.errors import DeadLetterNotFoundError

RedriveState: TypeAlias = Literal["redriven", "failed again", "not done"]
LateState: TypeAlias = Literal["redriven", "failed again", "in line", "unanswered"]


async def redrive_state(queue: DeadLetterQueue, before: DeadLetter) -> tuple[RedriveState, DeadLetter]:
    """Return how far the redrive of a letter is that was asked for when it was as ``before``, and the letter.

    The letter is as it is now, if it is still there.
    """
    try:
        letter = await queue.get(before.id)
    except DeadLetterNotFoundError:
        return "redriven", before
    if letter.redrives > before.redrives or letter.dead_at > before.dead_at:
        return "failed again", letter
    return "not done", letter


async def state_after_wait(queue: DeadLetterQueue, before: DeadLetter) -> tuple[LateState, DeadLetter]:
    """Return the same when nobody waits any longer, and whether somebody has it in line where it is not done.

    A claim finds that out, which is given up at once; a member that hears of the request in that moment gets none.
    """
    is_in_line = await is_claimed(queue, before.id)
    state, letter = await redrive_state(queue, before)
    if state != "not done":
        return state, letter
    return "in line" if is_in_line else "unanswered", letter


async def is_claimed(queue: DeadLetterQueue, letter_id: str) -> bool:
    """Tell whether somebody redrives a letter, by a claim that is given up at once; False where it is not there."""
    try:
        claimed = await queue.claim(letter_id)
    except DeadLetterNotFoundError:
        return False
    if claimed is None:
        return True
    await queue.release(letter_id)
    return False
