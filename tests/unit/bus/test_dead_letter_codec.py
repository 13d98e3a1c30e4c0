"""Dead letters as JSON: written by others, of events whose class is gone or changed, and of what JSON cannot carry."""

import base64
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest

from avx_events import DeadLetter, DeadLetterQueue, Event, EventBus, EventEnvelope, UnknownEvent
from avx_events.bus import dead_letter_codec
from avx_events.core import cloudevents
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import DecodeError, EncodeError
from avx_events.core.metadata import EventMetadata, stamp


class Weighed(Event, event_type="letter_codec.weighed", aggregate_id="parcel"):
    parcel: str
    weight: float = 1.0
    note: Any = None


class Moved(Event, event_type="letter_codec.moved", formerly=("letter_codec.left",), revision=2):
    street: str
    town: str


@Moved.upcast(from_revision=1)
def split(data: dict[str, Any]) -> dict[str, Any]:
    street, town = data["address"].split(", ")
    return {"street": street, "town": town}


AT: Final = datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC)


def a_letter(event: object = None, **changes: Any) -> DeadLetter:
    letter = DeadLetter(
        id="0190",
        handler="scales",
        reason="failed",
        error="KeyError: 'no'",
        error_type="KeyError",
        attempts=5,
        first_failed_at=AT,
        dead_at=AT + timedelta(seconds=3),
        envelope=stamp(event or Weighed("p"), clock=SYSTEM_CLOCK, headers={"tenant": "é"}, topic="scales.north"),
        traceback="Traceback: ...",
        redrives=2,
    )
    return msgspec.structs.replace(letter, **changes)


def reread(letter: DeadLetter) -> DeadLetter:
    return dead_letter_codec.decode(dead_letter_codec.encode(letter))


def changed(letter: DeadLetter, **fields: Any) -> bytes:
    return json.dumps(json.loads(dead_letter_codec.encode(letter)) | fields).encode()


def test_a_letter_is_json_that_others_can_read() -> None:
    written = json.loads(dead_letter_codec.encode(a_letter(raw=b"\xff\x00")))

    assert written.pop("envelope")["type"] == "letter_codec.weighed"
    assert written == {
        "id": "0190",
        "handler": "scales",
        "reason": "failed",
        "error": "KeyError: 'no'",
        "error_type": "KeyError",
        "traceback": "Traceback: ...",
        "attempts": 5,
        "redrives": 2,
        "first_failed_at": "2026-03-01T12:00:00.000007Z",
        "dead_at": "2026-03-01T12:00:03.000007Z",
        "raw": base64.b64encode(b"\xff\x00").decode(),
    }


def test_the_envelope_is_a_cloudevents_document() -> None:
    letter = a_letter()

    document = json.loads(dead_letter_codec.encode(letter))["envelope"]

    assert cloudevents.decode(json.dumps(document).encode()) == letter.envelope


def test_fields_of_a_later_version_are_passed_over() -> None:
    letter = a_letter()

    assert dead_letter_codec.decode(changed(letter, colour="black")) == letter


def test_instants_of_any_zone_are_the_same_instants() -> None:
    tokyo = timezone(timedelta(hours=9, seconds=1))

    assert reread(a_letter(dead_at=AT.astimezone(tokyo))).dead_at == AT


# Classes that are gone, or have become another


def test_an_event_that_no_class_has_is_kept_and_can_be_written_again() -> None:
    unknown = UnknownEvent("letter_codec.gone", {"a": [1, None]}, 3)
    metadata = EventMetadata("e", "letter_codec.gone", "a", 0, "e")
    letter = a_letter(envelope=EventEnvelope(unknown, metadata, "letter_codec.gone"))

    assert reread(reread(letter)) == letter


def test_an_event_of_an_older_revision_is_upcast() -> None:
    letter = a_letter(Moved("High Street", "Oxford"))
    envelope = json.loads(dead_letter_codec.encode(letter))["envelope"]
    older = envelope | {"revision": 1, "data": {"address": "High Street, Oxford"}}

    assert dead_letter_codec.decode(changed(letter, envelope=older)) == letter


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"parcel": 7}},
        {"data": {}},
        {"data": None, "data_base64": "!"},
        {"revision": 9},
        {"revision": 0},
        {"id": ""},
        {"time": "yesterday"},
        {"specversion": "2.0"},
    ],
)
def test_a_letter_whose_event_cannot_be_read_keeps_its_document_and_its_error(change: dict[str, Any]) -> None:
    letter = a_letter()
    document = json.loads(dead_letter_codec.encode(letter))["envelope"] | change

    found = dead_letter_codec.decode(changed(letter, envelope=document))

    assert found.raw is not None
    assert json.loads(found.raw) == document
    assert found == msgspec.structs.replace(letter, envelope=None, raw=found.raw)
    assert found.event_type == "letter_codec.weighed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Moved("High Street", "Oxford")),
        ({"type": "letter_codec.left", "revision": 1, "data": {"address": "Mill, Bath"}}, Moved("Mill", "Bath")),
        ({"revision": 3}, None),
        ({"type": "letter_codec.gone"}, None),
        ({"data": {}}, None),
    ],
)
def test_an_event_that_could_not_be_decoded_when_it_came_is_there_once_it_can(
    change: dict[str, Any], expected: object
) -> None:
    envelope = stamp(Moved("High Street", "Oxford"), clock=SYSTEM_CLOCK)
    document = cloudevents.encode(envelope, source="/s")
    raw = json.dumps(json.loads(document) | change).encode()
    letter = a_letter(envelope=None, raw=raw, reason="undecodable", attempts=0)

    found = reread(letter)

    assert found.event == expected
    assert msgspec.structs.replace(found, envelope=None) == letter
    assert reread(found).event == expected


async def test_an_event_that_came_too_early_is_given_to_its_handler_later() -> None:
    handled: list[Moved] = []
    async with await DeadLetterQueue.connect("sqlite://") as letters:
        envelope = stamp(Moved("High Street", "Oxford"), clock=SYSTEM_CLOCK)
        raw = cloudevents.encode(envelope, source="/s")
        await letters.add(a_letter(envelope=None, raw=raw, reason="undecodable", attempts=0))
        bus = EventBus(dead_letter_queue=letters)

        @bus.on(Moved, name="scales")
        async def handle(event: Moved) -> None:
            handled.append(event)

        async with bus:
            assert await bus.republish("0190")
            await bus.settled()

        assert handled == [Moved("High Street", "Oxford")]
        assert await letters.count() == 0


# What is no letter


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{}", b"\xff", b'"\\ud800"', b"{" * 100_000, b"[" * 100_000, b'{"id":1}'],
)
def test_what_is_no_letter_is_refused(document: bytes) -> None:
    with pytest.raises(DecodeError, match="dead letter"):
        dead_letter_codec.decode(document)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": None},
        {"handler": 3},
        {"reason": "bored"},
        {"attempts": -1},
        {"attempts": 1.5},
        {"attempts": True},
        {"dead_at": "2026-03-01T12:00:00"},
        {"dead_at": 0},
        {"raw": "not base64!"},
        {"error": ["a"]},
    ],
)
def test_a_field_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=next(iter(wrong))):
        dead_letter_codec.decode(changed(a_letter(), **wrong))


@pytest.mark.parametrize("envelope", [3, "text", [], True, {}, {"a": {"b": []}}])
def test_an_envelope_that_is_none_is_kept_as_it_is(envelope: Any) -> None:
    found = dead_letter_codec.decode(changed(a_letter(), envelope=envelope))

    assert (found.envelope, json.loads(found.raw or b"")) == (None, envelope)
    assert found.event_type is None


@pytest.mark.parametrize("wrong", [{"dead_at": datetime(2026, 3, 1)}, {"attempts": -1}])  # noqa: DTZ001 - on purpose
def test_a_letter_that_no_bus_would_make_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EncodeError, match="dead letter"):
        dead_letter_codec.encode(a_letter(**wrong))


# What cannot be written


def test_an_event_of_many_megabytes_is_kept() -> None:
    letter = a_letter(Weighed("p" * 3 * cloudevents.MAX_EVENT_BYTES))

    assert reread(letter) == letter


class Odd:
    """A value that JSON does not know."""

    def __repr__(self) -> str:
        return "<odd>"


class Silent:
    """A value that does not even say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Weighed("p", math.nan), "Weighed(parcel='p', weight=nan, note=None)"),
        (Weighed("p", math.inf), "weight=inf"),
        (Weighed("p", note=Odd()), "note=<odd>"),
        (Weighed("p", note=2**70), f"note={2**70}"),
        (Weighed("\udc80"), "Weighed(parcel='\\udc80'"),
        (Weighed("p", note=10**5000), "Weighed, whose repr raised ValueError"),
        (Weighed("p", note=Silent()), "Weighed, whose repr raised RuntimeError"),
        (Weighed("p", note=nested(100_000)), "Weighed"),
        (UnknownEvent("letter_codec.weighed", {"a": math.nan}), "UnknownEvent(event_type="),
    ],
)
def test_an_event_that_json_cannot_carry_leaves_its_letter_and_its_repr(event: object, text: str) -> None:
    metadata = EventMetadata("e", "letter_codec.weighed", "p", 0, "e", user_id="jane")
    letter = a_letter(envelope=EventEnvelope(event, metadata, "scales.north"))

    found = reread(letter)

    assert found.raw is not None
    description = json.loads(found.raw)
    assert text in description["repr"]
    assert "jane" in description["repr"]
    assert found == msgspec.structs.replace(letter, envelope=None, raw=found.raw)
    assert (found.event_type, description["type"]) == ("letter_codec.weighed", "letter_codec.weighed")
    assert description["problem"]


def test_metadata_that_cannot_be_written_leaves_the_letter_too() -> None:
    metadata = EventMetadata("", "letter_codec.weighed", "\ud800", 0, "e")

    found = reread(a_letter(envelope=EventEnvelope(Weighed("p"), metadata, "letter_codec.weighed")))

    assert "Weighed(parcel='p'" in json.loads(found.raw or b"")["repr"]


@pytest.mark.parametrize("depth", [*range(0, 1000, 100), *range(900, 1010)])
def test_a_letter_can_be_read_however_deep_its_event_is(depth: int) -> None:
    letter = a_letter(Weighed("p", note=nested(depth)))

    found = reread(letter)

    assert (found.event is None) == (found.raw is not None)
    assert found.event_type == "letter_codec.weighed"


def test_lone_surrogates_in_an_error_are_written_as_escapes() -> None:
    found = reread(a_letter(error="OSError: \udcff", traceback="\udcff", handler="h\udcff", error_type="\udcff"))

    assert (found.error, found.traceback, found.handler, found.error_type) == (
        "OSError: \\udcff",
        "\\udcff",
        "h\\udcff",
        "\\udcff",
    )
