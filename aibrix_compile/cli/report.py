"""`report`: what a pull request does, in one comment: findings, difference, and what a simulation says of both sides."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import diff, options
from aibrix_compile.diagnostics import CompileError, Diagnostic, Severity, UsageError

if TYPE_CHECKING:
    from aibrix_compile.compiler import Compilation
    from aibrix_compile.diff.difference import Difference
    from aibrix_compile.diff.sides import Side

MOST = 12
"""Services that are simulated; the comment says which were left out."""
_EPILOG = """\
For each service that changes, both sides are simulated: with --trace, or with the load that its `workload` expects. Into DIR:
comment.md, report.json, and simulation-ENVIRONMENT-SERVICE.html for each that was simulated.

  aibrix-compile report origin/main -o report                        in a pull request's checkout
  aibrix-compile report origin/main --trace day.csv.gz --gate -o report
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="check, diff and simulate a pull request: one comment",
        description="Say in one comment what a change does: what is wrong with it, what differs, and what that does to latency,"
        " replicas and cost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", help="a git revision, a file or a folder")
    parser.add_argument("head", nargs="?", metavar="HEAD", help="the same (default: the working tree)")
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="simulate with this trace (default: each workload)")
    parser.add_argument("--rate", type=float, default=1.0, metavar="X", help="times the trace's rate")
    parser.add_argument(
        "--warm-up", metavar="TIME", help="the beginning, which counts in no figure (default: 1/6 of a made trace)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--gate", action="store_true", help="exit 1 when an objective or the budget is broken, too")
    parser.add_argument("--id", default="", metavar="NAME", help="names the comment, where there are several projects")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the comment and the reports")
    parser.set_defaults(run=run, format="markdown")


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile import review
    from aibrix_compile.diff.compare import compare
    from aibrix_compile.diff.difference import as_data
    from aibrix_compile.emit import json_text

    with diff.compiled(arguments) as (origins, results):
        failed = [(one, result) for one, result in zip(origins, results, strict=True) if result and result.failed]
        if failed:
            comment = diff.failed_comment(failed, arguments)
            _write(arguments.output, {"comment.md": comment})
            sys.stdout.write(comment)
            return 1
        base, head = (diff.side_of(result) for result in results)
        warnings = _warnings(results[1])
        changed = compare(base, head, arguments.environment)
        studies, left = _studies(changed, base, head, arguments)
        base, head = _expected(base, studies, "base"), _expected(head, studies, "head")
        changed = compare(base, head, arguments.environment)
    broken = review.broken(studies) if arguments.gate else []
    comment = review.comment(changed, studies, left, warnings, broken, arguments.id)
    data = {"diff": as_data(changed), "simulations": studies, "not_simulated": left, "broken": broken}
    files = {"comment.md": comment, "report.json": json_text(data)}
    if arguments.output is not None:
        from aibrix_compile.simulate import html

        files |= {f"simulation-{one['environment']}-{one['service']}.html": html.page(one) for one in studies}
    _write(arguments.output, files)
    sys.stdout.write(comment)
    for line in broken:
        sys.stderr.write(f"gate: {line}\n")
    return int(bool(broken))


def _warnings(result: Compilation | None) -> list[Diagnostic]:
    return [one for one in result.diagnostics if one.severity is Severity.WARNING] if result else []


def _studies(
    changed: Difference, base: Side, head: Side, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A study of both sides for each service whose plan changes - objectives alone change no object -; and why others have
    none."""
    from aibrix_compile.simulate import setup, study

    found: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    minor = {(one.environment, one.name) for one in changed.services if one.minor}
    for key, state in head.services.items():
        old, plan, name = base.services.get(key), state.plan, f"{key[1]} in {key[0]}"
        if key in minor or (old is not None and old.plan == plan):
            continue
        states = ([("base", old.plan)] if old is not None else []) + [("head", plan)]
        if arguments.trace is None and plan.workload is None:
            left[name] = "it has no workload, and no trace was given"
        elif problems := [problem for _, one in states for problem in setup.refused(one)]:
            left[name] = problems[0].message
        elif len(found) == MOST:
            left[name] = f"{MOST} were simulated"
        else:
            work = plan.workload
            source = study.Source(
                path=arguments.trace,
                workload=(work.input_tokens, work.output_tokens, work.requests_per_second) if work else None,
                rate=arguments.rate,
                warm=options.seconds("--warm-up", arguments.warm_up) if arguments.warm_up else None,
                seed=arguments.seed,
            )
            variants = [study.Variant(side, one) for side, one in states]
            try:
                results = study.study(
                    variants, source, seed=arguments.seed, told=options.progress(f"simulating {name}")
                )
            except CompileError as error:
                options.refuse(error.diagnostics)
                raise UsageError(f"{arguments.trace} is no trace to simulate with") from None
            found.append(study.document(variants, source, arguments.seed, results))
    return found, left


def _expected(side: Side, studies: Sequence[dict[str, Any]], name: str) -> Side:
    """The side with the replicas that its simulations had on average, which its price is then made of."""
    found = {
        (one["environment"], one["service"], pool["name"]): pool["replicas_mean"]
        for one in studies
        for variant in one["variants"]
        if variant["name"] == name
        for pool in variant["score"]["pools"]
    }
    return replace(side, expected=found)


def _write(folder: Path | None, files: dict[str, str]) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"can not write into {folder}: {(error.strerror or str(error)).lower()}") from None
