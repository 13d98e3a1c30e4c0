"""How far a handler is survives being written down, and never says that an event is done that is not."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.kafka.progress import MOST_BYTES, Noted, Progress, read, write

OFFSETS = st.integers(0, 2**63 - 1)


@st.composite
def noted(draw: st.DrawFn, most: int = 40) -> Noted:
    offset = draw(st.integers(0, 2**62))
    done = draw(st.frozensets(st.integers(1, 2000), max_size=most))
    attempts = draw(st.dictionaries(st.integers(0, 2000), st.integers(1, 100), max_size=most))
    ahead = draw(st.integers(0, 5000))
    return Noted(
        offset,
        offset + ahead,
        frozenset(offset + distance for distance in done),
        {offset + distance: count for distance, count in attempts.items()},
    )


@given(noted())
def test_what_is_written_is_read_back(before: Noted) -> None:
    assert read(before.offset, write(before)) == before


@given(noted(most=2000), st.integers(1, 600))
def test_what_does_not_fit_is_left_out_and_nothing_is_made_up(before: Noted, most_bytes: int) -> None:
    text = write(before, most_bytes=most_bytes)
    after = read(before.offset, text)

    assert len(text.encode()) <= max(most_bytes, len(f"1;m:{before.given_to - before.offset:x}"))
    assert after.done <= before.done
    assert after.attempts.items() <= before.attempts.items()


def test_the_runs_that_are_nearest_are_kept() -> None:
    before = Noted(0, 0, frozenset(range(1, 4000, 2)))

    after = read(0, write(before))

    assert len(write(before)) <= MOST_BYTES
    assert after.done == frozenset(range(1, max(after.done) + 1, 2))
    assert len(after.done) > 900


def test_attempts_come_before_what_is_done() -> None:
    before = Noted(0, 0, frozenset(range(1, 4000, 2)), dict.fromkeys(range(0, 400, 2), 3))

    assert read(0, write(before)).attempts == before.attempts


@given(OFFSETS, st.text() | st.from_regex(r"1;[mad]:[0-9a-f,-]*(;[mad]:[0-9a-f,-]*)*", fullmatch=True))
def test_metadata_from_anywhere_raises_nothing(offset: int, metadata: str) -> None:
    assert read(offset, metadata).offset == offset


@given(OFFSETS)
def test_an_offset_that_another_committed_says_no_more_than_itself(offset: int) -> None:
    assert read(offset, "") == read(offset, "their own notes") == Noted(offset)


@given(st.data())
def test_a_takeover_gives_out_what_is_not_done_and_nothing_else(data: st.DataObject) -> None:
    before = Progress(Noted(10, 10))
    offsets = sorted(data.draw(st.sets(st.integers(10, 60), min_size=1), label="what is in the partition"))
    given_out = [offset for offset in offsets if before.give(offset)]
    finished = data.draw(st.lists(st.sampled_from(given_out), unique=True), label="what is done, in this order")
    for offset in finished:
        before.finish(offset)

    note = before.noted()
    after = Progress(read(note.offset, write(note)))
    again = [offset for offset in offsets if offset >= note.offset and after.give(offset)]

    assert again == [offset for offset in offsets if offset not in finished]


@given(st.data())
def test_the_offset_is_never_behind_an_event_that_is_not_done(data: st.DataObject) -> None:
    progress = Progress(Noted(0))
    for offset in range(30):
        progress.give(offset)
    left = set(range(30))
    for offset in data.draw(st.permutations(range(30))):
        progress.finish(offset)
        left.discard(offset)

        assert progress.offset == min(left, default=30)
        assert not progress.noted().done & left


def test_attempts_are_known_to_whoever_comes_next_until_the_event_is_done() -> None:
    progress = Progress(Noted(5))
    progress.give(5)
    progress.give(6)

    assert progress.count(6, 3)
    assert progress.count(6, 2)  # it was suspected of one more, and has come to an end
    assert not progress.count(6, 2)
    assert Progress(progress.noted()).attempts(6) == 2
    progress.finish(6)
    assert Progress(progress.noted()).attempts(6) == 0


def test_what_may_have_begun_comes_again_as_such() -> None:
    before = Progress(Noted(0))
    before.safe_to = 3
    before.give(0)

    after = Progress(before.noted())

    assert [after.is_again(offset) for offset in (0, 2, 3)] == [True, True, False]


def test_of_what_was_given_back_only_what_had_begun_comes_again_as_such() -> None:
    before = Progress(Noted(0))
    before.safe_to = 9
    for offset in range(3):
        before.give(offset)
    before.give_back(0, has_begun=True)
    before.give_back(1, has_begun=False)
    before.give_back(2, has_begun=False)
    before.close()

    assert [Progress(before.noted()).is_again(offset) for offset in range(3)] == [True, False, False]


def test_an_event_that_runs_on_while_its_partition_comes_back_is_not_given_out_a_second_time() -> None:
    progress = Progress(Noted(3))

    progress.finish(5)

    assert [progress.give(offset) for offset in (3, 4, 5, 6)] == [True, True, False, True]
    assert progress.noted().offset == 3


def test_what_is_gone_is_passed_by() -> None:
    progress = Progress(Noted(3))

    progress.pass_to(10)

    assert progress.offset == 10
