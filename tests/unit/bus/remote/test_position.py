"""How far a handler is, what it has left open, and what the next member is told of it."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.bus.remote.position import Position, Progress, decode, encode, first_position

LOG = "2026-01-01T00:00:00Z"


def progress(position: Position | None = None, *, last: int = 100) -> Progress:
    return Progress(position or Position(log=LOG), log=LOG, last=last)


def test_what_is_done_in_order_leaves_nothing_open() -> None:
    lane = progress()
    for number in (3, 7, 9):
        lane.take(number)
        lane.finish(number)

    assert lane.position("me") == Position(member="me", log=LOG, done=9, given=0)


def test_what_is_not_done_before_what_is_stays_open() -> None:
    lane = progress()
    for number in (3, 7, 9, 12):
        lane.take(number)
    lane.finish(9)

    position = lane.position("me")

    assert (position.done, position.open) == (9, [3, 7])


def test_what_is_passed_over_is_not_looked_at_again_behind_a_few_that_are_open() -> None:
    lane = progress()
    for number in (3, 7):
        lane.take(number)
    lane.pass_over(90)
    lane.finish(7)

    position = lane.position("me")

    assert (position.done, position.open) == (90, [3])
    following = progress(position)
    assert [following.take(number) for number in (3, 7, 50, 91)] == [True, False, False, True]


def test_what_is_passed_over_behind_many_that_are_open_is_looked_at_again() -> None:
    lane = progress()
    for number in range(1, 31):
        lane.take(number)
    lane.finish(4)
    lane.pass_over(90)

    position = lane.position("me")

    assert (position.done, position.open) == (4, [1, 2, 3])


def test_what_was_given_already_is_not_passed_over() -> None:
    lane = progress()
    lane.take(50)
    lane.pass_over(20)

    assert lane.position("me").done == 0


def test_the_next_member_is_told_what_may_have_begun_and_what_has_not() -> None:
    lane = progress()
    for number in (3, 7, 9, 12, 15):
        lane.take(number)
    lane.finish(7)
    lane.count(9, 2)
    lane.give_back(12)

    following = progress(lane.released())

    assert following.again == [3]
    assert [following.attempts(number) for number in (3, 9, 12, 15, 16)] == [None, 2, 0, None, 0]


def test_what_was_published_after_a_member_had_died_was_given_to_nobody() -> None:
    following = progress(Position(log=LOG, done=10, given=1000), last=20)

    assert [following.attempts(number) for number in (11, 20, 21)] == [None, None, 0]


def test_a_stream_that_was_made_anew_is_read_from_its_beginning() -> None:
    following = progress(Position(log="another", done=50, open=[3], given=60, attempts={3: 1}))

    assert (following.done, following.again, following.attempts(3)) == (0, [], 0)


def test_a_stream_that_lost_its_end_goes_on_behind_what_is_left() -> None:
    following = progress(Position(log=LOG, done=50, open=[3, 40], given=60), last=30)

    assert (following.done, following.again) == (30, [3])


def test_what_a_handler_ends_with_after_its_lane_came_back_is_not_given_again() -> None:
    lane = progress(Position(log=LOG, done=5, open=[2]))
    lane.finish(2)
    lane.finish(7)

    assert [lane.take(number) for number in (2, 6, 7, 8)] == [False, True, False, True]
    lane.finish(6)
    position = lane.position("me")
    assert (position.done, position.open) == (7, [])


def test_what_was_known_before_a_lane_was_lost_is_known_when_nobody_had_it_since() -> None:
    before = progress()
    before.take(3)
    before.give_back(3)
    lane = progress(Position(log=LOG, given=50))

    lane.learn(before)

    assert [lane.attempts(number) for number in (3, 4)] == [0, None]


def test_a_new_group_begins_at_the_end_or_with_the_first_event() -> None:
    assert first_position("latest", log=LOG, last=9) == Position(log=LOG, done=9, given=9)
    assert first_position("earliest", log=LOG, last=9) == Position(log=LOG)


def test_what_is_no_position_is_none() -> None:
    assert [decode(value) for value in (b"", b"null", b"\xff", b'{"done":"x"}')] == [None] * 4


@given(st.data(), st.lists(st.integers(1, 1000), unique=True, max_size=50).map(sorted))
def test_members_after_each_other_handle_everything_once_that_was_done(data: st.DataObject, numbers: list[int]) -> None:
    position = Position(log=LOG)
    done: list[int] = []
    for _ in range(4):
        lane = progress(position, last=1000)
        given_out = [*lane.again, *(number for number in numbers if number > lane.done)]
        taken = [number for number in given_out[: data.draw(st.integers(0, 60))] if lane.take(number)]
        for number in data.draw(st.lists(st.sampled_from(taken), unique=True)) if taken else []:
            lane.finish(number)
            done.append(number)
        kept = decode(encode(lane.released()))
        assert kept is not None
        position = kept

    rest = progress(position, last=1000)
    assert sorted([*done, *rest.again, *(number for number in numbers if number > rest.done)]) == numbers
