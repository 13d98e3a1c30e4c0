"""All events of one correlation id, over streams, with what caused what."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avx_events import (
    CausalTree,
    DecodeError,
    Event,
    EventEnvelope,
    EventMetadata,
    EventStore,
    InvalidArgumentError,
    UnknownEvent,
    UnknownEventTypeError,
    context,
)
from avx_events.store.causal_tree import tree_of
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import PAGE_EVENTS
from avx_events.store.stored_event import StoredEvent
from avx_events.testing import ManualClock

START = datetime(2026, 1, 1, tzinfo=UTC)


class Noted(Event, event_type="causal.noted"):
    what: str


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncGenerator[EventStore, None]:
    is_memory = request.param == "memory"
    async with EventStore(clock=clock) if is_memory else await EventStore.connect("sqlite://", clock=clock) as opened:
        yield opened


def noted(event_id: str, *, cause: str | None = None, chain: str = "chain", user_id: str | None = None) -> Any:
    """An event of a chain whose ids are known."""
    metadata = EventMetadata(event_id, "causal.noted", "", 0, chain, cause, user_id)
    return EventEnvelope(Noted(event_id), metadata, "causal.noted")


def names(events: Any) -> list[str]:
    return [event.event_id for event in events]


async def a_chain(store: EventStore, clock: ManualClock) -> None:
    """An order that led to a payment and a parcel, and the payment to a receipt; others in between."""
    for stream, envelope in [
        ("order-1", noted("order", chain="order", user_id="ada")),
        ("order-2", noted("else")),
        ("payment-1", noted("payment", cause="order", chain="order")),
        ("parcel-1", noted("parcel", cause="order", chain="order")),
        ("receipt-1", noted("receipt", cause="payment", chain="order")),
    ]:
        await store.append(stream, envelope)
        clock.advance(60)


async def test_all_events_of_a_chain_are_found_with_their_causes(store: EventStore, clock: ManualClock) -> None:
    await a_chain(store, clock)

    tree = await store.correlated("order")

    assert [(event.stream, event.position, event.depth) for event in tree] == [
        ("order-1", 1, 0),
        ("payment-1", 3, 1),
        ("parcel-1", 4, 1),
        ("receipt-1", 5, 2),
    ]
    order, payment, parcel, receipt = tree.events
    assert (order.cause, payment.cause, parcel.cause, receipt.cause) == (
        None,
        order.stored,
        order.stored,
        payment.stored,
    )
    assert (tree.roots, tree.effects_of(order), tree.effects_of(payment)) == ((order,), (payment, parcel), (receipt,))
    assert (tree.effects_of(receipt), len(tree), tree.correlation_id) == ((), 4, "order")


async def test_a_tree_is_drawn_branch_by_branch(store: EventStore, clock: ManualClock) -> None:
    await a_chain(store, clock)

    assert str(await store.correlated("order")).splitlines() == [
        "2026-01-01 00:00:00.000Z  order-1 v1  causal.noted  ada  Noted(what='order')",
        "  2026-01-01 00:02:00.000Z  payment-1 v1  causal.noted  -  Noted(what='payment')",
        "    2026-01-01 00:04:00.000Z  receipt-1 v1  causal.noted  -  Noted(what='receipt')",
        "  2026-01-01 00:03:00.000Z  parcel-1 v1  causal.noted  -  Noted(what='parcel')",
    ]


async def test_the_chain_of_what_is_appended_in_a_context_is_found(store: EventStore) -> None:
    await store.append("a", Noted("alone"))
    [first] = await store.get_events("a")
    with context(correlation_id=first.metadata.correlation_id, causation_id=first.metadata.event_id):
        await store.append("b", Noted("effect"))

    tree = await store.correlated(first.metadata.event_id)

    assert [event.event for event in tree] == [Noted("alone"), Noted("effect")]
    assert tree.events[1].cause == first


async def test_only_what_lies_between_the_bounds_is_looked_at(store: EventStore, clock: ManualClock) -> None:
    await a_chain(store, clock)
    minute = timedelta(minutes=1)

    for options, expected in [
        ({"after": 1}, ["payment", "parcel", "receipt"]),
        ({"until": 3}, ["order", "payment"]),
        ({"after": 1, "until": 4}, ["payment", "parcel"]),
        ({"since": START + 2 * minute}, ["payment", "parcel", "receipt"]),
        ({"since": START + 2 * minute + timedelta.resolution}, ["parcel", "receipt"]),
        ({"as_of": START + 3 * minute}, ["order", "payment", "parcel"]),
        ({"as_of": START + 3 * minute, "until": 3}, ["order", "payment"]),
        ({"since": START + 9 * minute}, []),
        ({"as_of": START - minute}, []),
    ]:
        bounds: Any = options
        assert names(await store.correlated("order", **bounds)) == expected

    without_its_cause = (await store.correlated("order", after=4)).events[0]
    assert (without_its_cause.cause, without_its_cause.causation_id, without_its_cause.depth) == (None, "payment", 0)


async def test_a_chain_is_found_over_the_pages_of_the_log(store: EventStore) -> None:
    for number in range(3):
        await store.append("chain", noted(f"n-{number}", chain="n-0", cause=f"n-{number - 1}" if number else None))
        await store.append("others", [Noted("other")] * PAGE_EVENTS)

    assert [event.depth for event in await store.correlated("n-0")] == [0, 1, 2]


async def test_an_id_that_only_occurs_elsewhere_is_no_correlation_id(store: EventStore) -> None:
    await store.append("a", noted("1", chain="wanted-not", user_id="wanted"))
    await store.append("a", noted("2", chain="other", cause="wanted"))
    await store.append("a", noted("wanted", chain="other"))
    await store.append("a", Noted("wanted"))

    assert names(await store.correlated("wanted")) == []
    assert str(await store.correlated("wanted")) == ""


@pytest.mark.parametrize("chain", ['quote " and \\', "ä-\U0001f600", "x\0y", "a/b"])
async def test_a_correlation_id_is_any_text(store: EventStore, chain: str) -> None:
    await store.append("a", noted("1", chain=chain))

    assert names(await store.correlated(chain)) == ["1"]


async def test_what_is_not_of_the_chain_need_not_be_known(store: EventStore) -> None:
    def unknown(event_id: str, chain: str) -> EventEnvelope[UnknownEvent]:
        metadata = EventMetadata(event_id, "causal.never", "", 0, chain)
        return EventEnvelope(UnknownEvent("causal.never", {}, 1), metadata, "causal.never")

    await store.append("a", [unknown("1", "else"), noted("2", chain="order")])

    assert names(await store.correlated("order")) == ["2"]
    with pytest.raises(UnknownEventTypeError):
        await store.correlated("else")
    assert names(await store.correlated("else", unknown="keep")) == ["1"]


async def test_damaged_metadata_is_an_error_that_says_where() -> None:
    engine = MemoryEngine()
    await engine.append("a", [("order", "causal.noted", b"[", b"{}")])

    with pytest.raises(DecodeError) as caught:
        await EventStore(engine).correlated("order")

    assert "in stream 'a' at version 1, position 1" in caught.value.__notes__


async def test_what_cannot_be_a_chain_or_a_bound_is_refused(store: EventStore) -> None:
    for wrong in ("", 7, None, "\ud800"):
        with pytest.raises(InvalidArgumentError, match="correlation_id must be text"):
            await store.correlated(wrong)  # type: ignore[arg-type]
    for options in ({"after": -1}, {"until": 1.0}, {"since": "now"}, {"as_of": 7}, {"unknown": "drop"}):
        bounds: Any = options
        with pytest.raises(InvalidArgumentError):
            await store.correlated("order", **bounds)


def stored(position: int, event_id: str, cause: str | None) -> StoredEvent[Any]:
    envelope = noted(event_id, cause=cause)
    return StoredEvent(envelope.event, envelope.metadata, "t", "s", position, position, position)


def is_a_forest(tree: CausalTree) -> bool:
    """Whether everything hangs from a root, each event one deeper than its cause."""
    below: list[Any] = [*tree.roots]
    for event in below:
        effects = tree.effects_of(event)
        assert all(effect.depth == event.depth + 1 for effect in effects)
        below += effects
    return sorted(names(below)) == sorted(names(tree)) and all(root.depth == 0 for root in tree.roots)


def test_an_effect_that_was_stored_before_its_cause_hangs_from_it_all_the_same() -> None:
    tree = tree_of("chain", [stored(1, "effect", "cause"), stored(2, "cause", None)])

    assert [(event.event_id, event.depth) for event in tree] == [("effect", 1), ("cause", 0)]
    assert is_a_forest(tree)


@pytest.mark.parametrize("links", [["a"], ["b", "a"], ["b", "c", "a"], ["c", "a", "b"]])
def test_a_ring_of_causes_is_opened(links: list[str]) -> None:
    tree = tree_of("chain", [stored(n, "abc"[n - 1], cause) for n, cause in enumerate(links, start=1)])

    assert (len(tree.roots), len(str(tree).splitlines())) == (1, len(links))
    assert is_a_forest(tree)


def test_a_long_chain_is_linked_and_drawn() -> None:
    tree = tree_of("chain", [stored(n, str(n), str(n - 1)) for n in range(1, 5_001)])

    assert [event.depth for event in tree] == [*range(5_000)]
    assert len(str(tree).splitlines()) == 5_000


@given(st.lists(st.integers(0, 12), max_size=12))
def test_whatever_causes_are_given_everything_hangs_from_a_root_once(causes: list[int]) -> None:
    tree = tree_of("chain", [stored(n, str(n), str(cause)) for n, cause in enumerate(causes, start=1)])

    assert is_a_forest(tree)
    assert len(str(tree).splitlines()) == len(causes)
