"""The pytest plugin: fixtures that test with avx-events, and assertions that show which field of an event differs.

pytest loads its plugins in every run and before coverage is measured, and whoever imports a part of a package imports
the package. So this stands beside it, and loads nothing of it before a test asks for it; what is done then is in
``avx_events.testing.pytest_plugin``.
"""

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from avx_events.testing import ManualClock, MockEventBus, MockEventStore
    from avx_events.testing.pytest_plugin import BusWatch

_WATCH: "pytest.StashKey[BusWatch]" = pytest.StashKey()

_MARKERS = (
    "allow_dead_letters: handlers of mock_event_bus may fail for good without the test looking at the dead letters",
    "allow_running_tasks: what the test started of avx-events may run on after it",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the configuration file and of the command line."""
    text = "whether all tests are as if marked with allow_dead_letters"
    parser.addini("avx_events_allow_dead_letters", text, type="bool", default=False)
    text = "have evolution_test() record the events that it finds to be not recorded yet"
    parser.getgroup("avx-events").addoption("--avx-record-events", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Say what the markers mean."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def manual_clock() -> "ManualClock":
    """Time that stands still until the test moves it; mock_event_bus and event_store of the same test go by it."""
    from avx_events.testing.clock import ManualClock  # noqa: PLC0415 - see above

    return ManualClock()


@pytest.fixture
def mock_event_bus(request: pytest.FixtureRequest) -> "MockEventBus":
    """A MockEventBus that runs while an asynchronous test does.

    It is started before the test and closed after it, unless another fixture started it. The test fails if one of its
    handlers failed for good and nobody looked at its dead_letter_queue, and if something of avx-events runs on that
    did not run before. In a plain function it is as MockEventBus() gives it: publish, or start it yourself.
    """
    from avx_events.testing.pytest_plugin import BusWatch  # noqa: PLC0415 - see above

    watch = request.node.stash[_WATCH] = BusWatch(_clock_of(request))
    return watch.bus


@pytest.fixture
def event_store(request: pytest.FixtureRequest) -> "MockEventStore":
    """An empty MockEventStore in memory. It holds nothing open: other fixtures may use it before and after the test."""
    from avx_events.core.clock import SYSTEM_CLOCK  # noqa: PLC0415 - see above
    from avx_events.testing.mock_store import MockEventStore  # noqa: PLC0415 - see above

    return MockEventStore(clock=_clock_of(request) or SYSTEM_CLOCK)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run the bus of a test while the test runs, on the test's own event loop, whoever runs that."""
    watch = item.stash.get(_WATCH, None)
    if watch is None:
        return (yield)
    return (yield from watch.around(item))


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    """Show in which fields events, envelopes or aggregates differ, alone or in a list."""
    if op != "==" or "avx_events.core.event" not in sys.modules or not (_has_ours(left) or _has_ours(right)):
        return None
    from avx_events.testing.pytest_plugin import explain  # noqa: PLC0415 - see above

    return explain(left, right, verbosity=config.get_verbosity(pytest.Config.VERBOSITY_ASSERTIONS))


def _clock_of(request: pytest.FixtureRequest) -> "ManualClock | None":
    if "manual_clock" not in request.fixturenames:
        return None
    return cast("ManualClock", request.getfixturevalue("manual_clock"))


def _has_ours(value: object) -> bool:
    values = cast("list[object] | tuple[object, ...]", value) if isinstance(value, list | tuple) else (value,)
    return any(_is_ours(type(held)) for held in values)


def _is_ours(held: type) -> bool:
    is_message = hasattr(held, "__avx_schema__") or hasattr(held, "__avx_aggregate__")
    return is_message or held.__module__.partition(".")[0] == "avx_events"
