"""How a ScalingPolicy spells strategies and schedules: the scaler reads them there, the simulator in a plan, which has the same spellings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aibrix_compile.policy import apa, kpa, slo
from aibrix_compile.policy.quantities import PerReplica
from aibrix_compile.policy.schedules import Offset, Schedule, minute_of_day

Rows = Mapping[str, Any]


def strategy(name: str, given: Rows) -> kpa.Kpa | apa.Apa | slo.Slo:
    """With the definition's own defaults. KeyError, TypeError, ValueError."""
    if name == "slo":
        return slo.Slo(float(given.get("utilization", "0.7")), given.get("downWindowSeconds", 300))
    if name not in ("kpa", "apa"):
        raise ValueError(f"there is no strategy {name}")
    metric, target = given["metric"], PerReplica(float(given["target"]["value"]))
    if name == "kpa":
        return kpa.Kpa(metric, target, given.get("stableWindowSeconds", 60), given.get("panicWindowSeconds", 6))
    return apa.Apa(metric, target, float(given.get("tolerance", "0.1")), given.get("downWindowSeconds", 300))


def schedule(given: Rows, zone: Callable[[str], Offset]) -> Schedule:
    """`zone` looks a time zone up."""
    return Schedule(
        days=tuple(given["days"]),
        start=minute_of_day(given["start"]),
        end=minute_of_day(given["end"]),
        low=given.get("min"),
        high=given.get("max"),
        offset=zone(given["timezone"]),
    )
