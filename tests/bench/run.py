"""Times of cold processes on one core, ours beside the peers', interleaved in one run.

`python -m tests.bench.run` prints the table of README; `--full` adds 10,000 services. Asserts nothing about time.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.bench import inputs, peers

HERE = Path(__file__).parent
BARE = "python -c 'import yaml, pydantic'"
OURS = "aibrix-compile build"


class Sample(NamedTuple):
    """Wall and CPU seconds, peak RSS in MiB."""

    wall: float
    cpu: float
    memory: float


class Case(NamedTuple):
    name: str
    services: int
    command: tuple[str | Path, ...]
    prepare: Callable[[], None] = lambda: None


def measure(case: Case, output: Path) -> Sample:
    """One cold process on one core."""
    case.prepare()
    core = min(os.sched_getaffinity(0))
    with output.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, case.command)),
            stdout=stream,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{case.name} failed with {process.returncode}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def cases(counts: Sequence[int], folder: Path) -> list[Case]:
    python, helm, kcl = Path(sys.executable), peers.helm(), peers.kcl()
    found = [Case("python -c pass", 0, (python, "-c", "pass")), Case(BARE, 0, (python, "-c", "import yaml, pydantic"))]
    for count in counts:
        project, out, values = (
            inputs.project(folder / f"{count}", count),
            folder / f"out-{count}",
            folder / f"{count}.json",
        )
        values.write_text(inputs.values(count))
        clean = lambda out=out: shutil.rmtree(out, ignore_errors=True)  # noqa: E731
        found.append(Case(OURS, count, (python, "-m", "aibrix_compile", "build", project, "-o", out), clean))
        if helm:
            found.append(Case("helm template", count, (helm, "template", "x", HERE / "chart", "-f", values)))
        if kcl:
            found.append(Case("kcl", count, (kcl, HERE / "kcl_render.py", HERE / "services.k", values)))
    return found


def same_objects(ours: Path, theirs: str) -> bool:
    """Whether a peer's output for one service is what we write, object for object."""

    def key(one: dict) -> tuple[str, str]:  # type: ignore[type-arg]
        return one["kind"], one["metadata"]["name"]

    mine = {key(one): one for path in ours.rglob("*.yaml") for one in [yaml.safe_load(path.read_text())]}
    other = [one for document in yaml.safe_load_all(theirs) if document for one in document.get("items", [document])]
    return mine == {key(one): one for one in other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="add 10,000 services")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    arguments = parser.parse_args()
    counts = [1, 100, 1000, *([10000] if arguments.full else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everything = cases(counts, folder)
        samples: dict[Case, list[Sample]] = {case: [] for case in everything}
        for turn in range(arguments.rounds):
            for case in everything:
                if case.services <= 100 or turn < max(1, 3000 // case.services):
                    print(f"round {turn + 1}: {case.name}, {case.services} services", file=sys.stderr)
                    samples[case].append(measure(case, folder / "stdout"))
                    if turn == 0 and case.services == 1 and case.name != OURS:
                        equal = same_objects(folder / "out-1", (folder / "stdout").read_text())
                        print(f"{case.name}: the same objects as ours: {'yes' if equal else 'NO'}", file=sys.stderr)
    print(f"{'':34} {'services':>8} {'wall ms':>9} {'min':>8} {'CPU ms':>9} {'MiB':>6}")
    bare = statistics.median(sample.wall for case in samples if case.name == BARE for sample in samples[case])
    for case, found in samples.items():
        wall, cpu = (statistics.median(getattr(one, what) for one in found) * 1000 for what in ("wall", "cpu"))
        best, memory = min(one.wall for one in found) * 1000, max(one.memory for one in found)
        above = (
            f"  {wall - bare * 1000:+.0f} ms above the bare import" if case.name == OURS and case.services == 1 else ""
        )
        print(f"{case.name:34} {case.services or '':>8} {wall:9.0f} {best:8.0f} {cpu:9.0f} {memory:6.0f}{above}")


if __name__ == "__main__":
    main()
