"""`schema`: the language as data, for editors and readers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema for editors",
        description="Print the JSON Schema (draft-07) of a kind, or write all schemas, CRDs and reference.md into a folder.",
    )
    parser.add_argument(
        "kind", nargs="?", choices=("modelservice", "project"), default="modelservice", help="default: modelservice"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write all files into this folder")
    parser.set_defaults(run=run)


def files() -> dict[str, str]:
    """Everything that is generated from the language, by file name."""
    from aibrix_compile.crds import definitions
    from aibrix_compile.emit import json_text, yaml_text
    from aibrix_compile.spec.modelservice import ModelService
    from aibrix_compile.spec.project import Project
    from aibrix_compile.spec.schema import json_schema, reference

    return {
        "modelservice.v1alpha1.schema.json": json_text(json_schema(ModelService)),
        "project.v1alpha1.schema.json": json_text(json_schema(Project)),
        "reference.md": reference((ModelService, Project)),
        **{f"crds/{name}.yaml": yaml_text(value) for name, value in definitions().items()},
    }


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.diagnostics import UsageError

    found = files()
    if arguments.output is None:
        sys.stdout.write(found[f"{arguments.kind}.v1alpha1.schema.json"])
        return 0
    try:
        for name, text in found.items():
            (arguments.output / name).parent.mkdir(parents=True, exist_ok=True)
            (arguments.output / name).write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"can not write {arguments.output}: {(error.strerror or str(error)).lower()}") from None
    return 0
