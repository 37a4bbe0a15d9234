"""The gateway as it is compiled: what passes a picker, who may use what, and what is refused. That Envoy does as it is told is
tested in tests/gateway."""

import json
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile.compiler import Compilation, compile_workspace
from aibrix_compile.loading import load
from tests.backends import compiled, objects

KEYS = "apiKeys: {secret: k}, tenants: [{name: acme}, {name: beta}]"
PICKER = "picker: {image: registry.example.com/picker:1}"
GATEWAY = f"gateway: {{{KEYS}, {PICKER}}}"
ADAPTERS = "  adapters: {items: [{name: a, uri: s3://b/a}, {name: all, uri: s3://b/all, replicas: all}]}\n"


def gateway(folder: Path, more: str = "", environment: str = GATEWAY) -> dict[str, Any]:
    return objects(folder, more=more, environment=environment)


def table(found: dict[str, Any]) -> list[str]:
    """The lines of the gate's table."""
    routes = found["ConfigMap/prod-gateway-routes"]["data"]["routes.yaml"]
    lines = routes.partition("local TABLE = [==[\n")[2].partition("]==]")[0].splitlines()
    return [line.strip() for line in lines if line.strip()]


def with_service(folder: Path, name: str, text: str, environment: str = GATEWAY, more: str = "") -> Compilation:
    """A project with `chat` and one more service."""
    compiled(folder, environment=environment, more=more)
    (folder / "services" / f"{name}.yaml").write_text(
        f"apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {{name: {name}}}\nspec:\n{text}"
    )
    return compile_workspace(load([], folder), build=True)


def found(result: Compilation) -> list[tuple[str, str, str]]:
    return [(one.code, one.span.file, one.message) for one in result.diagnostics]


@pytest.mark.parametrize(
    ("routing", "picker"),
    [
        ("{strategy: least-request}", False),
        ("{strategy: random}", False),
        ("{strategy: {session: {cookie: sid}}}", False),
        ("{strategy: cost}", True),
        ("{strategy: least-request, hold: {maxWait: 60s}}", True),
        ("{strategy: least-request, priority: [high, low]}", True),
    ],
)
def test_requests_pass_a_picker_only_where_envoy_alone_would_not_do(routing: str, picker: bool, tmp_path: Path) -> None:
    made = gateway(tmp_path, f"  routing: {routing}\n", f"gateway: {{{KEYS}, {PICKER}}}")
    assert ("Deployment/prod-picker" in made) is picker
    disabled = (
        "disabled: true" in made["ConfigMap/prod-gateway-routes"]["data"]["routes.yaml"].partition("name: unread")[0]
    )
    assert disabled is not picker
    assert ("override_host" in made["ConfigMap/prod-gateway-clusters"]["data"]["clusters.yaml"]) is picker
    # without a picker nothing tells Envoy that a pod drains, but names of those that are ready
    assert made["Service/chat-headless"]["spec"].get("publishNotReadyAddresses", False) is picker


def test_a_token_budget_needs_a_picker_for_everybody(tmp_path: Path) -> None:
    budget = f"gateway: {{apiKeys: {{secret: k}}, tenants: [{{name: acme, tokensPerMinute: 9}}], {PICKER}}}"
    made = gateway(tmp_path, "  routing: {strategy: random}\n", budget)
    config = json.loads(made["ConfigMap/prod-picker-config"]["data"]["picker.json"])
    assert config["tenants"] == {"acme": {"tokens_per_minute": 9}}


def test_the_table_says_whose_a_model_is_and_who_may_use_it(tmp_path: Path) -> None:
    access = "  access: {tenants: [{name: acme, adapters: [a]}, {name: beta}]}\n"
    assert table(gateway(tmp_path, ADAPTERS + access)) == [
        "/chat least-request fallback: no picker answered",
        "/chat.placed least-request fallback: no picker answered",
        "@0 ,acme,beta,",
        "@1 ,beta,",
        "Qwen2.5-7B-Instruct chat 0",
        "all chat 1",
        "a chat.placed 0",
    ]


def test_an_adapter_that_is_not_everywhere_is_never_guessed(tmp_path: Path) -> None:
    routes = gateway(tmp_path, ADAPTERS)["ConfigMap/prod-gateway-routes"]["data"]["routes.yaml"]
    base, placed = routes.partition("name: chat.placed")[::2]
    assert "failure_mode_allow: true" in base
    assert "failure_mode_allow: false" in placed.partition("name: unread")[0]


def test_engines_admit_the_gateway_and_a_prometheus_alone(tmp_path: Path) -> None:
    monitored = f"apis: [monitoring.coreos.com/v1], {GATEWAY}"
    made = gateway(tmp_path, "  monitoring: {podMonitor: true}\n", monitored)
    (rule,) = made["NetworkPolicy/chat"]["spec"]["ingress"]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "llm-gateway"}},
            "podSelector": {"matchLabels": {"serving.aibrix.ai/gateway": "prod"}},
        },
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
    ]


def test_a_build_of_one_service_leaves_the_gateway_alone_and_its_network_closed(tmp_path: Path) -> None:
    compiled(tmp_path, environment=GATEWAY)
    result = compile_workspace(load([Path("services/chat.yaml")], tmp_path), build=True)
    made = {f"{one.object['kind']}/{one.object['metadata']['name']}": one.object for one in result.artifacts}
    assert "Deployment/prod-gateway" not in made
    assert "from" in made["NetworkPolicy/chat"]["spec"]["ingress"][0]


def test_a_custom_function_goes_with_the_picker(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    text = "def score(request, endpoints, now):\n    return [e.in_flight for e in endpoints]\n"
    (tmp_path / "services" / "scores.py").write_text(text)
    made = gateway(tmp_path, "  routing: {strategy: {custom: {function: scores:score, source: scores.py}}}\n")
    assert made["ConfigMap/prod-picker-functions"]["data"] == {"scores.py": text}
    (container,) = made["Deployment/prod-picker"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "PYTHONPATH", "value": "/etc/picker/functions"} in container["env"]


@pytest.mark.parametrize(
    ("strategy", "code", "says"),
    [
        ("{custom: {function: scores:score, source: scores.py}}", "AC125", "the file has no function score"),
        ("{custom: {function: pkg.scores:other, source: scores.py}}", "AC107", "source is the file of a module"),
        ("{custom: {function: scores:score, source: broken.py}}", "AC125", "the file is no Python in line 1"),
        ("{custom: {function: scores:score, source: none.py}}", "AC120", '"none.py" matches no file'),
        ("{custom: {function: scores:score, source: ../../x.py}}", "AC124", "leaves the project's folder"),
        ("{session: {header: x_session}}", "AC107", '"x_session" is no name of a header'),
    ],
)
def test_a_strategy_that_the_picker_could_not_load_is_refused(
    strategy: str, code: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "scores.py").write_text("def other(request, endpoints, now): ...\n")
    (tmp_path / "services" / "broken.py").write_text("def (:\n")
    result = compiled(tmp_path, environment=GATEWAY, more=f"  routing: {{strategy: {strategy}}}\n")
    assert any(one[0] == code and says in one[2] for one in found(result)), found(result)


SMALL = "  model: {uri: hf://Qwen/Qwen2.5-7B-Instruct, revision: a09a35458c702b33eeacc393d103063234e8bc28, servedName: small}\n"
SMALL += "  engine: {name: vllm, version: 0.32.0, maxModelLen: 16384}\n  pools: [{accelerator: nvidia-l4}]\n"


def test_one_name_is_one_model_behind_a_gateway(tmp_path: Path) -> None:
    result = with_service(tmp_path, "small", SMALL + ADAPTERS, more=ADAPTERS)
    assert [one[:2] for one in found(result)] == [("AC202", "services/small.yaml")] * 2


def test_the_canary_of_an_adapter_is_asked_only_where_it_has_it(tmp_path: Path) -> None:
    canary = "  routing: {canary: {service: small, weight: 10%}}\n"
    same = SMALL.replace("servedName: small", "servedName: Qwen2.5-7B-Instruct")
    result = with_service(tmp_path, "small", same, more=ADAPTERS + canary)
    assert not result.failed, found(result)
    made = {f"{one.object['kind']}/{one.object['metadata']['name']}": one.object for one in result.artifacts}
    assert "all chat.adapters -" in table(made)
    assert "Qwen2.5-7B-Instruct chat -" in table(made)


@pytest.mark.parametrize(
    ("access", "code"),
    [
        ("{tenants: []}", "AC102"),
        ("{tenants: [{name: acme}, {name: acme}]}", "AC203"),
        ("{tenants: [{name: acme, adapters: [al]}]}", "AC225"),
        ("{tenants: [{name: nobody}]}", "AC225"),
    ],
)
def test_access_names_tenants_and_adapters_that_exist(access: str, code: str, tmp_path: Path) -> None:
    result = compiled(tmp_path, environment=GATEWAY, more=f"{ADAPTERS}  access: {access}\n")
    assert [one[0] for one in found(result)] == [code]


def test_more_names_than_a_config_map_holds_are_refused(tmp_path: Path) -> None:
    def adapters(service: str) -> str:
        items = "".join(
            f"    - {{name: {service}-{'n' * 40}-{index}, uri: s3://b/{index}}}\n" for index in range(11_000)
        )
        return f"  adapters:\n    items:\n{items}"

    result = with_service(tmp_path, "small", SMALL + adapters("small"), more=adapters("chat"))
    assert [one[0] for one in found(result)] == ["AC309"], found(result)[:3]
    assert found(result)[0][1] == "aibrix.yaml"
