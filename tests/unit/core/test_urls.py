"""What is shown of a URL has no password in it."""

import pytest

from avx_events.core.errors import InvalidArgumentError, UnknownSchemeError
from avx_events.core.urls import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@localhost:6379", "redis://:***@localhost:6379"),
        ("nats://ann:secret@localhost:4222?namespace=a", "nats://ann:***@localhost:4222?namespace=a"),
        ("postgresql://ann:sec/r@et@localhost/shop", "postgresql://ann:***@localhost/shop"),
        ("redis://localhost:6379", "redis://localhost:6379"),
        ("sqlite:///shop.db?poll_s=1", "sqlite:///shop.db?poll_s=1"),
        ("sqlite:////home/a:b@c/shop.db", "sqlite:////home/a:b@c/shop.db"),
        ("no URL", "no URL"),
    ],
)
def test_a_password_is_stars(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("length", [8, 200])
def test_an_error_tells_no_password_of_a_url(length: int) -> None:
    url = f"redis://ann:{'secret' * length}@localhost:6379"
    errors = InvalidArgumentError("url", url, expected="another"), UnknownSchemeError(url, installed=["nats"])

    assert ["secret" in str(error) for error in errors] == [False, False]
    assert ["redis://ann:***@localhost:6379" in str(error) for error in errors] == [True, True]
