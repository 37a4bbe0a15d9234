"""What Argo CD says of our two kinds."""

from typing import Any

import pytest

from aibrix_compile import crds
from tests.platform.judge import judged


def _at(generation: int, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "chat", "generation": generation}, "spec": {}, "status": status}


def _condition(name: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": name, "status": status, **more}


DEGRADED = _condition("Degraded", message="refunds-v3: not found", reason="NotFound")
BOTH = [
    ({"metadata": {"generation": 1}, "spec": {}}, "Progressing", "not reported yet"),
    (_at(1), "Progressing", "not reported yet"),
    (_at(2, observedGeneration=1), "Progressing", "not read this change"),
    (_at(2, conditions=[_condition("Ready")]), "Progressing", "not read this change"),
    (_at(2, observedGeneration=1, conditions=[DEGRADED]), "Progressing", "not read this change"),
    (
        _at(2, observedGeneration=2, conditions=[_condition("Ready", "False"), DEGRADED]),
        "Degraded",
        "refunds-v3: not found",
    ),
    (_at(2, observedGeneration=2, conditions=[_condition("Degraded", reason="NotFound")]), "Degraded", "NotFound"),
    (_at(2, observedGeneration=2, conditions=[_condition("Degraded")]), "Degraded", "degraded"),
    (_at(2, observedGeneration=2, conditions=[_condition("Degraded", "False")]), "Healthy", ""),
    (_at(2, observedGeneration=2, conditions=[_condition("Degraded", "Unknown")]), "Healthy", ""),
    (_at(2, observedGeneration=3), "Healthy", ""),
]
ADAPTERS = [
    *BOTH,
    (
        _at(2, observedGeneration=2, conditions=[_condition("Progressing", message="3 to load")]),
        "Progressing",
        "3 to load",
    ),
    (_at(2, observedGeneration=2, conditions=[_condition("Progressing"), DEGRADED]), "Degraded", "not found"),
    (
        _at(2, observedGeneration=2, conditions=[_condition("Ready")], counts={"desired": 12, "loaded": 12}),
        "Healthy",
        "12 of 12 adapters are loaded",
    ),
    (
        _at(2, observedGeneration=2, conditions=[_condition("Ready", "False")], counts={"desired": 3}),
        "Healthy",
        "0 of 3",
    ),
]
SCALING = [
    *BOTH,
    (_at(2, observedGeneration=2, targets=[{"name": "a", "desired": 0, "ready": 0}]), "Healthy", "scaled to zero"),
    (_at(2, observedGeneration=2, conditions=[_condition("Ready", "False")], targets=[]), "Healthy", "scaled to zero"),
    (
        _at(2, observedGeneration=2, conditions=[_condition("Progressing")], targets=[{"name": "a", "desired": 4}]),
        "Healthy",
        "0 of 4 replicas are ready",
    ),
    (
        _at(
            2,
            observedGeneration=2,
            targets=[{"name": "a", "desired": 4, "ready": 3}, {"name": "b", "desired": 1, "ready": 1}],
        ),
        "Healthy",
        "4 of 5 replicas are ready",
    ),
]


@pytest.mark.parametrize(
    ("kind", "value", "status", "message"),
    [("AdapterSet", *row) for row in ADAPTERS] + [("ScalingPolicy", *row) for row in SCALING],
)
def test_health(kind: str, value: dict[str, Any], status: str, message: str) -> None:
    found = judged(value, kind)
    assert found[0] == status and message in found[1], found


def test_both_kinds_have_a_check() -> None:
    assert sorted(crds.health_checks()) == [
        "resource.customizations.health.serving.aibrix.ai_AdapterSet",
        "resource.customizations.health.serving.aibrix.ai_ScalingPolicy",
    ]
