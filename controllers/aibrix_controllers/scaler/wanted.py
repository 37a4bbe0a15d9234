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

from aibrix_compile.policy import autoscaling, kpa, profile, slo, spelled
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.schedules import Offset

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
        ((name, values),) = spec["strategy"].items()
        chosen = spelled.strategy(name, values)
        config = autoscaling.Config(
            pools=tuple(_pool(row) for row in spec["targets"]),
            strategy=chosen,
            schedules=tuple(spelled.schedule(row, _offset) for row in spec.get("schedules", ())),
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


def _pool(row: Object) -> Pool:
    price = row.get("costPerHour", "")
    return Pool(
        name=row["name"],
        low=row["min"],
        high=row["max"],
        gpus=row["gpusPerReplica"],
        cost_per_hour=_money(price) if price else None,
        cold_start_seconds=row["coldStartSeconds"],
        profile=profile.read(row["name"], row["profile"]) if "profile" in row else None,
    )


def _money(text: str) -> float:
    return float(text.partition(" ")[0])


def _objectives(rows: Any) -> slo.Objectives:
    def tightest(metric: str) -> float | None:
        return min((float(row["milliseconds"]) for row in rows if row["metric"] == metric), default=None)

    return slo.Objectives(tightest("ttft"), tightest("itl"), tightest("e2e"))


def _offset(zone: str) -> Offset:
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise Unusable(f"this image knows no timezone {zone}") from None

    def ahead(seconds: int) -> int:
        found = datetime.fromtimestamp(seconds, where).utcoffset()
        return int(found.total_seconds()) if found else 0

    return ahead
