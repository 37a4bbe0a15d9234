"""Looks at engines. A real mock engine where one can be made to behave so; a server of the test's where its timing matters."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from observed import NAMES, PAGE, Engine, Notes, answer, configured, fleet, running, status, until

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe import Fleet, Replica, scrape
from aibrix_controllers.picker.state import State
from tests.mock.mocks import Mock, adapter

ADAPTERS = {"everywhere": ["legal-de"], "placed": ["refunds"]}
MODELS = answer(b'{"object":"list","data":[{"id":"base"},{"id":"refunds"}]}')


@pytest.fixture
def mock() -> Iterator[Mock]:
    one = Mock("--enable-lora", "--max-loras=2")
    yield one
    one.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is seen matters, and not when."""
    monkeypatch.setattr(scrape, "PERIOD_S", 0.1)


def look(config: Config, seen: Fleet) -> object:
    return scrape.follow(lambda: config, seen, lambda: 0.0)


def with_replica(config: Config, address: str, *, probed: bool = False) -> tuple[Fleet, State, Notes]:
    seen, state, notes = fleet(config, probed=probed)
    seen.replace("chat", {address: Replica("l4", ready=not probed)})
    return seen, state, notes


def test_a_real_page_becomes_a_report(mock: Mock, tmp_path: Path) -> None:
    config, address = configured(adapters=ADAPTERS), f"127.0.0.1:{mock.port}"
    mock.fault("kv", 0.5)
    seen, state, notes = with_replica(config, address)

    async def scene() -> None:
        async with running(look(config, seen)):
            one = state.fleets["chat"].replicas[address]
            await until(lambda: one.endpoint.reported_us >= 0)
            assert one.endpoint.kv_tokens == 400_000
            assert one.endpoint.kv_used == pytest.approx(200_000, rel=0.01)
            await until(lambda: one.models == {"base"})
            body = {"lora_name": "refunds", "lora_path": str(adapter(tmp_path / "refunds"))}
            assert (await asyncio.to_thread(mock.http.post, "/v1/load_lora_adapter", json=body)).status_code == 200
            await until(lambda: one.models == {"base", "refunds"})

    asyncio.run(scene())
    assert not notes


def test_metrics_that_are_gone_make_a_report_stale_and_no_engine_hung(mock: Mock) -> None:
    config, address = configured(), f"127.0.0.1:{mock.port}"
    seen, state, notes = with_replica(config, address)

    async def scene() -> None:
        async with running(look(config, seen)):
            await until(lambda: status(state) == {address: "ready"})
            mock.fault("metrics_gone")
            await until(lambda: status(state) == {address: "no metrics"})
            mock.fault("none")
            await until(lambda: status(state) == {address: "ready"})

    asyncio.run(scene())
    told = {"service": "chat", "address": address}
    assert notes == [
        ("engine_report_missing", told | {"why": "/metrics answers 404"}),
        ("engine_well", told | {"why": ""}),
    ]


def test_an_engine_that_hangs_is_avoided_within_two_seconds_and_used_again_when_it_answers(mock: Mock) -> None:
    config, address = configured(), f"127.0.0.1:{mock.port}"
    seen, state, notes = with_replica(config, address)

    async def scene() -> None:
        async with running(look(config, seen)):
            one = state.fleets["chat"].replicas[address]
            await until(lambda: one.endpoint.reported_us >= 0)
            mock.process.send_signal(signal.SIGSTOP)
            await until(lambda: status(state) == {address: "hung"}, 2)
            mock.process.send_signal(signal.SIGCONT)
            await until(lambda: status(state) == {address: "ready"})
            mock.process.kill()
            await until(lambda: status(state) == {address: "hung"}, 2)

    asyncio.run(scene())
    assert [event for event, _ in notes] == ["engine_hung", "engine_well", "engine_unreachable"]


def test_without_kubernetes_an_engine_is_ready_when_it_listens_and_another_after_a_restart() -> None:
    first = Mock()
    config, address = configured(), f"127.0.0.1:{first.port}"
    seen, state, _ = with_replica(config, address, probed=True)

    async def scene() -> None:
        async with running(look(config, seen)):
            await until(lambda: status(state) == {address: "ready"})
            before = state.fleets["chat"].replicas[address]
            first.process.kill()
            await until(lambda: status(state) == {address: "not ready"})
            async with Engine().listening(first.port):
                await until(lambda: status(state) == {address: "ready"})
            assert state.fleets["chat"].replicas[address].incarnation != before.incarnation

    try:
        asyncio.run(scene())
    finally:
        first.close()


def test_a_late_answer_is_forgiven_when_it_comes() -> None:
    config, engine = configured(), Engine()

    async def scene() -> None:
        async with engine.listening():
            seen, state, _ = with_replica(config, engine.address)
            engine.delay = 1.3
            async with running(look(config, seen)):
                await until(lambda: status(state) == {engine.address: "hung"}, 1.2)
                engine.delay = 100  # of the next one: it is the late one that counts
                await until(lambda: status(state) == {engine.address: "ready"}, 1.2)

    asyncio.run(scene())


def test_one_request_at_a_time_whatever_the_engine_does() -> None:
    config, engine = configured(), Engine()

    async def scene() -> None:
        async with engine.listening():
            seen, _, _ = with_replica(config, engine.address)
            engine.delay = 100
            async with running(look(config, seen)):
                await asyncio.sleep(2.5)
                assert (engine.opened, len(engine.asked)) == (1, 1)
                await until(lambda: engine.opened == 2)  # patience has an end

    asyncio.run(scene())


def test_a_picker_that_was_late_itself_does_not_blame_the_engines() -> None:
    config, engine = configured(), Engine()

    async def scene() -> None:
        async with engine.listening():
            seen, state, notes = with_replica(config, engine.address)
            engine.delay = 0.4
            async with running(look(config, seen)):
                await until(lambda: engine.asked)
                time.sleep(1.5)  # the loop is what stands still
                await until(lambda: state.fleets["chat"].replicas[engine.address].endpoint.reported_us >= 0)
                assert not notes

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (answer(b"", 500), "/metrics answers 500"),
        (answer(PAGE.replace(b"running", b"walking")), "no vllm:num_requests_running"),
        (answer(b"x" * (scrape.PAGE_BYTES + 1)), f"/metrics: the answer is above {scrape.PAGE_BYTES} bytes"),
    ],
    ids=["500", "a series is missing", "too large"],
)
@pytest.mark.usefixtures("hurried")
def test_an_answer_without_numbers(page: bytes, why: str) -> None:
    config, engine = configured(), Engine(metrics=page)

    async def scene() -> None:
        async with engine.listening():
            seen, state, notes = with_replica(config, engine.address)
            async with running(look(config, seen)):
                await until(lambda: status(state) == {engine.address: "no metrics"})
                await until(lambda: len(engine.asked) > 2)
                assert [fields["why"] for _, fields in notes] == [why]  # once

    asyncio.run(scene())


@pytest.mark.usefixtures("hurried")
def test_a_broken_list_of_models_leaves_the_last_one_in_force() -> None:
    config, engine = configured(adapters=ADAPTERS), Engine(models=MODELS)

    async def scene() -> None:
        async with engine.listening():
            seen, state, notes = with_replica(config, engine.address)
            async with running(look(config, seen)):
                one = state.fleets["chat"].replicas[engine.address]
                await until(lambda: one.models == {"base", "refunds"})
                for broken in (answer(b"[]"), answer(b'{"data":[{"id":[]}, 5]}'), answer(b"{"), answer(b"", 500)):
                    engine.pages["/models"], before = broken, len(engine.asked)
                    await until(lambda before=before: len(engine.asked) > before + 2)
                    assert one.models == {"base", "refunds"} and one.status == "ready"
                assert {event for event, _ in notes} == {"engine_report_missing"}

    asyncio.run(scene())


@pytest.mark.usefixtures("hurried")
def test_only_services_with_adapters_are_asked_for_models_and_those_without_metrics_for_their_health() -> None:
    plain, bare = configured(), configured(metrics={})

    async def paths(config: Config) -> set[str]:
        engine = Engine(health=answer(b""))
        async with engine.listening():
            seen, state, notes = with_replica(config, engine.address)
            async with running(look(config, seen)):
                await until(lambda: len(engine.asked) > 1)
                assert not notes
                assert status(state)[engine.address] in ("ready", "no metrics")
        return set(engine.asked)

    assert asyncio.run(paths(plain)) == {"/metrics"}
    assert asyncio.run(paths(bare)) == {"/health"}


@pytest.mark.usefixtures("hurried")
def test_a_replica_that_is_gone_is_asked_no_more_and_a_new_config_is_followed() -> None:
    configs, engine = [configured()], Engine(models=MODELS)

    async def scene() -> None:
        async with engine.listening():
            seen, state, _ = with_replica(configs[0], engine.address)
            async with running(scrape.follow(lambda: configs[-1], seen, lambda: 0.0)):
                await until(lambda: len(engine.asked) > 1)
                configs.append(configured(metrics=NAMES | {"running": "other:running"}, adapters=ADAPTERS))
                await until(lambda: status(state) == {engine.address: "no metrics"})
                assert "/v1/models" in engine.asked
                seen.replace("chat", {})
                await asyncio.sleep(0.05)
                before = len(engine.asked)
                await asyncio.sleep(0.4)
                assert len(engine.asked) == before and not seen.replicas

    asyncio.run(scene())
