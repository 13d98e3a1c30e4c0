"""Events look like CloudEvents on NATS, and those of others are understood in either mode."""

import json
from typing import Any

import pytest

from avx_events.bus.remote.ports import Outgoing
from avx_events.core import cloudevents
from avx_events.core.errors import DecodeError
from avx_events.distributed.nats.messages import headers_of, incoming_of

BINARY = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/others",
    "ce-type": "other.happened",
    "ce-datacontenttype": "application/json",
}


def read(data: bytes, headers: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(incoming_of(None, None, data, headers).document)
    return document


def test_an_event_says_beside_itself_what_it_is_where_a_header_can() -> None:
    assert headers_of(Outgoing("a", "b.c", "", b"{}", "1")) == {"avx-type": "a", "avx-topic": "b.c"}
    assert headers_of(Outgoing("a", "a", "", b"{}", "1")) == {"avx-type": "a"}
    assert headers_of(Outgoing("größe", "a", "", b"{}", "1")) == {}


def test_what_stands_beside_an_event_comes_back() -> None:
    incoming = incoming_of(None, 7, b"{}", {"avx-type": "a", "avx-topic": "b.c"})

    assert (incoming.receipt, incoming.document, incoming.event_type, incoming.topic) == (7, b"{}", "a", "b.c")


# The example of the binding, section 3.1.3.2, among them.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("100%25", "100%2525"),
        ('a"b', "a%22b"),
        ("a\r\nX: 1", "a%0D%0AX:%201"),
        ("!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~", "!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"),
    ],
)
def test_an_attribute_stands_in_a_header_percent_encoded(text: str, value: str) -> None:
    headers = headers_of(Outgoing("a", "a", "", b"{}", "1", {"subject": text}))

    assert headers == {"ce-subject": value}
    assert read(b"", {**BINARY, **headers})["subject"] == text


@pytest.mark.parametrize(
    ("value", "text"),
    [('"a b"', "a b"), (r'"a \"b\" \\"', 'a "b" \\'), ("%e2%82%ac", "€"), ("%41", "A"), ('"', '"'), ("%zz", "%zz")],
)
def test_values_that_others_write_otherwise_are_understood(value: str, text: str) -> None:
    assert read(b"", {**BINARY, "ce-subject": value})["subject"] == text


def test_names_of_headers_have_no_case() -> None:
    document = read(b'{"total": 3}', {name.upper(): value for name, value in BINARY.items()})

    assert cloudevents.decode(json.dumps(document).encode(), keep_unknown=True).metadata.event_id == "1"


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    incoming = incoming_of(None, None, b"{}", {**BINARY, "ce-subject": "%C0%A0"})

    with pytest.raises(DecodeError, match="utf-8"):
        cloudevents.decode(incoming.document, keep_unknown=True)


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "Application/CloudEvents+json", **BINARY}, {"other": "1"}, {"ce-id": "1"}]
)
def test_a_document_is_what_it_is(headers: dict[str, str]) -> None:
    assert incoming_of(None, None, b'{"specversion": "1.0"}', headers).document == b'{"specversion": "1.0"}'


def test_a_message_may_have_no_headers() -> None:
    assert incoming_of(None, None, b"\xff", None).document == b"\xff"
