"""The gateway of a replay: the real Envoy and pickers of a compiled project, mock engines with a profile, all at one speed.

Simulated time runs `speed` times as fast as the clock. Engines know that by a setting of theirs. A picker lives by the clock,
so its profile is divided by the speed, and what it hears - reports each second, other pickers within 20 ms - is `speed` times
as old in simulated time; the simulation beside it is told the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aibrix_compile.backends.gateway import workloads
from aibrix_compile.plan import EnvironmentPlan, ServicePlan
from aibrix_compile.policy.profile import TABLE, slower
from aibrix_compile.simulate.engine import Limits
from tests.gateway import projects
from tests.gateway.running import Engine, Gateway, Picker
from tests.mock.mocks import Mock

MODEL = "chat"
CHUNK = 64  # tokens of an answer in one piece after the first: else Envoy and Python would mostly copy small pieces


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """What a trace is replayed against, and simulated with."""

    profile: str
    limits: Limits
    replicas: int
    speed: float


def plan(folder: Path, fleet: Fleet, strategy: str) -> EnvironmentPlan:
    """One service. Its pool is an L4's by name only: how fast its engines are is the profile's matter."""
    pool = {"name": "pool", "accelerator": "nvidia-l4", "replicas": fleet.replicas}
    found = projects.plan(folder, [projects.service(MODEL, pools=[pool], routing={"strategy": strategy})])
    service = found.services[0]
    profile = slower(TABLE[fleet.profile], 1 / fleet.speed)
    speed = dataclasses.replace(service.pools[0].speed, profile=profile, max_num_seqs=fleet.limits.max_num_seqs)
    pools = (dataclasses.replace(service.pools[0], speed=speed),)
    return dataclasses.replace(found, services=(dataclasses.replace(service, pools=pools),))


class Replica(Engine):
    """A mock engine with the fleet's profile and limits."""

    def __init__(self, service: ServicePlan, address: str, fleet: Fleet) -> None:
        self.service, self.pool, self.address = service.name, service.pools[0].name, f"{address}:{service.port}"
        flags = [f"--max-num-seqs={fleet.limits.max_num_seqs}", f"--stream-interval={CHUNK}"]
        flags += [f"--max-num-batched-tokens={fleet.limits.max_num_batched_tokens}"]
        at, served, speed = (address, service.port), service.served_name, fleet.speed
        Mock.__init__(self, *flags, at=at, served=served, speed=speed, wait=False, AIBRIX_MOCK_PROFILE=fleet.profile)


class Replayed(Gateway):
    def __init__(self, plan: EnvironmentPlan, fleet: Fleet, exchange: bool) -> None:
        """Without `exchange` no picker hears of another."""
        super().__init__(plan)
        self._fleet, self._exchange = fleet, exchange

    def add(self, service: ServicePlan, speed: float, pool: str = "", **variables: str) -> Engine:
        engine = Replica(service, f"{self._net}.{len(self.engines) + 1}", self._fleet)
        self.engines.append(engine)
        return engine

    def add_picker(self) -> Picker:
        picker = super().add_picker()
        if not self._exchange:
            picker.process.kill()
            picker.process.wait(10)
            picker._peers = f"{picker.address}:{workloads.PEERS.number}"
            picker.start()
        return picker


@contextmanager
def running(folder: Path, fleet: Fleet, strategy: str, pickers: int, exchange: bool) -> Iterator[Gateway]:
    gateway = Replayed(plan(folder, fleet, strategy), fleet, exchange)
    try:
        gateway.start({MODEL: fleet.replicas}, pickers, fleet.speed, {})
        gateway.settled()
        yield gateway
    finally:
        gateway.close()
