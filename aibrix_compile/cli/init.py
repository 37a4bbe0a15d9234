"""`init`: a project that checks and builds, to begin from."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from aibrix_compile.diagnostics import UsageError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "init",
        help="write a first project",
        description="Write a project with one service, two environments, a CI workflow, a pre-commit hook and the Argo CD"
        " Application that syncs the rest. Existing files are never overwritten.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="where (default: this folder)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    files = {_target(name): text for name, text in _scaffold(resources.files("aibrix_compile") / "scaffold", "")}
    folder: Path = arguments.folder
    if there := [name for name in files if (folder / name).exists()]:
        raise UsageError(f"{folder / there[0]} exists; init overwrites nothing")
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"can not write {folder}: {(error.strerror or str(error)).lower()}") from None
    for name in files:
        sys.stdout.write(f"{folder / name}\n")
    sys.stderr.write("next: aibrix-compile check, then aibrix-compile build -o deploy\n")
    return 0


def _scaffold(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            found += _scaffold(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_text("utf-8")))
    return found


def _target(name: str) -> str:
    """Hidden files are shipped under a visible name."""
    return "/".join("." + part[4:] if part.startswith("dot-") else part for part in name.split("/"))
