"""Streams: found by prefix, page by page, with the state and the changes at each version."""

import json

import pytest

from avx_events import AggregateRoot, Event, EventStore, InvalidArgumentError, context
from avx_events.apps.console import Console
from avx_events.core.event import Personal
from tests.unit.apps.console.visitors import visiting


class Joined(Event, event_type="console.joined", aggregate_id="user_id"):
    user_id: str
    email: Personal[str]


class Paid(Event, event_type="console.paid", aggregate_id="user_id"):
    user_id: str
    amount: int


class User(AggregateRoot):
    email: Personal[str] = ""
    balance: int = 0
    payments: list[int] = []  # noqa: RUF012 - each instance has its own

    def apply(self, event: Event) -> None:
        match event:
            case Joined(email=email):
                self.email = email
            case Paid(amount=amount):
                self.balance += amount
                self.payments.append(amount)
            case _:
                pass


@pytest.fixture
async def store() -> EventStore:
    store = EventStore()
    with context(user_id="ops"):
        await store.append("user-1", [Joined("1", "ada@example.com"), Paid("1", 5), Paid("1", 7)])
    return store


async def test_streams_are_found_by_what_their_names_begin_with(store: EventStore) -> None:
    for name in ("order-1", "user-é", "user-<b>"):
        await store.append(name, [Paid("x", 1)])
    async with visiting(Console(store=store)) as client:
        first = (await client.get("/api/streams", params={"prefix": "user-", "limit": 2})).json()
        second = (await client.get("/api/streams", params={"prefix": "user-", "after": first["next"]})).json()

    assert [stream["name"] for stream in first["streams"]] == ["user-1", "user-<b>"]
    assert first["streams"][0]["version"] == 3
    assert ([stream["name"] for stream in second["streams"]], second["next"]) == (["user-é"], None)


async def test_each_version_has_its_state_and_what_the_event_changed(store: EventStore) -> None:
    async with visiting(Console(store=store, aggregates={"user-": User})) as client:
        entries = [
            (await client.get("/api/stream/entry", params={"name": "user-1", "version": version})).json()
            for version in (1, 2, 3)
        ]

    fields = [{field["name"]: field for field in entry["fields"]} for entry in entries]
    assert [field["balance"]["value"] for field in fields] == ["0", "5", "12"]
    assert [field["balance"]["before"] for field in fields] == [None, "0", "5"]
    assert [field["payments"]["is_changed"] for field in fields] == [False, True, True]
    assert (fields[0]["email"]["before"], fields[0]["email"]["value"]) == ('"••••••"', '"••••••"')
    assert "ada@example.com" not in json.dumps(entries, ensure_ascii=False)
    assert [entry["user_id"] for entry in entries] == ["ops"] * 3


async def test_the_longest_prefix_says_the_class(store: EventStore) -> None:
    class Other(AggregateRoot):
        def apply(self, event: Event) -> None: ...

    async with visiting(Console(store=store, aggregates={"": Other, "user-": User})) as client:
        found = (await client.get("/api/stream", params={"name": "user-1"})).json()

    assert found["aggregate"] == "User"


async def test_a_long_stream_comes_in_pages(store: EventStore) -> None:
    await store.append("user-1", [Paid("1", 1) for _ in range(60)])
    async with visiting(Console(store=store)) as client:
        first = (await client.get("/api/stream", params={"name": "user-1"})).json()
        second = (await client.get("/api/stream", params={"name": "user-1", "after": first["next"]})).json()

    assert (first["version"], len(first["events"]), len(second["events"]), second["next"]) == (63, 50, 13, None)


async def test_without_a_class_the_events_are_shown_alone(store: EventStore) -> None:
    async with visiting(Console(store=store, aggregates={"order-": User})) as client:
        entry = (await client.get("/api/stream/entry", params={"name": "user-1", "version": 1})).json()
        data = await client.get("/api/stream/data", params={"name": "user-1", "version": 1})

    assert entry["fields"] is None
    assert json.loads(entry["text"]) == data.json() == {"user_id": "1", "email": "••••••"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/stream?name=nobody", 404),
        ("/api/stream?name=user", 404),
        ("/api/stream", 422),
        ("/api/stream/entry?name=user-1&version=4", 404),
        ("/api/stream/entry?name=user-1&version=0", 422),
        ("/api/stream/entry?name=user-1&version=-1", 422),
        ("/api/stream/entry?name=user-1&version=99999999999999999999", 422),
        ("/api/stream/entry?name=user-1&version=%D9%A1", 422),
        ("/api/stream/data?name=user-1&version=9", 404),
        ("/api/streams?limit=1000", 422),
    ],
)
async def test_what_is_not_there_is_said(store: EventStore, path: str, status: int) -> None:
    async with visiting(Console(store=store)) as client:
        answer = await client.get(path)

    assert answer.status_code == status
    assert answer.json()["error"]


def test_what_is_no_aggregate_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="aggregates"):
        Console(aggregates={"user-": Joined})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def test_without_a_store_the_page_says_how_to_give_one() -> None:
    async with visiting(Console()) as client:
        answer = await client.get("/api/streams")

    assert "store=" in answer.json()["error"]
