"""Scaling strategies side by side in the simulator, with the code that decides in the cluster.

`python -m tests.bench.scaling [--traces FOLDER] [--only TRACE ...]`. scaling.yaml has traces, targets and sweeps; a public trace that is
not in FOLDER is left out. HPA is Kubernetes' as documented: every 15 s, tolerance 10 %, down by the largest recommendation of
300 s, which begin with the size that there is. A reversal is a change of the number against the one before it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import yaml

from aibrix_compile.plan import Objective
from aibrix_compile.policy import routing
from aibrix_compile.policy.apa import Apa
from aibrix_compile.policy.autoscaling import Config, Strategy
from aibrix_compile.policy.hpa import Hpa
from aibrix_compile.policy.kpa import Kpa
from aibrix_compile.policy.pools import Pool as ScaledPool
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.policy.quantities import PerReplica
from aibrix_compile.policy.slo import Objectives, Slo
from aibrix_compile.simulate import formats, generate
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scaling import Watcher, Watchers
from aibrix_compile.simulate.scoring import score
from aibrix_compile.simulate.trace import Request, Trace
from tests.bench import servegen
from tests.bench.simulation import A10, H100

OURS = "slo 70%"
"""With its defaults. Its constants were chosen with these traces in sight."""
EQUAL = 0.02
SCENARIO: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


@dataclass(frozen=True, slots=True)
class Case:
    trace: str
    label: str
    strategy: Strategy
    folder: Path | None
    seasonal: bool = False
    warm_pool: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    gpu_hours: float
    e2e: float
    ttft_p99: float
    kept: float
    """Share of requests with a TTFT within the objective."""
    reversals: int
    starts: int


def opened(name: str, folder: Path | None) -> Trace | None:
    about = SCENARIO["traces"][name]
    if "make" in about:
        return _again(generate.generate(generate.Options(**about["make"]), 1), about.get("days", 1))
    path = folder / about.get("servegen", about.get("file")) if folder else None
    if path is None or not path.exists():
        return None
    if "servegen" in about:
        begin, end = about["hours"]
        return servegen.trace(path, about["rate"], begin, end - begin)
    return _scaled(formats.read(path), about.get("stretch", 1), about.get("copies", 1))


def _again(one: Trace, days: int) -> Trace:
    """Each day the same."""

    def requests() -> Iterator[Request]:
        for day in range(days):
            yield from (each._replace(at=each.at + day * 86_400_000_000) for each in one)

    return one if days == 1 else replace(one, requests=requests, length=None)


def _scaled(one: Trace, stretch: int, copies: int) -> Trace:
    """In `stretch` times the time, each request `copies` times, evenly until the next one comes."""

    def requests() -> Iterator[Request]:
        for now, then in pairwise([*one, None]):
            assert now
            gap = (then.at - now.at if then else 0) * stretch
            for copy in range(copies):
                yield now._replace(at=now.at * stretch + gap * copy // copies)

    return one if stretch == copies == 1 else replace(one, requests=requests, length=None)


def measured(case: Case) -> Figures | None:
    about, cold = SCENARIO["traces"][case.trace], SCENARIO["coldStartSeconds"]
    found = opened(case.trace, case.folder)
    if found is None:
        return None
    profile = TABLE[about["profile"]]
    limits = H100 if about["profile"].startswith("h100") else A10
    pool = Pool("pool", profile, limits, 131_072, 2, 1, 24, cold * 1_000_000)
    wanted = SCENARIO["objectives"]
    objectives = Objectives(ttft_ms=wanted["ttft"] * 1000, itl_ms=wanted["itl"] * 1000)
    scaled = ScaledPool("pool", 1, 24, cold_start_seconds=cold, profile=profile)
    config = Config((scaled,), case.strategy, objectives=objectives, seasonal=case.seasonal, warm_pool=case.warm_pool)
    made = Setup((pool,), routing.Config("cost"), found.block_tokens, warm_us=about["warm"] * 1_000_000)
    run = Simulation(made, Watchers([Watcher(config, (0,), 0)]))
    run.go(found)
    result = score(run, (Objective("ttft", 0.99, wanted["ttft"]), Objective("itl", 0.95, wanted["itl"])))
    changes = [one.after - one.before for one in run.record.decisions if one.at >= made.warm_us]
    turns = sum((a > 0) != (b > 0) for a, b in pairwise(changes))
    starts = sum(max(0, one) for one in changes)
    return Figures(result.gpu_hours, result.e2e.mean, result.ttft.p99, result.objectives[0].good_share, turns, starts)


def frontier(points: Iterable[tuple[float, float]], gpu_hours: float) -> float | None:
    """The least e2e that a sweep reaches with so many GPU-hours: on lines between its points. None outside of them."""
    found = sorted(points)
    best: float | None = None
    for (x, y), (u, v) in pairwise([one for one in found if not any(a <= one[0] and b < one[1] for a, b in found)]):
        if x <= gpu_hours <= u:
            value = y if u == x else y + (v - y) * (gpu_hours - x) / (u - x)
            best = value if best is None else min(best, value)
    return best


def cases_of(trace: str, folder: Path | None) -> Iterator[Case]:
    for share in SCENARIO["slo"]:
        yield Case(trace, f"slo {share:.0%}", Slo(share), folder)
    for one in SCENARIO["traces"][trace].get("also", ()):
        warm, seasonal = one.get("warmPool", 0), one.get("seasonal", False)
        label = (
            f"slo {one['utilization']:.0%}"
            + (f", warm pool {warm}" if warm else "")
            + (", seasonal" if seasonal else "")
        )
        yield Case(trace, label, Slo(one["utilization"]), folder, seasonal, warm)
    for name, metrics in SCENARIO["sweep"].items():
        for metric, targets in metrics.items():
            for target in targets:
                yield Case(trace, f"{name} {metric} {target:g}", _KINDS[name](metric, PerReplica(target)), folder)


_KINDS = {"hpa": Hpa, "kpa": Kpa, "apa": Apa}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of public traces")
    parser.add_argument("--only", nargs="+", choices=sorted(SCENARIO["traces"]))
    options = parser.parse_args(arguments)
    names = options.only or list(SCENARIO["traces"])
    cases = [case for name in names for case in cases_of(name, options.traces)]
    with ProcessPoolExecutor() as pool:
        rows = zip(cases, pool.map(measured, cases), strict=True)
        for name, group in groupby(rows, lambda row: row[0].trace):
            found = {case.label: one for case, one in group if one}
            if found:
                print("\n".join(_table(name, found)), flush=True)


def _table(name: str, found: Mapping[str, Figures]) -> Iterator[str]:
    named = [f"hpa {metric} {target:g}" for metric, target in SCENARIO["hpa"].items()]
    yield f"{name}, {SCENARIO['coldStartSeconds']} s to start"
    yield "  | | GPU-hours | whole answer, mean | TTFT p99 | within the objective | reversals | starts |"
    yield "  |---|---|---|---|---|---|---|"
    for label, one in found.items():
        mark = "**" if label in (*named, OURS) else ""
        yield (
            f"  | {mark}{label}{mark} | {one.gpu_hours:.2f} | {one.e2e:.2f} s | {one.ttft_p99:.2f} s | {one.kept:.2%} "
            f"| {one.reversals} | {one.starts} |"
        )
    ours = found[OURS]
    for label in named:
        one = found[label]
        yield (
            f"  {OURS} against {label}: GPU-hours {ours.gpu_hours / one.gpu_hours - 1:+.1%}, whole answer {ours.e2e / one.e2e - 1:+.1%}, "
            f"within the objective {(ours.kept - one.kept) * 100:+.2f} points, reversals {ours.reversals - one.reversals:+d}"
        )
    own = [(one.gpu_hours, one.e2e) for label, one in found.items() if label.startswith("slo") and "," not in label]
    for label in named:
        best = frontier(own, found[label].gpu_hours)
        if best:
            yield f"  slo at the GPU-hours of {label}: whole answer {_against(best / found[label].e2e - 1)}"
    swept = [(one.gpu_hours, one.e2e) for label, one in found.items() if label.startswith("hpa")]
    for label, one in found.items():
        best = frontier(swept, one.gpu_hours)
        if best and (label == OURS or "," in label):
            yield f"  {label} against the best hpa of the sweep at its GPU-hours: whole answer {_against(one.e2e / best - 1)}"


def _against(share: float) -> str:
    return f"{share:+.1%}" + (", equal" if abs(share) <= EQUAL else "")


if __name__ == "__main__":
    main()
