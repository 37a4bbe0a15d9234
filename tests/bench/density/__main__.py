"""What sharing replicas among sets of LoRA adapters saves: GPU-hours at an equal target, sets apart beside sets together.

`python -m tests.bench.density`. Both sides are compiled specs, simulated with the cluster's routing and placement, and get as few
replicas as hold the target: apart for each set alone, together for every set at once. Adapters cost what `policy.profile` says
they cost, on both sides; a last row gives the sets apart merged weights, which cost nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from aibrix_compile.compiler import compile_workspace
from aibrix_compile.loading import load
from aibrix_compile.plan import ServicePlan
from aibrix_compile.policy.placement import Adapter
from aibrix_compile.simulate import generate
from aibrix_compile.simulate.fleet import Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.setup import setup
from aibrix_compile.simulate.trace import Request

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Case:
    load: str
    seed: int
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """GPUs, p99 TTFT of the worst set in seconds, and loads of adapters by placement, apart and together."""

    apart: int
    apart_p99: float
    together: int
    together_p99: float
    loads: int


def scenario() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "scenarios.yaml").read_text())
    return found


def services() -> dict[str, ServicePlan]:
    result = compile_workspace(load([HERE], HERE), build=True)
    assert not result.failed, result.diagnostics
    return {one.name: one for one in result.plans[0].services}


def requests(wanted: dict[str, Any], case: Case, index: int) -> list[Request]:
    """Of one set; adapters are named SET-NUMBER."""
    chosen = wanted["loads"][case.load]
    weights = [(k + 1) ** -chosen["skew"] for k in range(wanted["sets"])]
    bursts = wanted["bursts"]
    options = generate.Options(
        seconds=wanted["seconds"],
        rate=chosen["rate"] * weights[index] / sum(weights),
        input_tokens=wanted["input"]["mean"],
        input_cv=wanted["input"]["cv"],
        output_tokens=wanted["output"]["mean"],
        output_cv=wanted["output"]["cv"],
        longest=wanted["longest"],
        bursts_per_hour=bursts["perHour"],
        burst_s=bursts["seconds"],
        burst_factor=bursts["factor"],
        adapters=tuple(f"{index}-{number}" for number in range(wanted["adapters"])),
    )
    return list(generate.generate(options, 1000 * case.seed + index))


def fleet(service: ServicePlan, replicas: int, seed: int, warm: float, names: Sequence[str], merged: bool) -> Setup:
    found = setup(service, 0, seed, warm_us=round(warm * 1e6))
    pools = tuple(replace(one, replicas=replicas) for one in found.pools)
    if merged:
        pools = tuple(replace(one, limits=replace(one.limits, lora_step_us=0.0, lora_token_share=0.0)) for one in pools)
    return replace(found, pools=pools, adapters=tuple(Adapter(name, minimum=1) for name in names))


def worst(made: Setup, trace: Sequence[Request], percentile: float) -> tuple[float, int]:
    """That percentile of TTFT of the set that has the largest, in seconds - requests that were not served count as never - and
    loads of adapters."""
    simulation = Simulation(made)
    by_set: dict[str, list[float]] = {}

    def ended(one: Any) -> None:
        by_set.setdefault(one.adapter.partition("-")[0], []).append((one.first - one.arrived + made.gateway_us) / 1e6)

    simulation.ended = ended
    simulation.go(iter(trace))
    if simulation.record.unserved or simulation.record.refused:
        return float("inf"), 0
    tails = (sorted(rows)[int(percentile * (len(rows) - 1))] for rows in by_set.values())
    return max(tails), simulation._placing.loads if simulation._placing else 0


def fewest(
    service: ServicePlan, wanted: dict[str, Any], case: Case, trace: list[Request], names: list[str], begin: int
) -> tuple[int, float, int]:
    """Replicas, the tail and loads."""
    target = wanted["target"]
    for replicas in range(begin, 100):
        made = fleet(service, replicas, case.seed, wanted["warm"], names, case.merged and service.name == "apart")
        tail, loads = worst(made, trace, target["percentile"])
        if tail <= target["ttft"]:
            return replicas, tail, loads
    raise AssertionError("no number of replicas holds the target")


def measured(case: Case) -> Figures:
    wanted, known = scenario(), services()
    sets = [requests(wanted, case, index) for index in range(wanted["sets"])]
    apart = [
        fewest(known["apart"], wanted, case, rows, [f"{index}-{n}" for n in range(wanted["adapters"])], 1)
        for index, rows in enumerate(sets)
    ]
    names = [f"{index}-{n}" for index in range(wanted["sets"]) for n in range(wanted["adapters"])]
    least = 1 if case.load == "low" else sum(found for found, _, _ in apart) // 3
    together = fewest(known["together"], wanted, case, list(merge(*sets)), names, least)
    return Figures(
        sum(found for found, _, _ in apart), max(tail for _, tail, _ in apart), together[0], together[1], together[2]
    )


def rows(cases: Sequence[Case]) -> Iterator[tuple[Case, Figures]]:
    with ProcessPoolExecutor() as pool:
        yield from zip(cases, pool.map(measured, cases), strict=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.density", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the scenario's")
    options = parser.parse_args(arguments)
    wanted = scenario()
    seeds = options.seeds or wanted["seeds"]
    hours = wanted["seconds"] / 3600
    cases = [Case(load, seed, merged) for merged in (False, True) for load in wanted["loads"] for seed in seeds]
    found: dict[tuple[str, bool], list[Figures]] = {}
    for case, figures in rows(cases):
        found.setdefault((case.load, case.merged), []).append(figures)
    print(
        f"{wanted['sets']} sets of {wanted['adapters']} adapters, p99 TTFT of each within {wanted['target']['ttft']:g} s"
    )
    print("| load | GPU-hours apart | together | fewer | worst p99 apart, together | loads |")
    print("|---|---|---|---|---|---|")
    for (name, merged), figures in found.items():
        apart, together = (fmean(getattr(one, side) for one in figures) * hours for side in ("apart", "together"))
        tails = f"{max(one.apart_p99 for one in figures):.2f} s, {max(one.together_p99 for one in figures):.2f} s"
        title = f"{name}, {wanted['loads'][name]['rate']:g} requests/s{', merged weights apart' if merged else ''}"
        loads = fmean(one.loads for one in figures)
        print(f"| {title} | {apart:.1f} | {together:.1f} | {apart / together:.2f}x | {tails} | {loads:.0f} |")


if __name__ == "__main__":
    main()
