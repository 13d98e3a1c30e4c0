"""The topic trie answers as the naive matcher does, and the naive matcher as the definition does."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avx_events.core.errors import InvalidTopicError
from avx_events.core.topic import MAX_TOPIC_CHARACTERS, TopicTrie, check_pattern, check_topic, matches

# Three words only, so that topics and patterns meet often.
words = st.sampled_from(["a", "b", "ä"])
topics = st.lists(words, min_size=1, max_size=6).map(".".join)
patterns = st.lists(words | st.sampled_from(["*", "**"]), min_size=1, max_size=6).map(".".join)
values = st.integers(0, 4)


def by_definition(parts: list[str], segments: list[str]) -> bool:
    """Follow the definition of a match word by word, in exponential time."""
    if not parts:
        return not segments
    if parts[0] == "**":
        return any(by_definition(parts[1:], segments[taken:]) for taken in range(len(segments) + 1))
    return bool(segments) and parts[0] in ("*", segments[0]) and by_definition(parts[1:], segments[1:])


@given(patterns, topics)
def test_the_naive_matcher_follows_the_definition(pattern: str, topic: str) -> None:
    parts = ["**"] if pattern == "*" else pattern.split(".")

    assert matches(pattern, topic) == by_definition(parts, topic.split("."))


@given(topics)
def test_a_topic_is_a_pattern_of_itself_alone(topic: str) -> None:
    assert matches(topic, topic)
    assert not matches(topic, f"{topic}.a")


@given(st.text() | st.text(alphabet="ab.* \n\x00\ud800", max_size=8))
def test_any_text_is_a_pattern_or_refused_and_every_topic_is_a_pattern(text: str) -> None:
    try:
        check_topic(text)
    except InvalidTopicError:
        is_topic = False
    else:
        is_topic = True
    try:
        check_pattern(text)
    except InvalidTopicError:
        assert not is_topic
    else:
        assert is_topic == ("*" not in text)


@given(st.text(alphabet="ab.* \n\x00\x85\u2028\ud800", max_size=8))
def test_the_rules_are_those_that_are_written_down(text: str) -> None:
    def is_sound(segment: str) -> bool:
        return segment in ("*", "**") or (segment != "" and not set(segment) & set("* \n\x00\x85\u2028\ud800"))

    try:
        check_pattern(text)
    except InvalidTopicError:
        accepted = False
    else:
        accepted = True

    assert accepted == (all(map(is_sound, text.split("."))) and len(text) <= MAX_TOPIC_CHARACTERS)


class TrieAsTheNaiveMatcher(RuleBasedStateMachine):
    """Adds, removals and matches in any order, beside a list of pairs and ``matches``."""

    def __init__(self) -> None:
        super().__init__()
        self.trie: TopicTrie[int] = TopicTrie()
        self.pairs: list[tuple[str, int]] = []

    @rule(pattern=patterns, value=values)
    def add(self, pattern: str, value: int) -> None:
        self.trie.add(pattern, value)
        if (pattern, value) not in self.pairs:
            self.pairs.append((pattern, value))

    @rule(pattern=patterns, value=values)
    def remove_any(self, pattern: str, value: int) -> None:
        self.trie.remove(pattern, value)
        if (pattern, value) in self.pairs:
            self.pairs.remove((pattern, value))

    @rule(data=st.data())
    def remove_one_that_is_there(self, data: st.DataObject) -> None:
        if self.pairs:
            pattern, value = data.draw(st.sampled_from(self.pairs))
            self.trie.remove(pattern, value)
            self.pairs.remove((pattern, value))

    @rule(asked=st.lists(topics, min_size=1, max_size=5))
    def match(self, asked: list[str]) -> None:
        for topic in asked:
            expected = tuple(dict.fromkeys(value for pattern, value in self.pairs if matches(pattern, topic)))
            assert self.trie.match(topic) == expected
            assert self.trie.match(topic) == expected  # from the cache
            assert self.trie.recent[topic] == expected

    @invariant()
    def counts_its_pairs(self) -> None:
        assert len(self.trie) == len(self.pairs)


TestTrieAsTheNaiveMatcher = TrieAsTheNaiveMatcher.TestCase
