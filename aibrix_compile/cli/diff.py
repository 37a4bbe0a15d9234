"""`diff`: what a change means, between two revisions or folders."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import Diagnostic, Severity, UsageError

if TYPE_CHECKING:
    from aibrix_compile.compiler import Compilation
    from aibrix_compile.diff.difference import Difference
    from aibrix_compile.diff.sides import Side

_EPILOG = """\
BASE and HEAD are git revisions (main, HEAD~1, a commit) or files and folders. A name that is both is the revision; write ./name
for the folder. A revision's files are read from the repository of the current folder, without touching the working tree.

  aibrix-compile diff main                                           what the working tree changes
  aibrix-compile diff "$(git merge-base origin/main HEAD)" HEAD      what a branch changes
  aibrix-compile diff HEAD^1 --format markdown                       the comment of a pull request
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "diff",
        help="say what a change does",
        description="Compile two states of a project and say what differs: restarts and their reasons, replicas, GPUs, price,"
        " adapters, risks, and what Argo CD will do.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", help="a git revision, a file or a folder")
    parser.add_argument("head", nargs="?", metavar="HEAD", help="the same (default: the working tree)")
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    parser.add_argument(
        "--format", choices=("pretty", "markdown", "json"), default="pretty", help="how it is printed (default: pretty)"
    )
    parser.add_argument(
        "--id",
        default="",
        metavar="NAME",
        help="names the comment's hidden line, where a repository has several projects",
    )
    parser.add_argument("--exit-code", action="store_true", help="exit 1 if anything differs")
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one side is read from. `shown` is the folder that messages name its files in; nothing to read there is an
    error only where somebody named the path."""

    name: str
    path: Path
    shown: Path
    named: bool


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.diff.compare import compare
    from aibrix_compile.diff.markdown import marker

    marker(arguments.id)
    with compiled(arguments) as (origins, results):
        failed = [(one, result) for one, result in zip(origins, results, strict=True) if result and result.failed]
    if failed:
        _say_failed(failed)
        if arguments.format != "pretty":
            sys.stdout.write(failed_comment(failed, arguments))
        return 1
    base, head = map(side_of, results)
    found = compare(base, head, arguments.environment)
    sys.stdout.write(_text(found, [one.name for one in origins], arguments))
    return int(arguments.exit_code and bool(found))


@contextmanager
def compiled(arguments: argparse.Namespace) -> Iterator[tuple[list[Origin], list[Compilation | None]]]:
    """Base and head, where they are read from and what came out; None for a side that holds no service, or none of the
    environments. The files of revisions are there until the end."""
    with tempfile.TemporaryDirectory(prefix="aibrix-diff-") as folder:
        origins = [_origin(arguments.base, Path(folder, "base")), _origin(arguments.head, Path(folder, "head"))]
        yield origins, _compiled(origins, arguments.environment)


def side_of(result: Compilation | None) -> Side:
    from aibrix_compile.diff.sides import Side, side

    return side(result) if result else Side()


def _origin(name: str | None, into: Path) -> Origin:
    from aibrix_compile.loading import PROJECT_FILE
    from aibrix_compile.revisions import repository

    here = Path.cwd()
    if name is None:
        project = next((one for one in (here, *here.parents) if (one / PROJECT_FILE).is_file()), here)
        return Origin("the working tree", project, project, named=False)
    if not name:
        raise UsageError("a revision or folder is empty; is a variable of your CI not set?")
    path, found = Path(name), None
    only_path = name.startswith(("./", "../", "/")) or name in (".", "..")
    if not only_path:
        try:
            found = repository(here)
        except UsageError:
            if not path.exists():
                raise
        commit = found.commit(name) if found else None
        if found and commit:
            if path.exists():
                sys.stderr.write(
                    f"{name} is a revision and a file; the revision is meant, ./{name} would be the file\n"
                )
            project = found.extract(commit, PROJECT_FILE, into)
            known = name if commit.startswith(name) else f"{name} ({commit[:12]})"
            return Origin(known, project, found.top / project.relative_to(into), named=False)
    if path.exists():
        return Origin(name, path, path.resolve(), named=True)
    if only_path:
        raise UsageError(f"{name}: no such file or folder")
    if found is not None:
        raise found.unknown(name)
    raise UsageError(f"{name} is no file or folder, and no revision either: this folder is in no git repository")


def _compiled(origins: Sequence[Origin], environments: Sequence[str]) -> list[Compilation | None]:
    from aibrix_compile.compiler import compile_workspace
    from aibrix_compile.loading import PROJECT_FILE, Workspace, load

    spaces: list[Workspace | None] = []
    for one in origins:
        try:
            spaces.append(load([one.path], Path.cwd()))
        except UsageError:
            if one.named or (one.path / PROJECT_FILE).is_file():
                raise
            spaces.append(None)
    if spaces == [None, None]:
        raise UsageError(f"there is no ModelService in {origins[0].name}, and none in {origins[1].name}")
    if origins[0].named and spaces[1] and not origins[1].named and spaces[0] and spaces[0].root == spaces[1].root:
        raise UsageError(
            f"{origins[0].name} is part of the working tree itself; compare with a revision or another folder"
        )
    known = list(dict.fromkeys(one.name for space in spaces if space for one in space.environments))
    if unknown := [name for name in environments if name not in known]:
        raise UsageError(f"there is no environment {unknown[0]}; environments: {', '.join(known) or 'none'}")
    results: list[Compilation | None] = []
    for space in spaces:
        only = [name for name in environments if space and name in {one.name for one in space.environments}]
        wanted = space is not None and (only or not environments)
        progress = options.progress("compiling")
        results.append(compile_workspace(space, build=True, only=only, progress=progress) if space and wanted else None)
    return results


def _say_failed(failed: Sequence[tuple[Origin, Compilation]]) -> None:
    """Nothing can be compared: whose mistakes they are."""
    pretty = argparse.Namespace(format="pretty")
    for one, result in failed:
        sys.stderr.write(f"{one.name} does not compile, so there is nothing to compare:\n\n")
        options.show(_errors(result), result.workspace.sources, one.shown, pretty, sys.stderr)


def failed_comment(failed: Sequence[tuple[Origin, Compilation]], arguments: argparse.Namespace) -> str:
    """The same as a comment or as JSON, for whoever reads stdout."""
    from aibrix_compile import report
    from aibrix_compile.diff import markdown

    errors = [(one.name, _errors(result)) for one, result in failed]
    if arguments.format == "markdown":
        return markdown.failed(errors, arguments.id)
    sides: list[Any] = [{"side": name, "findings": json.loads(report.as_json(found))} for name, found in errors]
    return _json({"differs": None, "failed": sides})


def _errors(result: Compilation) -> list[Diagnostic]:
    return [one for one in result.diagnostics if one.severity is Severity.ERROR]


def _text(found: Difference, names: Sequence[str], arguments: argparse.Namespace) -> str:
    from aibrix_compile.diff import words
    from aibrix_compile.diff.difference import as_data
    from aibrix_compile.diff.markdown import markdown
    from aibrix_compile.diff.pretty import pretty
    from aibrix_compile.diff.verdict import verdict

    if arguments.format == "markdown":
        return markdown(found, arguments.id)
    if arguments.format == "pretty":
        return pretty(found, color=options.colored(sys.stdout))
    said = verdict(found, str, len(words.risks(found, str)))
    return _json(
        {"differs": bool(found), "failed": [], "base": names[0], "head": names[1], "verdict": said} | as_data(found)
    )


def _json(value: Any) -> str:
    from aibrix_compile.emit import json_text

    return json_text(value).encode("utf-8", "backslashreplace").decode("utf-8")
