"""Topics, the patterns that select them, and a trie that finds the subscriptions of a topic.

A topic is text in segments split by dots. In a pattern, ``*`` is exactly one segment and ``**`` zero or more, anywhere;
a lone ``*`` is every topic, as a lone ``**`` is.
"""

import re
from collections.abc import Hashable, Sequence
from itertools import accumulate
from sys import getsizeof
from typing import Final, Generic, TypeVar

from avx_events.core.errors import InvalidTopicError

ValueT = TypeVar("ValueT", bound=Hashable)

MAX_TOPIC_CHARACTERS: Final = 1024
"""The longest topic or pattern. Brokers allow less or more; this is the same everywhere."""

ONE: Final = "*"
MANY: Final = "**"

_SEGMENT = r"[^\s.*\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_TOPIC: Final = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*")
_PATTERN: Final = re.compile(rf"(?:{_SEGMENT}|\*\*?)(?:\.(?:{_SEGMENT}|\*\*?))*")
_WHITE_SPACE: Final = re.compile(r"\s")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

# What one generation of the match cache may take, roughly. A bound on entries would not do: one entry may hold a
# hundred thousand subscriptions.
_GENERATION_BYTES: Final = 4 * 1024 * 1024
_SLOT_BYTES: Final = 100


def check_topic(topic: object) -> str:
    """Return ``topic`` if it is well formed.

    Raises:
        InvalidTopicError: It is not text, is empty or longer than ``MAX_TOPIC_CHARACTERS``, or has an empty segment, a
            wildcard, white space, a control character or a lone surrogate.
    """
    if isinstance(topic, str) and len(topic) <= MAX_TOPIC_CHARACTERS and _TOPIC.fullmatch(topic):
        return topic
    raise InvalidTopicError(topic, _problem(topic, wildcards_allowed=False))


def check_pattern(pattern: object) -> str:
    """Return ``pattern`` if it is well formed.

    Raises:
        InvalidTopicError: It is not text, is empty or longer than ``MAX_TOPIC_CHARACTERS``, or has an empty segment, a
            wildcard beside other characters of a segment, white space, a control character or a lone surrogate.
    """
    if isinstance(pattern, str) and len(pattern) <= MAX_TOPIC_CHARACTERS and _PATTERN.fullmatch(pattern):
        return pattern
    raise InvalidTopicError(pattern, _problem(pattern, wildcards_allowed=True))


def matches(pattern: str, topic: str) -> bool:
    """Return whether ``pattern`` selects ``topic``; for one check, where a ``TopicTrie`` would not pay.

    Takes time in proportion to the segments of the one times those of the other, whatever the pattern.

    Raises:
        InvalidTopicError: One of them is malformed.
    """
    wanted = _parts(check_pattern(pattern))
    segments = check_topic(topic).split(".")
    # reached[n]: the parts so far can match exactly the first n segments. Once reached, '**' reaches all that follow.
    reached = [True] + [False] * len(segments)
    for part in wanted:
        if part == MANY:
            reached = list(accumulate(reached, max))
        else:
            fits = (part in (ONE, segment) for segment in segments)
            reached = [False, *(before and fit for before, fit in zip(reached, fits, strict=False))]
    return reached[-1]


class TopicTrie(Generic[ValueT]):
    """Values by pattern; finds those of a topic at a cost that values of other topics do not raise.

    Found tuples are remembered until a pattern is added or removed. A hot path may read ``recent`` itself
    (``trie.recent.get(topic)``) and call ``match`` where that gives None; the attribute is to be read anew each time.
    Not safe between threads.

    Attributes:
        recent: Found tuples by topic: the younger generation of the cache. Not to be changed from outside.
    """

    __slots__ = ("_count", "_next_order", "_older", "_room_bytes", "_root", "recent")

    def __init__(self) -> None:
        """Begin empty."""
        self.recent: dict[str, tuple[ValueT, ...]] = {}
        self._older: dict[str, tuple[ValueT, ...]] = {}
        self._room_bytes = _GENERATION_BYTES
        self._root: _Node[ValueT] = _Node()
        self._next_order = 0
        self._count = 0

    def __len__(self) -> int:
        """Count the pairs of pattern and value."""
        return self._count

    def add(self, pattern: str, value: ValueT) -> None:
        """Give ``value`` to the topics of ``pattern``. The same pair again changes nothing, its place included.

        Raises:
            InvalidTopicError: The pattern is malformed.
            TypeError: The value cannot be hashed.
        """
        # By pattern too: "*" and "**" share a node, and removing one must leave the other.
        pair = (pattern, value)
        hash(pair)  # now, not when nodes are made already
        node = self._root
        for part in _parts(check_pattern(pattern)):
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = _Node(repeats=part == MANY)
            node = child
        if pair in node.orders:
            return
        node.orders[pair] = self._next_order
        self._next_order += 1
        self._count += 1
        self._forget()

    def remove(self, pattern: str, value: ValueT) -> None:
        """Take back one ``add`` of this pair; harmless where there was none.

        Raises:
            InvalidTopicError: The pattern is malformed.
        """
        node = self._root
        path: list[tuple[_Node[ValueT], str]] = []
        for part in _parts(check_pattern(pattern)):
            path.append((node, part))
            child = node.children.get(part)
            if child is None:
                return
            node = child
        if node.orders.pop((pattern, value), None) is None:
            return
        self._count -= 1
        self._forget()
        _prune(path)

    def match(self, topic: str) -> tuple[ValueT, ...]:
        """Return the values whose patterns select ``topic``, in the order they were added, each once.

        A value that several patterns select stands where the first of these was added.

        Raises:
            InvalidTopicError: The topic is malformed.
        """
        try:
            found = self.recent.get(topic)
        except TypeError:  # unhashable, so no text: the check below says so
            found = None
        return self._look_up(topic) if found is None else found

    def _look_up(self, topic: str) -> tuple[ValueT, ...]:
        check_topic(topic)
        found = self._older.get(topic)
        if found is None:
            found = _in_order(self._reached(topic))
        self._remember(topic, found)
        return found

    def _reached(self, topic: str) -> "dict[_Node[ValueT], None]":
        """Walk all ways at once, as a set of nodes, so that no pattern makes the work multiply."""
        reached: dict[_Node[ValueT], None] = {}
        _enter(self._root, reached)
        for segment in topic.split("."):
            following: dict[_Node[ValueT], None] = {}
            for node in reached:
                if node.repeats:
                    following[node] = None
                for part in (segment, ONE):
                    child = node.children.get(part)
                    if child is not None:
                        _enter(child, following)
            reached = following
        return reached

    def _remember(self, topic: str, found: tuple[ValueT, ...]) -> None:
        self._room_bytes -= getsizeof(topic) + getsizeof(found) + _SLOT_BYTES
        if self._room_bytes < 0:
            self._older = self.recent
            self.recent = {}
            self._room_bytes = _GENERATION_BYTES
        self.recent[topic] = found

    def _forget(self) -> None:
        if self.recent or self._older:
            self.recent = {}
            self._older = {}
            self._room_bytes = _GENERATION_BYTES


class _Node(Generic[ValueT]):
    """One part of one or more patterns."""

    __slots__ = ("children", "orders", "repeats")

    def __init__(self, *, repeats: bool = False) -> None:
        # Wildcards are keys like others: no topic has a segment of that text.
        self.children: dict[str, _Node[ValueT]] = {}
        self.orders: dict[tuple[str, ValueT], int] = {}
        self.repeats = repeats


def _enter(node: _Node[ValueT], reached: dict[_Node[ValueT], None]) -> None:
    reached[node] = None
    many = node.children.get(MANY)  # it also matches no segment; it has no such child itself, see _parts
    if many is not None:
        reached[many] = None


def _in_order(nodes: dict[_Node[ValueT], None]) -> tuple[ValueT, ...]:
    found = sorted((order, value) for node in nodes for (_, value), order in node.orders.items())
    return tuple(dict.fromkeys(value for _, value in found))


def _prune(path: Sequence[tuple[_Node[ValueT], str]]) -> None:
    for parent, part in reversed(path):
        child = parent.children[part]
        if child.children or child.orders:
            return
        del parent.children[part]


def _parts(pattern: str) -> list[str]:
    """Split a well formed pattern; ``**`` beside ``**`` adds nothing and is left out."""
    if pattern == ONE:
        return [MANY]
    parts = pattern.split(".")
    return [part for before, part in zip(["", *parts], parts, strict=False) if not part == before == MANY]


def _problem(topic: object, *, wildcards_allowed: bool) -> str:  # noqa: PLR0911 - one line for each rule
    if not isinstance(topic, str):
        return "is not text; a topic is a str, as 'orders.placed'"
    if not topic:
        return "is empty; name at least one segment, as 'orders.placed'"
    if len(topic) > MAX_TOPIC_CHARACTERS:
        return f"has {len(topic):,} characters, more than {MAX_TOPIC_CHARACTERS:,}"
    if _WHITE_SPACE.search(topic):
        return "has white space in it"
    if _CONTROL.search(topic):
        return "has a control character in it"
    if _SURROGATE.search(topic):
        return "has a lone surrogate in it, which UTF-8 cannot carry"
    segments = topic.split(".")
    if "" in segments:
        return "has an empty segment: a dot at its start or end, or two dots in a row"
    if not wildcards_allowed:
        return "has a wildcard in it, which only patterns may have"
    wrong = next(segment for segment in segments if "*" in segment and segment not in (ONE, MANY))
    return f"has the segment {wrong!r}; a wildcard is a whole segment, '*' for one or '**' for any number"
