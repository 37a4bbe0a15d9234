"""The CustomResourceDefinitions: well-formed, bounded, small, and their rules say what they should."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy.adapter import json_to_cel
from kubernetes_validate import utils as kubernetes_schemas

from aibrix_compile import crds
from aibrix_compile.emit import yaml_text
from tests.cli import EXAMPLES, run
from tests.golden.trees import tree
from tests.platform.cases import CASES, Case, Object
from tests.toolchain import Missing, absent, built

SPECS = Path(__file__).parents[2] / "specs" / "crds"
NAMES = sorted(crds.definitions())
FORMAL = {"apiVersion", "kind", "metadata"}


def _schema(definition: Object) -> Object:
    found: Object = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _of(kind: str) -> Object:
    return next(one for one in crds.definitions().values() if one["spec"]["names"]["kind"] == kind)


def _nodes(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _nodes(schema["additionalProperties"], f"{path}{{}}")


@pytest.mark.parametrize("name", NAMES)
def test_committed_file(name: str) -> None:
    text = (SPECS / f"{name}.yaml").read_text("utf-8")
    assert text == yaml_text(crds.definitions()[name]), "run `make golden` and review the difference"
    assert len(text.encode()) <= 24 * 1024
    assert yaml.safe_load(text) == crds.definitions()[name]


def test_schema_writes_them_with_the_rest(tmp_path: Path) -> None:
    assert run("schema", "-o", "specs", cwd=tmp_path).returncode == 0
    assert tree(tmp_path / "specs" / "crds") == tree(SPECS)


def test_nothing_else_is_committed() -> None:
    assert sorted(path.name for path in SPECS.iterdir()) == [f"{name}.yaml" for name in NAMES]


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
@pytest.mark.parametrize("name", NAMES)
def test_it_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    kubernetes_schemas.validate(crds.definitions()[name], version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_is_structural_and_bounded(name: str) -> None:
    for path, node in _nodes(_schema(crds.definitions()[name])):
        if path.lstrip(".") in FORMAL:
            continue
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not node.keys() & {"$ref", "oneOf", "anyOf", "not", "allOf", "x-kubernetes-preserve-unknown-fields"}, (
            path
        )
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time":
            assert "maxLength" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"]["required"], path
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"].split()) >= 5, path
    names = crds.definitions()[name]["spec"]["names"]
    assert f"{names['plural']}.{crds.GROUP}" == name and names["shortNames"] and names["categories"]
    version = crds.definitions()[name]["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}} and version["additionalPrinterColumns"]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert len(columns) == len(set(columns))


def test_calls_do_not_share_what_they_return() -> None:
    first = crds.definitions()
    for one in first.values():
        one["metadata"]["annotations"] = {"a": "b"}
        _schema(one)["properties"].clear()
    assert all(_schema(one)["properties"] for one in crds.definitions().values())


# --- the rules, by a CEL engine and a JSON Schema validator


def _rules(schema: Object, value: Any, old: Any) -> Iterator[str]:
    """Messages of the rules that `value` breaks; a rule with oldSelf counts only where there is an old value."""
    for one in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in one["rule"] and old is None:
            continue
        environment = celpy.Environment()
        program = environment.program(environment.compile(one["rule"]))
        variables = {"self": json_to_cel(value), **({"oldSelf": json_to_cel(old)} if old is not None else {})}
        if not program.evaluate(variables):
            yield one["message"]
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _rules(inner, value[name], old.get(name) if isinstance(old, dict) else None)
    if isinstance(value, list):
        for item in value[:3]:
            yield from _rules(schema["items"], item, None)


def _draft(schema: Any) -> Any:
    """The same as JSON Schema."""
    if isinstance(schema, list):
        return [_draft(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _draft(value) for key, value in schema.items()}
    return found | {"type": ["integer", "string"]} if schema.get("x-kubernetes-int-or-string") else found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    schema = _schema(_of(case.base["kind"]))
    validator = jsonschema.Draft7Validator(_draft(schema))
    errors = [f"{error.json_path} {error.message}" for error in validator.iter_errors(case.object)]
    if not case.rule:
        assert len(errors) == 1 and case.says in errors[0]
        return
    assert errors == []
    broken = list(_rules(schema, case.object, case.old))
    assert len(broken) == bool(case.says) and all(case.says in one for one in broken), broken


def test_every_rule_is_broken_by_a_case() -> None:
    rules = [
        rule["message"]
        for one in crds.definitions().values()
        for _, node in _nodes(_schema(one))
        for rule in node.get("x-kubernetes-validations", ())
    ]
    said = [case.says for case in CASES if case.says and case.rule]
    assert rules and all(any(part in message for part in said) for message in rules)


OURS = [
    pytest.param(value, id=path.relative_to(EXAMPLES).as_posix())
    for path in sorted(EXAMPLES.glob("*/expected/**/*.yaml"))
    if path.name.split("-")[1] in ("adapterset", "scalingpolicy")
    for value in [yaml.safe_load(path.read_text("utf-8"))]
]


@pytest.mark.parametrize("value", OURS)
def test_what_is_emitted_fits(value: Object) -> None:
    """Argo CD may call a refused object Synced, so nothing that the API server refuses may ever be emitted."""
    schema = _schema(_of(value["kind"]))
    strict = _closed(_draft(schema))
    assert [error.message for error in jsonschema.Draft7Validator(strict).iter_errors(value)] == []
    assert list(_rules(schema, value, None)) == []


def _closed(schema: Any) -> Any:
    """Without unknown fields, which Argo CD's server-side apply refuses; metadata is Kubernetes' own."""
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema:
        found["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        found["additionalProperties"] = False
    return found


# --- the same by the API server's own code


@pytest.fixture(scope="session")
def api_server() -> Path:
    """k8s.io/apiextensions-apiserver's validation, defaulting and CEL."""
    module = "module validate\n\ngo 1.25\n\nrequire k8s.io/apiextensions-apiserver v0.35.0\n"
    sources = {"main.go": (Path(__file__).parent / "validate.go").read_text("utf-8")}
    try:
        return built("crd-validation-0.35.0", {"validate": "."}, module=module, sources=sources)["validate"]
    except Missing as missing:
        absent(str(missing))


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_takes_it_and_agrees(name: str, api_server: Path, tmp_path: Path) -> None:
    """It accepts the definition - structure, names and the price of every rule - and judges each case as we do."""
    kind = crds.definitions()[name]["spec"]["names"]["kind"]
    cases = [case for case in CASES if case.base["kind"] == kind]
    (tmp_path / "cases.json").write_text(json.dumps([{"object": case.object, "old": case.old} for case in cases]))
    command = [str(api_server), str(SPECS / f"{name}.yaml"), str(tmp_path / "cases.json")]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert answer["crd"] == []
    for case, errors in zip(cases, answer["cases"], strict=True):
        wrong = bool(case.says) or not case.rule
        assert bool(errors) == wrong and all(case.says in error for error in errors), (case.name, errors)


def test_the_api_server_refuses_two_adapters_of_one_name(api_server: Path, tmp_path: Path) -> None:
    value = CASES[0].object
    value["spec"]["items"].append({"name": "refunds-v3", "uri": "hf://a/b"})
    (tmp_path / "cases.json").write_text(json.dumps([{"object": value}]))
    command = [str(api_server), str(SPECS / "adaptersets.serving.aibrix.ai.yaml"), str(tmp_path / "cases.json")]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(answer["cases"][0]) == 1 and "Duplicate value" in answer["cases"][0][0]
