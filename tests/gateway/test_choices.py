"""Strategies that need a picker, end to end: a function of the user's, and the answer to why."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import projects
from tests.gateway.running import Gateway, running

SCORES = """\
def score(request, endpoints, now):
    return [int(one.name.split(":")[0].rpartition(".")[2]) for one in endpoints]  # the lowest address
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("choices")
    (folder / "scores.py").write_text(SCORES)
    (folder / "broken.py").write_text("def score(request, endpoints, now):\n    raise ValueError(endpoints)\n")
    services = [
        projects.service(name, routing={"strategy": {"custom": {"function": f"{file}:score", "source": f"{file}.py"}}})
        for name, file in (("own", "scores"), ("bad", "broken"))
    ]
    plan = projects.plan(folder, [*services, projects.service("plain", routing={"strategy": "cost"})])
    with running(plan, {"own": 3, "bad": 2, "plain": 2}) as gateway:
        yield gateway


def ask(gateway: Gateway, model: str) -> dict[str, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    answer = gateway.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.headers)


def test_a_function_of_the_user_chooses(gateway: Gateway) -> None:
    lowest = gateway.of("own")[0].address
    for _ in range(5):
        answer = ask(gateway, "own")
        assert (answer["x-gateway-endpoint"], answer["x-gateway-strategy"]) == (lowest, "custom")


def test_a_function_that_fails_is_said_and_the_fallback_chooses(gateway: Gateway) -> None:
    answer = ask(gateway, "bad")
    assert answer["x-gateway-strategy"] == "least-request"
    assert "broken:score failed" in answer["x-gateway-reason"]
    assert gateway.pickers[0].metric("picker_degraded_total", service="bad", reason="function") == 1


def test_the_picker_explains_a_decision_by_its_terms(gateway: Gateway) -> None:
    answer = ask(gateway, "plain")
    address = gateway.pickers[0].http.base_url.netloc.decode()
    command = [sys.executable, "-m", "aibrix_controllers.picker", "explain"]
    paths = {"PYTHONPATH": ":".join(str(Path(__file__).parents[2] / name) for name in (".", "controllers"))}
    done = subprocess.run(
        [*command, answer["x-request-id"], "--address", address], capture_output=True, text=True, env=paths
    )
    assert done.returncode == 0, done.stderr
    for engine in gateway.of("plain"):
        assert engine.address in done.stdout
    assert "score cost" in done.stdout and answer["x-gateway-endpoint"] in done.stdout
    unknown = subprocess.run(
        [*command, "no-such-request", "--address", address], capture_output=True, text=True, env=paths
    )
    assert unknown.returncode == 1 and "no-such-request" in unknown.stderr + unknown.stdout
