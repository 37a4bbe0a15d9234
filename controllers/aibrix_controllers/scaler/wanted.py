"""ScalingPolicy -> what `policy.autoscaling` is asked with: bounds, strategy, schedules, budget. A function of an object.

The compiler has written it and the API server has checked it against its schema; what still can not be used is refused with a
reason that ends up in its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aibrix_compile.policy import apa, autoscaling, kpa, slo
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.profile import Profile
from aibrix_compile.policy.quantities import PerReplica
from aibrix_compile.policy.schedules import Offset, Schedule, minute_of_day

Object = Mapping[str, Any]
METRICS = ("requests_in_flight", "requests_running", "requests_waiting", "kv_cache_usage", "ttft", "itl")
"""What the load stream and the pickers tell."""
GROUPS = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1"}


class Unusable(ValueError):
    """Why a policy can not be followed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A workload, and where its subresource `scale` is below a namespace."""

    kind: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.kind.lower()}s/{self.name}/scale"

    def scale(self, namespace: str) -> str:
        return f"/apis/{GROUPS[self.kind]}/namespaces/{namespace}/{self.path}"


@dataclass(frozen=True, slots=True)
class Policy:
    """`metric` is what the strategy follows, empty for slo; windows of kpa in seconds."""

    name: str
    service: str
    targets: tuple[Target, ...]
    config: autoscaling.Config
    metric: str
    stable: int = 60
    panic: int = 6


def policy(one: Object) -> Policy:
    """Unusable."""
    spec = one["spec"]
    try:
        chosen = _strategy(spec["strategy"])
        config = autoscaling.Config(
            pools=tuple(_pool(row) for row in spec["targets"]),
            strategy=chosen,
            schedules=tuple(_schedule(row) for row in spec.get("schedules", ())),
            max_gpus=spec.get("budget", {}).get("maxGPUs", 0),
            max_cost_per_hour=_money(spec.get("budget", {}).get("maxCostPerHour", "0")),
            scale_to_zero_after_seconds=spec.get("scaleToZeroAfterSeconds", 0),
            warm_pool=spec.get("warmPool", 0),
            seasonal=bool(spec.get("seasonal")),
            objectives=_objectives(spec.get("objectives", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(
            str(error) if isinstance(error, ValueError) else f"{error} is missing or of another type"
        ) from None
    metric = "" if isinstance(chosen, slo.Slo) else chosen.metric
    if metric and metric not in METRICS:
        raise Unusable(f"nobody tells {metric}; there are {', '.join(METRICS)}")
    windows = (chosen.stable_window_seconds, chosen.panic_window_seconds) if isinstance(chosen, kpa.Kpa) else (60, 6)
    targets = tuple(Target(row["kind"], row["name"]) for row in spec["targets"])
    return Policy(one["metadata"]["name"], spec["service"], targets, config, metric, *windows)


def _strategy(given: Object) -> kpa.Kpa | apa.Apa | slo.Slo:
    ((name, values),) = given.items()
    if name == "slo":
        return slo.Slo(float(values.get("utilization", "0.7")), values.get("downWindowSeconds", 300))
    if name not in ("kpa", "apa"):
        raise Unusable(f"there is no strategy {name}")
    metric, target = values["metric"], PerReplica(float(values["target"]["value"]))
    if name == "kpa":
        windows = values.get("stableWindowSeconds", 60), values.get("panicWindowSeconds", 6)
        return kpa.Kpa(metric, target, *windows)
    return apa.Apa(metric, target, float(values.get("tolerance", "0.1")), values.get("downWindowSeconds", 300))


def _pool(row: Object) -> Pool:
    price = row.get("costPerHour", "")
    return Pool(
        name=row["name"],
        low=row["min"],
        high=row["max"],
        gpus=row["gpusPerReplica"],
        cost_per_hour=_money(price) if price else None,
        cold_start_seconds=row["coldStartSeconds"],
        profile=_profile(row["name"], row["profile"]) if "profile" in row else None,
    )


def _profile(name: str, given: Object) -> Profile:
    """Its times stand there as text, so that no reader rounds them."""
    numbers = {field: float(given[key]) for key, field in PROFILE.items() if key in given}
    return Profile(name=name, source="ScalingPolicy", error="", kv_tokens=given["kvTokens"], **numbers)  # type: ignore[arg-type]


PROFILE = {
    "weightsMs": "weights_ms",
    "tokenMs": "token_ms",
    "contextMs": "context_ms",
    "attentionMs": "attention_ms",
    "stepMs": "step_ms",
    "sequenceMs": "sequence_ms",
    "syncMs": "sync_ms",
    "syncTokenMs": "sync_token_ms",
}
"""Fields of a target's profile, and of `policy.profile`."""


def _money(text: str) -> float:
    return float(text.partition(" ")[0])


def _objectives(rows: Any) -> slo.Objectives:
    def tightest(metric: str) -> float | None:
        return min((float(row["milliseconds"]) for row in rows if row["metric"] == metric), default=None)

    return slo.Objectives(tightest("ttft"), tightest("itl"), tightest("e2e"))


def _schedule(row: Object) -> Schedule:
    return Schedule(
        days=tuple(row["days"]),
        start=minute_of_day(row["start"]),
        end=minute_of_day(row["end"]),
        low=row.get("min"),
        high=row.get("max"),
        offset=_offset(row["timezone"]),
    )


def _offset(zone: str) -> Offset:
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise Unusable(f"this image knows no timezone {zone}") from None

    def ahead(seconds: int) -> int:
        found = datetime.fromtimestamp(seconds, where).utcoffset()
        return int(found.total_seconds()) if found else 0

    return ahead
