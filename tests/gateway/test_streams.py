"""Streams: chunks leave when the engine sends them, and who hangs up frees what was held for him everywhere."""

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway import projects
from tests.gateway.running import Engine, Gateway, running, wait

SPEED = 0.3
"""Of the mock: a token about every 35 ms."""
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
}


@pytest.fixture(scope="module", params=["picker", "Envoy alone"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    strategy = "cost" if request.param == "picker" else "least-request"
    service = projects.service("chat", routing={"strategy": strategy})
    with running(projects.plan(tmp_path_factory.mktemp("streams"), [service]), {"chat": 1}, speed=SPEED) as gateway:
        yield gateway


def arrivals(client: httpx.Client, path: str, tokens: int) -> tuple[list[float], str]:
    """When each piece of an answer came, in seconds, and the whole of it."""
    content = {"model": "chat", "stream": True, "max_tokens": tokens, **PATHS[path]}
    times, text = [], ""
    with client.stream("POST", path, json=content) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        for piece in answer.iter_raw():
            times.append(time.monotonic())
            text += piece.decode()
    return times, text


@pytest.mark.parametrize("path", PATHS)
def test_chunks_come_as_the_engine_sends_them(gateway: Gateway, path: str) -> None:
    direct, _ = arrivals(gateway.engines[0].http, path, 20)
    through, text = arrivals(gateway.client, path, 20)
    gaps = [[after - before for before, after in itertools.pairwise(times)] for times in (direct, through)]
    means = [statistics.fmean(one) for one in gaps]
    print(f"\n{path}: {len(direct)} pieces direct, {len(through)} through; mean gap {means[0]:.4f} s, {means[1]:.4f} s")
    assert text.endswith("data: [DONE]\n\n") and text.count("data: ") >= 20
    assert len(through) >= 15, "chunks were gathered on the way"
    assert sum(gap > 0.015 for gap in gaps[1]) >= 12, "chunks came in heaps"


def test_who_hangs_up_frees_the_engine_and_the_picker(gateway: Gateway) -> None:
    engine = gateway.engines[0]
    content = {"model": "chat", "stream": True, "max_tokens": 4000, **PATHS["/v1/chat/completions"]}
    for _ in range(3):
        with gateway.client.stream("POST", "/v1/chat/completions", json=content) as answer:
            pieces = answer.iter_raw()  # held on to: one that is forgotten closes the stream
            next(pieces)
            wait(lambda: engine.metric(RUNNING) == 1, 5)
            assert in_flight(gateway) == len(gateway.pickers)
        wait(lambda: idle(engine), 5)
        wait(lambda: in_flight(gateway) == 0, 5)
    wait(lambda: [row["flags"] for row in gateway.entries()[-3:]] == ["DC"] * 3, 5)


def test_who_hangs_up_before_the_answer_begins_frees_them_too(gateway: Gateway) -> None:
    engine = gateway.engines[0]
    content = {"model": "chat", "max_tokens": 4000, **PATHS["/v1/chat/completions"]}
    with pytest.raises(httpx.ReadTimeout), gateway.caller() as client:
        client.post("/v1/chat/completions", json=content, timeout=0.5)
    wait(lambda: idle(engine), 5)
    wait(lambda: in_flight(gateway) == 0, 5)


def in_flight(gateway: Gateway) -> float:
    return sum(picker.metric("picker_in_flight") for picker in gateway.pickers)


def idle(engine: Engine) -> bool:
    return engine.metric(RUNNING) == engine.metric(WAITING) == 0
