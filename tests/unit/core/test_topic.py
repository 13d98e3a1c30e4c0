"""Topics, patterns and the trie, case by case; the laws are in tests/property/test_topic.py."""

import sys
from collections.abc import Callable
from sys import getsizeof
from types import FrameType
from typing import Any

import pytest

from avx_events.core.errors import InvalidTopicError, UsageError
from avx_events.core.topic import MAX_TOPIC_CHARACTERS, TopicTrie, check_pattern, check_topic, matches

MALFORMED: list[tuple[object, str]] = [
    ("", "empty"),
    (".", "empty segment"),
    (".a", "empty segment"),
    ("a.", "empty segment"),
    ("a..b", "empty segment"),
    ("a b", "white space"),
    ("a.b\n", "white space"),
    ("a\u2028b", "white space"),
    ("a\u00a0b", "white space"),
    ("a\x00b", "control character"),
    ("a\x7fb", "control character"),
    ("a\x9bb", "control character"),
    ("a.\ud800", "surrogate"),
    ("x" * (MAX_TOPIC_CHARACTERS + 1), "characters"),
    (None, "not text"),
    (b"a.b", "not text"),
    (7, "not text"),
    (["a"], "not text"),
]


@pytest.mark.parametrize(("text", "problem"), MALFORMED)
@pytest.mark.parametrize("check", [check_topic, check_pattern, TopicTrie[int]().match])
def test_malformed_text_is_refused_with_what_is_wrong_with_it(
    check: Callable[[object], object], text: object, problem: str
) -> None:
    with pytest.raises(InvalidTopicError, match=problem) as caught:
        check(text)

    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("pattern", ["a*", "*a", "a.b*.c", "***", "a.***", "****", "**a", "a.*b*"])
def test_a_wildcard_beside_other_characters_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidTopicError, match="whole segment"):
        check_pattern(pattern)


@pytest.mark.parametrize("topic", ["*", "**", "a.*", "**.a", "a*"])
def test_a_topic_with_a_wildcard_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopicError, match="only patterns"):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["a", "users.created", "ünïcode.✓", "a-b_c/d:e", "x" * MAX_TOPIC_CHARACTERS])
def test_well_formed_topics_come_back_as_they_are(topic: str) -> None:
    assert check_topic(topic) == topic
    assert check_pattern(topic) == topic


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("users.*", "users.created", True),
        ("users.*", "users", False),
        ("users.*", "users.a.b", False),
        ("orders.**", "orders", True),
        ("orders.**", "orders.a", True),
        ("orders.**", "orders.a.b.c", True),
        ("orders.**", "order", False),
        ("*", "a", True),
        ("*", "a.b.c", True),
        ("**", "a.b.c", True),
        ("*.*", "a.b", True),
        ("*.*", "a", False),
        ("*.*", "a.b.c", False),
        ("**.*", "a", True),
        ("**.b.**", "b", True),
        ("**.b.**", "a.b.c", True),
        ("**.b.**", "a.c", False),
        ("a.**.**.b", "a.b", True),
        ("a.**.*.b", "a.b", False),
        ("Users.created", "users.created", False),
    ],
)
def test_patterns_select_what_the_design_says(pattern: str, topic: str, *, expected: bool) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, "value")

    assert matches(pattern, topic) == expected
    assert trie.match(topic) == (("value",) if expected else ())


def test_a_match_sees_what_was_added_and_removed_since_the_last_one() -> None:
    trie: TopicTrie[str] = TopicTrie()
    assert trie.match("a.b") == ()

    trie.add("a.*", "first")
    trie.add("**", "second")
    assert trie.match("a.b") == ("first", "second")

    trie.remove("a.*", "first")
    assert trie.match("a.b") == ("second",)


def test_values_come_in_the_order_of_their_first_matching_pattern() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add("a.b", "late")
    trie.add("**.b", "early")
    trie.remove("a.b", "late")
    trie.add("*.b", "late")
    trie.add("a.**", "early")

    assert trie.match("a.b") == ("early", "late")
    assert trie.match("a.c") == ("early",)


def test_two_spellings_of_every_topic_are_two_pairs() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add("*", "value")
    trie.add("**", "value")
    assert len(trie) == 2

    trie.remove("*", "value")

    assert len(trie) == 1
    assert trie.match("a") == ("value",)


def test_a_malformed_pattern_leaves_the_trie_as_it_was() -> None:
    trie: TopicTrie[int] = TopicTrie()

    with pytest.raises(InvalidTopicError):
        trie.add("a.b.***", 1)
    with pytest.raises(InvalidTopicError):
        trie.remove("a..b", 1)

    assert len(trie) == 0
    assert trie.match("a.b") == ()


def test_a_value_that_cannot_be_hashed_leaves_the_trie_as_it_was() -> None:
    trie: TopicTrie[Any] = TopicTrie()

    with pytest.raises(TypeError, match="unhashable"):
        trie.add("a.b", [])

    assert len(trie) == 0
    assert not trie._root.children


def test_removing_everything_leaves_no_nodes_behind() -> None:
    trie: TopicTrie[int] = TopicTrie()
    patterns = [f"a.{n}.**.c{n % 7}" for n in range(500)]
    for pattern in patterns:
        trie.add(pattern, 1)

    for pattern in patterns:
        trie.remove(pattern, 1)

    assert len(trie) == 0
    assert not trie._root.children


def test_the_cache_is_bounded_however_many_topics_and_however_long_the_answers() -> None:
    trie: TopicTrie[int] = TopicTrie()
    for value in range(2_000):
        trie.add("**", value)

    for number in range(3_000):
        assert len(trie.match(f"topic.{number}")) == 2_000

    held = sum(getsizeof(found) for found in [*trie.recent.values(), *trie._older.values()])
    assert held <= 8 * 1024 * 1024
    assert trie.match("topic.0") == tuple(range(2_000))


def test_a_topic_in_use_survives_the_change_of_generations() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add("kept", "value")
    kept = trie.match("kept")

    for number in range(100_000):
        trie.match(f"other.{number}")
        assert trie.match("kept") is kept


def _steps(action: Callable[[], object]) -> int:
    """Count the lines that ``action`` runs: the same each time, whatever else the machine does."""
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal steps
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


def _trie_of(count: int) -> TopicTrie[int]:
    trie: TopicTrie[int] = TopicTrie()
    for n in range(count):
        trie.add([f"t{n}.created", f"t{n}.*", f"*.c{n}", f"**.d{n}", f"t{n}.**"][n % 5], n)
    return trie


def _miss_all(trie: TopicTrie[int]) -> None:
    trie._forget()
    for n in range(1_000):
        trie.match(f"t{n % 10}.x{n}")


def test_a_hundred_thousand_subscriptions_cost_less_than_twice_what_ten_do() -> None:
    small, large = _trie_of(10), _trie_of(100_000)

    assert _steps(lambda: _miss_all(large)) < 2 * _steps(lambda: _miss_all(small))


def test_adding_and_removing_one_of_a_hundred_thousand_is_as_cheap_as_one_of_ten() -> None:
    small, large = _trie_of(10), _trie_of(100_000)

    def churn(trie: TopicTrie[int]) -> None:
        for n in range(300):
            trie.add(f"new.{n}.**", n)
        for n in range(300):
            trie.remove(f"new.{n}.**", n)

    assert _steps(lambda: churn(large)) < 2 * _steps(lambda: churn(small))


@pytest.mark.parametrize("pattern", [".".join(["**", "a"] * 200), ".".join(["**", "*"] * 200), ".".join(["**"] * 300)])
def test_hostile_patterns_do_not_make_the_work_multiply(pattern: str) -> None:
    topic = ".".join(["a"] * 500) + ".b"
    trie: TopicTrie[int] = TopicTrie()
    trie.add(pattern, 1)
    trie.add(f"{pattern}.c", 2)

    found: list[tuple[int, ...]] = []
    steps = _steps(lambda: found.append(trie.match(topic)))

    assert steps < 3 * len(pattern) * len(topic)
    assert found[0] == ((1,) if matches(pattern, topic) else ())
