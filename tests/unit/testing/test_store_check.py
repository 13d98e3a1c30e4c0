"""A store is checked to its end: what cannot be read is counted by type and revision, and nothing stops it."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import ClosedError, InvalidArgumentError
from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from avx_events.store.ports import PAGE_EVENTS, NewRecordTuple
from avx_events.testing import MockEventStore, check_store


class Kept(Event, event_type="checked.kept", formerly=("checked.had",), revision=2):
    number: int


@Kept.upcast(from_revision=1)
def parsed(data: dict[str, Any]) -> dict[str, Any]:
    return {"number": int(data["text"])}


def record(
    number: int, event_type: str = "checked.kept", data: object = None, *, metadata: str = '[1,"",2]'
) -> NewRecordTuple:
    content = json.dumps({"number": number} if data is None else data).encode()
    return f"id-{number}", event_type, metadata.encode(), content


OLD = '[1,"",1]'


@pytest.fixture(params=["", "sqlite:///{folder}/events.db"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventStore]:
    url = request.param.format(folder=tmp_path)
    async with await EventStore.connect(url, unknown="keep") if url else EventStore(unknown="keep") as opened:
        yield opened


async def test_a_store_that_can_be_read_says_so(store: EventStore) -> None:
    assert str(await check_store(store)) == "all 0 events can be read, up to position 0"

    await store.append("a", [Kept(1), Kept(2)])
    await store._engine.append("b", [record(3, "checked.had", {"text": "3"}, metadata=OLD)])
    report = await check_store(store)

    assert (report.events, report.last_position, report.unreadable) == (3, 3, ())


async def test_what_cannot_be_read_is_counted_by_type_and_revision(store: EventStore) -> None:
    await store._engine.append("a", [record(1), record(2, "checked.gone"), record(3, data={})])
    await store._engine.append(
        "b",
        [
            record(4, "checked.had", {"text": "four"}, metadata=OLD),
            record(5, "checked.gone"),
            record(6, data={"number": "six"}),
            record(7, metadata="{"),
            record(8, metadata='[1,"",3]'),
            record(9),
        ],
    )

    report = await check_store(store)

    assert (report.events, report.last_position) == (9, 9)
    assert [(found.event_type, found.revision, found.count, found.first_position) for found in report.unreadable] == [
        ("checked.gone", 2, 2, 2),
        ("checked.kept", 2, 2, 3),
        ("checked.had", 1, 1, 4),
        ("checked.kept", None, 1, 7),
        ("checked.kept", 3, 1, 8),
    ]
    assert str(report).startswith("7 of 9 events cannot be read, up to position 9:\n")
    assert "  checked.gone, revision 2: 2, the first at position 2, 'a' at version 2\n    no class for" in str(report)
    assert "recorded as 'checked.had': invalid literal" in str(report)
    assert "checked.kept, of a revision that cannot be read: 1" in str(report)


async def test_a_long_log_is_read_to_its_end_in_one_go_or_in_parts(store: EventStore) -> None:
    count = 2 * PAGE_EVENTS + 7
    await store._engine.append("a", [record(number, "checked.gone") for number in range(count)])

    whole = await check_store(store)
    first = await check_store(store, limit=PAGE_EVENTS + 3)
    rest = await check_store(store, after=first.last_position)

    assert (whole.events, whole.unreadable[0].count) == (count, count)
    assert (first.events, first.last_position) == (PAGE_EVENTS + 3, PAGE_EVENTS + 3)
    assert (rest.events, rest.unreadable[0].first_position) == (PAGE_EVENTS + 4, PAGE_EVENTS + 4)
    assert (await check_store(store, after=count)).last_position == count


async def test_a_store_that_fails_by_plan_can_be_checked() -> None:
    async with MockEventStore() as store:
        await store.append("a", Kept(1))

        assert (await check_store(store)).events == 1


async def test_what_cannot_be_checked_is_refused() -> None:
    store = EventStore()
    with pytest.raises(InvalidArgumentError, match="store must be an EventStore"):
        await check_store("sqlite://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgumentError, match="after"):
        await check_store(store, after=-1)
    with pytest.raises(InvalidArgumentError, match="limit"):
        await check_store(store, limit=0)
    await store.close()
    with pytest.raises(ClosedError):
        await check_store(store)
