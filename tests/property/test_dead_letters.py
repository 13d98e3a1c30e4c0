"""Dead letters read back as they were written, and no bytes from outside raise anything but one error of ours."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from avx_events.bus import dead_letter_codec
from avx_events.bus.dead_letters import DeadLetter, LetterFilter, MemoryDeadLetters, Reason
from avx_events.core.errors import DecodeError
from tests.property.test_codec import envelopes, json_values, text

instants = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001 - bounds have no zone
    datetime(9998, 12, 31),  # noqa: DTZ001 - likewise
    timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
)
letters = st.builds(
    DeadLetter,
    id=text,
    handler=text,
    reason=st.sampled_from(get_args(Reason)),
    error=text,
    error_type=text,
    attempts=st.integers(0, 2**63 - 1),
    redrives=st.integers(0, 2**63 - 1),
    first_failed_at=instants,
    dead_at=instants,
    envelope=st.none() | envelopes(),
    raw=st.none() | st.binary(max_size=50),
    traceback=text,
)


@given(letters)
def test_a_letter_reads_back_as_it_was(letter: DeadLetter) -> None:
    assert dead_letter_codec.decode(dead_letter_codec.encode(letter)) == letter


@given(letters, st.text(max_size=20))
def test_any_text_can_be_written(letter: DeadLetter, error: str) -> None:
    again = dead_letter_codec.decode(dead_letter_codec.encode(msgspec.structs.replace(letter, error=error)))

    assert again.error == dead_letter_codec.portable(error)


def read_or_refuse(document: bytes) -> None:
    try:
        letter = dead_letter_codec.decode(document)
    except DecodeError:
        return
    assert (letter.event_type is None) or isinstance(letter.event_type, str)
    dead_letter_codec.decode(dead_letter_codec.encode(letter))


@given(st.binary(max_size=200) | text.map(str.encode))
@example(b"")
@example(b"{}")
def test_bytes_from_anywhere_are_read_or_refused(document: bytes) -> None:
    read_or_refuse(document)


@given(letters, st.data())
def test_a_letter_with_other_values_in_it_is_read_or_refused(letter: DeadLetter, data: st.DataObject) -> None:
    fields: dict[str, Any] = json.loads(dead_letter_codec.encode(letter))
    name = data.draw(st.sampled_from(sorted(fields)))
    if name == "envelope" and fields[name]:
        attribute = data.draw(st.sampled_from(sorted(fields[name])))
        fields[name][attribute] = data.draw(json_values)
    else:
        fields[name] = data.draw(json_values)

    read_or_refuse(json.dumps(fields).encode())


few_texts = st.sampled_from(["a", "b"])
few_instants = st.integers(0, 3).map(lambda number: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number))
filters = st.builds(
    LetterFilter,
    handler=st.none() | few_texts,
    event_type=st.none(),
    error_type=st.none() | few_texts,
    since=st.none() | few_instants,
    until=st.none() | few_instants,
)
few_letters = st.lists(
    st.builds(
        DeadLetter,
        id=st.integers(0, 20).map("{:02}".format),
        handler=few_texts,
        reason=st.just("failed"),
        error=st.just("E: e"),
        error_type=few_texts,
        attempts=st.just(1),
        first_failed_at=few_instants,
        dead_at=few_instants,
    ),
    max_size=10,
)


@given(few_letters, filters, st.integers(1, 4))
async def test_pages_are_the_whole_in_order(kept: list[DeadLetter], wanted: LetterFilter, limit: int) -> None:
    store = MemoryDeadLetters(100)
    for letter in kept:
        await store.put(letter)
    expected = {letter.id: letter for letter in kept}

    whole = await store.select(wanted)
    pages: list[DeadLetter] = []
    while page := await store.select(wanted, after=pages[-1].id if pages else None, limit=limit):
        pages += page

    assert whole == [expected[one] for one in sorted(expected) if wanted.matches(expected[one])] == pages
    assert await store.purge(wanted) == len(whole)
    assert await store.count() == len(expected) - len(whole)
