"""Objects of both kinds and what an API server says to them; every engine that can check is asked the same."""

import copy
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

ADAPTERS: Object = {
    "apiVersion": "serving.aibrix.ai/v1alpha1",
    "kind": "AdapterSet",
    "metadata": {"name": "chat-adapters-0", "namespace": "llm"},
    "spec": {
        "service": "chat",
        "selector": {"matchLabels": {"serving.aibrix.ai/service": "chat"}},
        "limits": {"maxLoaded": 8, "maxCached": 32, "maxRank": 16},
        "whenMissing": "hold",
        "items": [
            {
                "name": "refunds-v3",
                "uri": "s3://adapters/refunds/v3",
                "digest": "sha256:" + "a" * 64,
                "rank": 16,
                "replicas": {"all": True},
                "priority": 10,
                "credentials": {"secret": "adapters-s3", "key": "token"},
            },
            {"name": "Tone.2", "uri": "hf://acme/tone", "replicas": {"min": 2}},
        ],
    },
}
SCALING: Object = {
    "apiVersion": "serving.aibrix.ai/v1alpha1",
    "kind": "ScalingPolicy",
    "metadata": {"name": "chat", "namespace": "llm"},
    "spec": {
        "service": "chat",
        "targets": [
            {
                "kind": "Deployment",
                "name": "chat-l4",
                "min": 0,
                "max": 6,
                "gpusPerReplica": 1,
                "costPerHour": "0.71 USD",
                "coldStartSeconds": 240,
            },
            {
                "kind": "LeaderWorkerSet",
                "name": "chat-h100",
                "min": 1,
                "max": 1,
                "gpusPerReplica": 16,
                "coldStartSeconds": 900,
            },
        ],
        "strategy": {
            "kpa": {
                "metric": "requests_in_flight",
                "target": {"value": 12, "unit": "perReplica"},
                "stableWindowSeconds": 60,
                "panicWindowSeconds": 6,
            }
        },
        "schedules": [
            {"days": ["Mon", "Tue"], "start": "08:00", "end": "19:00", "timezone": "Europe/Berlin", "min": 2}
        ],
        "budget": {"maxGPUs": 8, "maxCostPerHour": "20"},
        "objectives": [{"metric": "ttft", "percentile": "p99.9", "milliseconds": 2000}],
        "scaleToZeroAfterSeconds": 900,
        "warmPool": 1,
        "seasonal": True,
    },
    "status": {
        "observedGeneration": 3,
        "desired": 3,
        "ready": 2,
        "conditions": [{"type": "BudgetLimited", "status": "False", "reason": "Within", "message": ""}],
        "targets": [{"name": "chat-l4", "desired": 3, "ready": 2}],
        "decisions": [
            {"time": "2026-01-02T03:04:05Z", "target": "chat-l4", "from": 2, "to": 3, "reason": "ttft above 2 s"}
        ],
    },
}
APA = {"metric": "kv_cache_usage", "target": {"value": "0.5", "unit": "ratio"}, "tolerance": "0.1"}
GONE = object()


@dataclass(frozen=True)
class Case:
    """`base` with `changes` at dotted paths; `says` is a part of the refusal, empty when the object is fine. `rule`: it is
    CEL that refuses, not the schema."""

    name: str
    base: Object
    changes: Object = field(default_factory=dict)
    says: str = ""
    rule: bool = True
    old: Object | None = None

    @property
    def object(self) -> Object:
        found = copy.deepcopy(self.base)
        for dotted, value in self.changes.items():
            *steps, last = [int(step) if step.isdecimal() else step for step in dotted.split(".")]
            node: Any = found
            for step in steps:
                node = node[step]
            if value is GONE:
                del node[last]
            else:
                node[last] = copy.deepcopy(value)
        return found


CASES = [
    Case("adapters", ADAPTERS),
    Case("no adapters", ADAPTERS, {"spec.items": []}),
    Case("rank unknown", ADAPTERS, {"spec.items.0.rank": GONE}),
    Case("rank too large", ADAPTERS, {"spec.items.0.rank": 64}, "rank is above limits.maxRank"),
    Case("cache below slots", ADAPTERS, {"spec.limits.maxCached": 4}, "maxCached must be at least"),
    Case("cache as large as slots", ADAPTERS, {"spec.limits.maxCached": 8}),
    Case("all and min", ADAPTERS, {"spec.items.0.replicas": {"all": True, "min": 1}}, "exactly one of them"),
    Case("neither all nor min", ADAPTERS, {"spec.items.0.replicas": {}}, "exactly one of them"),
    Case("all is not false", ADAPTERS, {"spec.items.0.replicas": {"all": False}}, "", rule=False),
    Case("another service", ADAPTERS, {"spec.service": "other"}, "service can not be changed", old=ADAPTERS),
    Case("the same service", ADAPTERS, {"spec.items": []}, old=ADAPTERS),
    Case("bad adapter name", ADAPTERS, {"spec.items.0.name": "-x"}, "name", rule=False),
    Case("bad digest", ADAPTERS, {"spec.items.0.digest": "sha256:12"}, "digest", rule=False),
    Case("no scheme", ADAPTERS, {"spec.items.0.uri": "acme/tone"}, "uri", rule=False),
    Case("no selector", ADAPTERS, {"spec.selector.matchLabels": {}}, "matchLabels", rule=False),
    Case("unknown answer", ADAPTERS, {"spec.whenMissing": "wait"}, "whenMissing", rule=False),
    Case(
        "too many adapters",
        ADAPTERS,
        {"spec.items": [{"name": f"a{n}", "uri": "hf://a/b", "replicas": {"min": 0}} for n in range(1001)]},
        "items",
        rule=False,
    ),
    Case(
        "as many adapters as there may be",
        ADAPTERS,
        {"spec.items": [{"name": f"a{n}", "uri": "hf://a/b", "rank": 16, "replicas": {"min": 0}} for n in range(1000)]},
    ),
    Case("scaling", SCALING),
    Case("apa", SCALING, {"spec.strategy": {"apa": APA}}),
    Case("slo", SCALING, {"spec.strategy": {"slo": {"utilization": "0.7", "downWindowSeconds": 300}}}),
    Case("min above max", SCALING, {"spec.targets.0.min": 7, "spec.targets.1.min": 0}, "min must not be above max"),
    Case(
        "panic as long as stable",
        SCALING,
        {"spec.strategy.kpa.panicWindowSeconds": 60},
        "panicWindowSeconds must be shorter",
    ),
    Case("two strategies", SCALING, {"spec.strategy.apa": APA}, "exactly one of kpa, apa and slo"),
    Case("no strategy", SCALING, {"spec.strategy": {}}, "exactly one of kpa, apa and slo"),
    Case(
        "slo without objectives",
        SCALING,
        {"spec.strategy": {"slo": {}}, "spec.objectives": GONE},
        "has nothing to hold",
    ),
    Case(
        "slo with no objective", SCALING, {"spec.strategy": {"slo": {}}, "spec.objectives": []}, "has nothing to hold"
    ),
    Case("nothing may go to zero", SCALING, {"spec.targets.0.min": 1}, "needs a target with min 0"),
    Case("never to zero", SCALING, {"spec.targets.0.min": 1, "spec.scaleToZeroAfterSeconds": GONE}),
    Case(
        "schedule upside down",
        SCALING,
        {"spec.schedules.0.max": 1},
        "a schedule's min must not be above its max",
    ),
    Case("another service's policy", SCALING, {"spec.service": "other"}, "service can not be changed", old=SCALING),
    Case("a float", SCALING, {"spec.strategy.kpa.target.value": "0.5"}),
    Case("a target of zero", SCALING, {"spec.strategy.kpa.target.value": "0.0"}, "value", rule=False),
    Case("a target of the number zero", SCALING, {"spec.strategy.kpa.target.value": 0}, "value", rule=False),
    Case(
        "a tolerance above one",
        SCALING,
        {"spec.strategy": {"apa": {**APA, "tolerance": "1.5"}}},
        "tolerance",
        rule=False,
    ),
    Case("money without a currency", SCALING, {"spec.budget.maxCostPerHour": "20.50"}),
    Case("money in words", SCALING, {"spec.budget.maxCostPerHour": "20 dollars"}, "maxCostPerHour", rule=False),
    Case("no target", SCALING, {"spec.targets": []}, "targets", rule=False),
    Case("a StatefulSet", SCALING, {"spec.targets.0.kind": "StatefulSet"}, "kind", rule=False),
    Case("25 o'clock", SCALING, {"spec.schedules.0.start": "25:00"}, "start", rule=False),
    Case("a day of another language", SCALING, {"spec.schedules.0.days": ["Mo"]}, "days", rule=False),
    Case("an odd percentile", SCALING, {"spec.objectives.0.percentile": "p42"}, "percentile", rule=False),
]
