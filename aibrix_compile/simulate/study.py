"""One question as several runs: variants of a service against one trace, each with the error of its profile around it.

Every run is a function of plain values, so runs go to processes and come back as data; the order of results is that of the
variants, whichever ends first. The range of a figure is from three runs: engines as the profile says, and all times shorter
and longer by the error that the profile admits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.plan import ServicePlan
from aibrix_compile.policy.profile import Profile
from aibrix_compile.simulate import formats, generate, trace
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scaling import watch
from aibrix_compile.simulate.scoring import by_time, rounded, score
from aibrix_compile.simulate.setup import currency, price, setup
from aibrix_compile.simulate.trace import Trace

MONDAY_US = 1_767_571_200 * 1_000_000
"""5 January 2026, 00:00 UTC: when a trace begins for schedules, unless it is said."""
FACTORS = ("expected", "fast", "slow")
_DECISIONS = 2000  # that a result keeps
_SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Source:
    """Where requests come from, and how the trace is bent: a file, or the load that a spec expects."""

    path: Path | None = None
    form: str = ""
    model: str = ""
    workload: tuple[float, float, float] | None = None
    """Mean prompt, mean answer, requests a second."""
    seconds: float = 1800.0
    rate: float = 1.0
    inputs: float = 1.0
    outputs: float = 1.0
    start_s: float = 0.0
    end_s: float | None = None
    limit: int | None = None
    share: float = 1.0
    warm: float | None = None
    """Seconds of what is left, the beginning, that count in no figure. None: a sixth of a made trace, which begins at full
    load, and nothing of a file."""
    seed: int = 0

    @property
    def warm_us(self) -> int:
        seconds = self.warm if self.warm is not None else 0.0 if self.path else self.seconds / 6
        return round(seconds * 1e6)

    def open(self) -> Trace:
        """UsageError and CompileError as `formats.read`."""
        if self.path is not None:
            found = formats.read(self.path, self.form, self.model)
        else:
            assert self.workload is not None
            found = generate.default(*self.workload, self.seconds, self.seed)
        if self.start_s or self.end_s is not None:
            found = trace.window(found, self.start_s, self.end_s)
        if self.share < 1:
            found = trace.sampled(found, self.share, self.seed)
        if self.inputs != 1 or self.outputs != 1:
            found = trace.resized(found, self.inputs, self.outputs)
        if self.rate != 1:
            found = trace.faster(found, self.rate)
        return found if self.limit is None else trace.first(found, self.limit)


@dataclass(frozen=True, slots=True)
class Variant:
    """A service with some settings of its own; `profiles` by pool, instead of the plan's."""

    name: str
    service: ServicePlan
    profiles: Mapping[str, Profile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    variant: Variant
    source: Source
    factor: float
    seed: int
    epoch_us: int
    details: bool
    """Whether time series and decisions are wanted, not the score alone."""


def run(job: Job, told: Callable[[int, int], None] = lambda now, requests: None) -> dict[str, Any]:
    """One run as data. CompileError for a trace in which something is wrong."""
    service, found = job.variant.service, job.source.open()
    made = setup(service, found.block_tokens, job.seed, job.variant.profiles, job.factor, job.source.warm_us)
    prices = {pool.name: cost for pool in service.pools if (cost := price(pool)) is not None}
    scaler = (
        watch(service.scaling, service.objectives, service.pools, prices, job.epoch_us) if service.scaling else None
    )
    simulation = Simulation(made, scaler, told)
    simulation.go(found)
    if not simulation.requests:
        raise UsageError(f"nothing is left of {found.name} to simulate; see --from, --until, --sample and --warm-up")
    data: dict[str, Any] = {"score": score(simulation, service.objectives, currency(service)).data()}
    data["skipped"] = dict(sorted(found.skipped.items()))
    if job.details:
        data |= _details(simulation)
    return data


def _details(simulation: Simulation) -> dict[str, Any]:
    """Time series (a value for each row of `seconds`) and the scaler's decisions."""
    record, pools = simulation.record, simulation.setup.pools
    series = record.series
    edges = series.edges_us
    pace = simulation.setup.report_us / 1e6
    columns: dict[str, Any] = {
        name: series.column(name) for name in ("ready", "starting", "running", "waiting", "held")
    }
    columns["kv_share"] = series.column("kv")
    columns["adapters"] = series.column("adapters")
    columns["requests_per_second"] = [value / pace for value in series.column("arrived")]
    columns["failed_per_second"] = [value / pace for value in series.column("failed")]
    hits = zip(series.column("hit"), series.column("prompt"), strict=True)
    columns["prefix_hit_share"] = [hit / prompt if prompt else None for hit, prompt in hits]
    for name, values in (("ttft", record.ttft), ("e2e", record.e2e), ("tpot", record.tpot)):
        for share, row in zip(_SHARES, by_time(record.arrived, values, edges, _SHARES), strict=True):
            columns[f"{name}_p{share * 100:g}"] = row
    costs = [pool.cost_per_hour for pool in pools]
    replicas = [series.column(f"replicas {index}") for index in range(len(pools))]
    columns["replicas"] = {pool.name: column for pool, column in zip(pools, replicas, strict=True)}
    if None not in costs:
        rows = zip(*replicas, strict=True)
        columns["cost_per_hour"] = [sum(n * (c or 0) for n, c in zip(row, costs, strict=True)) for row in rows]
    requests = [
        {"replica": one.endpoint.name, "requests": one.sent, "hit_tokens": one.engine.hit_tokens}
        for one in simulation.fleet.replicas[:200]
    ]
    decisions = [
        {
            "second": one.at / 1e6,
            "pool": pools[one.pool].name,
            "from": one.before,
            "to": one.after,
            "reason": one.reason,
        }
        for one in record.decisions[:_DECISIONS]
    ]
    found: dict[str, Any] = rounded(
        {
            "seconds": [edge / 1e6 for edge in edges[:-1]],
            "series": columns,
            "balance": requests,
            "decisions": decisions,
        }
    )
    return found


def study(
    variants: Sequence[Variant],
    source: Source,
    *,
    seed: int,
    epoch_us: int = MONDAY_US,
    ranges: bool = True,
    processes: int = 0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A result for each variant: `name`, `score`, `low` and `high` of the same shape (with `ranges`), series, decisions."""
    jobs: list[tuple[int, str, Job]] = []
    for index, variant in enumerate(variants):
        share = max(pool.speed.profile.error_share for pool in variant.service.pools)
        factors = {"expected": 1.0, "fast": 1 - share, "slow": 1 + share} if ranges else {"expected": 1.0}
        for name, factor in factors.items():
            jobs.append((index, name, Job(variant, source, factor, seed, epoch_us, name == "expected")))
    results: list[dict[str, dict[str, Any]]] = [{} for _ in variants]
    for done, (number, data) in enumerate(_ran([job for _, _, job in jobs], processes, told), 1):
        index, name, _ = jobs[number]
        results[index][name] = data
        told(done * 1000, len(jobs) * 1000)
    return [_joined(variant, found) for variant, found in zip(variants, results, strict=True)]


def _ran(jobs: Sequence[Job], processes: int, told: Callable[[int, int], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of jobs with their results, as they end."""
    count = min(len(jobs), processes or os.cpu_count() or 1)
    if count == 1:
        for number, job in enumerate(jobs):
            yield number, run(job)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        open_ones: dict[Future[dict[str, Any]], int] = {
            pool.submit(run, job): number for number, job in enumerate(jobs)
        }
        try:
            while open_ones:
                ended, _ = wait(open_ones, return_when=FIRST_COMPLETED)
                for one in sorted(ended, key=lambda future: open_ones[future]):
                    yield open_ones.pop(one), one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _joined(variant: Variant, found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    expected = found["expected"]
    data: dict[str, Any] = {"name": variant.name, **expected}
    if "fast" in found:
        data["low"], data["high"] = found["fast"]["score"], found["slow"]["score"]
    return data


def document(
    variants: Sequence[Variant], source: Source, seed: int, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that a table or a report shows: the JSON output."""
    service = variants[0].service
    scaling = service.scaling
    return {
        "format": "aibrix-compile/simulation/1",
        "service": service.name,
        "environment": service.environment,
        "trace": {
            "name": source.path.name if source.path else "the workload of the spec",
            **{
                name: getattr(source, name)
                for name in ("rate", "inputs", "outputs", "start_s", "end_s", "limit", "share", "warm")
                if getattr(source, name) != Source.__dataclass_fields__[name].default
            },
        },
        "seed": seed,
        "routing": service.routing.strategy,
        "scaling": scaling.strategy if scaling else "none",
        "budget_per_hour": float(scaling.max_cost_per_hour.split()[0]) if scaling and scaling.max_cost_per_hour else 0,
        "notes": _notes(variants, source),
        "variants": list(results),
    }


def _notes(variants: Sequence[Variant], source: Source) -> list[str]:
    """What a reader must know to believe the figures as far as they go."""
    found: dict[str, None] = {}
    for variant in variants:
        for pool in variant.service.pools:
            used = variant.profiles.get(pool.name, pool.speed.profile)
            found[f"pool {pool.name}: engine times by profile {used.name}, {used.source}; {used.error}"] = None
    if source.path is None:
        found["arrivals and lengths are made from three numbers of the spec; a trace of yours says more"] = None
    if source.warm_us:
        found[f"the first {source.warm_us / 6e7:.3g} minutes count in no figure"] = None
    if any(variant.service.adapters for variant in variants):
        found["every adapter may be loaded on every replica; where adapters are placed is not simulated"] = None
    return list(found)
