"""Settings come from a file and the environment, and a bad one is told by name, value and source."""

from pathlib import Path

import pytest

from avx_events.observability import SettingError, Settings

FILE = """
stack = "shop"
[http]
bind_addr = ":9000"
[events]
store_url = "postgresql://shop@db/shop"
workers = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "avx.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def test_without_anything_set_there_are_the_defaults() -> None:
    assert Settings.load({}) == Settings()
    assert (Settings().http.host, Settings().http.port) == ("127.0.0.1", 8080)


def test_the_environment_comes_before_the_file(file: Path) -> None:
    environment = {"AVX_EVENTS__WORKERS": "2", "AVX__ENV": "production", "AVX__EVENTS__GROUP": "shop", "OTHER": "x"}

    settings = Settings.load(environment, file=file)

    assert (settings.stack, settings.env) == ("shop", "production")
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 9000)
    events = settings.events
    assert (events.store_url, events.workers, events.group) == ("postgresql://shop@db/shop", 2, "shop")


def test_the_file_of_the_working_folder_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)

    assert Settings.load({}).stack == "shop"


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVX__CLUSTER", "north")

    assert Settings.load().cluster == "north"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("[::1]:0", "::1", 0), ("0.0.0.0:65535", "0.0.0.0", 65535), (":1", "127.0.0.1", 1)],  # noqa: S104
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    http = Settings.load({"AVX__HTTP__BIND_ADDR": address}).http

    assert (http.host, http.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("AVX__HTTP__BIND_ADDR", "localhost", "cannot be 'localhost': must be HOST:PORT"),
        ("AVX__HTTP__BIND_ADDR", "localhost:70000", "a port from 0 to 65535"),
        ("AVX_EVENTS__WORKERS", "none", "cannot be 'none': Expected `int`"),
        ("AVX_EVENTS__WORKERS", "0", "cannot be '0': Expected `int` >= 1"),
        ("AVX_EVENTS__DRAIN_TIMEOUT_S", "nan", "cannot be 'nan'"),
        ("AVX_EVENTS__LOG_LEVEL", "loud", "cannot be 'loud': Invalid enum value"),
        ("AVX_EVENTS__GROUP", "", "cannot be ''"),
        ("AVX_EVENTS__CONSOLE_TOKEN", "short", "cannot be what it is (which is a secret)"),
        ("AVX_EVENTS__STORE_URI", "x", "is no setting; is it AVX_EVENTS__STORE_URL?"),
        ("AVX__HTTP", "x", "is no setting"),
        ("AVX__", "x", "is no setting"),
        ("AVX__QQQQ__ZZZZ", "x", "there are AVX_EVENTS__BUS_URL, "),
    ],
)
def test_what_cannot_be_is_told_with_its_name_and_value(name: str, value: str, problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.load({name: value})

    assert (caught.value.name, caught.value.source) == (name, "the environment")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("stack = 7", "stack", "cannot be 7: Expected `str`, got `int`"),
        ("[events]\nworkers = '4'", "events.workers", "cannot be '4': Expected `int`, got `str`"),
        ("[events]\nworker = 4", "events.worker", "is no setting; is it events.workers?"),
        ("http = ':80'", "http", "is no setting"),
        ("stack =", "the settings file", "is no TOML"),
    ],
)
def test_what_cannot_be_in_a_file_is_told_with_the_file(tmp_path: Path, text: str, name: str, problem: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)

    with pytest.raises(SettingError) as caught:
        Settings.load({}, file=path)

    assert (caught.value.name, caught.value.source) == (name, f"{path}")
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_told_where_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not there"):
        Settings.load({}, file=tmp_path / "none.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        Settings.load({}, file=tmp_path)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"stack = '\xff'")

    with pytest.raises(SettingError, match="is no TOML"):
        Settings.load({}, file=path)
