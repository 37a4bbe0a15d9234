"""Reality against the simulator: a trace through the real Envoy and picker to mock engines, and the same in the simulator.

`python -m tests.bench.replay [--traces FOLDER] [--requests N] [--rate X] [--speed S] [--pickers N] ...`. FOLDER as in
`tests.bench.simulation`. Both sides have one profile, one set of limits, reports and messages of one age; tokens of prompts
are exact on both, because the mock's tokens are four bytes each. Real are Envoy, pickers, sockets and the machine's time, of
which the end of a line tells: mean TTFT by the engines' own clocks, from a request's arrival there, has no part in those.
A simulated mean TTFT is that of SEEDS runs, with its range; the other figures are of the first run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import NamedTuple

from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate import trace
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.trace import Request
from tests.bench.mock import cpu
from tests.bench.replay.client import replay
from tests.bench.replay.fleet import MODEL, Fleet, running
from tests.bench.routing import CLOCK_US
from tests.bench.simulation import H100, MOONCAKE, opened

SEEDS = 5
STRATEGIES = ("random", "least-request", "cost")
_LONGEST = 131_072  # tokens of prompt and answer: the mock's own limit


class Case(NamedTuple):
    """One line of the table. Without `exchange` pickers do not hear of each other."""

    strategy: str
    pickers: int = 1
    exchange: bool = True

    @property
    def title(self) -> str:
        told = "" if self.pickers == 1 else ", told" if self.exchange else ", not told"
        return self.strategy if self.pickers == 1 else f"{self.strategy}, {self.pickers} pickers{told}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of simulated time; the share of prompts' tokens that engines had cached; requests of the busiest engine over
    the mean."""

    ttft: float
    p50: float
    p99: float
    e2e: float
    hits: float
    uneven: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What the replay itself did. `inside`: mean TTFT by the engines' own clocks, from a request's arrival there; `pick`: mean
    real ms that Envoy waited for the picker; `late`: mean real ms that requests left too late; `cores` in use by engines;
    `slow`: engines that lost time."""

    inside: float
    pick: float
    late: float
    cores: float
    slow: int
    failures: list[str]


def figures(ttft: Sequence[float], e2e: Sequence[float], hits: float, shares: Sequence[float]) -> Figures:
    ordered = sorted(ttft)
    p50, p99 = (ordered[int(share * len(ordered))] for share in (0.5, 0.99))
    return Figures(fmean(ttft), p50, p99, fmean(e2e), hits, max(shares) / fmean(shares))


def replayed(case: Case, fleet: Fleet, requests: Sequence[Request], unit: int) -> tuple[Figures, Machine]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), fleet, case.strategy, case.pickers, case.exchange) as gateway,
    ):
        used, began = [cpu(one.process.pid) for one in gateway.engines], time.monotonic()
        outcomes = asyncio.run(replay(gateway.url, MODEL, requests, unit, fleet.speed))
        took = time.monotonic() - began
        cores = sum(cpu(one.process.pid) for one in gateway.engines) - sum(used)
        names = ("prefix_cache_queries_total", "prefix_cache_hits_total", "time_to_first_token_seconds_sum")
        asked, hit, waited = (sum(one.metric(f"vllm:{name}") for one in gateway.engines) for name in names)
        served = [one.metric("vllm:request_success_total") for one in gateway.engines]
        picks = [row["ms_pick"] or 0 for row in gateway.entries(len(requests))]
        slow = sum("too slow" in one.log() for one in gateway.engines)
    good = [one for one in outcomes if not one.failed]
    found = figures([one.ttft for one in good], [one.e2e for one in good], hit / asked, served)
    late = 1e3 * fmean(one.late for one in outcomes)
    failures = [one.failed for one in outcomes if one.failed]
    return found, Machine(waited / sum(served), fmean(picks), late, cores / took, slow, failures)


def simulated(case: Case, fleet: Fleet, requests: Sequence[Request], unit: int, seed: int) -> Figures:
    pool = Pool("pool", TABLE[fleet.profile], fleet.limits, _LONGEST, fleet.replicas)
    setup = Setup(
        (pool,),
        routing.Config(case.strategy),
        unit,
        report_us=round(1e6 * fleet.speed),
        seed=seed,
        pickers=case.pickers,
        exchange_us=round(2e4 * fleet.speed) if case.exchange else -1,
        estimate_error=0.0,
    )
    run = Simulation(setup)
    run.go(requests)
    record, engines = run.record, [one.engine for one in run.fleet.replicas]
    hits = sum(one.hit_tokens for one in engines) / sum(one.prompt_tokens for one in engines)
    ttft, e2e = ([one / 1e6 for one in column] for column in (record.ttft, record.e2e))
    return figures(ttft, e2e, hits, [one.sent for one in run.fleet.replicas])


def loaded(folder: Path | None, count: int, rate: float, spread: bool) -> tuple[list[Request], int]:
    """The trace's first requests, those that fit into the context, and the tokens of its blocks. `spread`: each at a random
    moment of the 3 s that the recorder's clock did not tell apart; else ten come in one moment, of which several pickers
    can not tell each other in time."""
    found, random = opened(folder, MOONCAKE), Random(0)
    kept = [one for one in trace.first(found, count) if one.input + one.output <= _LONGEST]
    if spread:
        kept = [one._replace(at=one.at + int(random.random() * CLOCK_US)) for one in kept]
    kept.sort(key=lambda one: one.at)
    return [one._replace(at=round(one.at / rate)) for one in kept], found.block_tokens


def compared(case: Case, fleet: Fleet, requests: Sequence[Request], unit: int) -> tuple[float, float]:
    """Mean TTFT of the replay and of the simulator; prints what there is to both."""
    runs = [simulated(case, fleet, requests, unit, seed) for seed in range(SEEDS)]
    low, mean, high = min(one.ttft for one in runs), fmean(one.ttft for one in runs), max(one.ttft for one in runs)
    _row(case.title, "simulated", runs[0], f"{low:.2f} .. {high:.2f}", mean)
    real, machine = replayed(case, fleet, requests, unit)
    more = f"at engines {machine.inside:.3f} {machine.inside / mean - 1:+.1%}; pick {machine.pick:.0f} ms,"
    more += f" late {machine.late:.0f} ms, {machine.cores:.2f} cores"
    more += f"; {machine.slow} ENGINES TOO SLOW" if machine.slow else ""
    more += f"; {len(machine.failures)} FAILED: {machine.failures[0]}" if machine.failures else ""
    _row("", "replayed", real, f"{real.ttft / mean - 1:+.1%}", real.ttft, more)
    return real.ttft, mean


def _row(title: str, kind: str, one: Figures, spread: str, ttft: float, more: str = "") -> None:
    words = f"{title:28} {kind:9} {ttft:7.3f} {spread:>15} {one.p50:7.3f} {one.p99:7.2f} {one.e2e:7.2f}"
    print(f"{words} {one.hits:6.1%} {one.uneven:6.2f}   {more}".rstrip(), flush=True)


def cases(pickers: int) -> Iterator[Case]:
    yield from map(Case, STRATEGIES)
    if pickers > 1:
        yield Case("cost", pickers)
        yield Case("cost", pickers, exchange=False)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of public traces")
    parser.add_argument("--requests", type=int, default=600, help="from the beginning of the trace")
    parser.add_argument("--rate", type=float, default=1.0, help="times the recorded one")
    parser.add_argument("--as-recorded", action="store_true", help="what the recorder saw within 3 s comes at once")
    parser.add_argument("--speed", type=float, default=3.0, help="simulated seconds in a real one")
    parser.add_argument("--profile", choices=sorted(TABLE), default="a100/8b")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--pickers", type=int, default=2, help="in the last two lines; 1: without them")
    parser.add_argument("--only", help="lines whose title begins so")
    given = parser.parse_args(argv)
    fleet = Fleet(given.profile, H100, given.replicas, given.speed)
    requests, unit = loaded(given.traces, given.requests, given.rate, not given.as_recorded)
    prompts, answers = fmean(one.input for one in requests), fmean(one.output for one in requests)
    arrivals = "as recorded" if given.as_recorded else "spread over the clock's 3 s"
    print(
        f"{len(requests)} requests of {MOONCAKE} in {requests[-1].at / 1e6:.0f} s, {arrivals}, prompts of {prompts:.0f} and"
        f" answers of {answers:.0f} tokens, to {fleet.replicas} x {fleet.profile} at {fleet.speed:g} x real time; seconds are"
        " simulated"
    )
    columns = f"{'TTFT':>7} {'range, error':>15} {'p50':>7} {'p99':>7} {'whole':>7} {'hits':>6} {'uneven':>6}"
    print(f"{'':38} {columns}")
    found = {
        case.title: compared(case, fleet, requests, unit)
        for case in cases(given.pickers)
        if case.title.startswith(given.only or "")
    }
    if base := found.pop("least-request", None):
        for title, (real, made) in found.items():
            words = f"replayed {real / base[0] - 1:+.1%}, simulated {made / base[1] - 1:+.1%}"
            print(f"{title} against least-request: {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
