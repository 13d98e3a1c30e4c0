"""Names of groups, handlers and letters stand in subjects, whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.nats.jetstream import header_value
from avx_events.distributed.nats.names import Names, lane_of, text_of, token


@given(st.text())
def test_every_text_is_one_piece_of_a_subject_and_can_be_read_back(text: str) -> None:
    piece = token(text)

    assert piece
    assert set(piece) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
    assert text_of(piece) == text


def test_a_handlers_name_stays_readable() -> None:
    assert Names("avx", lanes=16).consumer("billing", "app.Mail.send") == "$KV.avx-groups.billing.app=2EMail=2Esend"


def test_a_log_says_how_many_lanes_it_has() -> None:
    names = Names("avx", lanes=16)

    assert names.lanes[3] == "avx.log.16.3"
    assert [names.lanes_in([subject]) for subject in ("avx.log.8.*", "avx.log.*", "avx.>")] == [8, None, None]
    assert names.lanes_in(["avx.log.8.*", "more"]) is None


def test_a_foreign_client_finds_the_lane_of_a_key() -> None:
    assert lane_of("order-42", 16) == 0x57F706DE % 16


def test_only_what_can_stand_in_a_header_does() -> None:
    assert header_value("order.placed") == "order.placed"
    assert [header_value(text) for text in ("Größe", " a", "a\r\nb", "a\x00")] == [None] * 4
