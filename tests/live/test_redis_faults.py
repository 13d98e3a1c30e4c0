"""A bus on Redis keeps its promises whatever happens to its members, its server and its connections."""

import pytest

from tests.live.fault_suite import FaultSuite
from tests.servers.process import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


class TestRedis(FaultSuite):
    """Redis with an append-only file that is synced before each answer."""

    @pytest.fixture
    def server(self, redis_server: Server) -> Server:
        return redis_server
