"""The scaler in a simulation: gauges from simulated replicas, as a controller would read them, into `policy.autoscaling`.

It sees what a controller sees: each replica's own gauges once a report interval, arrivals as the picker counts them, tokens of
answers that have ended. Kubernetes' HorizontalPodAutoscaler decides every 15 s, ours every other second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from aibrix_compile.plan import Objective, PoolPlan, ScalingPlan
from aibrix_compile.policy import autoscaling, hpa, kpa, slo, spelled
from aibrix_compile.policy.observation import Gauge, Memory, PoolState, reading
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.schedules import Offset
from aibrix_compile.policy.signals import Signals
from aibrix_compile.policy.windows import SECOND
from aibrix_compile.simulate.engine import Sequence
from aibrix_compile.simulate.fleet import Fleet, Replica
from aibrix_compile.simulate.trace import Request

HPA_SECONDS, OWN_SECONDS = 15, 2
_MINUTE = 60 * SECOND
# what `backends/scaling.py` writes into an HorizontalPodAutoscaler
_HPA_UP, _HPA_DOWN = (hpa.Rate("Percent", 100, 60),), (hpa.Rate("Pods", 1, 60),)


class Means(NamedTuple):
    """Sums since a replica began: times to first tokens and between tokens, microseconds, and how many of each."""

    now: int
    ttft_us: int
    first_tokens: int
    gaps_us: int
    gaps: int


class Watcher:
    """One scaler: one config over `pools`, given by their indices in the fleet. `epoch` is the trace's beginning in
    microseconds since 1970, for schedules."""

    def __init__(self, config: autoscaling.Config, pools: tuple[int, ...], epoch: int) -> None:
        strategy = config.strategy
        self._config, self._pools, self._epoch = config, pools, epoch
        self._period = (HPA_SECONDS if isinstance(strategy, hpa.Hpa) else OWN_SECONDS) * SECOND
        windows = (
            (strategy.stable_window_seconds, strategy.panic_window_seconds)
            if isinstance(strategy, kpa.Kpa)
            else (60, 6)
        )
        self._signals = Signals(epoch, *windows, config.cold_start_seconds)
        self._metric = "" if isinstance(strategy, slo.Slo) else strategy.metric
        self._memory = Memory()
        self._due = 0
        self._means: dict[int, deque[Means]] = {}
        self._requests = self._prompt = self._cached = self._answers = self._output = 0
        self._seen_gaps = self._seen_gap_us = 0

    def arrived(self, request: Request) -> None:
        self._requests += 1
        self._prompt += request.input

    def answered(self, sequence: Sequence) -> None:
        self._answers += 1
        self._output += sequence.output
        self._cached += sequence.cached_guess

    def look(self, fleet: Fleet, held: int, now: int) -> list[tuple[int, int, str]]:
        at, signals = self._epoch + now, self._signals
        ours = [one for one in fleet.there if one.pool in self._pools and not one.draining]
        serving = [one for one in ours if one.ready_us <= now]
        count = len(serving)
        load = reading(
            [Gauge(self._gauge(one, now), 0) for one in serving], count, held if self._metric == _IN_FLIGHT else 0
        )
        running = reading([Gauge(len(one.engine.running), 0) for one in serving], count)
        waiting = reading([Gauge(len(one.engine.waiting), 0) for one in serving], count)
        signals.gauges(at, load, running, waiting)
        signals.arrived(at, self._requests, self._prompt, min(self._cached, self._prompt))
        signals.answered(at, self._answers, self._output)
        gaps = sum(one.engine.decode_tokens for one in fleet.replicas if one.pool in self._pools)
        gap_us = sum(one.engine.gaps_us for one in fleet.replicas if one.pool in self._pools)
        signals.streamed(at, gaps - self._seen_gaps, (gap_us - self._seen_gap_us) / 1000)
        self._seen_gaps, self._seen_gap_us = gaps, gap_us
        self._requests = self._prompt = self._cached = self._answers = self._output = 0
        if now < self._due:
            return []
        self._due = now + self._period
        states = tuple(self._state(pool, ours, now) for pool in self._pools)
        flight = Total(float(sum(one.endpoint.load for one in ours) + held))
        seen = signals.observe(at, states, flight, held)
        decision = autoscaling.decide(self._config, seen, at, self._memory, signals.history)
        self._memory = decision.memory
        pairs = zip(self._pools, states, decision.counts, strict=True)
        return [(pool, wanted, decision.reason) for pool, state, wanted in pairs if wanted != state.size]

    def _state(self, pool: int, ours: list[Replica], now: int) -> PoolState:
        here = [one for one in ours if one.pool == pool]
        starting = tuple(now - one.from_us for one in here if one.ready_us > now)
        return PoolState(len(here), len(here) - len(starting), starting)

    def _gauge(self, one: Replica, now: int) -> float:
        engine = one.engine
        if self._metric == _IN_FLIGHT:
            return one.endpoint.load
        if self._metric == "requests_running":
            return len(engine.running)
        if self._metric == "requests_waiting":
            return len(engine.waiting)
        if self._metric == "kv_cache_usage":
            return engine.kv_tokens / engine.capacity
        if not self._metric:
            return 0.0
        kept = self._means.setdefault(one.number, deque())
        kept.append(Means(now, engine.ttft_us, engine.first_tokens, engine.gaps_us, engine.decode_tokens))
        while kept[0].now < now - _MINUTE:
            kept.popleft()
        first, last = kept[0], kept[-1]
        if self._metric == "ttft":
            total, count = last.ttft_us - first.ttft_us, last.first_tokens - first.first_tokens
        else:
            total, count = last.gaps_us - first.gaps_us, last.gaps - first.gaps
        return total / count / 1000 if count else 0.0


_IN_FLIGHT = "requests_in_flight"


class Watchers:
    """Several scalers of one fleet: an HorizontalPodAutoscaler has one pool, and each pool has one."""

    def __init__(self, watchers: list[Watcher]) -> None:
        self._watchers = watchers

    def arrived(self, request: Request) -> None:
        for one in self._watchers:
            one.arrived(request)

    def answered(self, sequence: Sequence) -> None:
        for one in self._watchers:
            one.answered(sequence)

    def look(self, fleet: Fleet, held: int, now: int) -> list[tuple[int, int, str]]:
        return [change for one in self._watchers for change in one.look(fleet, held, now)]


def watch(
    plan: ScalingPlan,
    objectives: tuple[Objective, ...],
    pools: tuple[PoolPlan, ...],
    prices: Mapping[str, float],
    epoch: int,
) -> Watchers:
    """The scalers of a service. `prices`: an hour of one replica by pool, where it is known; `epoch` as in Watcher."""
    scaled = [(index, pool) for index, pool in enumerate(pools) if pool.bounds is not None]
    strategy = strategy_of(plan.strategy, plan.parameters)
    schedules = tuple(spelled.schedule(one, _offset) for one in plan.schedules)
    groups = [[one] for one in scaled] if plan.strategy == "hpa" else [scaled]
    found = []
    for group in groups:
        config = autoscaling.Config(
            pools=tuple(_pool(pool, prices.get(pool.name)) for _, pool in group),
            strategy=strategy,
            schedules=schedules,
            max_gpus=plan.max_gpus,
            max_cost_per_hour=float(plan.max_cost_per_hour.split()[0]) if plan.max_cost_per_hour else 0.0,
            scale_to_zero_after_seconds=plan.scale_to_zero_after_seconds,
            warm_pool=plan.warm_pool,
            seasonal=plan.seasonal,
            objectives=_objectives(objectives),
        )
        found.append(Watcher(config, tuple(index for index, _ in group), epoch))
    return Watchers(found)


def _objectives(wanted: tuple[Objective, ...]) -> slo.Objectives:
    def tightest(metric: str) -> float | None:
        return min((one.seconds * 1000 for one in wanted if one.metric == metric), default=None)

    return slo.Objectives(tightest("ttft"), tightest("itl"), tightest("e2e"))


def strategy_of(name: str, parameters: Mapping[str, Any]) -> autoscaling.Strategy:
    """A strategy by the names and spellings of ScalingPolicy."""
    if name != "hpa":
        return spelled.strategy(name, parameters)
    metric, target = parameters["metric"], PerReplica(float(parameters["target"]["value"]))
    return hpa.Hpa(metric, target, up=_HPA_UP, down=_HPA_DOWN)


def _pool(pool: PoolPlan, price: float | None) -> Pool:
    assert pool.bounds is not None
    return Pool(
        name=pool.name,
        low=pool.bounds.low,
        high=pool.bounds.high,
        gpus=pool.gpus * pool.nodes,
        cost_per_hour=price,
        cold_start_seconds=pool.startup_seconds,
        profile=pool.speed.profile,
    )


def _offset(zone: str) -> Offset:
    where = ZoneInfo(zone)

    def ahead(seconds: int) -> int:
        found = datetime.fromtimestamp(seconds, where).utcoffset()
        return int(found.total_seconds()) if found else 0

    return ahead
