"""`check`: validate the whole language, write nothing."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options

if TYPE_CHECKING:
    from aibrix_compile.compiler import Compilation


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="say what is wrong with services",
        description="Validate services in every environment and print all findings, in file order. Writes nothing without --fix.",
    )
    options.add_paths(parser)
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    options.add_fix(parser)
    parser.add_argument(
        "--envoy", action="store_true", help="also ask Envoy itself about the gateways; needs the extra `local`"
    )
    options.add_reporting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    result = _fixed(arguments) if arguments.fix else options.compiled(arguments, build=False)
    if arguments.envoy:
        from aibrix_compile.cli.envoy import judge

        judge(result)
    found = result.diagnostics
    options.show(found, result.workspace.sources, result.workspace.root, arguments, sys.stdout)
    if not found and arguments.format == "pretty":
        services, environments = len(result.workspace.services), len(result.plans)
        sys.stderr.write(f"ok: {_count(services, 'service')} in {_count(environments, 'environment')}\n")
    return options.exit_code(found, arguments)


def _fixed(arguments: argparse.Namespace) -> Compilation:
    """What is left when nothing more can be fixed."""
    from aibrix_compile.fixes import ROUNDS, Fixer

    result: Compilation = options.compiled(arguments, build=False)
    fixer = Fixer(result.workspace.root)
    try:
        for _ in range(ROUNDS):
            if not fixer.round(result.workspace.sources, result.diagnostics):
                break
            result = options.compiled(arguments, build=False)
    finally:
        for name, count in sorted(fixer.counts.items()):
            sys.stderr.write(f"{options.seen(fixer.root, name)}: {count} fix{'es' if count > 1 else ''}\n")
    return result


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
