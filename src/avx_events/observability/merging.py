"""One answer to a scrape, from several processes: those that share an address, so that a scrape reaches any of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from avx_events.core.errors import InvalidArgumentError

_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_FAMILY: Final = re.compile(rb"^# HELP (\S+)", re.MULTILINE)
_SAMPLE: Final = re.compile(rb'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?|^\{("(?:[^"\\]|\\.)*")(,)?')


def merged_text(texts: Mapping[str, bytes], *, label: str) -> bytes:
    """Return what several processes answer as one text, in which each sample says whose it is.

    Each has series of its own then: a counter rises as long as its process lives, whichever of them is asked, and a
    query adds up what is to be added up. The answer of one process alone would be that of another the next time.

    Args:
        texts: What ``Metrics.text`` of each process returned, by a name that it keeps when it is started anew.
        label: The label that has the name, as ``worker``; one that no sample has.

    Raises:
        InvalidArgumentError: It is no name of a label, or a sample has it.
    """
    if _LABEL.fullmatch(label) is None:
        raise InvalidArgumentError("label", label, expected="the name of a label, as 'worker'")
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for name, text in texts.items():
        given = b'%s="%s"' % (label.encode(), _escaped(name))
        for family, lines in _families(text):
            heads.setdefault(family, [line for line in lines if line.startswith(b"#")])
            of_family = samples.setdefault(family, [])
            of_family += [_labelled(line, given, label) for line in lines if not line.startswith(b"#")]
    return b"".join(line + b"\n" for family, head in heads.items() for line in (*head, *samples[family]))


def _families(text: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Give the families of a text, each with its lines: all of them begin with what they are for."""
    beginnings = [*_FAMILY.finditer(text)]
    ends = [*(beginning.start() for beginning in beginnings[1:]), len(text)]
    for beginning, end in zip(beginnings, ends, strict=True):
        yield beginning[1], [line for line in text[beginning.start() : end].split(b"\n") if line]


def _labelled(line: bytes, given: bytes, label: str) -> bytes:
    """Return a sample with one more label, its first."""
    found = _SAMPLE.match(line)
    if found is None or re.search(rb'[{,]%s="' % label.encode(), line):
        expected = "one that no sample has yet" if found is not None else "given with texts of Prometheus's format"
        raise InvalidArgumentError("label", label, expected=expected)
    rest = line[found.end() :]
    if found[3] is not None:  # a name that is quoted, inside of the braces
        return b"{%s,%s%s%s" % (found[3], given, found[4] or b"", rest)
    if found[2] is None:
        return b"%s{%s}%s" % (found[1], given, rest)
    return b"%s{%s%s%s" % (found[1], given, b"" if rest.startswith(b"}") else b",", rest)


def _escaped(value: str) -> bytes:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"").encode()
