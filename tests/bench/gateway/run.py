"""What a router costs: `python -m tests.bench.gateway.run`, all of them in one run before the same engines.

Routers have one core and engines, load and this process the other, where there are two; every round visits every router
with every kind of traffic before the next round begins, so that noise meets all alike. CPU per request is what a
busy machine changes least; `added` latencies are above those of the engines asked directly in the same round.
Asserts nothing about time.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop

from tests.bench.gateway import load
from tests.bench.gateway.engines import counting
from tests.bench.gateway.ours import ROUTERS
from tests.bench.gateway.routers import Running, Unavailable
from tests.bench.mock import cpu, memory

DIRECT = "no router"


class Traffic(NamedTuple):
    """`connections` that ask as fast as they are answered, or `rate` requests a second."""

    size: int
    connections: int = 0
    rate: int = 0

    def __str__(self) -> str:
        kind = f"{self.rate}/s" if self.rate else f"{self.connections}"
        return f"{self.size // 1000:3d} KB {kind:>6}"


TRAFFIC = (
    *(Traffic(1_000, connections) for connections in (1, 16, 64, 256)),
    Traffic(1_000, rate=500),  # half of what one core of ours must carry
    *(Traffic(400_000, connections) for connections in (1, 16, 64, 256)),
)


@dataclass(slots=True)
class Target:
    name: str
    addresses: Sequence[str]
    running: Running | None
    memory: dict[str, float]
    """MB by role before any traffic."""


class Result(NamedTuple):
    sample: load.Sample
    cpu: dict[str, float]
    """Seconds by role."""


async def measure(target: Target, traffic: Traffic, seconds: float) -> Result:
    prompts = load.Prompts(traffic.size, target.running.headers if target.running else {}, max_tokens=16)
    roles = target.running.processes if target.running else {}
    before = {role: cpu(process.pid) for role, process in roles.items()}
    if traffic.rate:
        sample = await load.paced(target.addresses, prompts, traffic.rate, seconds)
    else:
        sample = await load.closed(target.addresses, prompts, traffic.connections, seconds)
    return Result(sample, {role: cpu(process.pid) - before[role] for role, process in roles.items()})


def table(results: dict[tuple[Traffic, str], list[Result]]) -> Iterator[str]:
    """A row for each kind of traffic and router; latencies are medians of the rounds', the rest is of all together."""
    titles = ("req/s", "CPU ms a request", "req/s a core", "added p50 ms", "p99 ms")
    yield "{:28} {:>7} {:>34} {:>12} {:>12} {:>8}".format("prompt, in flight", *titles)
    for (traffic, name), found in results.items():
        answered = sum(len(one.sample.latencies) for one in found)
        failed = sum(one.sample.failed for one in found)
        rate = answered / sum(one.sample.seconds for one in found)
        used = {role: sum(one.cpu[role] for one in found) for role in found[0].cpu}
        each = {role: 1000 * seconds / max(1, answered) for role, seconds in used.items()}
        total = sum(each.values())
        parts = " + ".join(f"{ms:.2f} {role}" for role, ms in each.items()) if len(each) > 1 else ""
        spent = f"{total:.2f}" + (f" ({parts})" if parts else "") if used else "-"
        core = f"{1000 / total:.0f}" if total else "-"
        middle, high = (_added(found, results[traffic, DIRECT], share) for share in (0.5, 0.99))
        remark = f"  {failed} failed" if failed else ""
        yield f"{traffic!s:>13} {name:14} {rate:7.0f} {spent:>34} {core:>12} {middle:12.2f} {high:8.2f}{remark}"


def _added(found: Sequence[Result], direct: Sequence[Result], share: float) -> float:
    """ms above the direct way; of the direct way itself, its own ms."""
    pairs = zip(found, direct, strict=False)
    own = found is direct
    return 1000 * statistics.median(
        one.sample.percentile(share) - (0 if own else other.sample.percentile(share)) for one, other in pairs
    )


def memories(targets: Sequence[Target]) -> Iterator[str]:
    yield "MB of memory, before and after"
    for target in targets:
        if target.running:
            parts = (
                f"{role} {target.memory[role]:.0f} -> {memory(process.pid):.0f}"
                for role, process in target.running.processes.items()
                if process.poll() is None
            )
            yield f"{target.name:28} {', '.join(parts)}"


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """What is started within has that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def started(names: Sequence[str], engines: Sequence[str], folder: Path, stack: ExitStack) -> Iterator[Target]:
    """Those that start; the others are named."""
    for name in names:
        (folder / name).mkdir()
        try:
            running = stack.enter_context(ROUTERS[name](engines, folder / name))
        except Unavailable as error:
            print(f"without {name}: {error}", file=sys.stderr)
        else:
            sizes = {role: memory(process.pid) for role, process in running.processes.items()}
            yield Target(name, (running.address,), running, sizes)


async def rounds(targets: list[Target], count: int, seconds: float) -> dict[tuple[Traffic, str], list[Result]]:
    results: dict[tuple[Traffic, str], list[Result]] = defaultdict(list)
    for target in targets:  # connections, code and caches are warm in no figure
        await measure(target, Traffic(1_000, 16), 0.5)
    for turn in range(count):
        print(f"round {turn + 1} of {count}", file=sys.stderr)
        for traffic in TRAFFIC:
            for target in targets:
                results[traffic, target.name].append(await measure(target, traffic, seconds))
        targets = [targets[0], *targets[2:], targets[1]] if len(targets) > 2 else targets
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s instead of 5 of 2.5 s")
    parser.add_argument("--only", action="append", choices=ROUTERS, help="these routers (default: all)")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="the picker on the load's core instead of Envoy's, as pods have cores of their own",
    )
    arguments = parser.parse_args()
    count, seconds = (2, 1.0) if arguments.quick else (5, 2.5)
    cores = sorted(os.sched_getaffinity(0))
    theirs, ours = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        with pinned(ours):
            engines = stack.enter_context(counting())
        with pinned(theirs):
            found = list(started(arguments.only or tuple(ROUTERS), engines.addresses, Path(name), stack))
        for target in found:
            if arguments.apart and target.running and ours is not None and "picker" in target.running.processes:
                os.sched_setaffinity(target.running.processes["picker"].pid, {ours})
        targets = [Target(DIRECT, engines.addresses, None, {}), *found]
        gc.freeze()
        with pinned(ours):
            results = uvloop.run(rounds(targets, count, seconds))
        order = {target.name: place for place, target in enumerate(targets)}
        kinds = {traffic: place for place, traffic in enumerate(TRAFFIC)}
        print(*table(dict(sorted(results.items(), key=lambda row: (kinds[row[0][0]], order[row[0][1]])))), sep="\n")
        print(*memories(targets), sep="\n")


if __name__ == "__main__":
    main()
