"""Ten thousand adapters on one service: what they cost in the configuration and in each request."""

import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aibrix_compile.backends import gateway as backend
from aibrix_compile.emit import yaml_text
from aibrix_compile.plan import EnvironmentPlan
from tests.gateway import projects
from tests.gateway.echo import echoing
from tests.gateway.running import Gateway, wait
from tests.toolchain import say

MANY = 10_000
REQUESTS = 500
TICK = os.sysconf("SC_CLK_TCK")


def names(count: int) -> tuple[str, ...]:
    return tuple(f"customer-{number:05d}-support-v{number % 7}" for number in range(count))


def plan(folder: Path, *adapters: str) -> EnvironmentPlan:
    return projects.plan(
        folder, [projects.service("chat", adapters=projects.adapters(placed=adapters, whenMissing="reject"))]
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentPlan:
    return plan(tmp_path_factory.mktemp("many"), *names(MANY))


def rds(environment: EnvironmentPlan) -> str:
    return yaml_text(backend.files(environment)["routes"])


def test_the_routes_fit_into_a_config_map(many: EnvironmentPlan) -> None:
    artifacts = backend.emit(many)
    assert list(backend.sizes(artifacts)) == []
    sizes = {one.object["metadata"]["name"]: len(json.dumps(one.object)) for one in artifacts}
    largest = max(sizes.items(), key=lambda item: item[1])
    say(f"{MANY} adapters: the largest object of the gateway is {largest[0]}, {largest[1]:,} bytes")
    assert largest[1] < 1_000_000


def test_one_more_adapter_is_one_more_line(many: EnvironmentPlan, tmp_path: Path) -> None:
    more = plan(tmp_path, *names(MANY), "one-more")
    changed = [row for row in difflib.ndiff(rds(many).splitlines(), rds(more).splitlines()) if row[:2] in ("- ", "+ ")]
    versions = [row for row in changed if "version_info" in row]
    assert len(changed) - len(versions) == 1 and "one-more" in "".join(changed)


@pytest.fixture(scope="module", params=[1, MANY])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    adapters = names(request.param)
    with echoing(plan(tmp_path_factory.mktemp("some"), *adapters), {"chat": 1}, *adapters) as gateway:
        wait(lambda: call(gateway, adapters[-1]) == 200, 30)  # the picker has asked the replica what it serves
        yield gateway


def call(gateway: Gateway, model: str) -> int:
    return gateway.client.post("/v1/chat/completions", json={"model": model, "messages": []}).status_code


def test_each_of_them_is_found(gateway: Gateway) -> None:
    """With the price of a lookup, which a person reads: figures of time are not asserted."""
    adapters = gateway.plan.services[0].adapters
    assert adapters is not None
    wanted = [item.name for item in adapters.items]
    before, model = processor(gateway), ""
    for number in range(REQUESTS):
        model = wanted[number * 7919 % len(wanted)]
        assert call(gateway, model) == 200, model
    used = processor(gateway) - before
    say(f"{len(wanted)} adapters: {used / REQUESTS * 1000:.2f} ms of Envoy's CPU a request")
    assert call(gateway, model + "x") == 404


def processor(gateway: Gateway) -> float:
    """Seconds of CPU that Envoy has used."""
    fields = Path(f"/proc/{gateway.envoy.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
