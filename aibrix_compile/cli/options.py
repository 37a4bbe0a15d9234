"""Options that several commands share, and how they show findings and progress."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from aibrix_compile.diagnostics import Diagnostic, Severity, Span, UsageError

FORMATS = ("pretty", "json", "github", "sarif")


def add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="service files or folders; the aibrix.yaml above them applies (default: this folder)",
    )


def add_environment(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-e", "--environment", action="append", default=[], metavar="ENV", help=what)


def add_reporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=FORMATS, default="pretty", help="how findings are printed (default: pretty)"
    )
    parser.add_argument("--deny", choices=("warnings",), help="exit 1 for warnings too")


def add_fix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fix", action="store_true", help="correct in the files what has one clear correction; report the rest"
    )


def show(
    diagnostics: Sequence[Diagnostic],
    sources: Mapping[str, str],
    root: Path,
    arguments: argparse.Namespace,
    stream: TextIO,
) -> None:
    """Print findings in the chosen format; nothing at all for none, except an empty document of a machine's format.

    Files are named as seen from the current folder, so that a terminal, an editor or a CI system finds them.
    """
    if arguments.format == "pretty" and not diagnostics:
        return
    from aibrix_compile import report

    if root != Path.cwd():
        diagnostics = [_from_here(one, root) for one in diagnostics]
        sources = {seen(root, name): text for name, text in sources.items()}
    if arguments.format == "pretty":
        stream.write(report.pretty(diagnostics, sources, color=colored(stream), width=max(40, width())))
    elif arguments.format == "json":
        stream.write(report.as_json(diagnostics))
    elif arguments.format == "github":
        stream.write(report.github(diagnostics))
    else:
        from importlib.metadata import version

        from aibrix_compile.codes import TITLES

        stream.write(report.sarif(diagnostics, version=version("aibrix-compile"), titles=TITLES))


def seen(root: Path, name: str) -> str:
    """A file's name from the current folder; a setting of the command line has its option's name."""
    if name.startswith("--"):
        return name
    return os.path.relpath(root / name).replace(os.sep, "/")


def _from_here(diagnostic: Diagnostic, root: Path) -> Diagnostic:
    def moved(span: Span) -> Span:
        return replace(span, file=seen(root, span.file))

    fix = replace(diagnostic.fix, span=moved(diagnostic.fix.span)) if diagnostic.fix else None
    related = tuple(replace(one, span=moved(one.span)) for one in diagnostic.related)
    return replace(diagnostic, span=moved(diagnostic.span), fix=fix, related=related)


def exit_code(diagnostics: Sequence[Diagnostic], arguments: argparse.Namespace) -> int:
    worst = {d.severity for d in diagnostics}
    return int(Severity.ERROR in worst or (arguments.deny == "warnings" and Severity.WARNING in worst))


def seconds(option: str, text: str) -> float:
    """A time as specs spell it; UsageError."""
    from aibrix_compile.spec.types import duration

    try:
        return duration(text) / 1000
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def share(option: str, text: str) -> float:
    """A percentage as specs spell it; UsageError."""
    from aibrix_compile.spec.types import percent

    try:
        return percent(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def refuse(diagnostics: Sequence[Diagnostic], path: Path | None = None) -> None:
    """Errors on stderr, with the text of the files that `path` belongs to; warnings are for `check`."""
    from aibrix_compile.loading import load

    errors = [one for one in diagnostics if one.severity is Severity.ERROR]
    sources: Mapping[str, str] = {}
    root = Path.cwd()
    if path is not None:
        workspace = load([path], root)
        sources, root = workspace.sources, workspace.root
    show(errors, sources, root, argparse.Namespace(format="pretty"), sys.stderr)


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((120, 24)).columns


def colored(stream: TextIO) -> bool:
    """Colour on a terminal only, and not where NO_COLOR is set (no-color.org) or the terminal is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def progress(what: str) -> Callable[[int, int], None]:
    """A counter on a terminal's stderr, for work of more than a moment; silent elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show_count(done: int, total: int) -> None:
        if total >= 200:
            sys.stderr.write(f"\r{what} {done}/{total}" if done < total else "\r\033[K")
            sys.stderr.flush()

    return show_count


def compiled(arguments: argparse.Namespace, *, build: bool) -> Any:
    """Load and compile what the arguments ask for."""
    from aibrix_compile.compiler import compile_workspace
    from aibrix_compile.loading import load

    workspace = load(arguments.paths, Path.cwd())
    return compile_workspace(workspace, build=build, only=arguments.environment, progress=progress("compiling"))
