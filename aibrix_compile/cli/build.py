"""`build`: compile services and write their manifests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import UsageError

if TYPE_CHECKING:
    from aibrix_compile.artifact import Object
    from aibrix_compile.compiler import Compilation
    from aibrix_compile.writer import Changes

_NAMED = 20  # deleted files that are named one by one
_EPILOG = """\
Output: DIR/<environment>/<service>/NN-kind-name.yaml and DIR/<environment>/argocd/. Files that an earlier build wrote and
that are no longer wanted are deleted; files of others stay. Nothing is written when anything is wrong.
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "build",
        help="write the manifests of services",
        description="Compile services into Kubernetes manifests. The same input gives the same bytes on every machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_paths(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the manifests")
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if DIR is not what a build would write"
    )
    what.add_argument("--stdout", action="store_true", help="print all manifests as one YAML stream instead")
    what.add_argument("--plan", choices=("json",), help="print the resolved plan instead")
    parser.add_argument("--dry-sha", metavar="SHA", help="also write hydrator.metadata with this commit of the sources")
    parser.add_argument(
        "--finish-handover",
        action="store_true",
        help="drop replicas from workloads whose scaler has taken over (after the build before was synced)",
    )
    parser.add_argument(
        "--prune-most", action="store_true", help="allow a build to delete more than half of the files it once wrote"
    )
    options.add_reporting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.output is None and not (arguments.stdout or arguments.plan):
        raise UsageError("build needs -o DIR, --stdout or --plan json")
    if arguments.output is not None and (arguments.stdout or arguments.plan):
        raise UsageError("-o DIR does not go with --stdout or --plan")
    result = options.compiled(arguments, build=True)
    found = result.diagnostics
    options.show(found, result.workspace.sources, result.workspace.root, arguments, sys.stderr)
    if code := options.exit_code(found, arguments):
        return code
    if arguments.plan:
        from aibrix_compile.emit import json_text
        from aibrix_compile.plan import as_data

        sys.stdout.write(json_text([as_data(plan) for plan in result.plans]))
        return 0
    files = _files(result, None if arguments.finish_handover else arguments.output)
    if arguments.stdout:
        sys.stdout.write("".join(f"---\n# {name}\n{text}" for name, text in files.items()))
        return 0
    return _write(arguments, result, files)


def _files(result: Compilation, output: Path | None) -> dict[str, str]:
    """The text of each file; a workload that a scaler takes over keeps the number that it has in `output`."""
    from aibrix_compile.emit import yaml_text
    from aibrix_compile.handover import MARK, staged

    files = {}
    for one in sorted(result.artifacts, key=lambda one: one.path):
        value = one.object
        if output is not None and _is_scaled(value):
            value = staged(value, _text(output / one.path))
            if MARK in value["metadata"]["annotations"]:
                note = (
                    "a scaler takes over; the number stays until it has. Sync this, then build with --finish-handover"
                )
                sys.stderr.write(f"{one.path}: {note}\n")
        files[one.path] = yaml_text(value)
    return files


def _is_scaled(value: Object) -> bool:
    return value["kind"] in ("Deployment", "LeaderWorkerSet") and "replicas" not in value["spec"]


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None  # not there yet; what can not be read is said when it is written


def _write(arguments: argparse.Namespace, result: Compilation, files: dict[str, str]) -> int:
    from aibrix_compile.writer import compare, write

    folder: Path = arguments.output
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    changes = compare(folder, files, _covers(arguments, result))
    if arguments.check:
        return _stale(changes)
    if changes.foreign:
        raise UsageError(
            f"{folder / changes.foreign[0]} exists and was not written by a build; move it away, or choose another folder"
        )
    if len(changes.deleted) * 2 > len(changes.listed) and not arguments.prune_most:
        raise UsageError(
            f"this build would delete {len(changes.deleted)} of the {len(changes.listed)} files in {folder}, {changes.deleted[0]} first; "
            "is this the right folder? --prune-most allows it"
        )
    if arguments.dry_sha:
        from aibrix_compile.backends.argocd import HYDRATOR_FILE, hydrator_metadata

        files = {**files, HYDRATOR_FILE: hydrator_metadata(arguments.dry_sha)}
        changes = compare(folder, files, _covers(arguments, result))
    for name in changes.deleted[:_NAMED]:
        sys.stderr.write(f"{name} is no longer wanted: deleted\n")
    if len(changes.deleted) > _NAMED:
        sys.stderr.write(f"... and {len(changes.deleted) - _NAMED} more\n")
    write(folder, files, changes)
    sys.stderr.write(
        f"{folder}: {len(changes.written)} written, {changes.unchanged} unchanged, {len(changes.deleted)} deleted\n"
    )
    return 0


def _covers(arguments: argparse.Namespace, result: Compilation) -> list[str] | None:
    """The sub-folders that this build speaks for: it prunes nothing of other environments or services."""
    if result.workspace.selected is not None:
        return [f"{plan.name}/{service.name}" for plan in result.plans for service in plan.services]
    return list(arguments.environment) or None


def _stale(changes: Changes) -> int:
    from aibrix_compile.backends.argocd import HYDRATOR_FILE

    lines: Mapping[str, tuple[str, ...]] = {
        "would change": changes.written,
        "would be deleted": tuple(name for name in changes.deleted if name != HYDRATOR_FILE),
        "is in the way": changes.foreign,
    }
    for what, names in lines.items():
        for name in names:
            sys.stdout.write(f"{name} {what}\n")
    return int(any(lines.values()))
