"""Trees become models, or problems at exact places: all of them in one run, none twice, and nothing that is sound is lost."""

from pathlib import Path as FilePath
from typing import Any

import pytest

from aibrix_compile.diagnostics import Path
from aibrix_compile.spec.base import Model
from aibrix_compile.spec.decode import Decoded, decode, dotted, field_at, model_at, sound
from aibrix_compile.spec.free import MAX_PROBLEMS
from aibrix_compile.spec.modelservice import ModelService, Pool
from aibrix_compile.spec.project import Project
from aibrix_compile.yamlio import Document, locate, parse, read
from aibrix_compile.yamlio import decode as text_of

HERE = FilePath(__file__).parent


def document(text: str) -> Document:
    (found,), problems = parse(text_of(text.encode(), "f.yaml"))
    assert problems == []
    return found


def load(name: str) -> Document:
    (found,), problems = parse(read(HERE / name, name))
    assert problems == []
    return found


SMALLEST = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {name: chat}
spec:
  model: {uri: hf://meta-llama/Llama-3.1-8B-Instruct}
  engine: {name: vllm, version: 0.32.0}
  pools: [{accelerator: nvidia-l4}]
"""


def service(more: str = "", **replaced: str) -> Document:
    """The smallest service with lines of `spec` added or replaced."""
    lines = [line for line in SMALLEST.splitlines() if line.split(":")[0].strip() not in replaced]
    return document(
        "\n".join([*lines, *(f"  {key}: {value}" for key, value in replaced.items()), *(["  " + more] if more else [])])
    )


def told(where: Document, cls: type[Model] = ModelService, partial: bool = False) -> list[str]:
    found = decode(cls, where.value, partial)
    assert found.model is not None
    assert bool(found.problems) <= bool(found.invalid)
    lines = []
    for one in found.problems:
        span = locate(where, one.path, one.at_key)
        lines.append(f"{one.code} {span.line}:{span.column} {dotted(one.path)} {one.fix}")
    return lines


def test_the_complete_service() -> None:
    found: Decoded[ModelService] = decode(ModelService, load("complete.yaml").value)
    assert (found.problems, found.invalid) == ([], set())
    assert found.model is not None
    spec = found.model.spec
    assert (
        spec.scaling is not None
        and spec.adapters is not None
        and spec.slo is not None
        and spec.routing.hold is not None
    )
    assert (spec.engine.version, spec.pools[1].replicas.min, spec.pools[1].replicas.max) == ("0.32.0", 0, 2)
    assert (spec.scaling.strategy.name, spec.scaling.schedules[0].start) == ("slo", 8 * 60)
    assert (spec.routing.hold.maxBytes, spec.routing.retries.when[1]) == (64 * 2**20, "503")
    assert [item.replicas.count for item in spec.adapters.items if item.replicas] == [None, "all"]
    assert spec.slo.itl == {"p95": 80}


def test_the_project() -> None:
    found = decode(Project, load("project.yaml").value)
    assert (found.problems, found.invalid) == ([], set())
    assert found.model is not None
    (environment,) = found.model.spec.environments
    assert str(environment.accelerators["nvidia-l4"].pricePerGPUHour) == "0.71 USD"
    assert environment.accelerators["nvidia-l4"].tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists"}]


def test_text_keeps_its_text() -> None:
    where = document(
        SMALLEST.replace("0.32.0", "0.10").replace("{name: chat}", "{name: chat, labels: {a: NO, b: 0777, c: 1e3}}")
    )
    found = decode(ModelService, where.value)
    assert found.problems == [] and found.model is not None
    assert found.model.spec.engine.version == "0.10"
    assert found.model.metadata.labels == {"a": "NO", "b": "0777", "c": "1e3"}


THIRTY = [  # code, place of what is underlined, path, replacement text
    "AC109 30:5 spec.routing.hold None",
    "AC108 2:13 apiVersion serving.aibrix.ai/v1alpha1",
    "AC108 3:7 kind ModelService",
    "AC107 4:18 metadata.name support-chat",
    "AC101 4:32 metadata.lables labels",
    "AC111 7:10 spec.model.uri hf://meta-llama/Llama-3.1-8B-Instruct",
    "AC107 8:17 spec.model.servedName None",
    "AC102 9:5 spec.model.credentials.secret None",
    "AC106 10:23 spec.model.loading.method None",
    "AC103 10:37 spec.model.loading.cache None",
    "AC106 12:11 spec.engine.name vllm",
    "AC107 13:14 spec.engine.version 0.32.0",
    "AC104 14:18 spec.engine.maxModelLen 8192",
    "AC103 15:18 spec.engine.env.LEVEL None",
    "AC104 17:42 spec.pools[0].replicas 2",
    "AC104 17:53 spec.pools[0].spot true",
    "AC102 18:7 spec.pools[1].accelerator None",
    "AC107 18:36 spec.pools[1].replicas.min None",
    "AC103 20:20 spec.pools[2].parallelism None",
    "AC105 21:27 spec.pools[2].resources.memory 32Gi",
    'AC104 22:38 spec.pools[2].template.spec.hostNetwork "off"',
    'AC104 22:53 spec.pools[2].template.spec.priority "010"',
    "AC106 24:16 spec.scaling.strategy.kap kpa",
    "AC106 25:25 spec.scaling.schedules[0].days[0] Mon",
    "AC105 25:40 spec.scaling.schedules[0].from None",
    "AC107 25:68 spec.scaling.schedules[0].timezone None",
    "AC105 26:30 spec.scaling.budget.maxCostPerHour 20 USD",
    "AC106 28:15 spec.routing.strategy None",
    "AC105 29:14 spec.routing.timeout None",
    "AC105 31:37 spec.routing.canary.weight 10%",
    "AC107 33:23 spec.adapters.limits.maxRank 64",
    "AC111 34:28 spec.adapters.items[0].uri None",
    "AC105 34:50 spec.adapters.items[0].replicas None",
    "AC106 35:16 spec.slo.ttft.p42 None",
    "AC105 36:23 spec.rollout.maxSurge None",
]


def test_thirty_mistakes_in_one_file() -> None:
    where = load("thirty.yaml")
    assert told(where) == THIRTY
    assert len(set(THIRTY)) == len(THIRTY) >= 30
    found = decode(ModelService, where.value)
    assert all(one.message.startswith(dotted(one.path)) for one in found.problems if one.code != "AC101")
    assert all(not sound(found.invalid, one.path) for one in found.problems)


def test_what_is_sound_beside_mistakes_is_kept() -> None:
    found = decode(ModelService, load("thirty.yaml").value)
    assert found.model is not None
    spec = found.model.spec
    assert spec.model.credentials is not None and spec.model.credentials.key == "token"
    assert [pool.accelerator for pool in spec.pools] == ["nvidia-l4"] * 3
    assert spec.pools[1].name == "a100"
    assert spec.scaling is not None and spec.scaling.schedules[0].to == 19 * 60
    assert sound(found.invalid, ("spec", "pools", 1, "name"))
    assert not sound(found.invalid, ("spec", "pools", 1, "accelerator"))
    assert not sound(found.invalid, ("spec", "pools")), "something below is invalid"
    assert not sound(found.invalid, ("spec", "model", "loading", "cache", "claim")), "something above is invalid"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        # unknown keys
        (service("rooting: {}"), ["AC101 8:3 spec.rooting routing"]),
        (service("Routing: {}"), ["AC101 8:3 spec.Routing routing"]),
        (service("zzz: 1"), ["AC101 8:3 spec.zzz None"]),
        (service("zzz:"), ["AC101 8:3 spec.zzz None"]),
        (service("zzz: {a: {b: null, c: [null]}}"), ["AC101 8:3 spec.zzz None"]),
        (service(pools="[{accelerator: l4, replica: 2}]"), ["AC101 7:29 spec.pools[0].replica replicas"]),
        (service('"": 1'), ["AC101 8:3 spec. None"]),
        # missing
        (document(SMALLEST.partition("spec:")[0]), ["AC102 1:1 spec None"]),
        (service(engine="{name: vllm}"), ["AC102 7:3 spec.engine.version None"]),
        (service(engine="{}"), ["AC102 7:3 spec.engine.name None", "AC102 7:3 spec.engine.version None"]),
        (service("scaling: {strategy: kpa}"), ["AC102 8:23 spec.scaling.strategy None"]),
        (service("scaling: {strategy: {kpa: {}}}"), ["AC102 8:24 spec.scaling.strategy.kpa.target None"]),
        (service("workload: {outputTokens: 1, requestsPerSecond: 1}"), ["AC102 8:3 spec.workload.inputTokens None"]),
        # nulls
        (service("routing:"), ["AC109 8:3 spec.routing None"]),
        (service(engine=""), ["AC109 7:3 spec.engine None"]),
        (service(pools="[{accelerator: ~}]"), ["AC109 7:12 spec.pools[0].accelerator None"]),
        (service(pools="[null]"), ["AC109 7:11 spec.pools[0] None"]),
        (service("routing: {retries: {when: [reset, null]}}"), ["AC109 8:37 spec.routing.retries.when[1] None"]),
        (service("scaling: {strategy: {slo: }}"), ["AC109 8:24 spec.scaling.strategy.slo None"]),
        (service("slo: {ttft: {p99: null}}"), ["AC109 8:16 spec.slo.ttft.p99 None"]),
        (service(engine="{name: vllm, version: 1, args: {a: null, b: [null]}}"),
         ["AC109 7:43 spec.engine.args.a None", "AC109 7:56 spec.engine.args.b[0] None"]),
        (service(pools="[{accelerator: l4, template: {spec: {a: null}}}]"), ["AC109 7:47 spec.pools[0].template.spec.a None"]),
        (service(engine="{name: vllm, version: 1, env: {A: , B: x}}"), ["AC109 7:42 spec.engine.env.A None"]),
        # the wrong kind of value
        (service(engine="vllm"), ["AC103 7:11 spec.engine None"]),
        (service(engine="[null]"), ["AC103 7:11 spec.engine None"]),
        (service(pools="{accelerator: l4}"), ["AC103 7:10 spec.pools None"]),
        (service(pools="[l4]"), ["AC103 7:11 spec.pools[0] None"]),
        (service(pools="[[null]]"), ["AC103 7:11 spec.pools[0] None"]),
        (service(pools="[{accelerator: [a]}]"), ["AC103 7:25 spec.pools[0].accelerator None"]),
        (service(pools="[{accelerator: a, replicas: [1]}]"), ["AC103 7:38 spec.pools[0].replicas None"]),
        (service(engine="{name: [vllm], version: 1}"), ["AC103 7:18 spec.engine.name None"]),
        (service("slo: [p99]"), ["AC103 8:8 spec.slo None"]),
        (service("slo: {ttft: 2s}"), ["AC103 8:15 spec.slo.ttft None"]),
        (service("routing: {strategy: [cost]}"), ["AC103 8:23 spec.routing.strategy None"]),
        (service(pools="[{accelerator: a, template: x}]"), ["AC103 7:38 spec.pools[0].template None"]),
        # strategies
        (service("routing: {strategy: {}}"), ["AC110 8:23 spec.routing.strategy None"]),
        (service("routing: {strategy: {cost: {}, random: {}}}"), ["AC110 8:23 spec.routing.strategy None"]),
        (service("routing: {strategy: prefixcache}"), ["AC106 8:23 spec.routing.strategy prefix-cache"]),
        (service("routing: {strategy: {sesion: {header: x}}}"), ["AC106 8:24 spec.routing.strategy.sesion session"]),
        (service("routing: {strategy: {leastRequest: {}}}"), ["AC106 8:24 spec.routing.strategy.leastRequest least-request"]),
        (service("routing: {strategy: {cost: {x: 1}}}"), ["AC101 8:31 spec.routing.strategy.cost.x None"]),
        (service("scaling: {strategy: {hpa: 5}}"), ["AC103 8:29 spec.scaling.strategy.hpa None"]),
        (service("routing: {strategy: {weighted: {cost: many}}}"), ["AC104 8:41 spec.routing.strategy.weighted.cost None"]),
        # keys of maps
        (service("slo: {ttft: {p9: 2s}}"), ["AC106 8:16 spec.slo.ttft.p9 p99"]),
        (service("slo: {ttft: {p9: 2}}"), ["AC106 8:16 spec.slo.ttft.p9 p99", "AC105 8:20 spec.slo.ttft.p9 None"]),
        # aliased and short fields are where they are written
        (service("scaling: {schedules: [{from: 8, to: 9}]}"),
         ["AC105 8:32 spec.scaling.schedules[0].from None", "AC105 8:39 spec.scaling.schedules[0].to None"]),
        (service('scaling: {schedules: [{start: "08:00", to: "09:00"}]}'),
         ["AC102 8:25 spec.scaling.schedules[0].from None", "AC101 8:26 spec.scaling.schedules[0].start None"]),
        (service(pools="[{accelerator: a, replicas: two}]"), ["AC104 7:38 spec.pools[0].replicas None"]),
        (service(pools="[{accelerator: a, replicas: {count: two}}]"), ["AC104 7:46 spec.pools[0].replicas.count None"]),
        (service(engine="{name: vllm, version: 1, env: {A: ''}}"), ["AC109 7:45 spec.engine.env.A None"]),
    ],
)  # fmt: skip
def test_problems(where: Document, expected: list[str]) -> None:
    assert sorted(told(where)) == sorted(expected)


@pytest.mark.parametrize("root", ["text", "[]", "", "~"])
def test_a_root_that_is_no_mapping(root: str) -> None:
    found = decode(ModelService, document(f"---\n{root}\n").value)
    assert found.model is None
    assert [(one.code, one.path) for one in found.problems] == [("AC103", ())]


def test_an_empty_document_misses_each_field_once() -> None:
    assert [line.split()[2] for line in told(document("{}"))] == ["apiVersion", "kind", "metadata", "spec"]
    assert [line.split()[2] for line in told(document("{}"), Project)] == ["apiVersion", "kind", "metadata", "spec"]


def test_overlays_are_partial() -> None:
    text = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\n"
    assert told(document(text), partial=True) == []
    assert told(document(text + "spec: {pools: [{name: l4, replicas: 4}]}"), partial=True) == []
    where = document(text + "spec: {pools: [{name: l4, replicas: many}], engin: {}}")
    assert told(where, partial=True) == ["AC104 4:37 spec.pools[0].replicas None", "AC101 4:45 spec.engin engine"]


def test_hints() -> None:
    def hint(where: Document) -> str:
        (problem,) = decode(ModelService, where.value).problems
        return problem.hint

    assert hint(service(engine="{name: vllm}")) == "add version: 0.32.0"
    assert hint(service("scaling: {strategy: kpa}")) == "write {kpa: {target: 12 per replica}}"
    assert hint(service("rooting: {}")) == "did you mean routing?"
    assert hint(service("metadata: {}")).startswith("known here: model, engine, pools")
    assert hint(service('scaling: {schedules: [{from: "08:00"}]}')) == 'add to: "19:00"'


def test_the_tree_is_not_touched() -> None:
    for name in ("thirty.yaml", "complete.yaml"):
        where, again = load(name), load(name)
        decode(ModelService, where.value)
        assert where.value == again.value
        assert locate(where, ("spec", "pools", 0)) == locate(again, ("spec", "pools", 0))


def test_aliases_are_separate_values() -> None:
    where = service(pools="[&p {accelerator: nvidia-l4, spot: maybe}, *p]")
    assert told(where) == ["AC104 7:45 spec.pools[0].spot None", "AC104 7:45 spec.pools[1].spot None"]


def test_problems_end_somewhere() -> None:
    where = service(engine="{name: vllm, version: 1, " + ", ".join(f"k{i}: 1" for i in range(5000)) + "}")
    found = decode(ModelService, where.value)
    assert len(found.problems) == MAX_PROBLEMS + 1
    assert found.problems[-1].code == "AC004"
    assert found.model is None


def test_messages_stay_short() -> None:
    long = "x" * 100_000
    for where in (
        service(f"? {long}\n  : 1"),
        service(engine=f"{{name: {long}, version: 1}}"),
        service(f"routing: {{strategy: {long}}}"),
    ):
        (problem,) = decode(ModelService, where.value).problems
        assert len(problem.message.replace(dotted(problem.path), "")) < 200


@pytest.mark.parametrize(
    ("path", "field", "model"),
    [
        (("spec",), "The service.", "ServiceSpec"),
        (("spec", "pools"), "Sets of", "Pool"),
        (("spec", "pools", 0), None, "Pool"),
        (("spec", "pools", 0, "name"), "Name of the pool", None),
        (("spec", "scaling", "strategy", "kpa", "target"), "What the metric", None),
        (("spec", "scaling", "schedules", 0, "from"), "Begin", None),
        (("spec", "engine", "env", "A", "secret"), "Or: name", None),
        (("spec", "pools", 0, "template", "spec", "x"), None, None),
        (("spec", "nothing"), None, None),
        ((), None, "ModelService"),
    ],
)
def test_fields_and_models_by_path(path: Path, field: str | None, model: str | None) -> None:
    found: Any = field_at(ModelService, path)
    assert (found is None) == (field is None) and (found is None or (found.description or "").startswith(str(field)))
    at = model_at(ModelService, path)
    if model != "Pool" or path[-1:] == (0,):  # a list leads to items, it has no fields itself
        assert (at.__name__ if at else None) == model
    assert model_at(ModelService, ("spec", "pools", 3)) is Pool
