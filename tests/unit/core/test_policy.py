"""Retry decides delays that are bounded, and attempts that end."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avx_events.core.errors import InvalidArgumentError
from avx_events.core.policy import ONE_ATTEMPT, OVERFLOWS, Discard, Reject, Retry, RetryAfter

seconds = st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**12)
multipliers = st.floats(1, allow_nan=False, allow_infinity=False) | st.integers(1, 10**12)
policies = st.builds(Retry, attempts=st.integers(1, 10**9), initial_s=seconds, max_s=seconds, multiplier=multipliers)
jitters = st.floats(0, 1)


@given(policies, st.integers(2, 10**9), jitters)
@example(Retry(attempts=100, multiplier=1e300), 90, 1.0)
@example(Retry(attempts=100, initial_s=0, multiplier=1e300), 90, 1.0)
@example(Retry(attempts=10**9, multiplier=10**12), 10**9, 1.0)
def test_every_pause_is_finite_and_within_its_bound(policy: Retry, attempt: int, jitter: float) -> None:
    delay_s = policy.delay_before(attempt, jitter=jitter)

    if attempt > policy.attempts:
        assert delay_s is None
    else:
        assert delay_s is not None
        assert math.isfinite(delay_s)
        assert 0 <= delay_s <= policy.max_s


@given(policies, jitters)
def test_attempts_end(policy: Retry, jitter: float) -> None:
    assert policy.delay_before(policy.attempts, jitter=jitter) is not None
    assert policy.delay_before(policy.attempts + 1, jitter=jitter) is None


@given(policies, st.integers(2, 500))
def test_bounds_never_shrink(policy: Retry, attempt: int) -> None:
    sooner, later = (policy.delay_before(n, jitter=1.0) for n in (attempt, attempt + 1))

    assert later is None or (sooner is not None and sooner <= later)


def test_the_defaults_are_five_attempts_that_double_from_a_tenth_of_a_second() -> None:
    delays = [Retry().delay_before(attempt, jitter=1.0) for attempt in range(2, 7)]

    assert delays == [0.1, 0.2, 0.4, 0.8, None]


def test_a_slow_growth_reaches_its_cap_too() -> None:
    assert Retry(attempts=10_000, initial_s=0.1, max_s=1e6, multiplier=1.01).delay_before(9_999, jitter=1.0) == 1e6


def test_jitter_is_the_share_of_the_bound() -> None:
    assert Retry(initial_s=2).delay_before(2, jitter=0.25) == 0.5
    assert Retry(initial_s=2).delay_before(2, jitter=0.0) == 0.0


def test_one_attempt_has_no_second() -> None:
    assert ONE_ATTEMPT.delay_before(2, jitter=0.5) is None


@pytest.mark.parametrize("attempts", [0, -1, 1.5, math.nan, math.inf, "5", None, True])
def test_attempts_are_a_whole_number_from_one(attempts: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="attempts"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["initial_s", "max_s", "multiplier"])
@pytest.mark.parametrize(
    "value", [-1, -0.1, math.nan, math.inf, -math.inf, pytest.param(10**400, id="10**400"), "1", None]
)
def test_seconds_and_multipliers_are_finite_numbers(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        Retry(**{name: value})


@pytest.mark.parametrize("delay_s", [-1, math.nan, math.inf, pytest.param(10**400, id="10**400"), "1", None])
def test_retry_after_needs_a_finite_delay(delay_s: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="delay_s"):
        RetryAfter(delay_s)


def test_instructions_say_why() -> None:
    assert str(RetryAfter(2.5)) == "retry after 2.5 s"
    assert str(RetryAfter(2.5, "rate limited")) == "rate limited"
    assert RetryAfter(0).delay_s == 0
    assert str(Discard("why")) == str(Reject("why")) == "why"


def test_a_policy_is_a_value() -> None:
    assert Retry() == Retry(attempts=5)
    assert hash(Retry()) == hash(Retry())
    assert OVERFLOWS == ("wait", "drop_oldest", "drop_newest", "raise")
