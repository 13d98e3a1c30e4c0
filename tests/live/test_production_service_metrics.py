"""A scrape of the production service: of all its workers, and of the groups of its broker."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.service_process import Running, failed_start, log_in, running
from tests.servers.children import children_of
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

WORKERS: Final = 3
REQUESTS: Final = 60

Series: TypeAlias = tuple[str, frozenset[tuple[str, str]]]


async def scrape(service: Running) -> Mapping[Series, float]:
    """Return the counts of a scrape over a connection of its own, which any of the workers may take."""
    async with httpx.AsyncClient(base_url=service.client.base_url, timeout=20) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(series: Mapping[Series, float], name: str, **labels: str) -> float:
    """Return the sum of all series of a name that have these labels."""
    return sum(value for (found, of), value in series.items() if found == name and of >= frozenset(labels.items()))


def is_count(series: Series) -> bool:
    return series[0].endswith(("_total", "_bucket", "_count"))


async def ask(service: Running, number: int) -> None:
    """Send a request over a connection of its own."""
    async with httpx.AsyncClient(base_url=service.client.base_url, timeout=20) as client:
        assert (await client.get(f"/users?limit={number % 9 + 1}")).status_code == 200


async def test_a_scrape_never_jumps_back_between_workers_and_adds_up_to_what_was_done(tmp_path: Path) -> None:
    seen: dict[Series, float] = {}
    backwards: list[Series] = []
    async with running(tmp_path, {"AVX_EVENTS__WORKERS": str(WORKERS)}) as service:
        for _ in range(REQUESTS // 6):
            async with asyncio.TaskGroup() as clients:
                for number in range(6):
                    clients.create_task(ask(service, number))
            found = await scrape(service)
            backwards += [each for each, value in seen.items() if is_count(each) and found.get(each, -1.0) < value]
            seen = {**seen, **found}
        code = await service.end(signal.SIGTERM)

    assert (code, backwards) == (0, [])
    assert total(seen, "avx_http_requests_total", route="/users", status="200") == REQUESTS
    assert total(seen, "avx_service_workers") == WORKERS
    answered = {dict(of).get("worker") for (name, of) in seen if name == "avx_http_requests_total"}
    assert answered <= {"1", "2", "3"}
    assert {dict(of).get("worker") for (name, of) in seen if name == "avx_events_published_total"} == {"1", "2", "3"}


async def test_a_worker_that_was_replaced_is_back_under_its_number(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, {"AVX_EVENTS__WORKERS": str(WORKERS)}) as service:
        before = await scrape(service)
        victim = children_of(service.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: "another takes its place" in log_in(tmp_path), timeout_s=20)
        await until(lambda: log_in(tmp_path).count("serves as process") == WORKERS + 1, timeout_s=20)
        after = await scrape(service)
        code = await service.end(signal.SIGTERM)

    assert (total(before, "avx_service_workers"), total(after, "avx_service_workers"), code) == (3, 3, 0)
    assert {dict(of).get("worker") for (name, of) in after if name == "avx_events_published_total"} == {"1", "2", "3"}


async def test_a_folder_whose_sockets_would_have_too_long_names_is_refused_at_the_start(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    code, said = await failed_start(tmp_path, AVX_EVENTS__WORKERS="2", TMPDIR=str(long))

    assert code == 2
    assert "error: TMPDIR (from the environment) must be shorter" in said
    assert not list(long.iterdir())


@pytest.mark.parametrize("broker", ["redis_url", "nats_url", "kafka_url"])
async def test_how_far_the_groups_of_the_broker_are_is_told_by_one_of_the_workers(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {
        "AVX_EVENTS__BUS_URL": request.getfixturevalue(broker),
        "AVX_EVENTS__NAMESPACE": f"lag-{uuid4().hex}",
        "AVX_EVENTS__WORKERS": "2",
    }
    async with running(tmp_path, settings) as service:
        await service.client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        found = await scrape(service)
        code = await service.end(signal.SIGTERM)

    lags = {
        (name, dict(of)["worker"], dict(of)["group"], dict(of)["handler"])
        for name, of in found
        if "_lag_" in name and "group" in name
    }
    assert code == 0
    assert lags == {
        ("avx_events_group_lag_events", "1", "avx-events", "welcome-mail"),
        ("avx_events_group_lag_seconds", "1", "avx-events", "welcome-mail"),
    }
