"""Scaling: who chooses the number of replicas, by which metric, within which bounds - and that it can be done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft
from aibrix_compile.plan import Bounds, ScalingPlan
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import Schedule

_STRATEGY: Path = ("spec", "scaling", "strategy")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60

UNITS = {  # metric -> unit of its target
    "requests_in_flight": "per replica",
    "requests_running": "per replica",
    "requests_waiting": "per replica",
    "kv_cache_usage": "ratio",
    "ttft": "ms",
    "itl": "ms",
}
_SPELLED = {"per replica": "12 per replica", "ratio": "70%", "ms": "2s"}
_NOT_HPA = {
    "schedules": "bounds by time of day",
    "budget": "a budget of the whole service",
    "scaleToZeroAfter": "scaling to zero",
    "warmPool": "a warm pool",
    "seasonal": "a seasonal floor",
}


def metrics(draft: Draft) -> Iterator[Problem]:
    """The metric exists, its target has its unit, and windows are in order."""
    scaling = draft.spec.scaling
    if scaling is None or scaling.strategy.name not in ("hpa", "kpa", "apa"):
        return
    name, wanted = scaling.strategy.name, scaling.strategy.parameters
    path = (*_STRATEGY, name)
    unit = UNITS.get(wanted.metric)
    if unit is None:
        yield Problem(
            "AC228", (*path, "metric"), f'scalers know no metric "{wanted.metric}"', f"use one of {', '.join(UNITS)}"
        )
    elif wanted.target.unit != unit:
        message = f"{wanted.metric} is a {_meaning(unit)}, {wanted.target} is a {_meaning(wanted.target.unit)}"
        yield Problem("AC229", (*path, "target"), message, f"write a target like {_SPELLED[unit]}")
    elif wanted.target.value <= 0:
        yield Problem(
            "AC229",
            (*path, "target"),
            "a target of nothing asks for endless replicas",
            f"write a target like {_SPELLED[unit]}",
        )
    if name == "kpa" and wanted.panicWindow >= wanted.stableWindow:
        hint = "make it a tenth of stableWindow"
        yield Problem(
            "AC230",
            (*path, "panicWindow"),
            "the panic window is not shorter than the stable one, so it notices no burst",
            hint,
        )


def limits_of_hpa(draft: Draft) -> Iterator[Problem]:
    """Kubernetes' autoscaler scales one workload by a metric, and nothing else."""
    scaling = draft.spec.scaling
    if scaling is None or scaling.strategy.name != "hpa":
        return
    for name in scaling.model_fields_set & _NOT_HPA.keys():
        message = f"the HorizontalPodAutoscaler does not know {_NOT_HPA[name]}"
        yield Problem(
            "AC231", ("spec", "scaling", name), message, "use strategy kpa, apa or slo, or remove it", at_key=True
        )


def schedules(draft: Draft) -> Iterator[Problem]:
    """Bounds by time of day have an order, and no two of them hold at one time."""
    found = draft.spec.scaling.schedules if draft.spec.scaling else []
    root: Path = ("spec", "scaling", "schedules")
    for index, one in enumerate(found):
        if one.min is None and one.max is None:
            yield Problem("AC232", (*root, index), "the schedule changes nothing", "give min, max or both")
        elif one.min is not None and one.max is not None and one.min > one.max:
            yield Problem("AC213", (*root, index, "min"), f"min {one.min} is above max {one.max}", "exchange them")
        if not one.days:
            yield Problem(
                "AC232",
                (*root, index, "days"),
                "the schedule holds on no day",
                "name its days, or leave them out for all",
            )
    for (first, one), (second, two) in combinations(enumerate(found), 2):
        if one.timezone == two.timezone and _minutes(one) & _minutes(two):
            hint = "end one where the other begins"
            yield Problem(
                "AC232",
                (*root, second),
                "two schedules hold at the same time",
                hint,
                related=(((*root, first), "the other one"),),
            )


def _minutes(one: Schedule) -> set[tuple[str, int]]:
    """The minutes of the week in which a schedule holds; the end before the start lies on the next day."""
    end = one.to if one.to > one.start else one.to + _DAY
    return {
        (_DAYS[(_DAYS.index(day) + minute // _DAY) % 7], minute % _DAY)
        for day in one.days
        for minute in range(one.start, end, 5)
    }


def plan(draft: Draft) -> Iterator[Problem]:
    """What a scaler is told; pools with one possible number stay Git's."""
    scaling = draft.spec.scaling
    if scaling is None or scaling.strategy.name == "none":
        return
    targets = [pool for pool in draft.pools if pool.spec.replicas.low < pool.spec.replicas.high]
    if not targets and all(sound(draft.invalid, (*pool.path, "replicas")) for pool in draft.pools):
        message = "no pool has a range of replicas, so the scaler has nothing to choose"
        yield Problem("AC223", _STRATEGY, message, "write replicas: {min: 1, max: 4} for a pool")
        return
    objectives, name = draft.spec.slo, scaling.strategy.name
    for pool in targets:
        pool.bounds = Bounds(pool.spec.replicas.low, pool.spec.replicas.high)
    draft.scaling = ScalingPlan(
        strategy=name,
        parameters=_parameters(scaling.strategy.parameters),
        schedules=tuple(_schedule(one) for one in scaling.schedules),
        max_gpus=scaling.budget.maxGPUs or 0 if scaling.budget else 0,
        max_cost_per_hour=str(scaling.budget.maxCostPerHour)
        if scaling.budget and scaling.budget.maxCostPerHour
        else "",
        scale_to_zero_after_seconds=(scaling.scaleToZeroAfter or 0) // 1000,
        warm_pool=scaling.warmPool,
        seasonal=scaling.seasonal,
    )
    if objectives is not None:
        draft.decide(_STRATEGY, f"{name} with {len(draft.objectives)} objectives", "objectives are those of slo")


def _parameters(wanted: object) -> dict[str, object]:
    """The strategy's parameters under the names of the cluster's objects: seconds, ratios, targets with their unit."""
    found: dict[str, object] = {}
    for key, value in vars(wanted).items():
        if key.endswith("Window"):
            found[f"{key}Seconds"] = value // 1000
        elif key == "target":
            unit = {"per replica": "perReplica", "ratio": "ratio", "ms": "milliseconds"}[value.unit]
            found[key] = {"value": f"{value.value:g}", "unit": unit}
        else:
            found[key] = f"{value:g}" if isinstance(value, float) else value
    return found


def _schedule(one: Schedule) -> dict[str, object]:
    bounds = {key: value for key, value in (("min", one.min), ("max", one.max)) if value is not None}
    clock = {key: f"{value // 60:02}:{value % 60:02}" for key, value in (("start", one.start), ("end", one.to))}
    return {"days": list(one.days), **clock, "timezone": one.timezone, **bounds}


def _meaning(unit: str) -> str:
    return {"per replica": "mean of each replica", "ratio": "percentage", "ms": "time"}[unit]
