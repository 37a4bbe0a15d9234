"""The JSON Schema says what the decoder says, as far as a schema can; the reference and `describe` are whole."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.spec.decode import inline
from aibrix_compile.spec.modelservice import ModelService
from aibrix_compile.spec.project import Project
from aibrix_compile.spec.schema import describe, entries, json_schema, reference, slug
from tests.spec.test_language import FIELDS, MODELS

HERE = Path(__file__).parent
SCHEMAS = {"complete.yaml": json_schema(ModelService), "project.yaml": json_schema(Project)}


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def valid(file: str, data: Any) -> bool:
    return bool(jsonschema.Draft7Validator(SCHEMAS[file]).is_valid(data))


def changed(file: str, path: str, value: Any) -> Any:
    data = copy.deepcopy(yaml.safe_load((HERE / file).read_text("utf-8")))
    node = data
    *way, last = (int(step) if step.isdecimal() else step for step in path.split("."))
    for step in way:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return data


@pytest.mark.parametrize("file", SCHEMAS)
def test_it_is_draft_07(file: str) -> None:
    schema = SCHEMAS[file]
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert re.fullmatch(r"(modelservice|project)\.v1alpha1\.schema\.json", schema["$id"])
    assert schema == json.loads(json.dumps(schema))
    assert "$defs" not in json.dumps(schema)
    for one in objects(schema):
        if "$ref" in one:
            assert one.keys() == {"$ref"}, "draft-07 ignores what stands beside $ref"
            assert one["$ref"].removeprefix("#/definitions/") in schema["definitions"]


@pytest.mark.parametrize("file", SCHEMAS)
def test_the_documented_examples_are_valid(file: str) -> None:
    data = yaml.safe_load((HERE / file).read_text("utf-8"))
    assert [e.message for e in jsonschema.Draft7Validator(SCHEMAS[file]).iter_errors(data)] == []


@pytest.mark.parametrize("file", sorted(HERE.parents[1].glob("examples/*/services/*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_valid(file: Path) -> None:
    assert valid("complete.yaml", yaml.safe_load(file.read_text("utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("apiVersion", "v1"),
        ("kind", "Modelservice"),
        ("metadata.name", ...),
        ("metadata.name", "Support Chat"),
        ("metadata.name", ["chat"]),
        ("metadata.labels", ["team"]),
        ("spec.model", "hf://a/b"),
        ("spec.model.uri", ...),
        ("spec.model.uri", "meta-llama/Llama-3.1-8B"),
        ("spec.model.credentials", "hf-token"),
        ("spec.model.loading.method", "magic"),
        ("spec.model.loading.cache.claim", {"name": "x"}),
        ("spec.model.shape", {"layers": 1}),
        ("spec.engine.name", "vlm"),
        ("spec.engine.version", ...),
        ("spec.engine.version", "latest!"),
        ("spec.engine.maxModelLen", "8192"),
        ("spec.engine.maxModelLen", 0),
        ("spec.engine.maxModelLen", 1.5),
        ("spec.engine.args", ["--x"]),
        ("spec.engine.env", {"A": ["b"]}),
        ("spec.engine.image", "Not An Image"),
        ("spec.pools", ...),
        ("spec.pools", {"accelerator": "nvidia-l4"}),
        ("spec.pools.0.accelerator", ...),
        ("spec.pools.0.replicas", -1),
        ("spec.pools.0.replicas", "two"),
        ("spec.pools.0.replicas", {"least": 1}),
        ("spec.pools.0.parallelism", 4),
        ("spec.pools.0.spot", "yes"),
        ("spec.pools.0.resources", {"memory": "32GB"}),
        ("spec.pools.0.template", "x"),
        ("spec.scaling.strategy", "kap"),
        ("spec.scaling.strategy", "kpa"),
        ("spec.scaling.strategy", {}),
        ("spec.scaling.strategy", {"slo": {}, "none": {}}),
        ("spec.scaling.strategy", {"kpa": {"target": 12}}),
        ("spec.scaling.strategy", {"kpa": {"target": "12 per replica", "window": "60s"}}),
        ("spec.scaling.schedules.0.days", ["Monday"]),
        ("spec.scaling.schedules.0.from", "8:00"),
        ("spec.scaling.schedules.0.start", "08:00"),
        ("spec.scaling.budget.maxCostPerHour", 20),
        ("spec.scaling.budget.maxCostPerHour", "20 dollars"),
        ("spec.routing.strategy", {"weighted": ["cost"]}),
        ("spec.routing.timeout", 300),
        ("spec.routing.timeout", "5 minutes"),
        ("spec.routing.hold.maxBytes", "64MB"),
        ("spec.routing.canary", {"service": "x", "weight": 10}),
        ("spec.routing.timout", "300s"),
        ("spec.adapters.limits.maxRank", 33),
        ("spec.adapters.items.0.replicas", "most"),
        ("spec.adapters.items.0.replicas", 0),
        ("spec.access.tenants.0", "acme"),
        ("spec.slo.ttft", {"p42": "2s"}),
        ("spec.slo.ttft", "2s"),
        ("spec.workload.inputTokens", ...),
        ("spec.rollout.maxSurge", "some"),
        ("spec.monitoring.alerts", "on"),
        ("spec.monitoring", None),
        ("spec.pools.0", None),
    ],
    ids=str,
)
def test_what_it_refuses_in_a_service(path: str, value: Any) -> None:
    assert not valid("complete.yaml", changed("complete.yaml", path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", 1),  # text fields keep text; an editor may guess a number
        ("metadata.labels.version", 0.1),
        ("spec.engine.version", 0.10),
        ("spec.model.shape", "config.json"),
        ("spec.model.revision", 777),
        ("spec.engine.env", {"A": True, "B": {"secret": "x", "key": "k"}}),
        ("spec.pools.0.replicas", 0),
        ("spec.pools.0.replicas", {"count": 2}),
        ("spec.scaling.strategy", "none"),
        ("spec.scaling.strategy", {"kpa": {"target": "12 per replica"}}),
        ("spec.scaling.strategy", {"slo": {}}),
        ("spec.routing.strategy", {"session": {"header": "x"}}),
        ("spec.routing.strategy", {"weighted": {"cost": 1, "random": 0.5}}),
        ("spec.routing.retries.when", [503, "reset"]),
        ("spec.adapters.items.0.replicas", 2),
        ("spec.rollout", {"maxSurge": "25%", "maxUnavailable": 0}),
        ("spec.slo", {"e2e": {"p99.9": "1m"}}),
        ("spec.pools.0.template", {"spec": {"anything": [1, None]}}),
    ],
    ids=str,
)
def test_what_it_takes_in_a_service(path: str, value: Any) -> None:
    assert valid("complete.yaml", changed("complete.yaml", path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.services", "services/*.yaml"),
        ("spec.environments.0.namespace", ...),
        ("spec.environments.0.accelerators.nvidia-l4.quota", -1),
        ("spec.environments.0.accelerators.nvidia-l4.tolerations", ["x"]),
        ("spec.environments.0.gateway.mode", "nginx"),
        ("spec.environments.0.gateway.bodyLimit", 32),
        ("spec.environments.0.storage.s3.endpoint", "minio"),
        ("spec.environments.0.policy.forbid", ["everything"]),
        ("spec.environments.0.argocd.repo", "x"),
    ],
    ids=str,
)
def test_what_it_refuses_in_a_project(path: str, value: Any) -> None:
    assert not valid("project.yaml", changed("project.yaml", path, value))


def test_every_field_has_its_hover_text() -> None:
    for schema, root in ((SCHEMAS["complete.yaml"], ModelService), (SCHEMAS["project.yaml"], Project)):
        places = {root.__name__: schema, **schema["definitions"]}
        for name, place in places.items():
            (full,) = (one for one in (place, *place.get("anyOf", ())) if "properties" in one)
            assert full["additionalProperties"] is False
            assert list(full["properties"]) == [entry.key for entry in entries(MODELS[name])]
            for entry in entries(MODELS[name]):
                field = full["properties"][entry.key]
                assert field["title"] == entry.key
                assert field["description"] == entry.info.description
                assert field["examples"] == [entry.example]
            assert full.get("required", []) == [e.key for e in entries(MODELS[name]) if e.info.is_required()]


@pytest.mark.parametrize("file", SCHEMAS)
def test_examples_and_defaults_are_valid_where_they_stand(file: str) -> None:
    count = 0
    for one in objects(SCHEMAS[file]):
        if isinstance(one.get("examples"), list):
            checker = jsonschema.Draft7Validator({**one, "definitions": SCHEMAS[file]["definitions"]})
            for data in [*one["examples"], *([one["default"]] if "default" in one else [])]:
                assert [e.message for e in checker.iter_errors(data)] == [], one["title"]
                count += 1
    assert count > 40


def test_defaults_are_spelled() -> None:
    fields = SCHEMAS["complete.yaml"]["definitions"]
    found = {name: field["default"] for name, field in fields["Routing"]["properties"].items() if "default" in field}
    assert found == {
        "strategy": "cost",
        "fallback": "least-request",
        "timeout": "300s",
        "idleTimeout": "120s",
        "whenPickerDown": "serve",
    }
    assert fields["Hold"]["properties"]["maxBytes"]["default"] == "64Mi"
    assert fields["Apa"]["properties"]["tolerance"]["default"] == "10%"
    assert fields["Monitoring"]["properties"]["alerts"]["default"] is False
    assert "default" not in fields["Pool"]["properties"]["name"]


def test_strategies_complete_by_name_with_their_description() -> None:
    names, full = SCHEMAS["complete.yaml"]["definitions"]["RoutingStrategy"]["anyOf"]
    assert names["enum"] == [
        "least-request",
        "random",
        "cost",
        "prefix-cache",
        "least-kv-cache",
        "lora-affinity",
        "session",
    ]
    assert names["enumDescriptions"][0] == "Fewest requests in flight."
    assert set(full["properties"]) == {*names["enum"], "weighted", "custom"}


# --- the reference

REFERENCE = reference((ModelService, Project))


def test_the_reference_has_every_field_in_order() -> None:
    rows = re.findall(r"^\| \*{0,2}`([^`]+)`\*{0,2} \|.*$", REFERENCE, re.M)
    for model, entry in FIELDS:
        assert any(row.rpartition(".")[2] == entry.key for row in rows), f"{model.__name__}.{entry.key}"
    wanted = [
        "spec.model.uri",
        "spec.model.loading.cache.claim",
        "spec.engine.env[name].secret",
        "spec.pools[].replicas.min",
        "spec.scaling.strategy.kpa.panicWindow",
        "spec.adapters.items[].replicas.count",
        "spec.environments[].accelerators[name].quota",
    ]
    assert [row for row in rows if row in wanted] == wanted


def test_the_tables_of_the_reference_are_tables() -> None:
    for line in REFERENCE.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            assert len(cells) in (2, 5) and all(cell.strip() or cell for cell in cells), line
    assert "| **`spec.model.uri`** | uri | - |" in REFERENCE
    assert "| `spec.routing.timeout` | duration | `300s` | Longest whole answer. | `300s` |" in REFERENCE
    assert "| `spec.pools[].name` | name | the accelerator's | Name of the pool. | `l4` |" in REFERENCE
    assert "PlainValidator" not in REFERENCE and "<" not in REFERENCE


def test_links_of_the_reference_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", REFERENCE, re.M)
    anchors = [slug(heading) for heading in headings]
    assert len(set(anchors)) == len(anchors)
    links = set(re.findall(r"\]\(#([^)]+)\)", REFERENCE))
    assert links <= set(anchors) and len(links) > 40


def test_the_reference_is_the_same_every_time() -> None:
    assert reference((ModelService, Project)) == REFERENCE
    assert (
        REFERENCE.endswith("|\n")
        and "\n\n\n" not in REFERENCE
        and all(line == line.rstrip() for line in REFERENCE.splitlines())
    )


# --- describe


@pytest.mark.parametrize(
    ("topic", "first", "words"),
    [
        ("scaling.strategy", "spec.scaling.strategy: a strategy", "hpa   Kubernetes"),
        ("spec.pools[0].replicas", "spec.pools[].replicas: whole number from 0, or a mapping", "default: 1"),
        ("pools.accelerator", "spec.pools[].accelerator: object name", "required"),
        ("metadata.name", "metadata.name: name", "support-chat"),
        ('metadata.labels["a.b/c"]', "metadata.labels[name]: text", "team"),
        ("environments.policy.forbid", "spec.environments[].policy.forbid: list of latest-tag", "fail-open"),
        ("environments[0].accelerators[nvidia-l4].quota", "spec.environments[].accelerators[name].quota", "16"),
        ("routing.strategy.session.header", "spec.routing.strategy.session.header: text", "x-session-id"),
        ("slo.ttft.p99", "spec.slo.ttft[name]: duration", "p99: 2s"),
    ],
)
def test_describe(topic: str, first: str, words: str) -> None:
    text = describe(topic)
    assert text.startswith(first) and words in text
    assert "`" not in text.split("\n")[0]


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("scaling.strat", "did you mean spec.scaling.strategy?"),
        ("pool", "did you mean spec.pools?"),
        ("environments.polcy", "did you mean spec.environments[].policy?"),
        ("routing.timeout.x", "the language has no spec.routing.timeout.x"),
        ("engine.args.a.b", "the language has no spec.engine.args"),
        ("", "spec: a mapping"),
        ("[[", "spec: a mapping"),
        ("metadata.name.", "metadata.name: name"),
    ],
)
def test_describe_what_is_not_there(topic: str, words: str) -> None:
    try:
        assert words in describe(topic)
    except UsageError as error:
        assert words in str(error)


@pytest.mark.parametrize(("model", "entry"), FIELDS, ids=[f"{m.__name__}.{e.key}" for m, e in FIELDS])
def test_examples_are_yaml_that_everyone_reads_alike(model: Any, entry: Any) -> None:
    """What the reference shows can be pasted: a YAML 1.1 reader gets text as text and numbers as numbers."""
    assert yaml.safe_load(inline(entry.example)) == entry.example
