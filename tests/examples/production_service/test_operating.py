"""What ``--app examples.production_service.operating:bus`` opens for the command line."""

from pathlib import Path

import pytest

from avx_events.observability import SettingError
from examples.production_service.operating import bus
from examples.production_service.welcome import WelcomeMail
from tests.examples.production_service.serving import create_user, handled, serving


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/events.db"
    monkeypatch.setenv("AVX_EVENTS__STORE_URL", url)
    return url


async def test_a_letter_is_given_back_by_it_while_the_service_runs(url: str) -> None:
    async with serving(url) as (client, service):
        user_ids = [await create_user(client, f"{name}@example.invalid") for name in ("jane", "john")]
        await handled(service)
        (first, second) = await service.bus.dead_letter_queue.list()

        async with bus() as handlers, handlers:
            await handlers.republish(first.id)
            await handlers.settled()
            letters = {letter.id: letter.redrives for letter in await handlers.dead_letter_queue.list()}
        statuses = [(await service.store.load(WelcomeMail, f"welcome-mail-{user_id}")).status for user_id in user_ids]

    assert letters == {first.id: 1, second.id: 0}
    assert statuses == ["refused", "refused"]


async def test_a_setting_that_is_wrong_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert url
    monkeypatch.setenv("AVX_EVENTS__BUS_URL", "mongo://localhost")

    with pytest.raises(SettingError, match="AVX_EVENTS__BUS_URL"):
        async with bus():
            pass
