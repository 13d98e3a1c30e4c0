"""A URL says where a store is and how it is opened, or what is wrong with it."""

from contextlib import chdir
from pathlib import Path

import pytest

from avx_events.core.errors import InvalidArgumentError, StoreUnavailableError
from avx_events.storage.sqlite.location import Location, OpenFile, parse


def test_a_url_names_a_file_or_memory(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert parse("sqlite:///a.db") == Location(path=str(tmp_path / "a.db"))
        assert parse("sqlite:///a%20b%3F.db") == Location(path=str(tmp_path / "a b?.db"))
        assert parse("SQLite:///a.db") == Location(path=str(tmp_path / "a.db"))
    assert parse(f"sqlite:///{tmp_path}/a.db") == Location(path=f"{tmp_path}/a.db")
    assert parse("sqlite://") == parse("sqlite:///:memory:") == Location(path=None)


def test_options_are_its_query() -> None:
    assert parse("sqlite://?writer=inline&busy_timeout_s=0.5&poll_s=1e-3") == Location(
        path=None, writer="inline", busy_timeout_s=0.5, poll_s=0.001
    )
    assert (parse("sqlite://").writer, parse("sqlite://?writer=thread").writer) == ("auto", "thread")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite://relative.db", "'sqlite:///relative.db'"),
        ("sqlite:///", "'sqlite:///relative.db'"),
        ("sqlite:///{folder}", "not of a folder"),
        ("sqlite:///{folder}/missing/a.db", "missing is not"),
        ("sqlite:///{folder}/a%00.db", "NUL"),
        ("sqlite:///{folder}/" + "x" * 300, "the URL of a file"),
        ("sqlite:///{folder}/\ud800.db", "the URL of a file"),
        ("sqlite://?writer=loop", "one of auto, thread, inline"),
        ("sqlite://?writer=", "one of auto, thread, inline"),
        ("sqlite://?journal=off", "no other options than writer, busy_timeout_s and poll_s"),
        ("sqlite://?poll_s=soon", "a number of seconds"),
        ("sqlite://?poll_s=0", "more than 0"),
        ("sqlite://?busy_timeout_s=-1", "more than 0"),
        ("sqlite://?busy_timeout_s=nan", "more than 0"),
        ("sqlite://?busy_timeout_s=inf", "at most 86400"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse(url.format(folder=tmp_path))

    assert problem in str(caught.value)


def test_an_open_file_knows_whether_it_is_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.touch()
    file = OpenFile(Location(path=str(path)), "sqlite:///events.db")
    assert file.is_in_place()

    path.rename(tmp_path / "moved.db")
    assert not file.is_in_place()

    path.touch()
    assert not file.is_in_place()
    with pytest.raises(StoreUnavailableError, match="another put in its place"):
        file.check()

    (tmp_path / "moved.db").replace(path)
    assert file.is_in_place()
    file.check()


def test_memory_is_always_in_its_place() -> None:
    assert OpenFile(Location(path=None), "sqlite://").is_in_place()
