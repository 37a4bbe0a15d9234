"""Tenants: which models and adapters each may use, which it is shown, and how many requests it may make."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import projects
from tests.gateway.echo import echoes, echoing
from tests.gateway.running import Gateway

NAMES = ("chat", "legal", "refunds", "open", "secret")
MAY = {  # legal is on every replica, refunds on some; `open` is everybody's
    "acme": {"chat", "legal", "refunds", "open", "secret"},
    "beta": {"chat", "refunds", "open"},
    "gamma": {"chat", "open"},
    "slow": {"open"},
}
PLACED = {"refunds"}
LIMIT = 6


@pytest.fixture(scope="module", params=["picker", "picker dead", "Envoy alone"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    alone = request.param == "Envoy alone"
    more: dict[str, Any] = (
        {} if alone else {"adapters": projects.adapters("legal", placed=("refunds",), whenMissing="reject")}
    )
    some: dict[str, list[str] | None] = {"acme": None, "beta": None, "gamma": None}
    if not alone:
        some |= {"beta": ["refunds"], "gamma": []}
    services = [
        projects.service("chat", access=projects.access(**some), **more),
        projects.service("open"),
        projects.service("secret", access=projects.access(acme=None)),
    ]
    tenants = ["acme", "beta", "gamma", {"name": "slow", "requestsPerMinute": LIMIT}]
    plan = projects.plan(tmp_path_factory.mktemp("tenants"), services, tenants=tenants)
    replicas = {"chat": 1, "open": 1, "secret": 1}
    with echoing(plan, replicas, "legal", "refunds", pickers=int(request.param == "picker")) as gateway:
        yield gateway


def served(gateway: Gateway) -> set[str]:
    adapters = {"legal", "refunds"} if gateway.plan.services[0].adapters else set()
    return {"chat", "open", "secret"} | adapters


def test_a_tenant_uses_its_models_and_adapters_and_no_others(gateway: Gateway) -> None:
    engines = echoes(gateway)
    for tenant in ("acme", "beta", "gamma"):
        with gateway.caller(tenant) as client:
            for name in NAMES:
                before = sum(len(engine.seen) for engine in engines)
                answer = client.post("/v1/chat/completions", json={"model": name, "messages": []})
                if name not in served(gateway):
                    assert answer.status_code == 404, (tenant, name)
                    assert answer.json()["error"]["code"] == "model_not_found"
                elif name not in MAY[tenant]:
                    assert answer.status_code == 403, (tenant, name)
                    message = f"model `{name}` is not for tenant `{tenant}`"
                    assert answer.json()["error"] | {"message": message} == answer.json()["error"]
                elif name in PLACED and not gateway.pickers:  # nobody knows where it is, and an engine is not asked
                    assert answer.status_code == 503 and answer.headers["retry-after"], (tenant, name)
                    assert answer.json()["error"]["message"]
                else:
                    assert answer.status_code == 200, (tenant, name)
                assert sum(len(engine.seen) for engine in engines) - before == (answer.status_code == 200)


def test_a_tenant_is_shown_what_it_may_use(gateway: Gateway) -> None:
    for tenant, may in MAY.items():
        if tenant == "slow":
            continue
        with gateway.caller(tenant) as client:
            answer = client.get("/v1/models")
            if gateway.plan.gateway and gateway.plan.gateway.picker and not gateway.pickers:
                assert answer.status_code == 503 and answer.headers["retry-after"]
                continue
            assert answer.status_code == 200, tenant
            listed = answer.json()
            assert listed["object"] == "list"
            assert {one["id"] for one in listed["data"]} == may & served(gateway), tenant
            for name in NAMES:
                one = client.get(f"/v1/models/{name}")
                shown = name in may & served(gateway)
                assert one.status_code == (200 if shown else 404), (tenant, name)
                assert not shown or one.json()["id"] == name
            assert client.post("/v1/models").status_code == 404
            assert client.delete("/v1/models/chat").status_code == 404


def test_beyond_its_rate_a_tenant_waits_and_others_do_not(gateway: Gateway) -> None:
    body = {"model": "open", "messages": []}
    with gateway.caller("slow") as slow, gateway.caller("gamma") as gamma:
        answers = [slow.post("/v1/chat/completions", json=body) for _ in range(LIMIT + 3)]
        assert [one.status_code for one in answers] == [200] * LIMIT + [429] * 3
        last = answers[-1]
        assert last.json()["error"]["type"] == "rate_limit_error" and int(last.headers["retry-after"]) >= 1
        assert last.headers["x-ratelimit-limit"].startswith(str(LIMIT))
        assert [one.headers["x-ratelimit-remaining"] for one in answers[:2]] == [str(LIMIT - 1), str(LIMIT - 2)]
        assert slow.get("/v1/models").status_code == 429
        assert {gamma.post("/v1/chat/completions", json=body).status_code for _ in range(3 * LIMIT)} == {200}
        unlimited = gamma.post("/v1/chat/completions", json=body).headers
        assert not [name for name in unlimited if name.startswith("x-ratelimit")]
