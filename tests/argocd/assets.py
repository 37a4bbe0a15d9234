"""Argo CD and what it needs to run: found, or built once from the released module.

`ARGOCD_BINARY` names a binary; else it is built with Go through the module proxy into the cache folder: one program that is
every component, told apart by its first argument's environment. `python -m tests.argocd.assets` gets it ahead of the tests.
"""

import os
import re
import sys
import time
from pathlib import Path

from tests.toolchain import Missing, built, cache, go, on_path, say

MODULE = "github.com/argoproj/argo-cd/v3"
VERSION = "v3.2.11"  # v3.2.12 does not compile; from v3.3 a part of it is in no module, see README.md
EDITION = f"argocd-{VERSION}"
HOST = {"redis-server": "redis-server", "git": "git"}  # program -> Debian's package


def programs() -> dict[str, Path]:
    """`argocd`, `redis-server` and `git`; `Missing` says what to install."""
    found = {name: on_path(name) for name in HOST}
    if lacking := sorted(HOST[name] for name, path in found.items() if path is None):
        raise Missing(f"Argo CD needs: apt-get install {' '.join(lacking)}")
    return {name: path for name, path in found.items() if path is not None} | {"argocd": _argocd()}


def _argocd() -> Path:
    named = os.environ.get("ARGOCD_BINARY")
    if named:
        if not os.access(named, os.X_OK):
            raise Missing(f"ARGOCD_BINARY is {named}, which is not a program")
        return Path(named).resolve()
    ready = cache() / EDITION / "bin" / "argocd"
    if ready.exists():
        return ready
    tools = f'//go:build tools\n\npackage tools\n\nimport _ "{MODULE}/cmd"\n'
    return built(EDITION, {"argocd": f"{MODULE}/cmd"}, module=_module(), sources={"tools.go": tools})["argocd"]


def _module() -> str:
    """A module that builds Argo CD. The replacements of a dependency do not count, so they must be ours too."""
    cache().mkdir(parents=True, exist_ok=True)
    info = go("mod", "download", "-json", f"{MODULE}@{VERSION}", folder=cache(), purpose="to build Argo CD")
    text = Path(re.findall(r'"GoMod": "(.*)"', info)[0]).read_text()
    language = re.search(r"^go .*$", text, re.MULTILINE)
    replaced = "\n\n".join(re.findall(r"^replace (?:\(.*?^\)|.*?$)", text, re.MULTILINE | re.DOTALL))
    assert language and replaced, "the module is not what it was"
    return f"module argo\n\n{language[0]}\n\nrequire {MODULE} {VERSION}\n\n{replaced}\n"


if __name__ == "__main__":
    start = time.monotonic()
    try:
        for name, path in sorted(programs().items()):
            say(f"{name:14} {path}")
    except Missing as error:
        sys.exit(str(error))
    say(f"{time.monotonic() - start:.0f} s")
