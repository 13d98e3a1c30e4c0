"""What every test has: hypothesis without a stopwatch, and the servers."""

import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]
pytest.register_assert_rewrite("tests.live.fault_suite")  # its asserts say what was there, as those of a test do

# A busy machine is no failure; what must end in time, pytest-timeout ends. CI keeps hypothesis' own profile for it.
settings.register_profile("patient", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("patient")
