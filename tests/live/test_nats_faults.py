"""A bus on NATS keeps its promises whatever happens to its members, its server and its connections."""

import pytest

from tests.live.fault_suite import FaultSuite
from tests.servers.process import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


class TestNats(FaultSuite):
    """NATS JetStream with streams in files."""

    @pytest.fixture
    def server(self, nats_server: Server) -> Server:
        return nats_server
