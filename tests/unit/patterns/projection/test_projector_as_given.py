"""A projector tells what it was given, whether it runs or not."""

from typing import Any

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.errors import NoDeadLetterQueueError
from avx_events.core.event import Event
from avx_events.core.policy import Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore


class Noted(Projection, name="as-given"):
    @handles(Event)
    async def note(self, event: Any, connection: object) -> None:
        pass


async def test_it_tells_its_projections_retry_and_queue() -> None:
    projection, retry, queue = Noted(), Retry(attempts=7), DeadLetterQueue()

    async with await EventStore.connect("sqlite://") as store:
        projector = Projector(store, projection, retry=retry, dead_letter_queue=queue)
        bare = Projector(store, projection, retry=None)

    assert (projector.projections, projector.retry, projector.dead_letter_queue) == ([projection], retry, queue)
    assert bare.retry.attempts == 1
    with pytest.raises(NoDeadLetterQueueError):
        _ = bare.dead_letter_queue


async def test_it_is_entered_once_and_for_all() -> None:
    async with await EventStore.connect("sqlite://") as store:
        projector = Projector(store, Noted())
        before = projector.is_entered
        async with projector:
            inside = projector.is_entered

    assert (before, inside, projector.is_entered) == (False, True, True)
