"""Adapters behind the real Envoy: requests find them where a sidecar announces them, and where none does, what the service says.
The controller is left out - tests load by hand what it would load; tests/cluster has the whole."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.gateway import projects
from tests.gateway.running import Gateway, running, wait
from tests.runtime import written
from tests.runtime.sidecar import Sidecar

COST = {"strategy": "cost"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Three services, by what they do with an adapter that nobody has."""
    rules = {
        name: projects.service(
            name, routing=COST, adapters=projects.adapters(placed=(f"of-{name}", f"{name}-2"), whenMissing=name)
        )
        for name in ("hold", "reject", "base")
    }
    with running(
        projects.plan(tmp_path_factory.mktemp("plan"), list(rules.values())), {"hold": 2, "reject": 1, "base": 1}
    ) as gateway:
        wait(lambda: all(ask(gateway, name).status_code == 200 for name in rules), 15)
        yield gateway


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written.adapter(tmp_path_factory.mktemp("files") / "x")


def ask(gateway: Gateway, model: str, tokens: int = 1) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return gateway.client.post(
        "/v1/chat/completions", json={"model": model, "messages": messages, "max_tokens": tokens}
    )


def sidecars(gateway: Gateway, service: str) -> list[Sidecar]:
    return [one.sidecar for one in gateway.of(service) if one.sidecar]


def load(one: Sidecar, name: str, files: Path) -> None:
    answer = one.load(name, f"file://{files}")
    assert answer.status_code == 200, answer.text


def demand(gateway: Gateway, service: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = gateway.pickers[0].http.get("/demand").json()["services"][service]
    return found


def test_a_request_waits_until_some_replica_has_it(gateway: Gateway, files: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, gateway, "of-hold") for _ in range(8)]
        wait(
            lambda: demand(gateway, "hold")["waiting"] == {"of-hold": 8},
            5,
            lambda: f"{demand(gateway, 'hold')} {[one.result().text for one in asked if one.done()]}",
        )
        time.sleep(0.5)
        assert not any(one.done() for one in asked)
        began = time.monotonic()
        load(sidecars(gateway, "hold")[1], "of-hold", files)
        answers = [one.result() for one in asked]
    assert time.monotonic() - began < 5
    assert {one.status_code for one in answers} == {200}
    (address,) = {one.headers["x-gateway-endpoint"] for one in answers}
    assert address == gateway.of("hold")[1].address, "the one that has it"
    assert demand(gateway, "hold")["waiting"] == {} and demand(gateway, "hold")["asked"] == {"of-hold": 8}


def test_a_rejected_one_is_told_so_and_found_once_it_is_there(gateway: Gateway, files: Path) -> None:
    answer = ask(gateway, "of-reject")
    assert answer.status_code in (404, 503) and "of-reject" in answer.json()["error"]["message"]
    load(sidecars(gateway, "reject")[0], "of-reject", files)
    wait(lambda: ask(gateway, "of-reject").status_code == 200, 2)
    assert demand(gateway, "reject")["asked"]["of-reject"]


def test_the_base_model_answers_in_its_place_and_says_so(gateway: Gateway, files: Path) -> None:
    answer = ask(gateway, "of-base")
    assert answer.status_code == 200 and answer.headers["x-gateway-answered-by"] == "base"
    load(sidecars(gateway, "base")[0], "of-base", files)
    wait(lambda: "x-gateway-answered-by" not in ask(gateway, "of-base").headers, 2)


def test_what_only_the_engine_knows_is_not_announced(gateway: Gateway, files: Path) -> None:
    """Loaded past the sidecar: nobody knows which content that is."""
    engine = gateway.of("base")[0]
    assert (
        engine.http.post("/v1/load_lora_adapter", json={"lora_name": "base-2", "lora_path": str(files)}).status_code
        == 200
    )
    time.sleep(1.5)
    assert ask(gateway, "base-2").headers["x-gateway-answered-by"] == "base"


def test_nobody_is_failed_while_an_adapter_leaves_and_moves(gateway: Gateway, files: Path) -> None:
    first, second = sidecars(gateway, "hold")
    for one in (first, second):
        load(one, "hold-2", files)
    wait(lambda: ask(gateway, "hold-2").status_code == 200, 2)
    failed: list[int] = []
    stop: list[bool] = []

    def client() -> None:
        while not stop:
            answer = ask(gateway, "hold-2", tokens=20)
            if answer.status_code != 200:
                failed.append(answer.status_code)

    with ThreadPoolExecutor(6) as pool:
        for _ in range(6):
            pool.submit(client)
        try:
            for _ in range(2):
                for one in (first, second):
                    assert one.unload("hold-2").status_code == 200
                    load(one, "hold-2", files)
        finally:
            stop.append(True)
    assert failed == []


def test_a_sidecar_that_dies_takes_nothing_with_it(gateway: Gateway, files: Path) -> None:
    (one,) = sidecars(gateway, "reject")
    assert ask(gateway, "of-reject").status_code == 200
    one.stop()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert ask(gateway, "of-reject").status_code == 200
    one.start()
    wait(lambda: gateway.pickers[0].metric("picker_events_total", event="stream_back") > 0, 5)
    assert ask(gateway, "of-reject").status_code == 200
