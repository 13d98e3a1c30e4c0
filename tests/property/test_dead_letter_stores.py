"""Whatever is done to them in whatever order, dead letters in SQLite are what they would be in memory."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.errors import DeadLetterNotFoundError
from tests.property.test_codec import envelopes


class Step(NamedTuple):
    """A call of a queue's method."""

    method: str
    argument: DeadLetter | str | None = None
    options: Mapping[str, Any] = {}


AT: Final = datetime(2026, 1, 1, tzinfo=UTC)

# Few of each, so that they meet; ids whose order in UTF-8 and in UTF-16 differ among them.
ids = st.sampled_from(["a", "b", "B", "a\0", "é", "\uffff", "\U0001f600", ""])
names = st.sampled_from(["mail", "MAIL", "mail ", "é", "%", "a\0b"])
instants = st.sampled_from([-1, 0, 1, 2]).map(lambda microseconds: AT + timedelta(microseconds=microseconds))
raws = st.sampled_from([b'{"type":"a"}', b'{"type":"b"}', b"\xff", None])
some_envelopes = st.none() | envelopes()
letters = st.builds(
    DeadLetter,
    id=ids,
    handler=names,
    reason=st.sampled_from(["failed", "stopped"]),
    error=names,
    error_type=names,
    attempts=st.integers(0, 9),
    first_failed_at=instants,
    dead_at=instants,
    envelope=some_envelopes,
    raw=raws,
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "handler": names,
        "event_type": st.sampled_from(["a", "b"]),
        "error_type": names,
        "since": instants,
        "until": instants,
    },
)


pages = st.fixed_dictionaries({"after": st.none() | ids, "limit": st.none() | st.integers(1, 3)})
calls_by_id = st.sampled_from(["get", "claim", "release", "remove", "resolve"])
steps: st.SearchStrategy[Step] = st.one_of(
    letters.map(lambda letter: Step("add", letter)),
    st.builds(Step, calls_by_id, ids, st.just({})),
    filters.map(lambda options: Step("purge", None, options)),
    st.tuples(filters, pages).map(lambda both: Step("list", None, both[0] | both[1])),
    st.just(Step("count")),
)


async def outcome(step: Step, queue: DeadLetterQueue) -> object:
    try:
        arguments = () if step.argument is None else (step.argument,)
        return await getattr(queue, step.method)(*arguments, **step.options)
    except DeadLetterNotFoundError:
        return DeadLetterNotFoundError


@settings(max_examples=150)
@given(st.lists(steps, max_size=25))
async def test_sqlite_and_memory_give_the_same_answers(history: list[Step]) -> None:
    memory = DeadLetterQueue()
    async with await DeadLetterQueue.connect("sqlite://?writer=inline") as sqlite:
        for step in history:
            assert await outcome(step, sqlite) == await outcome(step, memory)
        assert await sqlite.list() == await memory.list()
