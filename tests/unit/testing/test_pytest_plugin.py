"""The pytest plugin as its users meet it: each test runs pytest on files of its own."""

import textwrap
from importlib import import_module

import pytest

# What a project is the first to import is forgotten with it; these are the same for all.
for module in ("store.event_store", "testing.mock_store", "testing.pytest_plugin"):
    import_module(f"avx_events.{module}")

pytest_plugins = ["pytester"]

EVENTS = """
    import asyncio
    import pytest
    from avx_events import Event, EventBus, EventStore, Retry, StoreUnavailableError

    class UserCreated(Event, event_type="plugin.user.created", aggregate_id="user_id"):
        user_id: str
        email: str

    class UserDeleted(Event, event_type="plugin.user.deleted", aggregate_id="user_id"):
        user_id: str

    started = []  # an event loop does not keep a task that nobody else knows: the collector may end it
"""


ASYNCIO = """
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""


class Project:
    """A project of a user: a file of tests, and how it runs them."""

    def __init__(self, pytester: pytest.Pytester, plugins: pytest.PytestPluginManager) -> None:
        self._pytester = pytester
        self._plugins = plugins

    def run(
        self,
        tests: str,
        *options: str,
        settings: str = ASYNCIO,
        conftest: str = "",
        runner: str | None = "asyncio",
    ) -> str:
        """Return what pytest prints for ``tests``, with ``runner`` as the only plugin besides ours."""
        self._pytester.makeini(f"[pytest]\n{settings}\nfilterwarnings = error\naddopts = --strict-markers\n")
        self._pytester.makeconftest(textwrap.dedent(conftest))
        self._pytester.makepyfile(test_users=textwrap.dedent(EVENTS) + textwrap.dedent(tests))
        plugins = [self._plugins.get_plugin(name) for name in ("avx_events", runner) if name]
        return self._pytester.runpytest_inprocess(*options, plugins=plugins).stdout.str()


@pytest.fixture
def project(pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for variable in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(variable, raising=False)  # pytest repeats whole messages in its summary where one is set
    return Project(pytester, pytestconfig.pluginmanager)


def assert_has(output: str, lines: str) -> None:
    """Expect ``lines`` one below the other in ``output``."""
    wanted = textwrap.dedent(lines).strip("\n")
    assert wanted in "\n".join(line.rstrip() for line in output.splitlines())


FAIR_TESTS = """
    {mark}
    async def test_the_bus_runs_while_the_test_does(mock_event_bus):
        seen = []

        @mock_event_bus.on(UserCreated)
        async def greet(event):
            seen.append(event.email)

        await mock_event_bus.publish(UserCreated("1", "a@b"))
        await mock_event_bus.settled()

        assert seen == ["a@b"]
        assert mock_event_bus.published_events() == [UserCreated("1", "a@b")]

    {mark}
    async def test_a_clock_of_the_test_is_everybodys_clock(manual_clock, mock_event_bus, event_store):
        metadata = await mock_event_bus.publish(UserCreated("1", "a@b"))
        await event_store.append("1", UserCreated("1", "a@b"))

        assert metadata.time == manual_clock.now
        assert (await event_store.get_events("1"))[0].recorded_at == manual_clock.now

    class TestOfAClass:
        {mark}
        async def test_the_clock_is_the_real_one_where_nothing_is_said(self, mock_event_bus, event_store):
            metadata = await mock_event_bus.publish(UserCreated("1", "a@b"))

            assert abs(metadata.time.timestamp() - __import__("time").time()) < 60

    {mark}
    async def test_doubles_fail_on_purpose(mock_event_bus, event_store):
        away = StoreUnavailableError("test://", "it is away")
        mock_event_bus.faults.refuse(away)
        event_store.faults.refuse(away)

        for call in (mock_event_bus.publish(UserDeleted("1")), event_store.append("1", UserDeleted("1"))):
            with pytest.raises(StoreUnavailableError):
                await call

    {mark}
    async def test_who_looks_at_dead_letters_may_have_some(mock_event_bus):
        @mock_event_bus.on(UserCreated, retry=None)
        async def greet(event):
            raise ValueError

        for look in ("list", "count", "purge"):
            await mock_event_bus.publish(UserCreated("1", "a@b"))
            await mock_event_bus.settled()
            await getattr(mock_event_bus.dead_letter_queue, look)()

    {mark}
    async def test_what_waits_for_a_time_that_does_not_come_holds_nobody_up(mock_event_bus, manual_clock):
        @mock_event_bus.on(UserCreated, retry=Retry(attempts=2, initial_s=60, max_s=60))
        async def greet(event):
            raise ValueError

        await mock_event_bus.publish(UserCreated("1", "a@b"))
        await manual_clock.planned()

    {mark}
    @pytest.mark.allow_dead_letters
    @pytest.mark.allow_running_tasks
    async def test_whoever_says_so_may_leave_anything(mock_event_bus):
        bus = EventBus()
        for each in (bus, mock_event_bus):
            @each.on(UserCreated, retry=None)
            async def greet(event):
                raise ValueError
        await mock_event_bus.publish(UserCreated("1", "a@b"))
        {leave_running}

    def test_a_plain_function_starts_the_bus_itself(mock_event_bus, event_store):
        async def main():
            async with mock_event_bus:
                await mock_event_bus.publish(UserCreated("1", "a@b"))
                await event_store.append("1", UserDeleted("1"))
        asyncio.run(main())

        assert not mock_event_bus.is_running
"""

# A bus that is left to itself says so in the log, as critical; that is no warning, and no failure.
LEFT_RUNNING = "await bus.start()"


@pytest.mark.parametrize(
    ("mark", "runner", "settings", "conftest"),
    [
        pytest.param("", "asyncio", ASYNCIO, "", id="pytest-asyncio, auto"),
        pytest.param(
            "@pytest.mark.asyncio(loop_scope='module')",
            "asyncio",
            ASYNCIO.replace("auto", "strict"),
            "",
            id="pytest-asyncio, strict",
        ),
        pytest.param(
            "@pytest.mark.anyio",
            "anyio",
            "",
            "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'",
            id="anyio",
        ),
        pytest.param(
            "",
            None,
            "",
            """
            import asyncio, inspect, pytest

            @pytest.hookimpl(tryfirst=True)
            def pytest_pyfunc_call(pyfuncitem):
                if inspect.iscoroutinefunction(pyfuncitem.obj):
                    names = pyfuncitem._fixtureinfo.argnames
                    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
                    return True
            """,
            id="neither of them",
        ),
    ],
)
def test_fixtures_work_with_every_way_of_running_asynchronous_tests(
    project: Project, mark: str, runner: str | None, settings: str, conftest: str
) -> None:
    tests = FAIR_TESTS.format(mark=mark, leave_running=LEFT_RUNNING)

    output = project.run(tests, settings=settings, conftest=conftest, runner=runner)

    assert "8 passed in" in output, output


def test_what_was_left_over_fails_the_test_and_is_named(project: Project) -> None:
    output = project.run(
        """
        async def test_dead_letters(mock_event_bus):
            @mock_event_bus.on(UserCreated, name="greet", retry=None)
            async def greet(event):
                raise ValueError("no such address")

            await mock_event_bus.publish(UserCreated("1", "a@b"))

        async def test_redrive(mock_event_bus):
            @mock_event_bus.on(UserDeleted, name="bury", retry=None)
            async def bury(event):
                raise KeyError(event.user_id)

            await mock_event_bus.publish(UserDeleted("1"))
            await mock_event_bus.settled()
            [letter] = await mock_event_bus.dead_letter_queue.list()
            await mock_event_bus.republish(letter)

        async def test_running(mock_event_bus):
            bus = EventBus()

            @bus.on(UserCreated, name="forgotten")
            async def greet(event):
                pass

            await bus.start()
            started.append(bus)

        def test_plain(mock_event_bus):
            asyncio.run(mock_event_bus.start())
        """,
        "--show-capture=no",
    )

    assert "4 failed in" in output, output
    assert_has(
        output,
        """
        an event failed for good, and the test did not look at mock_event_bus.dead_letter_queue:

        greet (failed, attempts: 1)
          UserCreated(user_id='1', email='a@b')
          Traceback (most recent call last):
        """,
    )
    assert_has(
        output,
        """
          ValueError: no such address

        Await its list() or count(), or mark the test with @pytest.mark.allow_dead_letters.
        """,
    )
    assert_has(output, "bury (failed, attempts: 2)\n  UserDeleted(user_id='1')\n")
    for left in ("forgotten", "mock_event_bus"):
        assert_has(
            output,
            f"""
            avx-events still runs what the test started:

              {left}

            Close it, as 'async with bus:' does, or mark the test with @pytest.mark.allow_running_tasks.
            """,
        )


def test_a_test_that_fails_tells_what_handlers_failed_of_beside_its_own_line(project: Project) -> None:
    output = project.run(
        """
        async def test_goodbye(mock_event_bus):
            @mock_event_bus.on(UserCreated, name="delete", retry=None)
            async def delete(event):
                raise ValueError("not yet")

            await mock_event_bus.publish(UserCreated("1", "a@b"))
            await mock_event_bus.wait_for(UserDeleted, timeout_s=0.01)
        """,
        "--show-capture=no",
    )

    assert_has(
        output,
        """
        >       await mock_event_bus.wait_for(UserDeleted, timeout_s=0.01)
        E       AssertionError: 1 UserDeleted expected within 0.01 s, 0 published; all that was published:
        E         1. UserCreated(user_id='1', email='a@b')
        E
        E       an event failed for good, and the test did not look at mock_event_bus.dead_letter_queue:
        E
        E       delete (failed, attempts: 1)
        E         UserCreated(user_id='1', email='a@b')
        """,
    )
    assert "async def wait_for" not in output


def test_so_does_a_test_that_expected_an_error_in_vain(project: Project) -> None:
    output = project.run(
        """
        async def test_goodbye(mock_event_bus):
            @mock_event_bus.on(UserCreated, name="delete", retry=None)
            async def delete(event):
                raise ValueError("not yet")

            await mock_event_bus.publish(UserCreated("1", "a@b"))
            with pytest.raises(KeyError):
                await mock_event_bus.settled()
        """,
        "--show-capture=no",
    )

    assert "Failed: DID NOT RAISE" in output, output
    assert_has(
        output,
        """
        E       an event failed for good, and the test did not look at mock_event_bus.dead_letter_queue:
        E
        E       delete (failed, attempts: 1)
        E         UserCreated(user_id='1', email='a@b')
        """,
    )


def test_a_bus_that_runs_on_is_found_whatever_its_handlers_are_called(project: Project) -> None:
    output = project.run(
        """
        async def greet(event):
            pass

        @pytest.fixture
        async def service(mock_event_bus):
            async with mock_event_bus:
                yield mock_event_bus

        async def test_beside_the_bus_of_the_test(mock_event_bus):
            await start_another(mock_event_bus)

        async def test_beside_the_bus_of_a_fixture(service):
            await start_another(service)

        async def start_another(running):
            other = EventBus()
            for bus in (running, other):
                bus.on(UserCreated, name="greet")(greet)
            await other.start()
            started.append(other)
        """,
        "--show-capture=no",
    )

    assert "2 failed in" in output, output
    assert output.count("avx-events still runs what the test started:\n\n  greet\n") == 2, output


def test_a_bus_that_ran_before_the_test_may_take_more_workers(project: Project) -> None:
    output = project.run(
        """
        @pytest.fixture
        async def shared():
            async with EventBus() as bus:
                @bus.on(UserCreated, name="greet", concurrency=8)
                async def greet(event):
                    await asyncio.sleep(0)

                yield bus

        async def test_fair(shared, mock_event_bus):
            await shared.publish_many(UserCreated(str(number), "a@b") for number in range(8))
            await shared.settled()
        """
    )

    assert "1 passed in" in output, output


def test_a_project_may_allow_dead_letters_everywhere(project: Project) -> None:
    output = project.run(
        """
        async def test_dead_letters(mock_event_bus):
            @mock_event_bus.on(UserCreated, retry=None)
            async def greet(event):
                raise ValueError

            await mock_event_bus.publish(UserCreated("1", "a@b"))
        """,
        settings=f"{ASYNCIO}avx_events_allow_dead_letters = true",
    )

    assert "1 passed in" in output, output


def test_a_bus_that_a_fixture_started_is_closed_by_that_fixture(project: Project) -> None:
    output = project.run(
        """
        @pytest.fixture
        async def service(mock_event_bus):
            async with mock_event_bus:
                @mock_event_bus.on(UserCreated, name="greet", retry=None)
                async def greet(event):
                    raise ValueError

                yield mock_event_bus
                await mock_event_bus.publish(UserDeleted("1"))

        async def test_fair(service):
            @service.on(UserDeleted)
            async def bury(event):
                pass

            await service.publish(UserDeleted("1"))

        async def test_unfair(service):
            await service.publish(UserCreated("1", "a@b"))
        """,
    )

    assert "1 failed, 1 passed in" in output, output
    assert_has(output, "greet (failed, attempts: 1)\n  UserCreated(user_id='1', email='a@b')\n")


UNEQUAL = """
    from avx_events import EventEnvelope
    from avx_events.core.metadata import stamp
    from avx_events.testing import ManualClock

    def test_events():
        assert [UserCreated("1", "a"), UserCreated("2", "b")] == [UserCreated("1", "a"), UserCreated("2", "c")]

    def test_envelopes():
        first = stamp(UserCreated("1", "a"), clock=ManualClock())
        assert first == EventEnvelope(UserCreated("1", "b"), first.metadata, first.topic)

    def test_too_few():
        assert [] == [UserDeleted("1")]

    def test_what_is_not_ours():
        assert [1, 2] == [1, 3]
"""


def test_assertions_show_the_fields_that_differ(project: Project) -> None:
    output = project.run(UNEQUAL)

    assert_has(
        output,
        """
        E         - expected, + actual:
        E           UserCreated(
        E         -     email='c',
        E         +     email='b',
        """,
    )
    assert_has(
        output,
        """
        E         - expected, + actual:
        E           EventEnvelope(
        E               event=UserCreated(
        E         -         email='b',
        E         +         email='a',
        """,
    )
    assert_has(output, "E         - UserDeleted(\nE         -     user_id='1',\nE         - )\n")
    assert "At index 1 diff: 2 != 3" in output


def test_verbose_assertions_show_what_is_equal_too(project: Project) -> None:
    output = project.run(UNEQUAL, "-vv", "-k", "test_events")

    assert_has(
        output,
        """
        E         - expected, + actual:
        E           UserCreated(
        E               user_id='1',
        E               email='a',
        E           )
        E           UserCreated(
        E               user_id='2',
        E         -     email='c',
        E         +     email='b',
        E           )
        """,
    )


def test_a_run_that_uses_nothing_of_it_loads_nothing_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_of_something_else(request):
            assert request.config.pluginmanager.hasplugin("avx_events")
            assert {name for name in sys.modules if "avx_events" in name} == {"_avx_events_pytest"}
            assert "msgspec" not in sys.modules
            assert [1] == [2]
        """
    )

    output = pytester.runpytest_subprocess(timeout=30).stdout.str()

    assert "assert [1] == [2]" in output, output
