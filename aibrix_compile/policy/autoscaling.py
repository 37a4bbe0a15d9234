"""How many replicas a service shall have, and why: a strategy's wish, brought within every bound.

The scaler in the cluster and the simulator both call `decide` with what they see; nothing else decides. A strategy asks for a
range of capacity (`hpa`, `kpa`, `apa`, `slo`); here a season's floor, a warm pool and scaling to zero are laid on top, and then
schedules, the pools' own bounds and the budget below it. In between the number stays. Where data is missing nothing is
asked for, and the reason says so; bounds hold all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from aibrix_compile.policy import apa, hpa, kpa, schedules, seasonal, slo
from aibrix_compile.policy.observation import Limit, Memory, Observation, Wish
from aibrix_compile.policy.pools import Fitting, Pool, caps
from aibrix_compile.policy.schedules import Schedule
from aibrix_compile.policy.seasonal import History
from aibrix_compile.policy.windows import SECOND

Strategy = hpa.Hpa | kpa.Kpa | apa.Apa | slo.Slo

LATENCIES = ("ttft", "itl")
"""Metrics that are no amount of work: a season's rate says nothing of them."""
_LEARNT = 30  # requests in 15 minutes before their load says what a request is worth
_NEW, _NOTHING = Memory(), MappingProxyType[int, float]({})


@dataclass(frozen=True, slots=True)
class Config:
    """What a ScalingPlan says of one service, and its pools; 0 is no limit. ValueError: no pool, `hpa` with several pools
    (Kubernetes has an object for each), `slo` without a profile of each."""

    pools: tuple[Pool, ...]
    strategy: Strategy
    schedules: tuple[Schedule, ...] = ()
    max_gpus: int = 0
    max_cost_per_hour: float = 0.0
    scale_to_zero_after_seconds: int = 0
    warm_pool: int = 0
    seasonal: bool = False
    objectives: slo.Objectives = slo.NONE

    def __post_init__(self) -> None:
        if not self.pools:
            raise ValueError("a service without pools has nothing to scale")
        if isinstance(self.strategy, hpa.Hpa) and len(self.pools) > 1:
            raise ValueError("strategy hpa scales one pool: give each its own config")
        if isinstance(self.strategy, slo.Slo):
            for pool in self.pools:
                slo.profile_of(pool)

    @property
    def cold_start_seconds(self) -> int:
        """The longest of the pools."""
        return max(pool.cold_start_seconds for pool in self.pools)

    @property
    def warm(self) -> int:
        """Replicas that are kept on top: the warm pool, while a new replica would come later than a first token may."""
        late = self.objectives.ttft_ms is None or self.cold_start_seconds * 1000 > self.objectives.ttft_ms
        return self.warm_pool if late else 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`value` replicas of the service, `counts` of each pool in the config's order; `limited_by` says why it is not what the
    load alone asks for. The next decision wants `memory`."""

    value: int
    counts: tuple[int, ...]
    reason: str
    limited_by: tuple[Limit, ...]
    memory: Memory


def decide(
    config: Config, observation: Observation, now: int, memory: Memory = _NEW, history: History = _NOTHING
) -> Decision:
    """The number of replicas at `now` (microseconds since 1970, UTC). `history`: arrival rates of the days before."""
    expected = _expected(config, history, now)
    low, high = schedules.bounds(config.schedules, now)
    found = _fitting(config, observation, high)
    wish = _wish(config, observation, found, expected, memory, now)
    least, most, limited = _raised(config, observation, wish, expected)
    idle = not expected and _idle(config, observation)
    if idle:
        least = most = 0.0
        limited = ["idle"]
    found.obey()
    found.within(least, most, max(low, 0 if idle else 1))
    if low:
        found.floor(low, "schedule")
    elif not idle:
        found.floor(1, "min")
    value = sum(found.counts)
    limits = tuple(dict.fromkeys((*limited, *found.hits)))
    return Decision(
        value=value,
        counts=tuple(found.counts),
        reason=f"{_seen(observation)}: {wish.words}; {_result(config, observation, value, limits)}",
        limited_by=limits,
        memory=_remember(config, wish.memory, now, value - observation.size),
    )


def terms(
    config: Config, observation: Observation, now: int, memory: Memory = _NEW, history: History = _NOTHING
) -> Mapping[str, float]:
    """The arithmetic behind `decide` of the same arguments, in the order in which it is done; costs several times as much."""
    expected = _expected(config, history, now)
    low, high = schedules.bounds(config.schedules, now)
    fitting = _fitting(config, observation, high)
    wish = _wish(config, observation, fitting, expected, memory, now)
    least, most, _ = _raised(config, observation, wish, expected)
    found: dict[str, float] = {
        "ready": observation.ready,
        "size": observation.size,
        "capacity": fitting.capacity,
        "held": observation.held,
    }
    load, strategy = observation.load, config.strategy
    if isinstance(strategy, slo.Slo):
        found |= slo.terms(strategy, config.objectives, config.pools, observation, expected)
    elif load is not None and isinstance(strategy, hpa.Hpa):
        found |= hpa.terms(strategy, load, observation.ready, observation.size, memory, now)
    elif load is not None and isinstance(strategy, kpa.Kpa):
        found |= kpa.terms(strategy, load, observation.ready, config.warm)
    elif load is not None and isinstance(strategy, apa.Apa):
        found |= apa.terms(strategy, load, _serving(config, observation))
    found |= {"warm pool": config.warm, "expected rate": expected, "least": least, "most": most, "schedule low": low}
    if high is not None:
        found["schedule high"] = high
    return found | {"value": decide(config, observation, now, memory, history).value}


def _wish(
    config: Config, observation: Observation, fitting: Fitting, expected: float, memory: Memory, now: int
) -> Wish:
    """The strategy's, of the replicas without the warm pool."""
    strategy, load = config.strategy, observation.load
    size = max(1.0, fitting.capacity - config.warm) if fitting.capacity else 0.0
    if isinstance(strategy, slo.Slo):
        return slo.wish(strategy, config.objectives, config.pools, observation, size, expected, memory, now)
    if isinstance(strategy, kpa.Kpa):
        return kpa.wish(strategy, load, observation.ready, config.warm, size, config.cold_start_seconds, memory, now)
    if isinstance(strategy, apa.Apa):
        return apa.wish(strategy, load, _serving(config, observation), size, config.cold_start_seconds, memory, now)
    return hpa.wish(strategy, load, observation.ready, sum(fitting.counts), memory, now)


def _raised(config: Config, observation: Observation, wish: Wish, expected: float) -> tuple[float, float, list[Limit]]:
    """Least and most capacity, with a season's floor and the warm pool."""
    least, most, limited = wish.least, wish.most, list(wish.limited_by)
    floor = _floor(config, observation, expected)
    if floor > least:
        least, most = floor, max(most, floor)
        limited.append("seasonal")
    if config.warm:
        limited.append("warmPool")
    return least + config.warm, most + config.warm, limited


def _floor(config: Config, observation: Observation, expected: float) -> float:
    """Replicas that the expected rate is worth, by what a request of the last 15 minutes was worth; `slo` needs no such
    detour."""
    strategy, load, traffic = config.strategy, observation.load, observation.traffic
    if not expected or isinstance(strategy, slo.Slo) or strategy.metric in LATENCIES or load is None or traffic is None:
        return 0.0
    if traffic.long_count < _LEARNT:
        return 0.0
    return load.long.total.replicas(strategy.target) * expected / traffic.long_rate


def _expected(config: Config, history: History, now: int) -> float:
    """Requests per second, 0 for nothing."""
    return seasonal.floor(history, now, config.cold_start_seconds * SECOND) if config.seasonal else 0.0


def _idle(config: Config, observation: Observation) -> bool:
    """Whether no replica is needed: nothing came for the time, and nothing is under way. What can not be seen is not idle;
    a service at zero stays there until something comes."""
    if not config.scale_to_zero_after_seconds or observation.held or any(pool.low for pool in config.pools):
        return False
    traffic, in_flight = observation.traffic, observation.in_flight
    if not observation.size:
        return traffic is None or not traffic.rate
    return (
        traffic is not None
        and in_flight is not None
        and not in_flight.value
        and traffic.idle >= config.scale_to_zero_after_seconds * SECOND
    )


def _serving(config: Config, observation: Observation) -> int:
    """Ready replicas that the load is for."""
    return max(1, observation.ready - config.warm) if observation.ready else 0


def _fitting(config: Config, observation: Observation, high: int | None) -> Fitting:
    speeds, states = (1.0,) * len(config.pools), observation.pools
    if isinstance(config.strategy, slo.Slo):
        speeds = slo.speeds(config.pools, observation.tokens, config.objectives)
    elif isinstance(config.strategy, hpa.Hpa):  # Kubernetes' waits for what never starts
        states = tuple(replace(state, starting=()) for state in states)
    return Fitting(config.pools, states, speeds, caps(config.pools, high, config.max_gpus, config.max_cost_per_hour))


def _remember(config: Config, memory: Memory, now: int, change: int) -> Memory:
    if isinstance(config.strategy, hpa.Hpa):
        return hpa.remember(config.strategy, memory, now, change)
    return replace(memory, up=now) if change > 0 else memory


def _seen(observation: Observation) -> str:
    ready, size = observation.ready, observation.size
    found = f"{ready} ready"
    if size > ready:
        found += f", {size - ready} starting"
    if observation.load and observation.load.now.silent:
        found += f", {observation.load.now.silent:.0f} silent"
    return f"{found}, {observation.held} held" if observation.held else found


def _result(config: Config, observation: Observation, value: int, limits: tuple[Limit, ...]) -> str:
    kept = f"{value} kept" if value == observation.size else f"{value}"
    return f"{kept} by {', '.join(_words(config, one) for one in limits)}" if limits else kept


def _words(config: Config, limit: Limit) -> str:
    if limit == "maxGPUs":
        return f"budget of {config.max_gpus} GPUs"
    if limit == "maxCostPerHour":
        return f"budget of {config.max_cost_per_hour:g} an hour"
    if limit == "warmPool":
        return f"warm pool of {config.warm}"
    return _WORDS[limit]


_WORDS: Mapping[Limit, str] = {
    "min": "minimum",
    "max": "maximum",
    "schedule": "schedule",
    "rate": "rate limit",
    "downWindow": "down window",
    "panic": "panic",
    "missing": "missing data",
    "seasonal": "season",
    "idle": "idle time",
    "late": "replicas that do not start",
}
