"""`simulate trace`: make a trace, or turn one into another."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import CompileError, UsageError

_EPILOG = """\
examples:
  aibrix-compile simulate trace generate --requests-per-second 12 --input-tokens 1200 --output-tokens 250 -o day.csv.gz
  aibrix-compile simulate trace generate ... --duration 24h --swing 60% --peak 14h --bursts-per-hour 2
  aibrix-compile simulate trace generate ... --turns 4 --system-tokens 800 --adapters a,b,c -o chat.jsonl.gz
  aibrix-compile simulate trace convert AzureLLMInferenceTrace_conv.csv -o conv.csv.gz

A file named .jsonl keeps prompt blocks, which prefix caches need; .csv does not. Equal options and seeds make equal bytes.
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate trace",
        help="make a trace for it, or convert one",
        description="Make a request trace with chosen statistics, or read one of any known format and write it as ours.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(metavar="generate|convert", required=True)
    made = what.add_parser(
        "generate", help="make a trace", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--requests-per-second", type=float, required=True, metavar="X", help="mean rate")
    made.add_argument("--input-tokens", type=float, required=True, metavar="N", help="mean prompt, all of it")
    made.add_argument("--output-tokens", type=float, required=True, metavar="N", help="mean answer")
    made.add_argument("--duration", default="30m", metavar="TIME", help="(default: 30m)")
    made.add_argument("--seed", type=int, default=0, help="(default: 0)")
    made.add_argument("--input-cv", type=float, default=1.0, metavar="X", help="spread of prompts: deviation over mean")
    made.add_argument("--output-cv", type=float, default=0.8, metavar="X", help="spread of answers")
    made.add_argument("--swing", default="0%", metavar="SHARE", help="how far the rate goes up and down over a day")
    made.add_argument("--period", default="24h", metavar="TIME", help="how long such a day is")
    made.add_argument("--peak", default="0s", metavar="TIME", help="when in it the rate is highest")
    made.add_argument("--arrival-cv", type=float, default=1.0, metavar="X", help="spread of pauses; above 1: clusters")
    made.add_argument("--bursts-per-hour", type=float, default=0.0, metavar="X", help="episodes of higher rate")
    made.add_argument("--burst", default="60s", metavar="TIME", help="mean length of one")
    made.add_argument("--burst-factor", type=float, default=3.0, metavar="X", help="times the rate outside")
    made.add_argument("--turns", type=float, default=1.0, metavar="X", help="mean requests of a conversation")
    made.add_argument("--think", default="30s", metavar="TIME", help="mean time between two of them")
    made.add_argument("--system-tokens", type=int, default=0, metavar="N", help="that all prompts begin with")
    made.add_argument("--tenants", type=int, default=1, metavar="N", help="with a system prompt each")
    made.add_argument("--adapters", default="", metavar="A,B,...", help="by falling popularity (Zipf)")
    made.add_argument("--adapter-share", default="100%", metavar="SHARE", help="of conversations that use one")
    made.add_argument("--block-tokens", type=int, default=64, metavar="N", help="unit of shared prefixes")
    made.set_defaults(run=generate)
    turned = what.add_parser("convert", help="write a trace as ours")
    turned.add_argument("trace", type=Path, metavar="TRACE")
    turned.add_argument("--trace-format", default="", metavar="NAME", help="its format (default: recognised)")
    turned.add_argument("--trace-model", default="", metavar="NAME", help="only requests to this model")
    turned.set_defaults(run=convert)
    for one in (made, turned):
        one.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help=".csv or .jsonl, with .gz if wanted (default: CSV on stdout)",
        )


def generate(arguments: argparse.Namespace) -> int:
    from aibrix_compile.simulate import generate

    chosen = generate.Options(
        seconds=options.seconds("--duration", arguments.duration),
        rate=arguments.requests_per_second,
        input_tokens=arguments.input_tokens,
        output_tokens=arguments.output_tokens,
        input_cv=arguments.input_cv,
        output_cv=arguments.output_cv,
        swing=options.share("--swing", arguments.swing),
        period_s=options.seconds("--period", arguments.period),
        peak_s=options.seconds("--peak", arguments.peak),
        arrival_cv=arguments.arrival_cv,
        bursts_per_hour=arguments.bursts_per_hour,
        burst_s=options.seconds("--burst", arguments.burst),
        burst_factor=arguments.burst_factor,
        turns=arguments.turns,
        think_s=options.seconds("--think", arguments.think),
        system_tokens=arguments.system_tokens,
        tenants=arguments.tenants,
        adapters=tuple(one for one in arguments.adapters.split(",") if one),
        adapter_share=options.share("--adapter-share", arguments.adapter_share),
        block_tokens=arguments.block_tokens,
    )
    return _written(generate.generate(chosen, arguments.seed), arguments)


def convert(arguments: argparse.Namespace) -> int:
    from aibrix_compile.simulate import formats

    try:
        found = formats.read(arguments.trace, arguments.trace_format, arguments.trace_model)
        return _written(replace(found, name=arguments.trace.name), arguments)
    except CompileError as error:
        options.refuse(error.diagnostics)
        return 1


def _written(trace: Any, arguments: argparse.Namespace) -> int:
    from aibrix_compile.simulate import formats

    if arguments.output is None:
        for line in formats.csv_lines(trace):
            sys.stdout.write(line)
        return 0
    try:
        count = formats.write(trace, arguments.output)
    except OSError as error:
        raise UsageError(f"can not write {arguments.output}: {(error.strerror or str(error)).lower()}") from None
    left = sum(trace.skipped.values())
    sys.stderr.write(f"{arguments.output}: {count:,} requests" + (f", {left:,} rows left out\n" if left else "\n"))
    return 0
