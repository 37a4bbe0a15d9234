"""How many prompt tokens several pickers find in the caches of engines: `python -m tests.bench.peers_hits [--trace FILE]`.

The pickers' own code decides (state, prefix index, policy.routing with `cost`) and exchanges (the lines of picker.peers, 20 ms
late); each request comes to a picker by chance. Engines are a prefix index of their KV cache's size and two clocks, no batch: what
is compared are the rows, not the times. Reports are taken once a second. `gain`: of the tokens that one picker finds beyond
least-request.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from aibrix_compile.policy import routing
from aibrix_compile.policy.prefixes import PrefixIndex
from aibrix_compile.policy.profile import TABLE, prefill_ms
from aibrix_compile.simulate import formats, generate, trace
from aibrix_compile.simulate.trace import Request, Trace
from aibrix_controllers.picker.config import Config, parse
from aibrix_controllers.picker.peers import FLUSH_S, apply, encoded
from aibrix_controllers.picker.state import BLOCK_BYTES, BYTES_PER_TOKEN, Sent, State

PROFILE = TABLE["h100/8b"]
TOKEN_US = 12_000  # of one token of an answer, in a batch of a few dozen
BLOCK = int(BLOCK_BYTES / BYTES_PER_TOKEN)
LATE_US, REPORT_US = int(FLUSH_S * 1e6), 1_000_000
MADE = generate.Options(
    seconds=2100, rate=3.2, input_tokens=12_000, output_tokens=340, turns=3, system_tokens=4_000, block_tokens=512
)


class Way(NamedTuple):
    title: str
    pickers: int
    late_us: int | None
    """Until another picker hears of it; None: never."""
    strategy: str = "cost"


WAYS = (
    Way("least-request", 1, None, "least-request"),
    Way("1 picker", 1, None),
    Way("2 pickers, apart", 2, None),
    Way("2 pickers, exchanging", 2, LATE_US),
    Way("4 pickers, apart", 4, None),
    Way("4 pickers, exchanging", 4, LATE_US),
)


class Engine:
    def __init__(self) -> None:
        self.cache = PrefixIndex()
        self.cache.admit(0, PROFILE.kv_tokens // BLOCK)
        self.clear_us = self.requests = self.tokens = 0

    def takes(self, request: Request, blocks: list[int], now: int) -> tuple[int, int, int]:
        """Tokens found in the cache, when the first token comes and when the last."""
        hit = min(self.cache.match(blocks, (0,))[0] * BLOCK, request.input - 1)
        self.cache.remember(0, blocks)
        first = max(now, self.clear_us) + int(prefill_ms(PROFILE, request.input, hit) * 1000)
        self.clear_us = first
        return hit, first, first + request.output * TOKEN_US


def configured(replicas: int) -> tuple[Config, list[str]]:
    pool = {"profile": asdict(PROFILE), "max_num_seqs": 256}
    service = {"port": 8000, "model": "m", "pools": {"h100": pool}}
    return parse({"version": "1", "services": {"s": service}, "clusters": {}}), [
        f"10.0.0.{n}:8000" for n in range(replicas)
    ]


def split(request: Request, unit: int) -> list[int]:
    """Whole blocks of the picker's size, named by the trace's."""
    parts = unit // BLOCK
    return [block * parts + part for block in request.blocks for part in range(parts)][: request.input // BLOCK]


def spread(requests: Trace, seconds: float) -> list[Request]:
    """Mooncake's clock ticks every three seconds; requests of one tick would meet pickers that can not know of each other."""
    random = Random(0)
    moved = [one._replace(at=one.at + int(random.random() * seconds * 1e6)) for one in requests]
    return sorted(moved, key=lambda one: one.at)


def replay(requests: Sequence[Request], unit: int, way: Way, replicas: int, seed: int) -> tuple[float, float]:
    """The share of prompt tokens that were cached where they went, and the mean TTFT in seconds."""
    config, addresses = configured(replicas)
    pickers = [State(config, 0, sharing=way.late_us is not None) for _ in range(way.pickers)]
    for one in pickers:
        for address in addresses:
            one.replica("s", address, "h100", ready=True, draining=False, incarnation="", now=0)
    engines, random = {address: Engine() for address in addresses}, Random(seed)
    chosen = routing.Config(way.strategy)
    later: list[tuple[int, int, Callable[[int], None]]] = []
    order = count()

    def at(when: int, work: Callable[[int], None]) -> None:
        heappush(later, (when, next(order), work))

    def tell(speaker: State, now: int) -> None:
        lines = list(encoded(speaker.outbox))
        speaker.outbox.clear()
        for listener in pickers:
            if listener is not speaker:
                for line in lines:
                    apply(listener, str(id(speaker)), line, now)

    def report(now: int) -> None:
        for address, engine in engines.items():
            for one in pickers:
                share = min(1.0, engine.tokens / PROFILE.kv_tokens)
                one.report("s", address, running=engine.requests, waiting=0, kv_share=share, kv_tokens=0, now=now)
        at(now + REPORT_US, report)

    def route(request: Request, now: int) -> None:
        nonlocal found, asked, waited, served
        picker = random.choice(pickers)
        fleet, blocks = picker.fleets["s"], split(request, unit)
        among = fleet.candidates("")
        hits = [min(hit * BLOCK, request.input - 1) for hit in fleet.index.match(blocks, among.numbers)]
        choice = routing.choose(chosen, routing.Ask(request.input), among.endpoints, hits, now, random.random())
        replica = among.replicas[choice.place]
        engine = engines[replica.address]
        event = Sent("s", replica.address, request.input, "", blocks)
        ticket = picker.sent(fleet, replica, request.input, hits[choice.place], event, now)
        hit, first, last = engine.takes(request, blocks, now)
        engine.requests += 1
        engine.tokens += request.input

        def ended(now: int) -> None:
            engine.requests -= 1
            engine.tokens -= request.input
            picker.ended(ticket)
            if way.late_us is not None:
                at(now + way.late_us, lambda now: tell(picker, now))

        at(last, ended)
        if way.late_us is not None:
            at(now + way.late_us, lambda now: tell(picker, now))
        found, asked, waited, served = found + hit, asked + request.input, waited + first - now, served + 1

    found = asked = waited = served = 0
    at(0, report)
    for request in requests:
        while later and later[0][0] <= request.at:
            when, _, work = heappop(later)
            work(when)
        route(request, request.at)
    return found / asked, waited / served / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers_hits")
    parser.add_argument(
        "--trace", type=Path, help="with prefix blocks, of any format that simulate reads; else a made one"
    )
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0, 2.0], help="times the trace's rate")
    parser.add_argument(
        "--spread", type=float, default=3.0, help="seconds of the trace's clock over which each request is moved"
    )
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    given = formats.read(options.trace) if options.trace else generate.generate(MADE, 0)
    if not given.block_tokens:
        parser.error("this trace has no prefix blocks")
    print(f"{given.name}, {options.replicas} engines {PROFILE.name}, seeds: {options.seeds}")
    for rate in options.rates:
        print(f"rate x {rate:g}{'cached tokens':>30} {'gain':>8} {'mean TTFT':>12}")
        base = single = 0.0
        requests = spread(trace.faster(given, rate), options.spread / rate)
        for way in WAYS:
            runs = [replay(requests, given.block_tokens, way, options.replicas, seed) for seed in range(options.seeds)]
            share, ttft = (sum(column) / len(runs) for column in zip(*runs, strict=True))
            base, single = (share, single) if way is WAYS[0] else (base, share) if way is WAYS[1] else (base, single)
            gain = f"{(share - base) / (single - base):8.1%}" if way is not WAYS[0] else f"{'':>8}"
            print(f"  {way.title:22} {share:14.1%} {gain} {ttft:10.2f} s")


if __name__ == "__main__":
    main()
