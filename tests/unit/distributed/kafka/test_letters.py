"""What the records of dead letters say, in their order and by the broker's clock."""

from avx_events.distributed.kafka.dead_letters import Letters
from avx_events.distributed.kafka.requests import Record


def said(*records: tuple[int, bytes, bytes | None]) -> Letters:
    letters = Letters()
    for offset, (at_ms, key, value) in enumerate(records):
        letters.apply(Record(offset, at_ms, key, value, []))
    return letters


def claim(at_ms: int, holder: str) -> tuple[int, bytes, bytes | None]:
    return at_ms, b"claim:1", b'{"holder":"%s","seconds":30}' % holder.encode()


LETTER = (0, b"letter:1", b"document")


def test_a_letter_is_kept_replaced_and_forgotten() -> None:
    assert said(LETTER).documents == {"1": b"document"}
    assert said(LETTER, (1, b"letter:1", b"other")).documents == {"1": b"other"}
    assert said(LETTER, (1, b"letter:1", None)).documents == {}


def test_the_first_claim_holds() -> None:
    assert said(LETTER, claim(1, "a"), claim(2, "b")).holder("1") == "a"


def test_a_claim_that_is_not_renewed_ends() -> None:
    assert said(LETTER, claim(1, "a"), claim(30_001, "b")).holder("1") == "b"
    assert said(LETTER, claim(1, "a"), claim(20_000, "a"), claim(30_001, "b")).holder("1") == "a"


def test_a_claim_ends_when_it_is_given_up_or_the_letter_is_replaced() -> None:
    assert said(LETTER, claim(1, "a"), (2, b"claim:1", None)).holder("1") is None
    assert said(LETTER, claim(1, "a"), (2, b"letter:1", b"other")).holder("1") is None


def test_nobody_claims_what_is_not_there() -> None:
    assert said(claim(1, "a")).holder("1") is None


def test_what_others_write_says_nothing() -> None:
    letters = said(LETTER, (1, b"", b"x"), (2, b"claim:1", b"{"), (3, b"claim:1", b'{"holder":3}'), (4, b"\xff", None))

    assert (letters.documents, letters.holder("1")) == ({"1": b"document"}, None)


def test_who_says_whose_claim_it_ends_ends_no_other() -> None:
    letters = said(LETTER, claim(1, "a.1"))

    for key, value in ((b"letter:1", b"other"), (b"claim:1", None)):
        letters.apply(Record(2, 2, key, value, [("avx_by", b"b.")]))
        assert (letters.holder("1"), letters.documents["1"]) == ("a.1", b"other")
    letters.apply(Record(3, 3, b"letter:1", b"third", [("avx_by", b"a.")]))
    assert letters.holder("1") is None
