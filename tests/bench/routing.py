"""Routing in the simulator: what strategies gain by load, by knowledge and by number of pickers, and where `cost`'s
constants come from.

`python -m tests.bench.routing [--traces FOLDER] [--only TABLE ...] [--requests N] [--seeds N] [--pickers N]`. FOLDER as
in `tests.bench.simulation`. Unless a table says otherwise, a picker knows what a real one can: tokens estimated from
bytes (20 % off), prefixes in whole blocks, reports up to 1 s old, no length of an answer before its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import TABLE, slower
from aibrix_compile.policy.routing import Choice
from aibrix_compile.simulate import generate, trace
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.engine import Sequence as Running
from aibrix_compile.simulate.fleet import Pool, Replica, Setup
from aibrix_compile.simulate.pickers import Pickers
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.trace import Request
from tests.bench.simulation import A10, AZURE, CODE, H100, MOONCAKE, opened

REPLICAS = 8
CLOCK_US = 3_000_000  # Mooncake's: whoever arrives within 3 s has one timestamp
LOADS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
_MADE = generate.Options(
    seconds=86_400, rate=5, input_tokens=3000, output_tokens=200, turns=4, system_tokens=500, arrival_cv=1.5
)


@dataclass(frozen=True, slots=True)
class Case:
    """A trace and the replicas that it is replayed against."""

    title: str
    requests: list[Request]
    unit: int
    profile: str
    limits: Limits

    def at(self, rate: float) -> list[Request]:
        """The same requests, so many a second in the mean."""
        factor = rate / (len(self.requests) * 1e6 / self.requests[-1].at)
        return [one._replace(at=round(one.at / factor)) for one in self.requests]

    def capacity(self) -> float:
        """Requests a second when all are there at once."""
        run = simulated(self, [one._replace(at=0) for one in self.requests], "least-request")
        return len(self.requests) / (run.now / 1e6)


@dataclass(frozen=True, slots=True)
class Figures:
    """Means and a percentile in seconds, and the share of prompts' tokens that engines had in their caches."""

    ttft: float
    p99: float
    e2e: float
    hits: float


class Knowing(Pickers):
    """Pickers that look into the engines at each choice: what could be gained if nothing were hidden from them."""

    def choose(
        self, sequence: Running, now: int, chance: float, places: list[int] | None = None
    ) -> tuple[Replica, Choice]:
        for replica in self._fleet.ready:
            engine, known = replica.engine, replica.endpoint
            known.reported(engine.in_flight, 0, engine.kv_tokens, now)
            waiting = [(one.target, 0) for one in engine.waiting]
            unread = [(one.target - one.computed, one.computed) for one in engine._partial] + waiting
            left = sum(new * (known.token_ms + known.attention_ms * (old + new / 2)) for new, old in unread)
            known.clear_us, known.work_ms = now + round(left * 1000), left  # and so `queued_ms` is just that
            known.prompt_tokens = engine.context + sum(new + old for new, old in unread)
            rest = sum(one.output - one.generated for one in (*engine.running, *engine.waiting))
            known.answer_tokens = rest / engine.in_flight if engine.in_flight else 0.0
        return super().choose(sequence, now, chance, places)

    def hits(self, sequence: Running, blocks: tuple[int, ...], picker: int) -> list[int]:
        found = []
        for replica in self._fleet.ready:
            engine, depth = replica.engine, 0
            while depth < len(blocks) and (blocks[depth] in engine._pinned or blocks[depth] in engine._cached):
                depth += 1
            found.append(min(depth * self._unit, sequence.input - 1))
        return found


class Untold(Pickers):
    """Pickers that never learn how long an answer was: the gateway's log of usage does not come."""

    def ended(self, sequence: Running, replica: Replica, now: int) -> None:
        replica.endpoint.ended(self.estimate(sequence), None, sequence.adapter)


def simulated(
    case: Case, requests: Sequence[Request], strategy: str, knows: type[Pickers] = Pickers, **more: Any
) -> Simulation:
    """A finished run. `known`: the profile that pickers believe in, as a factor of the engine's own times."""
    profile = TABLE[case.profile]
    pool = Pool("pool", profile, case.limits, 131_072, REPLICAS, known=slower(profile, more.pop("known", 1.0)))
    run = Simulation(Setup((pool,), routing.Config(strategy), case.unit, **more))
    run.pickers = knows(run.setup, run.fleet)
    run.go(requests)
    return run


def measured(case: Case, requests: Sequence[Request], strategy: str, **more: Any) -> Figures:
    run = simulated(case, requests, strategy, **more)
    record, engines = run.record, [one.engine for one in run.fleet.replicas]
    asked = max(1, sum(one.prompt_tokens for one in engines))
    found = sum(one.hit_tokens for one in engines) / asked
    last = sorted(record.ttft)[int(0.99 * len(record.ttft))]
    return Figures(fmean(record.ttft) / 1e6, last / 1e6, fmean(record.e2e) / 1e6, found)


def change(value: float, base: float) -> str:
    return f"{value / base - 1:+5.0%}"


def cases(folder: Path | None, count: int) -> Iterator[Case]:
    for title, found, profile, limits in (
        ("Mooncake conversation, H100 8B", opened(folder, MOONCAKE), "h100/8b", H100),
        ("Azure conversation, A10 8B", opened(folder, AZURE), "a10/8b", A10),
        ("Azure code, A10 8B", opened(folder, CODE), "a10/8b", A10),
        ("made conversations of 4 turns, A100 8B", generate.generate(_MADE, 5), "a100/8b", H100),
    ):
        yield Case(title, list(trace.first(found, count)), found.block_tokens, profile, limits)


def by_load(folder: Path | None, count: int, seeds: int, pickers: int) -> None:
    """`cost` and least-request against `random`, each the mean of all seeds."""
    worst: list[tuple[float, str]] = []
    for case in cases(folder, count):
        capacity = case.capacity()
        print(
            f"by load: {case.title}, {len(case.requests)} requests, capacity {capacity:.1f}/s, {pickers} picker(s),"
            f" {seeds} seeds: mean TTFT, mean of whole answers"
        )
        for load in LOADS:
            requests = case.at(load * capacity)
            rows = {
                strategy: [measured(case, requests, strategy, seed=seed, pickers=pickers) for seed in range(seeds)]
                for strategy in ("random", "least-request", "cost")
            }
            means = {
                name: (fmean(one.ttft for one in row), fmean(one.e2e for one in row)) for name, row in rows.items()
            }
            base = means["random"]
            words = [
                f"{name} {ttft:.3f} s {change(ttft, base[0])}, {e2e:.2f} s {change(e2e, base[1])}"
                for name, (ttft, e2e) in means.items()
                if name != "random"
            ]
            print(f"  {load:.1f}   random {base[0]:.3f} s, {base[1]:.2f} s   " + "   ".join(words), flush=True)
            behind = max(mine / theirs - 1 for mine, theirs in zip(means["cost"], base, strict=True))
            worst.append((behind, f"{case.title} at {load:.1f}"))
    behind, where = max(worst)
    print(f"  cost is nearest to random at {where}: {behind:+.1%} (may be +2 %)")


def conversations(folder: Path | None) -> Case:
    found = opened(folder, MOONCAKE)
    return Case("Mooncake conversation", list(found), found.block_tokens, "h100/8b", H100)


def by_knowledge(folder: Path | None) -> None:
    case = conversations(folder)
    rows: Mapping[str, dict[str, Any]] = {
        "nothing hidden": {"knows": Knowing, "estimate_error": 0.0},
        "tokens of prompts exact": {"estimate_error": 0.0},
        "as a picker sees it": {},
        "tokens 40 % off": {"estimate_error": 0.4},
        "reports up to 2 s old": {"report_us": 2_000_000},
        "answers' tokens never told": {"knows": Untold},
        "engines 35 % slower than thought": {"known": 1 / 1.35},
        "engines 35 % faster than thought": {"known": 1 / 0.65},
    }
    for factor in (1.0, 1.75):
        requests = [one._replace(at=round(one.at / factor)) for one in case.requests]
        base = measured(case, requests, "random")
        print(f"by knowledge: {case.title} x {factor:g}, mean TTFT against random's {base.ttft:.3f} s")
        for label, more in rows.items():
            found = {name: measured(case, requests, name, **more) for name in ("least-request", "prefix-cache", "cost")}
            words = "   ".join(f"{name} {one.ttft:.3f} s {change(one.ttft, base.ttft)}" for name, one in found.items())
            gain = change(found["cost"].ttft, found["least-request"].ttft)
            print(f"  {label:34} {words}   cost against least-request {gain}", flush=True)


def by_pickers(folder: Path | None) -> None:
    case, random = conversations(folder), Random(0)
    spread = sorted((one._replace(at=one.at + int(random.random() * CLOCK_US)) for one in case.requests), key=_at)
    for title, requests in (("as recorded, all of 3 s at once", case.requests), ("spread over the 3 s", spread)):
        base, few = measured(case, requests, "random"), measured(case, requests, "least-request")
        print(
            f"by pickers: {case.title}, {title}: random {base.ttft:.3f} s, hits {base.hits:.1%};"
            f" least-request by one picker {few.ttft:.3f} s"
        )
        for pickers, exchange, label in (
            (1, -1, "1 picker"),
            (2, 20_000, "2, told after 20 ms"),
            (4, 20_000, "4, told after 20 ms"),
            (2, -1, "2, told nothing"),
            (4, -1, "4, told nothing"),
        ):
            words = []
            for name in ("prefix-cache", "cost"):
                one = measured(case, requests, name, pickers=pickers, exchange_us=exchange)
                mean = f"{one.ttft:.3f} s {change(one.ttft, base.ttft)}"
                words.append(f"{name} TTFT {mean}, p99 {one.p99:5.2f} s, hits {one.hits:5.1%}")
            print(f"  {label:20} " + "   ".join(words), flush=True)


def _at(request: Request) -> int:
    return request.at


def by_constants(folder: Path | None, count: int) -> None:
    """Each of `cost`'s constants changed alone."""
    for case in cases(folder, count):
        requests = case.at(0.8 * case.capacity())
        base = measured(case, requests, "random")
        print(f"constants of cost: {case.title} at 0.8 of capacity, against random; those in use first")
        for name, values in _CONSTANTS.items():
            words = []
            for value in (getattr(routing, name), *values):
                with constant(name, value):
                    one = measured(case, requests, "cost")
                words.append(f"{value:g}: {change(one.ttft, base.ttft)} {change(one.e2e, base.e2e)}")
            print(f"  {name:8} TTFT and whole mean by   " + "   ".join(words), flush=True)


_CONSTANTS: Mapping[str, tuple[float, ...]] = {
    "STALL": (0.0, 0.03, 0.3, 1.0),
    "SHARE": (0.0, 1.0, 5.0, 20.0),
    "KV_FULL": (0.7, 0.8, 1.0),
}


@contextmanager
def constant(name: str, value: float) -> Iterator[None]:
    before = getattr(routing, name)
    setattr(routing, name, value)
    try:
        yield
    finally:
        setattr(routing, name, before)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of public traces")
    parser.add_argument("--only", choices=("load", "knowledge", "pickers", "constants"), action="append")
    parser.add_argument("--requests", type=int, default=1500, help="of each trace, by load and by constants")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pickers", type=int, default=1, help="by load")
    given = parser.parse_args(argv)
    folder, count = given.traces, given.requests
    tables = {
        "knowledge": partial(by_knowledge, folder),
        "pickers": partial(by_pickers, folder),
        "constants": partial(by_constants, folder, count),
        "load": partial(by_load, folder, count, given.seeds, given.pickers),
    }
    for name, table in tables.items():
        if not given.only or name in given.only:
            table()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
