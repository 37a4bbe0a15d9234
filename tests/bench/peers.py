"""The peers, built or installed once into the cache folder: Helm from its Go module, KCL from PyPI."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HELM = "helm.sh/helm/v4/cmd/helm@v4.3.1"
KCL = "kcl-lib==0.13.2"


def cache() -> Path:
    folder = (
        os.environ.get("AIBRIX_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aibrix-compile"
    )
    return Path(folder) / "bench"


def helm() -> Path | None:
    """The helm binary; None, with a line that says why, where it can not be had."""
    binary = cache() / "helm"
    if not binary.exists():
        if shutil.which("go") is None:
            return _without("helm", "Go is not installed")
        print(f"building {HELM} (some minutes, once)", file=sys.stderr)
        done = subprocess.run(
            ["go", "install", HELM], env={**os.environ, "GOBIN": str(cache())}, capture_output=True, text=True
        )
        if done.returncode:
            return _without("helm", done.stderr.strip().splitlines()[-1])
    return binary


def kcl() -> Path | None:
    """A Python that has KCL."""
    python = cache() / "kcl" / "bin" / "python"
    if not python.exists():
        print(f"installing {KCL} (once)", file=sys.stderr)
        venv.create(cache() / "kcl", with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", KCL], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(cache() / "kcl")
            return _without("kcl", done.stderr.strip().splitlines()[-1])
    return python


def _without(name: str, reason: str) -> None:
    print(f"without {name}: {reason}", file=sys.stderr)
