"""What it costs to scale: decisions for many services, and watching 500 replicas: `python -m tests.bench.watching`.

It prints figures and asserts nothing about time. A process apart plays the sidecars and a picker; the API server is a stub, so that CPU
is the scaler's alone.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
import uvloop

from aibrix_compile.policy import autoscaling
from aibrix_compile.policy.kpa import Kpa
from aibrix_compile.policy.observation import Memory, PoolState
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.policy.quantities import PerReplica
from aibrix_compile.policy.slo import Objectives, Slo
from aibrix_compile.policy.windows import SECOND
from aibrix_controllers.observe import sidecars
from aibrix_controllers.scaler.controller import Clock, Controller, Settings
from aibrix_controllers.scaler.watched import Page, Replica, Said, Watched
from tests.bench.scrape import serve

SERVICES, PODS = 1000, 100
WATCHED, SECONDS = 500, 10
TOTALS = {
    "requests": 0.0,
    "prompt_tokens": 0.0,
    "output_tokens": 0.0,
    "ttft_s": 0.0,
    "ttft_n": 0.0,
    "itl_s": 0.0,
    "itl_n": 0.0,
}


def decisions() -> None:
    pool = Pool("pool", 1, 200, cold_start_seconds=120, profile=TABLE["h100/8b"])
    kinds = {"slo": Slo(), "kpa": Kpa("requests_in_flight", PerReplica(16))}
    for name, strategy in kinds.items():
        config = autoscaling.Config((pool,), strategy, objectives=Objectives(2000, 80))
        services = [Watched(0, "" if name == "slo" else strategy.metric) for _ in range(SERVICES)]
        memories, looks, decides = [Memory()] * SERVICES, [], []
        state = (PoolState(PODS, PODS),)
        for step in range(1, 90):
            now, more = step * SECOND, {key: float(100 * step) for key in TOTALS}
            found = [Replica(f"p{n}", "t", f"10.0.0.{n}", True, now, Said(12, 0, 0.4, "i", more)) for n in range(PODS)]
            page = {"p": Page("i", step * 300, step * 300_000, 0, 0, {one.address: 12 for one in found})}
            begun = time.process_time()
            for one in services:
                one.look(now, found, page)
            looked = time.process_time()
            for number, one in enumerate(services):
                decision = autoscaling.decide(config, one.observe(now, state), now, memories[number])
                memories[number] = decision.memory
            looks.append(looked - begun)
            decides.append(time.process_time() - looked)
        print(
            f"{name}, {SERVICES} services of {PODS} replicas: {_ms(decides)} to decide, {_ms(looks)} to add a second to the windows"
        )


def _ms(times: list[float]) -> str:
    return f"{sorted(times)[len(times) // 2] * 1000:.0f} ms"


class Stub:
    """An API server with `services` policies and pods of theirs at 127.0.x.y."""

    counts: Mapping[Any, int] = {}

    def __init__(self, services: int, port: int) -> None:
        self._port, self._each = port, WATCHED // services
        self._names = [f"chat-{number}" for number in range(services)]
        self._lease: Any = None

    def _policy(self, name: str) -> Any:
        target = {"kind": "Deployment", "name": name, "min": 1, "max": 200, "gpusPerReplica": 1, "coldStartSeconds": 60}
        kpa = {"kpa": {"metric": "requests_in_flight", "target": {"value": "8", "unit": "perReplica"}}}
        meta = {"name": name, "generation": 1, "uid": name, "resourceVersion": "1"}
        return {
            "kind": "ScalingPolicy",
            "metadata": meta,
            "spec": {"service": name, "targets": [target], "strategy": kpa},
        }

    def _pod(self, number: int) -> Any:
        name = self._names[number // self._each]
        labels = {"serving.aibrix.ai/service": name, "serving.aibrix.ai/role": "serve"}
        meta = {"name": f"{name}-{number}", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
        port = {"name": "runtime", "containerPort": self._port}
        spec = {"containers": [{"name": "engine"}], "initContainers": [{"name": "runtime", "ports": [port]}]}
        status = {"podIP": f"127.0.{1 + number // 250}.{1 + number % 250}", "phase": "Running"}
        return {
            "metadata": meta,
            "spec": spec,
            "status": status | {"conditions": [{"type": "Ready", "status": "True"}]},
        }

    async def get(self, path: str, **_: str) -> Any:
        if path.endswith("/scale"):
            return {"spec": {"replicas": self._each}}
        if "leases" in path:
            return self._lease
        items = (
            [self._policy(name) for name in self._names]
            if "scaling" in path
            else [self._pod(n) for n in range(WATCHED)]
        )
        return {"items": items, "metadata": {"resourceVersion": "1"}}

    async def lines(self, path: str, query: Mapping[str, str], seconds: float) -> Any:
        await asyncio.Event().wait()
        yield b""

    async def post(self, path: str, body: Any) -> Any:
        return body

    async def put(self, path: str, body: Any) -> Any:
        return body

    async def patch(self, path: str, body: Any, manager: str) -> Any:
        return body | self._policy(path.split("/")[-2])


def watching(port: int, services: int, busy: bool) -> float:
    """Share of a core, after three seconds in which connections are made."""

    async def run() -> float:
        clock = Clock(lambda: time.time_ns() // 1000, lambda: 0.5)
        settings = Settings("llm", "me", (f"127.0.0.1:{port}",), None)
        one = Controller(settings, Stub(services, port), clock, lambda *_, **__: None)  # type: ignore[arg-type]
        one.leader.leads = True
        one.leader.run = asyncio.Event().wait  # type: ignore[assignment, method-assign]
        task = asyncio.create_task(one.run())
        await asyncio.sleep(3)
        before, begun = time.process_time(), time.monotonic()
        await asyncio.sleep(SECONDS)
        assert one.sidecars.connected == WATCHED
        used = (time.process_time() - before) / (time.monotonic() - begun)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return used

    sidecars.QUERY = {"watch": "busy" if busy else "1"}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def main() -> None:
    decisions()
    rows = {
        f"chat-{n}": {"requests": 1, "prompt_tokens": 1, "cached_tokens": 0, "held": 0, "engines": {}}
        for n in range(50)
    }
    here, there = multiprocessing.Pipe()
    pages = {b"/demand": orjson.dumps({"instance": "i", "services": rows, "adapters": {}})}
    process = multiprocessing.Process(target=serve, args=(pages, there), daemon=True)
    process.start()
    port = here.recv()
    for services in (1, 50):
        idle, busy = (watching(port, services, each) for each in (False, True))
        print(
            f"{WATCHED} replicas of {services} services: {idle:.2f} of a core; {busy:.2f} when each says 20 lines a second"
        )
    process.terminate()


if __name__ == "__main__":
    main()
