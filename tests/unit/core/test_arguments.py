"""Plain arguments are checked in one way."""

from math import inf, nan

import pytest

from avx_events.core.arguments import optional, seconds, text, whole
from avx_events.core.errors import InvalidArgumentError


@pytest.mark.parametrize("value", [1, 5, 10**30])
def test_whole_numbers_from_the_least_on_are_taken(value: int) -> None:
    assert whole("count", value, least=1) == value


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, nan])
def test_what_is_no_whole_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="count must be a whole number, 1 or more"):
        whole("count", value, least=1)


@pytest.mark.parametrize("value", [0, 11, "5"])
def test_a_number_with_a_greatest_is_told_both_bounds(value: object) -> None:
    assert whole("limit", 10, least=1, most=10) == 10
    with pytest.raises(InvalidArgumentError, match="limit must be a whole number, 1 to 10, not"):
        whole("limit", value, least=1, most=10)


@pytest.mark.parametrize("value", [1, 0.001, 1e9])
def test_finite_seconds_above_zero_are_taken(value: float) -> None:
    assert seconds("timeout_s", value) == value


@pytest.mark.parametrize("value", [0, -1, True, "1", None, nan, inf, pytest.param(10**400, id="10**400")])
def test_what_is_no_time_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout_s must be a finite number of seconds"):
        seconds("timeout_s", value)


def test_text_has_something_in_it() -> None:
    assert text("name", "a") == "a"
    for value in ("", " ", None, 3, b"a"):
        with pytest.raises(InvalidArgumentError, match="name must be text"):
            text("name", value)


def test_an_optional_value_is_none_or_of_its_kind() -> None:
    optional("retry", None, int)
    optional("retry", 3, int)

    with pytest.raises(InvalidArgumentError, match="retry must be a int, or None"):
        optional("retry", "3", int)
