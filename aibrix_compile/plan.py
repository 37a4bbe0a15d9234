"""The plan: everything that is decided before the cluster, resolved - no default is left to be filled in, no name to be made.

Passes build it, backends turn it into objects, `explain` and later the simulator read it. It is frozen and is plain data:
`build --plan json` prints it. Memory is in bytes, time in seconds, CPU in millicores; `path` is where in the spec a part
came from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aibrix_compile.diagnostics import Path
from aibrix_compile.policy.profile import Profile


@dataclass(frozen=True, slots=True)
class Decision:
    """A value that nobody wrote down, and why it is what it is: one line of arithmetic or reason each."""

    path: Path
    value: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """One word of the engine's command line."""

    text: str
    path: Path


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: `value`, or the entry `key` of Secret `secret`."""

    name: str
    path: Path
    value: str = ""
    secret: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """`kind` is scratch (local disk), memory, claim (a PersistentVolumeClaim) or config (a ConfigMap); `size` in bytes, 0 = unbounded."""

    name: str
    kind: str
    mount: str
    path: Path
    source: str = ""
    size: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A process that fetches weights before the engine starts."""

    command: tuple[str, ...]
    variables: tuple[Variable, ...]


@dataclass(frozen=True, slots=True)
class Sizing:
    """Memory of one GPU, bytes. `kv_room` is what is left for the KV cache; `sequences` of full length fit in it."""

    memory: int
    utilization: float
    weights: int
    activation: int
    adapters: int
    overhead: int
    kv_room: int
    kv_per_sequence: int
    max_model_len: int
    sequences: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one replica is, and the limits of its batch: what it is routed, scaled and simulated by."""

    profile: Profile
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    max_unavailable: int | str
    max_surge: int | str


@dataclass(frozen=True, slots=True)
class Storage:
    """The claim that keeps weights. `size` 0: it exists already. `prefetch` is the Job that fills it, if the engine does
    not; after `deadline_seconds` it has failed."""

    claim: str
    size: int
    storage_class: str
    access: str
    mount: str
    prefetch: Prefetch | None
    deadline_seconds: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most replicas of a pool that a scaler owns."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class HoldPlan:
    """How long, how many and how large together the requests are that wait for a replica or an adapter."""

    wait_seconds: float
    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """Another service that gets `share` (0 to 1) of the requests."""

    service: str
    share: float


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """How a replica is chosen. `parameters` are the strategy's own; `source` is the text of a custom strategy's module,
    empty where the picker's image has it. `picker` is why Envoy alone would not do, empty where it does."""

    strategy: str
    parameters: Mapping[str, Any]
    source: str
    fallback: str
    timeout_seconds: float
    idle_seconds: float
    attempts: int
    retry_on: tuple[str, ...]
    hold: HoldPlan | None
    when_picker_down: str
    canary: CanaryPlan | None
    spill_to: str
    priority: tuple[str, ...]
    picker: str

    @property
    def hold_seconds(self) -> float:
        """0: nothing waits."""
        return self.hold.wait_seconds if self.hold else 0.0


@dataclass(frozen=True, slots=True)
class WorkloadPlan:
    """The load that the owner expects: mean tokens of prompts and answers, requests a second at peak hours."""

    input_tokens: int
    output_tokens: int
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """What a scaler is told of the service. `parameters` and `schedules` are spelled as ScalingPolicy spells them."""

    strategy: str
    parameters: Mapping[str, Any]
    schedules: tuple[Mapping[str, Any], ...]
    max_gpus: int
    max_cost_per_hour: str
    scale_to_zero_after_seconds: int
    warm_pool: int
    seasonal: bool


@dataclass(frozen=True, slots=True)
class AdapterItem:
    """One LoRA adapter: on every replica, or on `least` replicas at least. Empty texts and rank 0 are unknown."""

    name: str
    uri: str
    digest: str
    rank: int
    everywhere: bool
    least: int
    priority: int
    secret: str
    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class AdaptersPlan:
    """Slots of one replica (on the GPU, in host memory), the largest rank, and what becomes of a request that must wait."""

    max_loaded: int
    max_cached: int
    max_rank: int
    when_missing: str
    step_ms: float
    """What adapters in a batch add to a step."""
    items: tuple[AdapterItem, ...]


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """The sidecar beside each engine. `config` is its runtime.json, which may change while it runs; `secrets` and `claims` are
    those that adapters are read with; `adapters_bytes` is the disk for adapters, 0 without any."""

    image: str
    port: int
    config: str
    secrets: tuple[str, ...]
    claims: tuple[str, ...]
    adapters_bytes: int


@dataclass(frozen=True, slots=True)
class Objective:
    """A latency that a share of all requests must keep: `metric` is ttft, itl or e2e; `percentile` 0.99 for p99."""

    metric: str
    percentile: float
    seconds: float


@dataclass(frozen=True, slots=True)
class MonitoringPlan:
    """What is watched. `metrics` maps roles (running, waiting, kv_usage, ttft, ...) to this engine version's names."""

    pod_monitor: bool
    alerts: bool
    dashboard: bool
    objectives: tuple[Objective, ...]
    metrics: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Identical replicas on one accelerator: one workload. A replica is `nodes` pods with `gpus` GPUs each; CPU, memory and
    disk are those of one pod. `worker_arguments` are those of its second and further pods."""

    name: str
    workload: str
    path: Path
    replicas: int
    bounds: Bounds | None
    accelerator: str
    nodes: int
    gpus: int
    gpu_resource: str
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    cpu: int
    memory: int
    ephemeral_storage: int
    service_account: str
    service_account_annotations: Mapping[str, str]
    priority_class: str
    pull_secrets: tuple[str, ...]
    arguments: tuple[Argument, ...]
    worker_arguments: tuple[Argument, ...]
    variables: tuple[Variable, ...]
    volumes: tuple[Volume, ...]
    prefetch: Prefetch | None
    startup_seconds: int
    progress_deadline_seconds: int
    propagation_seconds: int
    drain_seconds: int
    grace_seconds: int
    rollout: Rollout
    cost_per_replica_hour: str
    disruption_budget: bool
    template: Mapping[str, Any]
    sizing: Sizing
    speed: Speed
    cost_per_hour: str

    @property
    def scaled(self) -> bool:
        """Whether a scaler owns the number of replicas; Git then never sets it."""
        return self.bounds is not None


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One ModelService in one environment. `file` is its source, relative to the project's folder. `tenants` are those that
    may use it, with the adapters that each may use (None: all); None: everybody. `signals` are the series by which a picker
    knows a replica's load: running, waiting, kv_usage, cache_config."""

    name: str
    environment: str
    namespace: str
    file: str
    labels: Mapping[str, str]
    served_name: str
    uri: str
    engine: str
    engine_version: str
    image: str
    image_path: Path
    command: tuple[str, ...]
    port: int
    service: str
    headless: str
    config_map: str
    config: Mapping[str, str]
    config_hash: str
    storage: Storage | None
    objectives: tuple[Objective, ...]
    scaling: ScalingPlan | None
    routing: RoutingPlan
    signals: Mapping[str, str]
    workload: WorkloadPlan | None
    adapters: AdaptersPlan | None
    runtime: RuntimePlan | None
    tenants: Mapping[str, tuple[str, ...] | None] | None
    monitoring: MonitoringPlan | None
    pools: tuple[PoolPlan, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class ArgoTarget:
    """Where Argo CD finds the manifests of an environment and where it syncs them to; one of server and cluster is set."""

    repo_url: str
    target_revision: str
    path: str
    project: str
    namespace: str
    server: str
    cluster: str


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """Who may call, and how much a minute; 0: no limit."""

    name: str
    requests_per_minute: int
    tokens_per_minute: int


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """The gateway of an environment. Empty texts are absent; `picker_image` is empty where no service needs a picker.
    `body_limit` in bytes; `path` is where in the Project it stands."""

    name: str
    namespace: str
    path: Path
    image: str
    replicas: int
    hostname: str
    tls_secret: str
    service_type: str
    service_annotations: Mapping[str, str]
    body_limit: int
    keys_secret: str
    tenants: tuple[TenantPlan, ...]
    headers: bool
    picker: str
    picker_image: str
    picker_replicas: int


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    name: str
    namespace: str
    kubernetes: str
    gateway: GatewayPlan | None
    argocd: ArgoTarget | None
    services: tuple[ServicePlan, ...]


def as_data(plan: Any) -> Any:
    """The plan as JSON data."""
    return dataclasses.asdict(plan)
