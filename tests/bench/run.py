"""Times of cold processes on one core, ours beside the peers', interleaved in one run.

`python -m tests.bench.run` prints the table of README; `--full` adds 10,000 services. Asserts nothing about time.
A peer renders and checks nothing; ours checks, compiles, and writes a file for each object. What a peer renders is
compared with what we write, object for object, before anything is timed.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.bench import inputs, peers

HERE = Path(__file__).parent
PYTHON = Path(sys.executable)
OURS = "aibrix-compile build"
BARE = ("pass", "import yaml, pydantic", "import yaml; from pydantic import BaseModel")
MARKS = {"name": "service-name", "replicas": "1000001", "maxModelLen": "1000002"}


class Sample(NamedTuple):
    """Wall and CPU seconds, peak memory in MiB of the largest process."""

    wall: float
    cpu: float
    memory: float


class Case(NamedTuple):
    name: str
    services: int
    command: tuple[str | Path, ...]
    prepare: Callable[[], None] = lambda: None


def measure(case: Case, output: Path) -> Sample:
    """One cold process on one core; what it prints is left in `output`."""
    case.prepare()
    errors = output.with_suffix(".stderr")
    command = [PYTHON, "-I", "-S", HERE / "spawn.py", output, errors, *case.command]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr + errors.read_text("utf-8", "replace") if errors.exists() else done.stderr).strip()
        raise RuntimeError(f"{case.name} ended with {done.returncode}: {said.splitlines()[-1] if said else 'silence'}")
    return Sample(*map(float, done.stdout.split()))


def ours(count: int, folder: Path) -> Case:
    project, out = inputs.project(folder / f"{count}", count), folder / f"out-{count}"
    clean = lambda: shutil.rmtree(out, ignore_errors=True)  # noqa: E731
    return Case(OURS, count, (PYTHON, "-m", "aibrix_compile", "build", project, "-o", out), clean)


def theirs(name: str, program: Path, count: int, folder: Path) -> Case:
    values, template, marks = (folder / file for file in (f"{count}.json", "template.json", "marks.json"))
    values.write_text(inputs.values(count))
    template.write_text(json.dumps(list(yaml.safe_load_all(inputs.filled(**MARKS)))))
    marks.write_text(json.dumps(MARKS))
    commands: dict[str, tuple[str | Path, ...]] = {
        "helm template": (program, "template", "x", HERE / "chart", "-f", values),
        "kcl": (program, HERE / "kcl_render.py", HERE / "services.k", values),
        "cdk8s": (program, HERE / "cdk8s_render.py", template, marks, values),
    }
    return Case(name, count, commands[name])


def cases(counts: Sequence[int], folder: Path) -> list[Case]:
    """Everything that is timed; peers that do not run, or do not make our objects, say so and are not in it."""
    programs = {name: program for name, find in peers.ALL.items() if (program := find())}
    for name, program in list(programs.items()):
        try:
            differing = [
                where for count in (1, 3) for where in compare(name, program, count, folder / f"{name}-{count}")
            ]
        except RuntimeError as error:
            print(f"without {error}", file=sys.stderr)
            del programs[name]
        else:
            print(f"{name}: {'; '.join(differing) or 'the same objects as ours'}", file=sys.stderr)
    found = [Case(f"python -c {text!r}", 0, (PYTHON, "-c", text)) for text in BARE]
    for count in counts:
        found.append(ours(count, folder))
        if count <= 1000:
            found += [theirs(name, program, count, folder) for name, program in programs.items()]
    return found


def compare(name: str, program: Path, count: int, folder: Path) -> list[str]:
    """The fields in which a peer's rendering differs from ours. It also warms the caches of files and bytecode."""
    folder.mkdir()
    measure(ours(count, folder), folder / "stdout")
    measure(theirs(name, program, count, folder), folder / "stdout")
    return differences(folder / f"out-{count}", (folder / "stdout").read_text("utf-8"))


def differences(mine: Path, rendered: str) -> list[str]:
    """Where a peer's output is not what we wrote, field by field."""
    written = [yaml.safe_load(path.read_text("utf-8")) for path in mine.rglob("*.yaml")]
    documents = [one for one in yaml.safe_load_all(rendered) if one]
    other = [one for document in documents for one in document.get("items", [document])]
    return list(_differing(_by_name(written), _by_name(other), ""))


def _by_name(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{one['kind']} {one['metadata']['name']}": one for one in objects}


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differing(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif one != other:
        yield f"{path} differs"


def table(samples: dict[Case, list[Sample]]) -> Iterator[str]:
    """A line for each case; the last column pairs it with ours of the same round."""
    yield f"{'':51} {'services':>8} {'wall ms':>8} {'min-max':>11} {'CPU ms':>7} {'MiB':>5}"
    mine = {case.services: found for case, found in samples.items() if case.name == OURS}
    for case, found in samples.items():
        wall, least, most = _spread([one.wall * 1000 for one in found])
        cpu, memory = statistics.median(one.cpu for one in found) * 1000, max(one.memory for one in found)
        pairs = list(zip(mine[case.services or 1], found, strict=False))
        if case.name == OURS:
            remark = f"{wall / case.services:.2f} ms each"
        elif case.services:
            remark = "ours / this: {:.2f} ({:.2f} to {:.2f})".format(*_spread([a.wall / b.wall for a, b in pairs]))
        else:
            remark = "ours for 1: {:+.0f} ms ({:+.0f} to {:+.0f})".format(
                *_spread([(a.wall - b.wall) * 1000 for a, b in pairs])
            )
        spread = f"{least:.0f}-{most:.0f}"
        yield f"{case.name:51} {case.services or '':>8} {wall:8.0f} {spread:>11} {cpu:7.0f} {memory:5.0f}  {remark}"


def _spread(found: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(found), min(found), max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="add 10,000 services")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; fewer above 1,000 services (default: 5)")
    arguments = parser.parse_args()
    counts = [1, 100, 1000, 3000, *([10000] if arguments.full else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples: dict[Case, list[Sample]] = {case: [] for case in cases(counts, folder)}
        for turn in range(arguments.rounds):
            print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)
            for case, found in samples.items():
                if case.services <= 1000 or turn < max(1, 6000 // case.services):
                    found.append(measure(case, folder / "stdout"))
    print(*table(samples), sep="\n")


if __name__ == "__main__":
    main()
