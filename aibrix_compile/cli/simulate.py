"""`simulate`: replay a trace against what a spec will become, with the cluster's own decisions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import CompileError, Diagnostic, UsageError

if TYPE_CHECKING:
    from aibrix_compile.compiler import Compilation
    from aibrix_compile.plan import ServicePlan
    from aibrix_compile.simulate.study import Source, Variant

_EPILOG = """\
examples:
  aibrix-compile simulate services/chat.yaml                          the load that its `workload` expects
  aibrix-compile simulate chat.yaml --trace day.csv.gz --rate 1.5     a trace, at one and a half times its rate
  aibrix-compile simulate chat.yaml --trace t.jsonl --html report.html --gate
  aibrix-compile simulate chat.yaml --compare routing.strategy=cost,least-request
  aibrix-compile simulate chat.yaml --sweep scaling.strategy.hpa.target=50%:90%:10%

traces: Azure LLM inference, BurstGPT, Mooncake, the gateway's access log, and CSV or JSONL of ours; .gz as well. Make one
with `aibrix-compile simulate trace generate`. What the model is, how far it is right and what it can not say: specs/simulation.md.
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate",
        help="replay a trace: latency, replicas, cost, objectives",
        description="Replay a request trace against a service as it will be deployed. The picker's and the scaler's own code "
        "decides, from what they can know. Nothing is written but the report that is asked for.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="SPEC", help="the service's file, or a folder")
    parser.add_argument("--service", metavar="NAME", help="which service, if there are several")
    parser.add_argument("-e", "--environment", metavar="ENV", help="which environment (default: the last one)")
    load = parser.add_argument_group("load")
    load.add_argument("--trace", type=Path, metavar="FILE", help="the trace (default: made from the spec's workload)")
    load.add_argument("--trace-format", default="", metavar="NAME", help="its format (default: recognised)")
    load.add_argument("--trace-model", default="", metavar="NAME", help="only requests to this model")
    load.add_argument("--duration", default=None, metavar="TIME", help="length of a made trace (default: 30m)")
    load.add_argument("--rate", type=float, default=1.0, metavar="X", help="times the trace's rate")
    load.add_argument("--inputs", type=float, default=1.0, metavar="X", help="times its prompts' lengths")
    load.add_argument("--outputs", type=float, default=1.0, metavar="X", help="times its answers' lengths")
    load.add_argument("--from", dest="start", default="0s", metavar="TIME", help="where in the trace to begin")
    load.add_argument("--until", default=None, metavar="TIME", help="where in the trace to end")
    load.add_argument(
        "--warm-up", metavar="TIME", help="the beginning, which counts in no figure (default: 1/6 of a made trace)"
    )
    load.add_argument("--limit", type=int, metavar="N", help="the first N requests")
    load.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="a share of the conversations")
    load.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    load.add_argument("--at", default="", metavar="WHEN", help="when it begins, for schedules: 2026-01-05T08:00Z")
    ask = parser.add_argument_group("questions")
    ask.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change the spec")
    ask.add_argument("--compare", action="append", default=[], metavar="PATH=A,B", help="run it with each value")
    ask.add_argument("--sweep", action="append", default=[], metavar="PATH=LOW:HIGH:STEP", help="and with each number")
    ask.add_argument("--profile", type=Path, metavar="FILE", help="engine profiles of your own, from `calibrate`")
    ask.add_argument("--no-range", action="store_true", help="only the profile's own times, without its error")
    ask.add_argument("--gate", action="store_true", help="exit 1 when an objective or the budget is broken")
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=("pretty", "json"), default="pretty", help="what is printed (default: pretty)")
    out.add_argument("--html", type=Path, metavar="FILE", help="also write a report that opens in a browser, offline")
    out.add_argument("--processes", type=int, default=0, metavar="N", help="(default: one for each core)")
    parser.set_defaults(run=run, deny=None)


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.simulate import gate, study, table

    if arguments.html is not None:
        from aibrix_compile.simulate import html

        html.vega()  # whether it is there, before anything long begins
    try:
        variants, source = asked(arguments)
        results = study.study(
            variants,
            source,
            seed=arguments.seed,
            epoch_us=_epoch(arguments.at),
            ranges=not arguments.no_range,
            processes=arguments.processes,
            told=options.progress("simulating"),
        )
    except CompileError as error:
        options.refuse(error.diagnostics, arguments.path)
        return 1
    document = study.document(variants, source, arguments.seed, results)
    if arguments.html is not None:
        _write(arguments.html, html.page(document))
    if arguments.format == "json":
        from aibrix_compile.emit import json_text

        sys.stdout.write(json_text(document))
    else:
        width = max(60, options.width())
        sys.stdout.write(table.text(document, color=options.colored(sys.stdout), width=width))
    if not arguments.gate:
        return 0
    broken = gate.broken(document)
    for line in broken:
        sys.stderr.write(f"gate: {line}\n")
    return int(bool(broken))


def asked(arguments: argparse.Namespace) -> tuple[list[Variant], Source]:
    """What shall be simulated. CompileError where spec, settings, profiles or the trace's beginning are wrong; UsageError."""
    from aibrix_compile.simulate import gate

    variants, compilation = _variants(arguments)
    if arguments.gate and (found := gate.unknown(variants[0].service)):
        raise CompileError([_located(compilation, found)])
    return variants, _source(arguments, variants[0].service)


def _variants(arguments: argparse.Namespace) -> tuple[list[Variant], Compilation]:
    """The service under every combination of settings."""
    from aibrix_compile.simulate import settings
    from aibrix_compile.simulate.profiles import read
    from aibrix_compile.simulate.study import Variant

    fixed = [settings.assignment(one) for one in arguments.set]
    base, compilation = _compiled(arguments, [])
    choices = [settings.values(one) for one in arguments.compare]
    for one in arguments.sweep:
        path, _ = settings.assignment(one)
        choices.append(settings.steps(one, _current(compilation, base, path)))
    combinations = list(settings.combined(choices))
    if len(combinations) > settings.MOST:
        raise UsageError(f"{len(combinations)} variants are more than {settings.MOST}")
    profiles = read(arguments.profile) if arguments.profile else {}
    variants = []
    for combination in combinations:
        service = base
        if fixed or combination:
            service, compilation = _compiled(arguments, [*fixed, *combination])
        name = ", ".join(f"{path}={value}" for path, value in combination) or service.name
        for pool in profiles.keys() - {pool.name for pool in service.pools}:
            known = ", ".join(pool.name for pool in service.pools)
            raise UsageError(f"{arguments.profile}: there is no pool {pool} in {service.name}; pools: {known}")
        variants.append(Variant(name, service, profiles))
    return variants, compilation


def _compiled(arguments: argparse.Namespace, chosen: Sequence[tuple[str, str]]) -> tuple[ServicePlan, Compilation]:
    from aibrix_compile.compiler import compile_workspace
    from aibrix_compile.loading import load, override, service_name
    from aibrix_compile.simulate import settings, setup

    workspace = load([arguments.path], Path.cwd())
    named = [arguments.environment] if arguments.environment else [one.name for one in workspace.environments[-1:]]
    found = sorted({name for one in workspace.services if (name := service_name(one))})
    if workspace.selected is not None:
        ours = [one for one in workspace.services if one.source.name in workspace.selected]
        found = sorted({name for one in ours if (name := service_name(one))})
    name = arguments.service or (found[0] if len(found) == 1 else "")
    if name not in found:
        what = f"there is no service {name}" if name else "several services are there"
        raise UsageError(f"{what}; choose one with --service: {', '.join(found) or 'none'}")
    for path, value in chosen:
        override(workspace, settings.overlay(name, [(path, value)]), f"--set {path}={value}")
    result = compile_workspace(workspace, build=False, only=named)
    if result.failed:
        raise CompileError(result.diagnostics)
    service = next(one for plan in result.plans for one in plan.services if one.name == name)
    if refused := setup.refused(service):
        raise CompileError(_located(result, one) for one in refused)
    return service, result


def _current(compilation: Compilation, service: ServicePlan, path: str) -> str:
    """What the spec says at a path, as it is written; empty if nothing does."""
    from aibrix_compile.yamlio import value_at

    document = next(one for (_, key), one in compilation.documents.items() if key.endswith(f"\0{service.name}"))
    node = value_at(document, ("spec",))
    for step in path.split("."):
        if isinstance(node, list):
            node = next((one for one in node if isinstance(one, dict) and one.get("name") == step), None)
        else:
            node = node.get(step) if isinstance(node, dict) else None
    return str(node) if isinstance(node, str) else ""


def _located(compilation: Compilation, problem: Any) -> Diagnostic:
    from aibrix_compile.yamlio import locate

    document = next(iter(compilation.documents.values()))
    return Diagnostic(
        problem.code, problem.severity, problem.message, locate(document, problem.path, problem.at_key), problem.hint
    )


def _source(arguments: argparse.Namespace, service: ServicePlan) -> Source:
    from aibrix_compile.simulate.study import Source

    workload = service.workload
    if arguments.trace is None and workload is None:
        raise UsageError(
            f"{service.name} has no workload to make a trace from; give --trace FILE, or write "
            "workload: {inputTokens: 1200, outputTokens: 250, requestsPerSecond: 4} into its spec"
        )
    if arguments.trace is not None and arguments.duration is not None:
        raise UsageError("--duration is the length of a made trace; cut a file's with --from, --until or --limit")
    source = Source(
        path=arguments.trace,
        form=arguments.trace_format,
        model=arguments.trace_model,
        workload=(workload.input_tokens, workload.output_tokens, workload.requests_per_second) if workload else None,
        seconds=options.seconds("--duration", arguments.duration or "30m"),
        rate=arguments.rate,
        inputs=arguments.inputs,
        outputs=arguments.outputs,
        start_s=options.seconds("--from", arguments.start),
        end_s=options.seconds("--until", arguments.until) if arguments.until else None,
        limit=arguments.limit,
        share=arguments.sample,
        warm=options.seconds("--warm-up", arguments.warm_up) if arguments.warm_up else None,
        seed=arguments.seed,
    )
    source.open()
    return source


def _epoch(text: str) -> int:
    from datetime import UTC, datetime

    from aibrix_compile.simulate.study import MONDAY_US

    if not text:
        return MONDAY_US
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text} is no time; write 2026-01-05T08:00Z") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()) * 1_000_000


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, "utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"can not write {path}: {(error.strerror or str(error)).lower()}") from None
