"""A finished run as figures: what latency was, what it cost, whether objectives held. Plain data, six digits, for JSON.

Percentiles are nearest-rank over all requests that were answered; ITL is over tokens, as engines' own histograms are, and
exact within 3 %. Money is a pool's price times the time its replicas existed, starting ones included.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, fsum
from typing import Any

from aibrix_compile.plan import Objective
from aibrix_compile.simulate.engine import gap_us
from aibrix_compile.simulate.run import Simulation

PERCENTILES = (50, 90, 95, 99)
MONTH_HOURS = 730


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds; 0 where nothing was answered."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Attainment:
    """One objective: `measured` seconds at its percentile, and the share of requests (of tokens, for itl) that kept the
    limit. `budget_used` is bad ones over allowed ones; above 1 the objective is broken. Failed requests count as bad for
    ttft and e2e."""

    metric: str
    percentile: float
    limit: float
    measured: float
    good_share: float
    budget_used: float

    @property
    def kept(self) -> bool:
        return self.budget_used <= 1


@dataclass(frozen=True, slots=True)
class PoolScore:
    name: str
    profile: str
    source: str
    error: str
    gpus_per_replica: int
    replicas_mean: float
    replicas_max: int
    gpu_hours: float
    cost: float | None
    busy_share: float


@dataclass(frozen=True, slots=True)
class Score:
    """`seconds`: from the first arrival to the last end. Costs in the currency of the prices, None where one is unknown."""

    requests: int
    answered: int
    refused: int
    unserved: int
    seconds: float
    ttft: Latency
    itl: Latency
    e2e: Latency
    objectives: tuple[Attainment, ...]
    pools: tuple[PoolScore, ...]
    gpu_hours: float
    cost: float | None
    cost_per_month: float | None
    currency: str
    input_tokens: int
    output_tokens: int
    tokens_per_currency_unit: float | None
    output_tokens_per_gpu_second: float
    prefix_hit_share: float
    kv_mean_share: float
    kv_peak_share: float
    preemptions: int
    imbalance: float
    """The most requests of a replica over the mean, of those that were there all the time."""
    degraded: int
    adapter_loads: int
    scalings: int

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = rounded(asdict(self))
        return found


def rounded(value: Any) -> Any:
    """Floats to six significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value


def score(run: Simulation, objectives: Sequence[Objective] = (), currency: str = "") -> Score:
    """The figures of a finished run."""
    record, replicas = run.record, run.fleet.replicas
    ttft, e2e = sorted(record.ttft), sorted(record.e2e)
    gaps: dict[int, int] = {}
    for one in replicas:
        for bucket, count in one.engine.itl.items():
            gaps[bucket] = gaps.get(bucket, 0) + count
    itl = sorted(gaps.items())
    began, ended = record.first_us, max(run.now, record.first_us + 1)
    span = ended - began
    failed = record.refused + record.unserved
    pools = tuple(_pool(run, index, began, ended) for index in range(len(run.setup.pools)))
    costs = [one.cost for one in pools]
    cost = fsum(one for one in costs if one is not None) if None not in costs else None
    gpu_hours = fsum(one.gpu_hours for one in pools)
    prompt = sum(one.engine.prompt_tokens for one in replicas)
    whole = [one.sent for one in replicas if one.from_us <= began and one.until_us < 0]
    tokens = record.input_tokens + record.output_tokens
    return Score(
        requests=len(ttft) + failed,
        answered=len(ttft),
        refused=record.refused,
        unserved=record.unserved,
        seconds=span / 1e6,
        ttft=latency(ttft),
        itl=_weighted(itl),
        e2e=latency(e2e),
        objectives=tuple(_attained(one, {"ttft": ttft, "e2e": e2e}, itl, failed) for one in objectives),
        pools=pools,
        gpu_hours=gpu_hours,
        cost=cost,
        cost_per_month=None if cost is None else cost / (span / 3.6e9) * MONTH_HOURS,
        currency=currency,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        tokens_per_currency_unit=tokens / cost if cost else None,
        output_tokens_per_gpu_second=record.output_tokens / (gpu_hours * 3600) if gpu_hours else 0.0,
        prefix_hit_share=sum(one.engine.hit_tokens for one in replicas) / prompt if prompt else 0.0,
        kv_mean_share=record.series.mean("kv"),
        kv_peak_share=record.kv_peak,
        preemptions=sum(one.engine.preemptions for one in replicas),
        imbalance=max(whole) * len(whole) / sum(whole) if whole and sum(whole) else 1.0,
        degraded=record.degraded,
        adapter_loads=sum(one.engine.adapter_loads for one in replicas),
        scalings=len(record.decisions),
    )


def latency(ordered: Sequence[int]) -> Latency:
    """Of sorted microseconds."""
    if not ordered:
        return Latency()
    p50, p90, p95, p99 = (rank(ordered, percentile / 100) / 1e6 for percentile in PERCENTILES)
    return Latency(sum(ordered) / len(ordered) / 1e6, p50, p90, p95, p99, ordered[-1] / 1e6)


def rank(ordered: Sequence[int], share: float) -> int:
    """The nearest-rank percentile of sorted numbers: the smallest that `share` of them do not exceed."""
    return ordered[max(0, ceil(share * len(ordered) - 1e-9) - 1)]


def _weighted(gaps: Iterable[tuple[int, int]]) -> Latency:
    pairs = [(gap_us(bucket) / 1e6, count) for bucket, count in gaps]
    total = sum(count for _, count in pairs)
    if not total:
        return Latency()
    p50, p90, p95, p99 = (_at(pairs, percentile / 100 * total) for percentile in PERCENTILES)
    return Latency(fsum(seconds * count for seconds, count in pairs) / total, p50, p90, p95, p99, pairs[-1][0])


def _at(pairs: Sequence[tuple[float, int]], place: float) -> float:
    """The value at a place in the order of weighted values."""
    seen = 0
    for value, count in pairs:
        seen += count
        if seen >= place - 1e-9:
            return value
    return pairs[-1][0] if pairs else 0.0


def _attained(one: Objective, times: dict[str, list[int]], itl: Sequence[tuple[int, int]], failed: int) -> Attainment:
    limit = round(one.seconds * 1e6)
    if one.metric == "itl":
        total = sum(count for _, count in itl)
        bad = sum(count for bucket, count in itl if gap_us(bucket) > limit)
        measured = _at([(gap_us(bucket) / 1e6, count) for bucket, count in itl], one.percentile * total)
    else:
        ordered = times[one.metric]
        total, bad = len(ordered) + failed, failed + len(ordered) - _up_to(ordered, limit)
        measured = rank(ordered, min(1.0, one.percentile * total / len(ordered))) / 1e6 if ordered else 0.0
    allowed = (1 - one.percentile) * total
    used = bad / allowed if allowed > 1e-9 else float(bad)
    return Attainment(one.metric, one.percentile, one.seconds, measured, 1 - bad / total if total else 1.0, used)


def _up_to(ordered: Sequence[int], limit: int) -> int:
    """How many sorted numbers are at most `limit`."""
    return bisect_right(ordered, limit)


def _pool(run: Simulation, index: int, began: int, ended: int) -> PoolScore:
    setup = run.setup.pools[index]
    ours = [one for one in run.fleet.replicas if one.pool == index]
    lives = [(max(one.from_us, began), ended if one.until_us < 0 else one.until_us) for one in ours]
    alive = sum(max(0, until - since) for since, until in lives)
    hours = alive / 3.6e9
    edges = sorted([(since, 1) for since, _ in lives] + [(until, -1) for _, until in lives])
    there = most = 0
    for _, change in sorted(edges, key=lambda edge: (edge[0], edge[1])):
        there += change
        most = max(most, there)
    return PoolScore(
        name=setup.name,
        profile=setup.profile.name,
        source=setup.profile.source,
        error=setup.profile.error,
        gpus_per_replica=setup.gpus,
        replicas_mean=alive / (ended - began),
        replicas_max=most,
        gpu_hours=hours * setup.gpus,
        cost=None if setup.cost_per_hour is None else hours * setup.cost_per_hour,
        busy_share=sum(one.engine.busy_us for one in ours) / alive if alive else 0.0,
    )


def by_time(
    arrived: array[int], values: array[int], edges: Sequence[int], shares: Sequence[float]
) -> list[list[float | None]]:
    """Percentiles of `values` (microseconds) of the requests that arrived between each two edges, in seconds; None where
    there were none. A row for each share."""
    groups: list[list[int]] = [[] for _ in range(len(edges) - 1)]
    last = len(groups) - 1
    for at, value in zip(arrived, values, strict=True):
        groups[min(last, max(0, bisect_right(edges, at) - 1))].append(value)
    rows: list[list[float | None]] = [[] for _ in shares]
    for group in groups:
        group.sort()
        for row, share in zip(rows, shares, strict=True):
            row.append(rank(group, share) / 1e6 if group else None)
    return rows
