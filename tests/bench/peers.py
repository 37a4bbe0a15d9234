"""The peers, built or installed once into the cache folder: Helm from its Go module, KCL, cdk8s and AIBrix from PyPI."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import toolchain

HELM = "v4.3.1"
KCL = "0.13.2"
CDK8S = "2.70.115"
AIBRIX = "0.8.0"


def cache() -> Path:
    return toolchain.cache().absolute() / "bench"


def helm(*, install: bool = True) -> Path | None:
    """The helm binary; None, with a line that says why, where it can not be had."""
    binary = cache() / f"helm-{HELM}" / "helm"
    if install and not binary.exists():
        if shutil.which("go") is None:
            return _without("helm", "Go is not installed (https://go.dev/dl)")
        package = f"helm.sh/helm/v4/cmd/helm@{HELM}"
        print(f"building {package} (some minutes, once)", file=sys.stderr)
        if reason := _failure(["go", "install", package], GOBIN=str(binary.parent)):
            return _without("helm", reason)
    return binary if binary.exists() else None


def kcl(*, install: bool = True) -> Path | None:
    """A Python that has KCL."""
    return _python("kcl", f"kcl-lib=={KCL}", install)


def cdk8s(*, install: bool = True) -> Path | None:
    """A Python that has cdk8s, which needs Node to run."""
    if shutil.which("node") is None:
        return _without("cdk8s", "Node is not installed (https://nodejs.org)") if install else None
    return _python("cdk8s", f"cdk8s=={CDK8S}", install)


def aibrix(*, install: bool = True) -> Path | None:
    """A Python that has AIBrix's runtime: 84 packages."""
    return _python("aibrix", f"aibrix=={AIBRIX}", install)


ALL: dict[str, Callable[..., Path | None]] = {"helm template": helm, "kcl": kcl, "cdk8s": cdk8s}


def _python(name: str, requirement: str, install: bool) -> Path | None:
    """A virtual environment that is kept once everything is in it."""
    folder = cache() / requirement.replace("==", "-")
    python, ready = folder / "bin/python", folder / ".ready"
    if install and not ready.exists():
        print(f"installing {requirement} (once)", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        if reason := _failure([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]):
            return _without(name, reason)
        ready.touch()
    return python if ready.exists() else None


def _failure(command: Sequence[str | Path], **environment: str) -> str:
    """The last line of what a failing command said; nothing if it did not fail."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1] if done.returncode else ""


def _without(name: str, reason: str) -> Path | None:
    print(f"without {name}: {reason}", file=sys.stderr)
    return None
