"""Configuration that changes while requests run: each change takes effect, none costs a request."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile.plan import EnvironmentPlan
from tests.gateway import projects
from tests.gateway.echo import echoing
from tests.gateway.load import steady
from tests.gateway.running import Gateway, wait

BODY = {"model": "chat", "messages": []}
FILES = ("routes", "clusters", "listeners")


def plan(
    folder: Path, weight: str = "50%", tenants: tuple[str, ...] = ("acme", "beta"), *adapters: str
) -> EnvironmentPlan:
    allowed = dict.fromkeys(tenants)
    services = [
        projects.service(
            "chat",
            routing={"strategy": "least-request", "canary": {"service": "chat-next", "weight": weight}},
            access=projects.access(**allowed),
            adapters=projects.adapters("first", *adapters),
        ),
        projects.service("chat-next", served="chat", access=projects.access(**allowed)),
    ]
    return projects.plan(folder, services, tenants=["acme", "beta"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changes")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    with echoing(plan(folder), {"chat": 1, "chat-next": 1}, "first", "second") as gateway:
        yield gateway


@pytest.fixture
def unharmed(gateway: Gateway) -> Iterator[Callable[[], list[int]]]:
    """Some 200 requests a second of tenant acme while the test runs; each must be answered."""
    with steady(gateway.caller("acme"), BODY, threads=2, pause=0.008) as statuses:
        time.sleep(0.2)
        yield statuses
        time.sleep(0.2)
        found = statuses()
    print(f"\n{len(found)} requests while it changed")
    assert len(found) > 20 and set(found) == {200}


def asked(gateway: Gateway, model: str = "chat", tenant: str = "beta", count: int = 1) -> list[tuple[int, str]]:
    """Statuses, and the services that answered."""
    with gateway.caller(tenant) as client:
        answers = [client.post("/v1/chat/completions", json=BODY | {"model": model}) for _ in range(count)]
    return [(one.status_code, one.headers.get("x-gateway-service", "")) for one in answers]


def test_a_weight_changes(gateway: Gateway, folder: Path, unharmed: Callable[[], list[int]]) -> None:
    assert len(set(asked(gateway, count=30))) == 2
    gateway.publish(plan(folder, "100%"))
    wait(lambda: set(asked(gateway, count=20)) == {(200, "chat-next")}, 10)
    gateway.publish(plan(folder, "50%"))
    wait(lambda: len(set(asked(gateway, count=20))) == 2, 10)


def test_a_tenant_loses_a_model_and_gets_it_back(
    gateway: Gateway, folder: Path, unharmed: Callable[[], list[int]]
) -> None:
    gateway.publish(plan(folder, tenants=("acme",)))
    wait(lambda: asked(gateway)[0][0] == 403, 10)
    gateway.publish(plan(folder))
    wait(lambda: asked(gateway)[0][0] == 200, 10)


def test_an_adapter_is_added_and_removed(gateway: Gateway, folder: Path, unharmed: Callable[[], list[int]]) -> None:
    assert asked(gateway, "second")[0][0] == 404
    gateway.publish(plan(folder, "50%", ("acme", "beta"), "second"))
    wait(lambda: asked(gateway, "second") == [(200, "chat")], 10)
    gateway.publish(plan(folder))
    wait(lambda: asked(gateway, "second")[0][0] == 404, 10)


def test_the_way_replicas_are_chosen_changes(gateway: Gateway, folder: Path, unharmed: Callable[[], list[int]]) -> None:
    """A cluster is replaced as a whole, with all its connections."""
    before = gateway.stat("envoy_cluster_manager_cluster_modified")
    current = gateway.plan
    drawn = [
        dataclasses.replace(one, routing=dataclasses.replace(one.routing, fallback="random"))
        for one in current.services
    ]
    gateway.publish(dataclasses.replace(current, services=tuple(drawn)))
    wait(lambda: gateway.stat("envoy_cluster_manager_cluster_modified") > before, 10)
    gateway.publish(current)
    wait(lambda: gateway.stat("envoy_cluster_manager_cluster_modified") > before + 1, 10)


PREFIX = {
    "routes": "envoy_http_rds_update_",
    "clusters": "envoy_cluster_manager_cds_update_",
    "listeners": "envoy_listener_manager_lds_update_",
}


def refused(gateway: Gateway, name: str) -> float:
    """Envoy counts apart what it could not read and what it read and did not take."""
    return sum(gateway.stat(PREFIX[name] + kind) for kind in ("rejected", "failure"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("broken", ["a field that does not exist", "no YAML", "a wrong type"])
def test_a_broken_file_is_rejected_counted_and_changes_nothing(
    gateway: Gateway, unharmed: Callable[[], list[int]], name: str, broken: str
) -> None:
    before = refused(gateway, name)

    def spoil(content: dict[str, Any]) -> str | dict[str, Any]:
        first, *rest = content["resources"]
        if broken == "no YAML":
            return "resources: [}"
        change = {"nonsense": 1} if broken.startswith("a field") else {"name": ["no", "name"]}
        return content | {"resources": [first | change, *rest]}

    try:
        gateway.spoil(name, spoil)
        wait(lambda: refused(gateway, name) > before, 10)
        assert {status for status, _ in asked(gateway, count=5)} == {200}
    finally:
        gateway.publish(gateway.plan)
