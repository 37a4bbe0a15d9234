"""The compiled gateway among the routers: Envoy with all its filters, one picker, keys of two tenants; and the table of all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.bench.gateway.engine import ADAPTER, MODEL
from tests.bench.gateway.routers import PEERS, Running, Start
from tests.gateway import projects
from tests.gateway.running import KEY, Engine, Gateway


@dataclass(frozen=True, slots=True)
class _Given:
    """An engine that is there already, in the place of one that the gateway's tests start."""

    service: str
    pool: str
    address: str

    def ready(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def ours(engines: Sequence[str], folder: Path) -> Iterator[Running]:
    """Started as its tests start it, from a project that is compiled for it."""
    service = projects.service(
        "bench",
        MODEL,
        routing={"strategy": "cost"},
        adapters=projects.adapters(ADAPTER),
        access=projects.access(bench=[], other=None),
    )
    plan = projects.plan(folder / "project", [service], tenants=("bench", "other"))
    gateway, pool = Gateway(plan), plan.services[0].pools[0].name
    try:
        gateway.engines += [cast(Engine, _Given("bench", pool, address)) for address in engines]
        gateway.start({}, pickers=1, speed=1, variables={})
        picker = gateway.pickers[0]
        yield Running(
            gateway.url.removeprefix("http://"),
            {"envoy": gateway.envoy, "picker": picker.process},
            [gateway.folder / "envoy.log", picker.log],
            f"http://{picker.address}:9090/metrics",
            {"authorization": f"Bearer {KEY}bench"},
        )
    finally:
        gateway.close()


ROUTERS: dict[str, Start] = {"ours": ours, **PEERS}
