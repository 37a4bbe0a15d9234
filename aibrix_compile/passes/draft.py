"""What passes work on: one service in one environment, the sound parts of its spec and what has been decided so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aibrix_compile.catalog.accelerators import Accelerator
from aibrix_compile.catalog.engines import Engine
from aibrix_compile.catalog.models import ModelShape
from aibrix_compile.diagnostics import Path
from aibrix_compile.lock import Lock
from aibrix_compile.plan import (
    AdaptersPlan,
    Argument,
    Bounds,
    Decision,
    MonitoringPlan,
    Objective,
    Prefetch,
    Rollout,
    RuntimePlan,
    ScalingPlan,
    Sizing,
    Speed,
    Storage,
    Variable,
    Volume,
)
from aibrix_compile.spec.modelservice import Metadata, Pool, ServiceSpec
from aibrix_compile.spec.project import AcceleratorSite, Environment


@dataclass(frozen=True, slots=True)
class Site:
    """Where a service is compiled for. `controllers` and `runtime` are images, empty where none is known."""

    environment: Environment
    mirror: str
    lock: Lock
    in_project: bool
    build: bool
    controllers: str = ""
    runtime: str = ""

    def declares(self, api: str) -> bool:
        """Whether the cluster has a foreign API. Without a Project nobody knows; only a build has to."""
        return api in self.environment.apis or not (self.in_project or self.build)


@dataclass(slots=True)
class PoolDraft:
    """One pool; every field below `path` is set by the pass that is named beside it."""

    spec: Pool
    path: Path
    name: str
    workload: str = ""  # names
    accelerator: Accelerator | None = None  # hardware, as the seven below
    site: AcceleratorSite = field(default_factory=AcceleratorSite)
    gpus: int = 0
    gpus_per_node: int = 0
    nodes: int = 1
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    cost_per_hour: str = ""
    cost_per_replica_hour: str = ""
    arguments: tuple[Argument, ...] = ()  # engine, as the next
    worker_arguments: tuple[Argument, ...] = ()
    sizing: Sizing | None = None  # sizing
    speed: Speed | None = None  # speed
    bounds: Bounds | None = None  # scaling
    rollout: Rollout | None = None  # replicas, in the fleet
    variables: tuple[Variable, ...] = ()  # pod, as all below
    volumes: tuple[Volume, ...] = ()
    prefetch: Prefetch | None = None
    cpu: int = 0
    memory: int = 0
    ephemeral_storage: int = 0
    startup_seconds: int = 0
    progress_deadline_seconds: int = 0
    drain_seconds: int = 0
    grace_seconds: int = 0

    @property
    def pod_gpus(self) -> int:
        """GPUs of one pod: of one node's share of a replica."""
        return self.gpus // self.nodes

    @property
    def replicas(self) -> int:
        """The most replicas that the pool may have."""
        return self.spec.replicas.high


@dataclass(slots=True)
class Draft:
    """`invalid` holds the paths that decoding or an earlier pass found wrong; what needs one is skipped."""

    metadata: Metadata
    spec: ServiceSpec
    site: Site
    file: str
    invalid: set[Path]
    pools: list[PoolDraft]
    served_name: str = ""  # names
    shape: ModelShape | None = None  # weights, as the next three
    weight_bytes: int = 0
    model_argument: str = ""
    revision: str = ""
    engine: Engine | None = None  # engine, as the next three
    image: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[Argument, ...] = ()
    storage: Storage | None = None
    objectives: tuple[Objective, ...] = ()  # objectives
    scaling: ScalingPlan | None = None  # scaling
    adapters: AdaptersPlan | None = None  # adapters
    runtime: RuntimePlan | None = None  # runtime
    monitoring: MonitoringPlan | None = None  # monitoring
    config: dict[str, str] = field(default_factory=dict)  # pod
    decisions: list[Decision] = field(default_factory=list)

    def decide(self, path: Path, value: object, *because: str) -> None:
        """Record a value that nobody wrote down, for `explain`."""
        self.decisions.append(Decision(path, str(value), because))


def size_text(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:.2f} GiB"
