"""`simulate calibrate`: fit an engine's profile to a log of a real one, or say how far a profile is from it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import CompileError, UsageError

if TYPE_CHECKING:
    from aibrix_compile.policy.profile import Profile
    from aibrix_compile.simulate.measured import Error

_EPILOG = """\
The log is CSV with the columns arrival_s, input_tokens, output_tokens, ttft_s, e2e_s: one engine alone, under load.

  aibrix-compile simulate calibrate log.csv --like rtx-4090/8b --pool l4 -o profiles.json
  aibrix-compile simulate calibrate log.csv --like h100/8b --check                 errors of a profile as it is
  aibrix-compile simulate services/chat.yaml --profile profiles.json

Every other stretch of a tenth of the log is held back: errors are printed for both parts.
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate calibrate",
        help="fit an engine's profile to a log of a real one",
        description="Find the times of an engine's steps from what it did, and print how far the simulation is from the log.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument(
        "--like", default="h100/8b", metavar="PROFILE", help="where to begin: a row of the table, or FILE:POOL"
    )
    parser.add_argument("--pool", default="", metavar="NAME", help="the pool that the profile is for")
    parser.add_argument("--kv-tokens", type=int, metavar="N", help="what the engine's KV cache holds")
    parser.add_argument("--max-num-seqs", type=int, default=256, metavar="N", help="(default: 256)")
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048, metavar="N", help="(default: 2048)")
    parser.add_argument("--check", action="store_true", help="fit nothing; only print errors")
    parser.add_argument("--format", choices=("pretty", "json"), default="pretty", help="(default: pretty)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the profile, for simulate --profile")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.emit import json_text
    from aibrix_compile.simulate import measured, profiles
    from aibrix_compile.simulate.engine import Limits

    if arguments.check and arguments.output:
        raise UsageError("--check fits nothing that -o could write")
    if arguments.output and not arguments.pool:
        raise UsageError("-o needs --pool NAME: a profile file is by pool")
    if min(arguments.max_num_seqs, arguments.max_num_batched_tokens, arguments.kv_tokens or 1) < 1:
        raise UsageError("an engine's limits are at least 1")
    try:
        start = _start(arguments.like)
        log = measured.read(arguments.log)
    except CompileError as error:
        options.refuse(error.diagnostics)
        return 1
    if arguments.kv_tokens:
        start = replace(start, kv_tokens=arguments.kv_tokens)
    limits = Limits(arguments.max_num_seqs, arguments.max_num_batched_tokens)
    if arguments.check:
        found = {"all": measured.overall(log, start, limits)}
        profile = start
    else:
        if len(log) < measured.LEAST:
            raise UsageError(f"{len(log)} requests are too few to fit a profile; {measured.LEAST} and more do")
        profile = measured.fit(log, start, limits)
        found = measured.errors(log, profile, limits)
        worst = max(abs(one.share) for one in found["held back"] if "mean" in one.figure)
        profile = replace(
            profile,
            name=arguments.pool or f"fitted to {arguments.log.name}",
            source=f"fitted to {len(log)} requests of {arguments.log.name}",
            error=f"means within {worst:.1%} in the part that was held back",
            error_share=round(max(worst, 0.02), 4),
        )
    if arguments.output:
        text = json_text(profiles.as_json({arguments.pool: profile}))
        try:
            arguments.output.write_text(text, "utf-8", newline="\n")
        except OSError as error:
            raise UsageError(f"can not write {arguments.output}: {(error.strerror or str(error)).lower()}") from None
    if arguments.format == "json":
        rows = {part: [_row(one) for one in some] for part, some in found.items()}
        sys.stdout.write(
            json_text({"requests": len(log), "profile": profiles.as_json({"": profile})[""], "errors": rows})
        )
    else:
        sys.stdout.write(_text(profile, found, len(log)))
    return 0


def _start(name: str) -> Profile:
    from aibrix_compile.policy.profile import TABLE
    from aibrix_compile.simulate import profiles

    if name in TABLE:
        return TABLE[name]
    file, sign, pool = name.rpartition(":")
    if not sign:
        raise UsageError(f"there is no profile {name}; known: {', '.join(TABLE)}, or FILE:POOL")
    found = profiles.read(Path(file))
    if pool not in found:
        raise UsageError(f"{file} has no pool {pool}; pools: {', '.join(found)}")
    return found[pool]


def _row(one: Error) -> dict[str, Any]:
    from aibrix_compile.simulate.scoring import rounded

    found: dict[str, Any] = rounded(
        {"figure": one.figure, "measured": one.measured, "simulated": one.simulated, "error": one.share}
    )
    return found


def _text(profile: Profile, found: dict[str, list[Error]], count: int) -> str:
    times = f"W {profile.weights_ms:.4g} ms, cf {profile.token_ms:.4g} ms, ck {profile.context_ms:.4g} ms"
    more = f"ca {profile.attention_ms:.4g} ms, c0 {profile.step_ms:.4g} ms, KV cache {profile.kv_tokens:,} tokens"
    lines = [f"{profile.name}: {count} requests", f"  {times}, {more}"]
    for part, rows in found.items():
        lines += ["", f"{part:12} {'measured':>10} {'simulated':>10} {'error':>8}"]
        lines += [f"{one.figure:12} {one.measured:>8.3f} s {one.simulated:>8.3f} s {one.share:>+8.1%}" for one in rows]
    return "\n".join(lines) + "\n"
