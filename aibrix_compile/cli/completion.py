"""`completion`: shell completion, made from the parser itself."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "completion",
        help="print shell completion",
        description='Print a completion script: eval "$(aibrix-compile completion bash)"',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import shtab

    from aibrix_compile.cli.main import parser

    sys.stdout.write(shtab.complete(parser(), arguments.shell) + "\n")
    return 0
