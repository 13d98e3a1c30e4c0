"""Settings from the environment."""

import pytest

from examples.production_service.settings import SettingError, Settings, settings_from


def test_nothing_set_is_a_file_here_and_port_8080_of_this_machine() -> None:
    assert settings_from({}) == Settings("127.0.0.1", 8080, "sqlite:///avx-events.db")


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:80", "0.0.0.0", 80),  # noqa: S104 - read, not listened on
        ("localhost:0", "localhost", 0),
        (":0", "127.0.0.1", 0),
        ("[::1]:65535", "::1", 65_535),
    ],
)
def test_the_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    settings = settings_from({"AVX__HTTP__BIND_ADDR": address, "AVX_EVENTS__STORE_URL": "sqlite://"})

    assert settings == Settings(host, port, "sqlite://")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "8080",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:65536",
        "::1:80",
        "a b:80",
        "h:8\n",
        "\udcff:1",
    ],
)
def test_an_address_that_is_none_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(SettingError, match=r"^AVX__HTTP__BIND_ADDR must be HOST:PORT[^\n]*$"):
        settings_from({"AVX__HTTP__BIND_ADDR": address})
