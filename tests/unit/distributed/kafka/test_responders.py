"""Who responds to which requests, as records say that are written in this order at these times."""

from avx_events.distributed.kafka.responders import LIFE_S, BrokersTime, Responders, SignOfLife
from avx_events.testing import ManualClock

LIFE_MS = int(LIFE_S * 1000)
BEGIN_MS = 1_000_000


def after_signs(*signs: tuple[int, str, int, tuple[str, ...]]) -> Responders:
    """Return what is known after signs of life: when, whose, with which number, and for which types."""
    responders = Responders()
    for at_ms, address, number, types in signs:
        responders.pass_to(at_ms)
        responders.hear(address, number, SignOfLife(types))
    return responders


def test_those_who_are_there_are_asked_in_turn() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 1, ("ask",)), (BEGIN_MS, "1.b", 1, ("ask", "other")))

    assert {responders.next("ask") for _ in range(2)} == {"1.a", "1.b"}
    assert {responders.next("other") for _ in range(2)} == {"1.b"}
    assert responders.next("third") is None


def test_who_left_is_asked_no_more_and_not_expected_back() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 1, ("ask",)), (BEGIN_MS + 1, "1.a", 2, ()))

    assert responders.next("ask") is None
    assert not responders.is_there("1.a", "ask")
    assert not responders.may_come_back("ask")


def test_a_sign_of_life_that_comes_after_a_later_one_says_nothing() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 2, ()), (BEGIN_MS + 1, "1.a", 1, ("ask",)))

    assert responders.next("ask") is None


def test_who_gives_no_sign_of_life_counts_as_gone_by_the_time_of_the_records() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 1, ("ask",)))

    responders.pass_to(BEGIN_MS + LIFE_MS - 1)
    assert responders.is_there("1.a", "ask")
    responders.pass_to(BEGIN_MS + LIFE_MS)
    assert not responders.is_there("1.a", "ask")
    assert not responders.may_come_back("ask")


def test_after_a_silence_of_all_those_who_were_there_have_time_to_come_back() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 1, ("ask",)))
    back_ms = BEGIN_MS + LIFE_MS + 1

    responders.pass_to(back_ms)
    responders.hear("1.b", 1, SignOfLife(()))
    assert responders.next("ask") is None
    assert responders.may_come_back("ask")
    responders.hear("1.a", 2, SignOfLife(("ask",)))
    assert responders.next("ask") == "1.a"


def test_nobody_is_expected_back_for_longer_than_a_life() -> None:
    responders = after_signs((BEGIN_MS, "1.a", 1, ("ask",)), (BEGIN_MS + LIFE_MS + 1, "1.b", 1, ()))

    responders.pass_to(BEGIN_MS + 2 * LIFE_MS)
    assert responders.may_come_back("ask")
    responders.pass_to(BEGIN_MS + 2 * LIFE_MS + 1)
    assert not responders.may_come_back("ask")


def test_the_brokers_time_goes_on_from_a_record_that_was_written_at_a_known_time() -> None:
    clock = ManualClock()
    time = BrokersTime(clock)
    sent_at = clock.monotonic()

    time.learn(BEGIN_MS, sent_at=sent_at - 0.2, accepted_at=sent_at)
    clock.advance(1.5)

    assert round(time.now_ms() - BEGIN_MS) == 1600


def test_a_record_that_took_long_to_be_written_says_nothing_of_the_time() -> None:
    clock = ManualClock()
    time = BrokersTime(clock)
    sent_at = clock.monotonic()
    time.learn(BEGIN_MS, sent_at=sent_at, accepted_at=sent_at)

    time.learn(BEGIN_MS + 9_000, sent_at=sent_at - 10, accepted_at=sent_at)

    assert round(time.now_ms()) == BEGIN_MS


def test_the_brokers_time_is_fresh_for_half_a_minute() -> None:
    clock = ManualClock()
    time = BrokersTime(clock)
    time.learn(BEGIN_MS, sent_at=clock.monotonic(), accepted_at=clock.monotonic())

    clock.advance(29)
    assert time.is_fresh
    clock.advance(2)
    assert not time.is_fresh
