"""Names in Kafka are such that no two things share one, and keys go where others' clients send them."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.kafka.names import Names, lane_of, murmur2


# Source: UtilsTest.testMurmur2 of Kafka's own clients.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_kafkas_own_clients(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


@given(st.binary(), st.integers(1, 1024))
def test_every_key_has_a_lane(key: bytes, lanes: int) -> None:
    assert 0 <= lane_of(key, lanes) < lanes


def test_no_two_consumers_share_a_name() -> None:
    parts = ("a", "b", "a.b", "b.a", "a.", ".a", "a%2Eb", "a/b", "a b", "é")
    names = [Names(namespace).consumer(group, handler) for namespace, group, handler in product("xy", parts, parts)]

    assert len(set(names)) == len(names)
    assert all(name.isascii() and " " not in name for name in names)


def test_names_can_be_read() -> None:
    names = Names("shop")

    assert (names.log, names.letters) == ("shop.log", "shop.letters")
    assert names.consumer("billing", "Mail.welcome_email") == "shop.billing.Mail.welcome_email"
