"""Events that are in the log and cannot be read: the error says where they are, and those before them are given."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from avx_events.core.errors import AvxEventsError, DecodeError
from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import AppendResult, NewRecordTuple

METADATA = '[1,"",{revision},null,null,null,null,null]'


class Read(Event, event_type="unreadable.read"):
    number: int


class Reader(AggregateRoot):
    total: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Read):
            self.total += event.number


def record(
    event_id: str,
    data: object = b'{"number":1}',
    *,
    event_type: str = "unreadable.read",
    revision: object = 1,
    metadata: str = METADATA,
) -> NewRecordTuple:
    """An event as another program, another version of this one or a fault may have left it."""
    content: Any = data if isinstance(data, bytes | str) else json.dumps(data).encode()
    return event_id, event_type, metadata.replace("{revision}", json.dumps(revision)).encode(), content


async def store_with(*records: NewRecordTuple, unknown: Any = "raise") -> EventStore:
    engine = MemoryEngine()
    await engine.append("a", records)
    return EventStore(engine, unknown=unknown)


@pytest.mark.parametrize(
    ("unreadable", "problem"),
    [
        (record("2", {}), "required field `number`"),
        (record("2", {"number": "one"}), "Expected `int`, got `str`"),
        (record("2", {"number": None}), "Expected `int`, got `null`"),
        (record("2", []), "Expected `object`, got `array`"),
        (record("2", b""), "cannot be decoded"),
        (record("2", b'{"number":'), "cannot be decoded"),
        (record("2", b'{"number":1}}'), "cannot be decoded"),
        (record("2", b'{"number":NaN}'), "cannot be decoded"),
        (record("2", b'{"number":1e400}'), "cannot be decoded"),
        (record("2", b"[" * 100_000), "cannot be decoded"),
        (record("2", b"\xff\xfe"), "cannot be decoded"),
        (record("2", revision=2), "revision 2 is newer than 1.*deploy the newer code"),
        (record("2", revision=0), "no upcaster from revision 0"),
        (record("2", revision="one"), "Expected `int`, got `str`"),
        (record("2", metadata=""), "cannot be decoded"),
        (record("2", metadata="{}"), "Expected `array`, got `object`"),
        (record("2", metadata="[]"), "cannot be decoded"),
        (record("2", metadata='["now","",1,null,null,null,null,null]'), "Expected `int`, got `str`"),
        (record("2", metadata='[1,"",1,7,null,null,null,null]'), "got `int`"),
        (record("2", metadata='[1,"",1,null,null,null,{"a":1},null]'), "got `int`"),
    ],
)
async def test_an_event_that_does_not_fit_is_an_error_that_says_what_and_where(
    unreadable: NewRecordTuple, problem: str
) -> None:
    async with await store_with(record("1"), unreadable, record("3")) as store:
        reader, follower = store.read_all(), store.subscribe()
        first, seen = await anext(reader), await anext(follower)
        with pytest.raises(DecodeError, match=problem) as caught:
            await anext(reader)
        with pytest.raises(DecodeError, match=problem):
            await anext(follower)
        with pytest.raises(DecodeError, match=problem):
            await store.load(Reader, "a")

        assert (first.version, seen.version, follower.position) == (1, 1, 1)
        assert "in stream 'a' at version 2, position 2" in caught.value.__notes__
        assert caught.value.event_type == "unreadable.read"
        assert [stored.event async for stored in store.read_all(after=2)] == [Read(1)]
        assert await store.append("a", Read(4), expected_version=3) == AppendResult(4, 4)


async def test_an_event_with_more_fields_than_its_class_has_is_read_without_them() -> None:
    async with await store_with(record("1", {"number": 1, "later": [None]})) as store:
        assert [stored.event for stored in await store.get_events("a")] == [Read(1)]


@pytest.mark.parametrize("data", [b"[1]", b"7", b"", b"{"])
async def test_an_unknown_event_that_is_no_object_is_no_event(data: bytes) -> None:
    async with await store_with(record("1", data, event_type="unreadable.no.such"), unknown="keep") as store:
        with pytest.raises(DecodeError, match=r"unreadable\.no\.such"):
            await store.get_events("a")


# Upcasters


def upcast_by(*upcasters: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the class of one event type, at the revision that so many upcasters lead to."""

    class Grown(Event, event_type="unreadable.grown", revision=len(upcasters) + 1):
        __qualname__ = "Grown"
        number: int

    for revision, upcaster in enumerate(upcasters, start=1):
        Grown.upcast(from_revision=revision)(upcaster)
    return Grown


def giving(result: object) -> Callable[[dict[str, Any]], Any]:
    return lambda _: result


def fail(data: dict[str, Any]) -> Any:
    raise LookupError("no such rate")


def fail_as_ours(data: dict[str, Any]) -> Any:
    raise AvxEventsError("not today")


def divide(data: dict[str, Any]) -> Any:
    return {"number": data["number"] / 0}


def same(data: dict[str, Any]) -> Any:
    return data


@pytest.mark.parametrize(
    ("upcasters", "error", "problem"),
    [
        ((fail,), DecodeError, "LookupError: .*no such rate"),
        ((same, fail), DecodeError, "LookupError: .*no such rate"),
        ((fail_as_ours,), AvxEventsError, "not today"),
        ((giving(None),), DecodeError, "got `null`"),
        ((giving(7),), DecodeError, "got `int`"),
        ((giving(None), same), DecodeError, "cannot be decoded"),
        ((giving(7), same), DecodeError, "cannot be decoded"),
        ((giving({}),), DecodeError, "required field `number`"),
        ((giving({"number": "one"}),), DecodeError, "got `str`"),
        ((giving({"number": object()}),), DecodeError, "cannot be decoded"),
        ((giving({"number": float("nan")}),), DecodeError, "cannot be decoded|got `null`"),
        ((giving({"number": "\ud800"}),), DecodeError, "cannot be decoded"),
        ((divide,), DecodeError, "ZeroDivisionError"),
    ],
)
async def test_an_upcaster_that_fails_or_gives_what_does_not_fit_is_an_error_with_its_place(
    upcasters: tuple[Callable[[dict[str, Any]], Any], ...], error: type[AvxEventsError], problem: str
) -> None:
    grown = upcast_by(*upcasters)
    async with await store_with(record("1"), record("2", event_type="unreadable.grown")) as store:
        with pytest.raises(error, match=problem) as caught:
            await store.get_events("a")

        assert grown.event_type == "unreadable.grown"
        assert caught.value.__notes__ == ["in stream 'a' at version 2, position 2"]


async def test_a_missing_step_between_revisions_says_which_upcaster_to_write() -> None:
    class Grown(Event, event_type="unreadable.grown", revision=3):
        __qualname__ = "Grown"
        number: int

    Grown.upcast(from_revision=1)(same)
    async with await store_with(record("1", event_type="unreadable.grown")) as store:
        with pytest.raises(DecodeError, match=r"no upcaster from revision 2; write one with @Grown\.upcast"):
            await store.get_events("a")


async def test_events_of_several_revisions_in_one_page_are_each_read_their_own_way() -> None:
    grown = upcast_by(
        lambda data: {"number": data["number"] + 10},
        lambda data: {"number": data["number"] + 100},
    )
    revisions = [1, 3, 2, 3, 1]
    records = [
        record(str(number), event_type="unreadable.grown", revision=revision)
        for number, revision in enumerate(revisions)
    ]
    async with await store_with(*records) as store:
        events = [stored.event for stored in await store.get_events("a")]

    assert events == [grown(number) for number in (111, 1, 101, 1, 111)]


async def test_an_upcaster_that_changes_what_it_is_given_changes_only_that() -> None:
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        data["number"] = data["number"] + 1
        return data

    grown = upcast_by(rename)
    async with await store_with(record("1", event_type="unreadable.grown")) as store:
        for _ in range(3):
            assert [stored.event for stored in await store.get_events("a")] == [grown(2)]
