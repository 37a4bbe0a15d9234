"""`check`: validate the whole language, write nothing."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aibrix_compile.cli import options


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="say what is wrong with services",
        description="Validate services in every environment and print all findings, in file order. Writes nothing.",
    )
    options.add_paths(parser)
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    options.add_reporting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    result = options.compiled(arguments, build=False)
    found = result.diagnostics
    options.show(found, result.workspace.sources, result.workspace.root, arguments, sys.stdout)
    if not found and arguments.format == "pretty":
        services, environments = len(result.workspace.services), len(result.plans)
        sys.stderr.write(f"ok: {_count(services, 'service')} in {_count(environments, 'environment')}\n")
    return options.exit_code(found, arguments)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
