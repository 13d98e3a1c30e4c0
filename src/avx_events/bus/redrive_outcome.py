"""What became of a dead letter that another process was asked to redrive, as its queue shows."""

from typing import Literal, TypeAlias

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.errors import DeadLetterNotFoundError

RedriveState: TypeAlias = Literal["redriven", "failed again", "not done"]


async def redrive_state(queue: DeadLetterQueue, before: DeadLetter) -> tuple[RedriveState, DeadLetter]:
    """Tell how far the redrive of a letter is, that was asked for when it was as ``before``.

    Returns:
        ``redriven`` where it has left the queue, ``failed again`` where it was updated; and the letter, as it is now if
        it is there.
    """
    try:
        letter = await queue.get(before.id)
    except DeadLetterNotFoundError:
        return "redriven", before
    if letter.redrives > before.redrives or letter.dead_at > before.dead_at:
        return "failed again", letter
    return "not done", letter


async def is_claimed(queue: DeadLetterQueue, letter_id: str) -> bool:
    """Tell whether somebody redrives a letter; False too where it is not there any more.

    That is found out by a claim, which is given up at once. Who is asked in that moment gets none: ask after the wait.
    """
    try:
        claimed = await queue.claim(letter_id)
    except DeadLetterNotFoundError:
        return False
    if claimed is None:
        return True
    await queue.release(letter_id)
    return False
