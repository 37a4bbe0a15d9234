"""`argocd generate`: the entry point of the Config Management Plugin.

Argo CD deletes what is no longer printed and shows stderr in the Application's ComparisonError. So nothing is printed
unless everything is right, no object at all is an error, and the first line of stderr says what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import Diagnostic, Severity, UsageError

_PARAMETER = "environment"
_EPILOG = """\
The environment is that of -e, or the plugin's parameter `environment` (ARGOCD_APP_PARAMETERS), or the Application's plugin
variable ENVIRONMENT (ARGOCD_ENV_ENVIRONMENT). It may be left out where there is only one. Nothing is printed if anything is
wrong or if there would be no object.
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "argocd",
        help="run as a plugin of Argo CD",
        description="What Argo CD's Config Management Plugin runs; `aibrix-compile platform` writes its configuration.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    generate = actions.add_parser(
        "generate",
        help="print the manifests of the services in this folder",
        description="Print the manifests of the services in the current folder as one YAML stream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument("-e", "--environment", metavar="ENV", default="", help="the environment")
    generate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.compiler import compile_workspace
    from aibrix_compile.emit import yaml_text
    from aibrix_compile.loading import load

    wanted = _wanted(arguments.environment, os.environ)
    workspace = load([], Path.cwd())
    names = [environment.name for environment in workspace.environments]
    if not wanted and len(names) > 1:
        raise UsageError(
            f"which environment? set the plugin's parameter {_PARAMETER} to one of {', '.join(names)}, or pass -e"
        )
    result = compile_workspace(workspace, build=True, only=[wanted] if wanted else [])
    found = result.diagnostics
    if found:
        sys.stderr.write(_summary(found, workspace.root))
        pretty = argparse.Namespace(format="pretty")
        options.show(found, workspace.sources, workspace.root, pretty, sys.stderr)
    if any(one.severity is Severity.ERROR for one in found):
        return 1
    # an Application points to a folder of rendered files, which a plugin's user does not have
    artifacts = [one for one in result.artifacts if one.object["kind"] != "Application"]
    if not artifacts:
        sys.stderr.write(
            "aibrix-compile: there is no object to print; Argo CD would delete everything, so this is an error\n"
        )
        return 1
    ordered = sorted(artifacts, key=lambda one: one.path)
    sys.stdout.write("".join(f"---\n{yaml_text(one.object)}" for one in ordered))
    return 0


def _wanted(option: str, variables: Mapping[str, str]) -> str:
    """The one environment that is asked for; "" for none. UsageError where two sources disagree."""
    asked = {
        "-e": option,
        f"parameter {_PARAMETER}": _parameter(variables.get("ARGOCD_APP_PARAMETERS", "")),
        "ARGOCD_ENV_ENVIRONMENT": variables.get("ARGOCD_ENV_ENVIRONMENT", ""),
    }
    given = {source: name for source, name in asked.items() if name}
    if len(set(given.values())) > 1:
        said = ", ".join(f"{source} says {name}" for source, name in given.items())
        raise UsageError(f"the environment is not clear: {said}")
    return next(iter(given.values()), "")


def _parameter(text: str) -> str:
    """The parameter's value in Argo CD's list of {name, string | array | map}."""
    try:
        entries = json.loads(text or "null")  # null is what an Application without parameters has
    except ValueError:
        raise UsageError("ARGOCD_APP_PARAMETERS is not JSON") from None
    entries = entries if isinstance(entries, list) else []
    found = [one for one in entries if isinstance(one, dict) and one.get("name") == _PARAMETER]
    for one in found:
        if not isinstance(one.get("string", ""), str) or "array" in one or "map" in one:
            raise UsageError(f"the plugin's parameter {_PARAMETER} is one string")
    return found[-1].get("string", "") if found else ""


def _summary(found: Sequence[Diagnostic], root: Path) -> str:
    """One line that is worth reading alone: how many, and the first of the worst."""
    errors = [one for one in found if one.severity is Severity.ERROR]
    warnings = len(found) - len(errors)
    counts = [
        f"{number} {what}{'s' * (number != 1)}"
        for number, what in ((len(errors), "error"), (warnings, "warning"))
        if number
    ]
    first = (errors or found)[0]
    at = f"{options.seen(root, first.span.file)}:{first.span.line}:{first.span.column}"
    return f"{', '.join(counts)}; first {first.code} at {at}: {first.message}\n"
