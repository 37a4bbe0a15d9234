"""`explain`: what a code or a field means, where a value came from, which line of a spec made a field of an object."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import UsageError

_EPILOG = """\
  aibrix-compile explain AC302                                    what a code means, with a bad and a good example
  aibrix-compile explain scaling.strategy                         what a field means
  aibrix-compile explain services/chat.yaml engine.maxModelLen    where a value came from, in each environment
  aibrix-compile explain services/chat.yaml                       everything that was decided for a service
  aibrix-compile explain deploy/prod/chat/40-deployment-chat-l4.yaml spec.replicas
                                                                  which line of the spec made this field
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="explain a code, a field, a value or a line of output",
        description="Explain a code, a field of the language, a value of a service or a field of an emitted object.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "topic",
        metavar="CODE|FIELD|FILE",
        help="a code (AC302), a field (engine.args), a service's file or an emitted file",
    )
    parser.add_argument("path", nargs="?", default="", metavar="PATH", help="path of a value inside the file")
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    topic = arguments.topic
    if re.fullmatch(r"[Aa][Cc]\d{3}", topic):
        return _print([_code(topic.upper())])
    file = Path(topic)
    if file.is_file():
        return _print(_file(arguments, file))
    if "/" in topic or topic.endswith((".yaml", ".yml")):
        raise UsageError(f"{topic}: no such file")
    from aibrix_compile.spec.schema import describe

    return _print([describe(topic)])


def _code(code: str) -> str:
    from aibrix_compile.codes import TITLES, page

    if code not in TITLES:
        raise UsageError(f"there is no code {code}; codes: {', '.join(TITLES)}")
    return page(code).rstrip("\n")


def _file(arguments: argparse.Namespace, file: Path) -> Iterable[str]:
    from aibrix_compile import explain

    arguments.paths = []
    service = "kind: ModelService" in file.read_text("utf-8", "replace")
    if service:
        arguments.paths = [file]
        result = options.compiled(arguments, build=False)
        path = explain.service_path(arguments.path) if arguments.path else ()
        return list(explain.value(result, result.workspace.name(file), path))
    result = options.compiled(arguments, build=True)
    if not result.artifacts:
        pretty = argparse.Namespace(format="pretty")
        options.show(result.diagnostics, result.workspace.sources, result.workspace.root, pretty, sys.stderr)
        raise UsageError("the project does not build, so nothing can be traced back")
    return list(explain.emitted(result, file.resolve().as_posix(), explain.parse_path(arguments.path)))


def _print(lines: Iterable[str]) -> int:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0
