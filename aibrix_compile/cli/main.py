"""The command line as a whole: its commands, and how every way to fail becomes an exit code.

0 ok, 1 findings, 2 usage or environment, 3 a bug of ours. Data goes to stdout, messages to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from aibrix_compile.cli import (
    argocd,
    build,
    calibrate,
    check,
    completion,
    diff,
    explain,
    init,
    platform,
    report,
    schema,
    simulate,
    trace,
)
from aibrix_compile.diagnostics import UsageError

COMMANDS = (init, check, build, diff, report, simulate, trace, calibrate, explain, platform, argocd, schema, completion)
_ABOUT = "Compile ModelServices into Kubernetes manifests that Argo CD syncs."
_EPILOG = """\
first steps:
  aibrix-compile init                      a project with one service
  aibrix-compile check                     what is wrong with it, if anything
  aibrix-compile build -o deploy           its manifests
  aibrix-compile explain engine.args       what a field means
  aibrix-compile explain AC302             what a code means

exit codes: 0 ok, 1 findings, 2 usage or environment, 3 a bug
"""


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"aibrix-compile {_version()}\n")
        parser.exit()


def _version() -> str:
    from importlib.metadata import version  # 20 ms

    return version("aibrix-compile")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="aibrix-compile", description=_ABOUT, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = found.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return found


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    words = list(argv)
    if words[:1] == ["simulate"] and words[1:2] in (["trace"], ["calibrate"]):
        words[:2] = [" ".join(words[:2])]  # a file of such a name is ./trace
    arguments = parser().parse_args(words)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return int(code)
    except UsageError as error:
        sys.stderr.write(f"aibrix-compile: {error}\n")
        return 2
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("aibrix-compile: interrupted\n")
        return 130
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write(
            f"\nThis is a bug in aibrix-compile {_version()} (Python {sys.version.split()[0]}), not in your spec.\n"
            "Please report it with the lines above and, if you can share it, the file that it was reading.\n"
        )
        return 3


def entry() -> NoReturn:
    sys.exit(main(sys.argv[1:]))
