"""The simulator's own figures: speed and memory, routing strategies side by side.

`python -m tests.bench.simulation [--traces FOLDER] [--quick]`. FOLDER holds public traces under the names below; each one
that is missing is replaced by a made one, and the table says so. Speed is CPU time of this process, reading included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate import formats, generate, trace
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scoring import Score, score
from aibrix_compile.simulate.trace import Trace

AZURE, CODE, MOONCAKE = (
    "azure-2023-conv/trace.csv.gz",
    "azure-2023-code/trace.csv.gz",
    "mooncake-conversation/trace.jsonl.gz",
)
RAMP = "aibrix-8min-updown/trace.csv.gz"
_MADE = {
    AZURE: generate.Options(seconds=2100, rate=5.9, input_tokens=1246, output_tokens=205),
    CODE: generate.Options(seconds=2100, rate=3.2, input_tokens=2048, output_tokens=28, arrival_cv=3.0),
    RAMP: generate.Options(seconds=490, rate=4.2, input_tokens=250, output_tokens=60, swing=0.9, period_s=490, peak_s=240),
    MOONCAKE: generate.Options(
        seconds=2100, rate=3.2, input_tokens=12_000, output_tokens=340, turns=3, system_tokens=4_000, block_tokens=512
    ),
}  # fmt: skip
H100 = Limits(max_num_seqs=256, max_num_batched_tokens=8192)
A10 = Limits(max_num_seqs=256, max_num_batched_tokens=2048)


def opened(folder: Path | None, name: str) -> Trace:
    if folder is not None and (folder / name).exists():
        return formats.read(folder / name)
    print(f"  ({name} is not there: a made trace instead)", file=sys.stderr)
    return generate.generate(_MADE[name], 0)


def simulated(found: Trace, strategy: str, profile: str, replicas: int, limits: Limits) -> tuple[Simulation, float]:
    pool = Pool("pool", TABLE[profile], limits, 131_072, replicas)
    run = Simulation(Setup((pool,), routing.Config(strategy), found.block_tokens))
    began = time.process_time()
    run.go(found)
    return run, time.process_time() - began


def speed(folder: Path | None) -> None:
    print("speed, one core: requests a second of CPU time")
    for name, strategy, profile, replicas in (
        (AZURE, "least-request", "a100/8b", 2),
        (AZURE, "cost", "a100/8b", 2),
        (MOONCAKE, "prefix-cache", "h100/8b", 8),
        (MOONCAKE, "cost", "h100/8b", 8),
    ):
        best = 0.0
        for _ in range(3):
            run, took = simulated(opened(folder, name), strategy, profile, replicas, H100)
            best = max(best, len(run.record.ttft) / took)
        digest = hashlib.sha256(json.dumps(score(run).data()).encode()).hexdigest()[:12]
        print(f"  {name.partition('/')[0]:24} {strategy:14} {replicas} x {profile:12} {best:>9,.0f}   result {digest}")


def memory() -> None:
    options = generate.Options(seconds=20_000, rate=50, input_tokens=500, output_tokens=100)
    began = time.process_time()
    run, _ = simulated(generate.generate(options, 1), "least-request", "h100/8b", 8, H100)
    took, used = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = len(run.record.ttft)
    score(run)
    print(
        f"memory: {count:,} made requests on 8 replicas in {took:.0f} s CPU ({count / took:,.0f}/s), {used:.0f} MiB at most"
    )


def router(folder: Path | None) -> None:
    cases = (
        ("Mooncake conversation, 8 x H100 8B", MOONCAKE, 1.0, "h100/8b", 8, H100),
        ("Azure conversation x 1.6, 8 x A10 8B, nearly full", AZURE, 1.6, "a10/8b", 8, A10),
        ("Azure conversation x 1.6, 2 x A100 8B", AZURE, 1.6, "a100/8b", 2, H100),
    )
    for title, name, rate, profile, replicas, limits in cases:
        print(f"routing: {title}; reports up to 1 s old, lengths of answers unknown; against random")
        first: Score | None = None
        for strategy in ("random", "least-request", "least-kv-cache", "prefix-cache", "cost"):
            found = trace.faster(opened(folder, name), rate)
            run, _ = simulated(found, strategy, profile, replicas, limits)
            made = score(run)
            first = first or made
            figures = [
                (made.ttft.mean, first.ttft.mean),
                (made.ttft.p99, first.ttft.p99),
                (made.e2e.mean, first.e2e.mean),
            ]
            words = "   ".join(f"{value:7.3f} s {value / base - 1:+6.1%}" for value, base in figures)
            print(f"  {strategy:15} TTFT mean, p99, whole mean: {words}   hits {made.prefix_hit_share:.1%}")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of public traces")
    parser.add_argument("--quick", action="store_true", help="no memory run")
    arguments = parser.parse_args(argv)
    speed(arguments.traces)
    if not arguments.quick:
        memory()
    router(arguments.traces)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
