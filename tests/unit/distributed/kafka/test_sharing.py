"""Partitions are shared evenly, move as little as can be, and are never in two hands."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.kafka.sharing import Claim, read_claim, shares, write_claim

MEMBERS = ("anna", "ben", "cleo", "dan", "eve")


@st.composite
def claims(draw: st.DrawFn) -> tuple[int, dict[str, Claim]]:
    count = draw(st.integers(1, 20))
    members = draw(st.lists(st.sampled_from(MEMBERS), min_size=1, unique=True))
    owners = draw(st.lists(st.sampled_from([*members, None]), min_size=count, max_size=count))
    return count, {
        member: Claim(1, tuple(number for number, owner in enumerate(owners) if owner == member)) for member in members
    }


@given(claims())
def test_nobody_is_given_what_another_still_has(given_claims: tuple[int, dict[str, Claim]]) -> None:
    count, before = given_claims

    for member, share in shares(range(count), before).items():
        for other, claim in before.items():
            assert other == member or not share & set(claim.partitions)


@given(claims())
def test_when_all_have_given_up_what_they_should_everything_is_shared_evenly(
    given_claims: tuple[int, dict[str, Claim]],
) -> None:
    count, before = given_claims

    first = shares(range(count), before)
    second = shares(range(count), {member: Claim(2, tuple(share)) for member, share in first.items()})

    assert sorted(number for share in second.values() for number in share) == list(range(count))
    assert max(map(len, second.values())) - min(map(len, second.values())) <= 1
    assert all(first[member] <= second[member] for member in first)


@given(claims())
def test_what_is_even_stays_as_it_is(given_claims: tuple[int, dict[str, Claim]]) -> None:
    count, before = given_claims
    even = shares(range(count), before)
    for _ in range(2):
        even = shares(range(count), {member: Claim(2, tuple(share)) for member, share in even.items()})

    assert shares(range(count), {member: Claim(3, tuple(share)) for member, share in even.items()}) == even


def test_only_as_many_move_as_must() -> None:
    before = {"anna": Claim(1, (0, 1, 2, 3)), "ben": Claim(1, (4, 5, 6, 7)), "cleo": Claim()}

    after = shares(range(8), before)

    assert after == {"anna": {0, 1, 2}, "ben": {4, 5, 6}, "cleo": frozenset()}


def test_of_two_that_claim_the_same_the_one_has_it_that_got_it_last() -> None:
    assert shares([0], {"anna": Claim(3, (0,)), "ben": Claim(4, (0,))}) == {"anna": frozenset(), "ben": {0}}


def test_partitions_that_are_no_more_are_nobodys() -> None:
    assert shares([0], {"anna": Claim(1, (0, 1, 2))}) == {"anna": {0}}


def test_a_group_of_nobody_has_no_shares() -> None:
    assert shares([0, 1], {}) == {}


@given(st.binary() | st.sampled_from([b"", b"{}", b'{"generation":"x"}', b"[]"]))
def test_a_claim_from_anywhere_raises_nothing(data: bytes) -> None:
    assert read_claim(data).partitions == ()


@given(st.integers(-1, 2**31 - 1), st.lists(st.integers(0, 1023)))
def test_a_claim_is_read_back(generation: int, partitions: list[int]) -> None:
    claim = Claim(generation, tuple(partitions))

    assert read_claim(write_claim(claim)) == claim
