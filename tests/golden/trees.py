"""The expected output of every example. `make golden` writes it anew; the tests compare it byte for byte."""

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())


def build(example: Path, output: Path, *paths: str, **process: object) -> subprocess.CompletedProcess[str]:
    """`aibrix-compile build` of an example, as a user runs it."""
    command = [sys.executable, "-m", "aibrix_compile", "build", *(paths or (".",)), "-o", str(output)]
    return subprocess.run(command, cwd=example, capture_output=True, text=True, **process)  # type: ignore[call-overload,no-any-return]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


if __name__ == "__main__":
    for name in NAMES:
        shutil.rmtree(EXAMPLES / name / "expected", ignore_errors=True)
        done = build(EXAMPLES / name, EXAMPLES / name / "expected")
        print(name, done.stderr.strip())
        if done.returncode:
            sys.exit(done.returncode)
