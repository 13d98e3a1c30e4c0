"""Members decide for themselves which lanes to take and to give, and come to shares that add up."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.bus.remote.shares import Plan, plan


def test_a_member_that_is_alone_takes_every_lane() -> None:
    assert plan("a", (), (), {}, lanes=4) == Plan(take=(0, 1, 2, 3))


def test_a_member_takes_nothing_that_another_holds_or_that_it_is_about_to_give() -> None:
    assert plan("b", (), (2,), {"a": (0, 1)}, lanes=4) == Plan(take=(3,))


def test_a_member_past_its_share_gives_its_last_lanes() -> None:
    assert plan("a", (0, 1, 2, 3), (), {"b": ()}, lanes=4) == Plan(give=(2, 3))


def test_those_who_come_at_once_begin_at_different_lanes() -> None:
    plans = [plan(name, (), (), {other: () for other in "abc" if other != name}, lanes=6) for name in "abc"]

    assert [one.take for one in plans] == [(0, 1), (2, 3), (4, 5)]


def test_lanes_for_others_are_named() -> None:
    assert plan("a", (), (), {"b": ()}, lanes=4) == Plan(take=(0, 1), rest=(2, 3))


@given(lanes=st.integers(1, 40), members=st.integers(1, 50), leaving=st.integers(0, 49))
def test_members_that_come_and_go_come_to_shares_that_add_up(lanes: int, members: int, leaving: int) -> None:
    held: dict[str, tuple[int, ...]] = {}
    for number in range(members):
        held[f"{number:02}"] = ()
        _settle(held, lanes)
    held.pop(f"{leaving % members:02}")
    _settle(held, lanes)

    if held:
        assert sorted(lane for of_one in held.values() for lane in of_one) == list(range(lanes))
        counts = {len(of_one) for of_one in held.values()}
        assert max(counts) - min(counts) <= 1


def _settle(held: dict[str, tuple[int, ...]], lanes: int) -> None:
    """Let each member do what it has planned, in turn, until nobody has anything to do."""
    for _ in range(2):
        for name, own in held.items():
            others = {other: of_other for other, of_other in held.items() if other != name}
            todo = plan(name, own, (), others, lanes=lanes)
            held[name] = tuple((set(own) - set(todo.give)) | set(todo.take))
