"""Programs of other projects that tests run: found, or built once with Go into the cache folder.

Why one place: every such program is a Go module, is built the same way, and must not be built twice by tests that run
side by side. What is absent is said in one visible line, which fails in CI and skips elsewhere.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import pytest


def cache() -> Path:
    """`AIBRIX_CACHE`, else `aibrix-compile` in the user's cache folder; never inside the checkout."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("AIBRIX_CACHE") or user / "aibrix-compile")


class Missing(Exception):
    """A program that is neither here nor can be built here; the message says how to get it."""


def absent(message: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    pytest.fail(message, pytrace=False) if os.environ.get("CI") else pytest.skip(message)


quiet: Callable[[], AbstractContextManager[None]] = nullcontext
"""Under pytest: a context in which it does not keep what is printed (set by tests/conftest.py)."""


def say(text: str) -> None:
    """To the terminal itself, in the middle of a test: somebody waits for these minutes, or wants these figures."""
    with quiet():
        print(f"\n  {text}" if quiet is not nullcontext else text, file=sys.stderr, flush=True)


def go(*arguments: str, folder: Path, purpose: str) -> str:
    """The output of a Go command; `Missing` with Go's own words if it fails."""
    if shutil.which("go") is None:
        raise Missing(f"needs Go (https://go.dev/dl) {purpose}")
    done = subprocess.run(["go", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"could not {' '.join(('go', *arguments[:2]))} {purpose}:\n{done.stderr[-4000:]}")
    return done.stdout


def built(
    edition: str, packages: Mapping[str, str], *, module: str, sources: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Binaries by name, from Go packages, in the cache folder `edition`; only those that are not there yet are built.

    `module` is the go.mod, which `edition` must tell apart; `sources` are further files, which the folder's name tells apart.
    """
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:8] if sources else ""
    folder = cache() / "-".join(filter(None, (edition, digest)))
    found = {name: folder / "bin" / name for name in packages}
    if all(path.exists() for path in found.values()):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for name, text in {"go.mod": module, **(sources or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for name, package in packages.items():
            if not found[name].exists():
                say(f"building {name} of {edition} (once; Go's cache decides between seconds and minutes)")
                start, part = time.monotonic(), folder / "bin" / f".{name}"
                flags = ("-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(part))
                go("build", *flags, package, folder=folder, purpose=f"to build {name}")
                part.replace(found[name])
                say(f"  {time.monotonic() - start:.0f} s, {found[name].stat().st_size / 1e6:.0f} MB")
    return found


def downloaded(module: str, version: str) -> Path:
    """The folder of a module's source, through the module proxy."""
    cache().mkdir(parents=True, exist_ok=True)
    answer = go("mod", "download", "-json", f"{module}@{version}", folder=cache(), purpose=f"to fetch {module}")
    return Path(json.loads(answer)["Dir"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def on_path(name: str) -> Path | None:
    """An executable of that name on PATH or where Debian keeps administrators' tools."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    return Path(found) if found else None
