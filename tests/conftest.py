"""What every test has: hypothesis without a stopwatch, and the servers."""

from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

# A busy machine is no failure; what must end in time, pytest-timeout ends. CI keeps hypothesis' own profile for it.
settings.register_profile("patient", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("patient")
