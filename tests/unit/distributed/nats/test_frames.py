"""What the server sends is taken apart, however it is cut, and what is no message is left to nats-py."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.nats.frames import Frame, Frames, Message, frame, headers_in

ALL = (
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG a.b 1 _INBOX.1 0\r\n\r\n"
    b"HMSG c 2 26 31\r\nNATS/1.0\r\nname: val ue\r\n\r\nworld\r\n"
    b"HMSG c 2 _INBOX.2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"-ERR 'Permissions Violation'\r\n"
    b"MSG nobody 3 2\r\nhi\r\n"
    b"MSG a.b 1 9\r\nMSG 1 1\r\n\r\n"
    b"PONG\r\n"
)
HEARD = [
    ("a.b", "", b"hello", None),
    ("a.b", "_INBOX.1", b"", None),
    ("c", "", b"world", {"name": "val ue"}),
    ("c", "_INBOX.2", b"", {"Status": "503"}),
    ("a.b", "", b"MSG 1 1\r\n", None),
]
LEFT = [b"PING\r\n", b"-ERR 'Permissions Violation'\r\n", b"PONG\r\n"]


class Rest:
    """Nats-py's parser."""

    def __init__(self) -> None:
        self.parsed: list[bytes] = []
        self.resets = 0

    async def parse(self, data: bytes) -> None:
        self.parsed.append(data)

    def reset(self) -> None:
        self.resets += 1


class Scene:
    """A parser, and what it gave to whom."""

    def __init__(self, left: bytes = b"") -> None:
        self.rest = Rest()
        self.heard: list[tuple[str, str, bytes, Any]] = []
        self.frames = Frames(self.rest, left)
        self.frames.listeners = {b"1": self.hear, b"2": self.hear}

    def hear(self, message: Message) -> None:
        self.heard.append((message.subject, message.reply, message.data, message.headers))


@given(st.lists(st.integers(0, len(ALL)), max_size=12).map(sorted))
async def test_it_does_not_matter_how_the_bytes_come(cuts: list[int]) -> None:
    scene = Scene()

    for begin, end in zip([0, *cuts], [*cuts, len(ALL)], strict=True):
        await scene.frames.parse(ALL[begin:end])

    assert scene.heard == HEARD
    assert scene.rest.parsed == LEFT


async def test_it_begins_with_what_was_left_over() -> None:
    scene = Scene(ALL[:7])

    await scene.frames.parse(ALL[7:])

    assert scene.heard == HEARD


async def test_a_message_of_a_mebibyte_comes_in_many_pieces() -> None:
    body = bytes(range(256)) * 4096
    sent = b"MSG a 1 %d\r\n%b\r\n" % (len(body), body)
    scene = Scene()

    for begin in range(0, len(sent), 1000):
        await scene.frames.parse(sent[begin : begin + 1000])

    assert scene.heard == [("a", "", body, None)]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 x\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 5\r\n",
        b"MSG \r\n",
        b"HMSG a 1 5\r\n",
        b"HMSG a 1 9 5\r\n",
        b"HMSG a 1 x 5\r\n",
        b"junk\r\n",
        b"\r\n",
    ],
)
async def test_what_is_no_message_is_left_to_nats_py(line: bytes) -> None:
    scene = Scene()

    await scene.frames.parse(line + b"MSG a 1 2\r\nhi\r\n")

    assert scene.rest.parsed == [line]
    assert scene.heard == [("a", "", b"hi", None)]


async def test_a_listener_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    def fail(message: Message) -> None:
        raise RuntimeError(message.subject)

    scene.frames.listeners[b"2"] = fail
    with caplog.at_level(logging.ERROR):
        await scene.frames.parse(ALL)

    assert len(scene.heard) == 3
    assert [record.message.partition(" is lost")[0] for record in caplog.records] == ["a message to c"] * 2


async def test_a_parser_that_is_reset_knows_nothing() -> None:
    scene = Scene()
    await scene.frames.parse(b"MSG a 1 100\r\nhello")

    scene.frames.reset()
    await scene.frames.parse(ALL)

    assert scene.heard == HEARD
    assert scene.rest.resets == 1


def test_a_message_is_written_as_the_protocol_wants_it() -> None:
    assert frame("a", b"hello") == b"PUB a 5\r\nhello\r\n"
    assert frame("a", b"", reply="b") == b"PUB a b 0\r\n\r\n"
    assert (
        frame("a", b"hi", reply="b", headers={"n": "é"}) == b"HPUB a b 19 21\r\nNATS/1.0\r\nn: \xc3\xa9\r\n\r\nhi\r\n"
    )


@given(
    st.text(st.characters(codec="utf-8", categories=["L", "N"])),
    st.dictionaries(st.from_regex(r"[a-z-]{1,9}", fullmatch=True), st.from_regex(r"[ -~]*", fullmatch=True)),
    st.binary(),
)
def test_a_message_in_its_frame_is_the_one_that_is_written_at_once(
    value: str, headers: dict[str, str], body: bytes
) -> None:
    framed = Frame.of("a.b", reply="_INBOX.", header="Nats-Msg-Id", headers=headers).around(17, value.encode(), body)

    assert framed == frame("a.b", body, reply="_INBOX.17", headers={"Nats-Msg-Id": value, **headers})


def test_the_server_says_that_nobody_listens() -> None:
    assert Message(b"a", b"", b"", b"NATS/1.0 503\r\n\r\n").is_for_nobody
    assert not Message(b"a", b"", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n").is_for_nobody
    assert not Message(b"a", b"", b"").is_for_nobody


@given(st.dictionaries(st.from_regex(r"[a-z-]{1,9}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_no_header_can_end_its_line(headers: dict[str, str]) -> None:
    line, _, rest = frame("a", b"", headers=headers).partition(b"\r\n")

    if headers:
        block = rest[: int(line.split()[-2])]
        assert block.endswith(b"\r\n\r\n")
        assert block.count(b"\r") == block.count(b"\n") == len(headers) + 2
        assert headers_in(block).keys() == headers.keys()


def test_a_status_has_a_description() -> None:
    assert headers_in(b"NATS/1.0 408 Request Timeout\r\na: 1\r\n\r\n") == {
        "Status": "408",
        "Description": "Request Timeout",
        "a": "1",
    }
