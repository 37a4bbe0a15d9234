"""`platform`: what a cluster needs once, for each environment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrix_compile.cli import options
from aibrix_compile.diagnostics import UsageError

if TYPE_CHECKING:
    from aibrix_compile.backends.platform import PlatformPlan
    from aibrix_compile.loading import Workspace
    from aibrix_compile.spec.project import Environment
    from aibrix_compile.writer import Changes

FOLDER = "platform"
_EPILOG = """\
Output, for each environment (or for one called default where there is no aibrix.yaml):
  DIR/<environment>/platform/         namespaces, service accounts, roles and pods of the controllers
  DIR/<environment>/platform/crds/    the kinds AdapterSet and ScalingPolicy
  DIR/<environment>/platform/argocd/  health checks, plugin and Applications; apply this one where Argo CD runs:
                                      kubectl apply --server-side -f DIR/<environment>/platform/argocd
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "platform",
        help="write what a cluster needs once",
        description="Write CRDs, namespaces, access rights and Argo CD's configuration: what must be there before services.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_paths(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder for the manifests")
    options.add_environment(parser, "only this environment (repeatable; default: all)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if DIR is not what `platform` would write"
    )
    options.add_reporting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from aibrix_compile.compiler import compile_workspace
    from aibrix_compile.loading import service_name
    from aibrix_compile.passes import images

    workspace = _workspace(arguments.paths)
    taken = any(service_name(service) == FOLDER for service in workspace.services)
    workspace.services.clear()  # a mistake in a service is no reason to have no platform
    result = compile_workspace(workspace, build=False, only=arguments.environment)
    document = workspace.project_document
    found = [one for one in result.diagnostics if document is not None and one.span.file == document.source.name]
    options.show(found, workspace.sources, workspace.root, arguments, sys.stderr)
    if code := options.exit_code(found, arguments):
        return code
    if taken:
        raise UsageError(
            f"a service is called {FOLDER}, which is the folder of what a cluster needs; rename the service"
        )
    image = workspace.project.spec.images.controllers if workspace.project else ""
    controllers = images.resolved(image or "", "", workspace.lock)[0]
    plans = [
        _plan(one, controllers)
        for one in workspace.environments
        if not arguments.environment or one.name in arguments.environment
    ]
    return _write(arguments.output, plans, arguments.check)


def _workspace(paths: list[Path]) -> Workspace:
    """The project, without which there is the built-in environment: a platform needs no service."""
    from aibrix_compile.loading import PROJECT_FILE, Workspace, load

    here = Path.cwd()
    if not paths and not any((folder / PROJECT_FILE).is_file() for folder in (here, *here.parents)):
        return Workspace(root=here)
    return load(paths, here)


def _plan(environment: Environment, controllers: str) -> PlatformPlan:
    from aibrix_compile.backends.platform import PlatformPlan
    from aibrix_compile.passes.monitoring import OPERATOR
    from aibrix_compile.plan import ArgoTarget

    target = None
    if (wanted := environment.argocd) is not None:
        to = wanted.destination
        target = ArgoTarget(
            repo_url=wanted.repoURL,
            target_revision=wanted.targetRevision,
            path=wanted.path,
            project=wanted.project,
            namespace=wanted.namespace,
            server=to.server or "",
            cluster=to.name or "",
        )
    return PlatformPlan(
        environment=environment.name,
        namespace=environment.namespace,
        gateway=environment.gateway.namespace if environment.gateway else "",
        kubernetes=environment.kubernetes,
        argocd_namespace=target.namespace if target else "argocd",
        argocd=target,
        controllers=controllers,
        monitored=OPERATOR in environment.apis,
    )


def _write(output: Path, plans: list[PlatformPlan], check: bool) -> int:
    """Each folder has a list of files of its own, so that `build` and `platform` never delete each other's."""
    from aibrix_compile.backends import platform
    from aibrix_compile.emit import yaml_text
    from aibrix_compile.writer import compare, write

    work = []
    for plan in plans:
        folder = output / plan.environment / FOLDER
        if any(one.exists() and not one.is_dir() for one in (output, output / plan.environment, folder)):
            raise UsageError(f"{folder} can not be made: a file is in its way")
        files = {one.path: yaml_text(one.object) for one in platform.emit(plan)}
        changes = compare(folder, files, None)
        if changes.foreign and not check:
            raise UsageError(
                f"{folder / changes.foreign[0]} exists and was not written by `platform`; move it away, or choose another folder"
            )
        work.append((folder, files, changes))
    if check:
        return max(
            (_stale(changes, f"{folder.relative_to(output).as_posix()}/") for folder, _, changes in work), default=0
        )
    for folder, files, changes in work:
        write(folder, files, changes)
        sys.stderr.write(
            f"{folder}: {len(changes.written)} written, {changes.unchanged} unchanged, {len(changes.deleted)} deleted\n"
        )
    return 0


def _stale(changes: Changes, folder: str) -> int:
    lines = {
        "would change": changes.written,
        "would be deleted": changes.deleted,
        "is in the way": changes.foreign,
    }
    for what, names in lines.items():
        for name in names:
            sys.stdout.write(f"{folder}{name} {what}\n")
    return int(any(lines.values()))
