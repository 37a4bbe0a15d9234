"""What routers do when parts fail: `python -m tests.bench.gateway.faults`, the same probes on each, side by side.

Every probe that leaves something behind gets engines and a router of its own. `+` stands where a router does what ours
has to do, `-` where it does not, nothing where it has no such part. A router
that dies or hangs loses its row and nothing else.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from tests.bench.gateway import failures, refusals
from tests.bench.gateway.engines import counting, mocks
from tests.bench.gateway.ours import ROUTERS
from tests.bench.gateway.routers import Running, Start, Unavailable
from tests.bench.gateway.row import Row

_LIMIT = 120.0  # seconds of one probe
_MARKS = {True: "+", False: "-", None: " "}


class Stage(NamedTuple):
    """Probes that follow each other before the same engines and router."""

    mock: bool
    """Engines that stream, each a process; else those that count their calls."""
    probes: dict[str, Callable[[Running, Any], Awaitable[list[Row]]]]


STAGES = (
    Stage(True, {"picker": failures.alone, "killed": failures.killed}),  # a dead picker makes a new scene
    Stage(True, {"hung": failures.hung}),
    Stage(False, {"errors": refusals.errors}),
    Stage(
        False,
        {
            "full": failures.full,
            "blind": failures.blind,
            "names": refusals.names,
            "large": refusals.large,
            "destinations": refusals.destinations,
            "dead": refusals.dead,
        },
    ),
)
PROBES = [name for stage in STAGES for name in stage.probes]


@contextmanager
def scene(start: Start, mock: bool, folder: Path) -> Iterator[tuple[Running, Any]]:
    """A router before four engines; of those that count there is a fifth which it does not know."""
    if mock:
        with mocks(folder) as engines, start(engines.addresses, folder) as running:
            yield running, engines
    else:
        with counting(5) as some, start(some.addresses[:-1], folder) as running:
            yield running, some


def probed(start: Start, stage: Stage, names: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each probe; one that says why there are none where something broke that the probe did not break."""
    left = list(names)
    while left:
        try:
            with tempfile.TemporaryDirectory() as folder, scene(start, stage.mock, Path(folder)) as (running, engines):
                while left and all(process.poll() is None for process in running.processes.values()):
                    name = left.pop(0)
                    try:
                        yield name, uvloop.run(_limited(stage.probes[name](running, engines)))
                    except Exception as error:  # whatever a router does to its clients must not end the run
                        yield name, [Row("", False, f"no result: {type(error).__name__} {error}")]
        except Unavailable as error:
            yield from ((name, [Row("", False, f"did not start: {error}")]) for name in left)
            return


async def _limited(work: Awaitable[list[Row]]) -> list[Row]:
    return await asyncio.wait_for(work, _LIMIT)


def table(results: dict[str, dict[str, list[Row]]]) -> Iterator[str]:
    """A block for each thing that was looked at, a line in it for each router."""
    for probe in PROBES:
        found = {router: rows[probe] for router, rows in results.items() if probe in rows}
        titles = list(dict.fromkeys(row.what for rows in found.values() for row in rows if row.what))
        for title in titles or [probe] if found else []:
            yield title
            for router, rows in found.items():
                for row in rows:
                    if row.what in (title, ""):
                        yield f"  {_MARKS[row.good]} {router:14} {row.found}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROUTERS, help="these routers (default: all)")
    parser.add_argument("--probe", action="append", choices=PROBES, help="these probes (default: all)")
    arguments = parser.parse_args(words)
    results: dict[str, dict[str, list[Row]]] = {}
    began = time.monotonic()
    for router in arguments.only or ROUTERS:
        for stage in STAGES:
            names = [name for name in stage.probes if name in (arguments.probe or PROBES)]
            for name, rows in probed(ROUTERS[router], stage, names):
                results.setdefault(router, {})[name] = rows
                print(f"{time.monotonic() - began:4.0f} s  {router} {name}", file=sys.stderr)
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
