"""ModelService: one served model, from weights to objectives. The file a model owner edits."""

from typing import Any, ClassVar, Literal

from aibrix_compile.spec.base import Choice, Model, Nothing, Short, field
from aibrix_compile.spec.free import FreeMap, Raw
from aibrix_compile.spec.types import (
    AdapterName,
    AllOrCount,
    Bool,
    Bytes,
    Cost,
    Count,
    CountOrPercent,
    DnsLabel,
    DnsName,
    DurationMs,
    Image,
    LoraRank,
    Millicores,
    Number,
    Positive,
    Ratio,
    ScaleTarget,
    ServedName,
    Text,
    TimeOfDay,
    Timezone,
    Uri,
    Version,
)

API_VERSION = "serving.aibrix.ai/v1alpha1"


class SecretRef(Model):
    secret: DnsName = field(
        "Name of a Secret in the service's namespace. Secrets are never written into a spec.", "hf-token"
    )
    key: Text = field("Key inside the Secret.", "token", "token")


class Metadata(Model):
    name: DnsLabel = field("Name of the service; the names of its objects start with it.", "support-chat")
    labels: dict[str, Text] = field(
        "Labels for every object and pod of the service: team, cost centre.", {"team": "support"}, {}
    )


# --- model


class Shape(Model):
    """The sizes of a model, as its config.json has them."""

    short_schema: ClassVar[dict[str, Any]] = {"type": "string"}  # a path, which loading.py replaces by what it reads

    layers: Positive = field("Transformer layers (num_hidden_layers).", 32)
    hidden: Positive = field("Width of the residual stream (hidden_size).", 4096)
    heads: Positive = field("Attention heads (num_attention_heads).", 32)
    vocab: Positive = field("Vocabulary size (vocab_size).", 128256)
    maxModelLen: Positive = field("Longest context the model was made for (max_position_embeddings), tokens.", 131072)
    parameters: Positive | None = field("Number of parameters. Default: computed from the sizes.", 8030261248, None)
    kvHeads: Positive | None = field("Key/value heads (num_key_value_heads). Default: heads.", 8, None)
    headDim: Positive | None = field("Width of one head (head_dim). Default: hidden / heads.", 128, None)
    intermediate: Positive | None = field("Width of the MLP (intermediate_size). Default: 4 x hidden.", 14336, None)
    dtype: Literal["float32", "float16", "bfloat16", "fp8", "int8", "int4", "mxfp4"] = field(
        "Type of the stored weights (torch_dtype, or the quantisation's).", "bfloat16", "bfloat16"
    )
    experts: Count = field("Experts per layer of a mixture of experts; 0 for a dense model.", 8, 0)
    expertsPerToken: Count = field("Experts that each token visits.", 2, 0)
    kvLoraRank: Count = field("Width of the compressed KV cache of multi-head latent attention; 0 without.", 512, 0)
    ropeHeadDim: Count = field("Width of the rotary part of that cache (qk_rope_head_dim).", 64, 0)


class CreateClaim(Model):
    size: Bytes = field("Size of the volume.", "200Gi")
    storageClass: DnsName | None = field("StorageClass. Default: the cluster's.", "premium-rwx", None)
    access: Literal["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"] = field(
        "Access mode; several replicas need ReadWriteMany or ReadOnlyMany.", "ReadWriteMany", "ReadWriteMany"
    )


class Cache(Model):
    claim: DnsName | None = field("An existing PersistentVolumeClaim that keeps weights.", "weights", None)
    create: CreateClaim | None = field("A claim that the service makes for itself.", {"size": "200Gi"}, None)
    path: Text = field("Folder inside the volume.", "/models", "/")


class Loading(Model):
    method: Literal["download", "engine", "stream"] = field(
        "How weights reach the GPU: `engine` - the engine reads them itself; `download` - an init container fetches them first;"
        " `stream` - the stream loader, straight into device memory.",
        "download",
        "engine",
    )
    cache: Cache | None = field("A volume that keeps weights over restarts.", {"claim": "weights"}, None)


class ModelSource(Model):
    uri: Uri = field(
        "Where the weights are: hf:// s3:// gs:// https:// pvc:// or file://.", "hf://meta-llama/Llama-3.1-8B-Instruct"
    )
    servedName: ServedName | None = field(
        "What clients send as `model`. Default: the last part of the uri.", "meta-llama/Llama-3.1-8B-Instruct", None
    )
    revision: Text = field("Branch, tag or commit; aibrix.lock pins a branch or tag to a commit.", "main", "main")
    credentials: SecretRef | None = field(
        "The Secret with the token that reads the weights.", {"secret": "hf-token"}, None
    )
    shape: Shape | None = field(
        "Sizes of a model that the catalog does not know, or the path of its config.json beside this file.",
        {"layers": 32, "hidden": 4096, "heads": 32, "kvHeads": 8, "vocab": 128256, "maxModelLen": 131072},
        None,
    )
    loading: Loading = field("How weights are loaded and kept.", {"method": "download"}, Loading)


# --- engine


class EnvVar(Short):
    short: ClassVar[str] = "value"
    short_schema: ClassVar[dict[str, Any]] = {"type": ["string", "number", "boolean"]}

    value: Text | None = field("The value, as text.", "WARNING", None)
    secret: DnsName | None = field("Or: name of a Secret in the service's namespace.", "engine-keys", None)
    key: Text | None = field("Key inside that Secret.", "token", None)


class Engine(Model):
    name: Literal["vllm", "mock"] = field("Inference engine; `mock` behaves like vLLM and needs no GPU.", "vllm")
    version: Version = field("Engine version; no default, so that a new compiler never restarts GPU pods.", "0.32.0")
    maxModelLen: Positive | None = field("Longest context served, tokens. Default: the model's own.", 16384, None)
    args: dict[str, Raw] = field(
        "Engine flags without the dashes, checked against those that this version knows.",
        {"gpu-memory-utilization": 0.9},
        {},
    )
    env: dict[str, EnvVar] = field(
        "Environment variables: text, or {secret, key}.", {"VLLM_LOGGING_LEVEL": "WARNING"}, {}
    )
    image: Image | None = field(
        "Container image, best with its digest. Default: the engine's own of this version.",
        "docker.io/vllm/vllm-openai:v0.32.0",
        None,
    )


# --- pools


class Replicas(Short):
    """`n` in the file is `{count: n}` here; a range needs a scaler to choose the number."""

    short: ClassVar[str] = "count"
    short_schema: ClassVar[dict[str, Any]] = {"type": "integer", "minimum": 0}

    count: Count | None = field("A fixed number.", 2, None)
    min: Count | None = field("Fewest replicas.", 1, None)
    max: Count | None = field("Most replicas.", 6, None)

    @property
    def low(self) -> int:
        return next((n for n in (self.count, self.min) if n is not None), 1)

    @property
    def high(self) -> int:
        return next((n for n in (self.count, self.max) if n is not None), self.low)


class Parallelism(Model):
    tensor: Positive = field("GPUs that share every layer.", 4, 1)
    pipeline: Positive = field("Stages that the layers are cut into.", 2, 1)
    data: Positive = field("Copies of the engine inside one replica.", 2, 1)

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


class Resources(Model):
    cpu: Millicores | None = field(
        "CPUs that one replica asks for. Default: the accelerator's share of its node.", 8, None
    )
    memory: Bytes | None = field(
        "Host memory of one replica, request and limit. Default: the accelerator's share.", "32Gi", None
    )
    ephemeralStorage: Bytes | None = field("Local disk of one replica. Default: room for the weights.", "100Gi", None)


class PodAccount(Model):
    annotations: dict[str, Text] = field(
        "Annotations of the pool's ServiceAccount, such as a cloud identity.",
        {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/weights"},
        {},
    )


class Pool(Model):
    accelerator: DnsName = field("Accelerator of the catalog, or of the environment.", "nvidia-l4")
    name: DnsLabel | None = field("Name of the pool. Default: the accelerator's.", "l4", None)
    replicas: Replicas = field("How many replicas: a number, or {min, max} with a scaler. Default: 1.", 2, Replicas)
    parallelism: Parallelism = field("How one replica spreads over GPUs.", {"tensor": 4}, Parallelism)
    role: Literal["serve", "prefill", "decode"] = field("What the replicas do.", "serve", "serve")
    resources: Resources = field("CPU, memory and disk of one replica.", {"cpu": 8, "memory": "32Gi"}, Resources)
    spot: Bool = field("Run on interruptible nodes.", True, False)
    serviceAccount: PodAccount = field(
        "Annotations of the pool's ServiceAccount.",
        {"annotations": {"iam.gke.io/gcp-service-account": "w@p.iam.gserviceaccount.com"}},
        PodAccount,
    )
    priorityClass: DnsName | None = field("PriorityClass of the pods.", "production", None)
    imagePullSecrets: list[DnsName] = field("Secrets that pull the images.", ["registry"], [])
    template: FreeMap = field(
        "Escape hatch: merged into the pod template by the overlay rule.", {"spec": {"dnsPolicy": "ClusterFirst"}}, {}
    )


# --- scaling


class Hpa(Model):
    metric: Text = field("Metric to follow.", "requests_in_flight", "requests_in_flight")
    target: ScaleTarget = field("What the metric shall be.", "12 per replica")


class Kpa(Model):
    metric: Text = field("Metric to follow.", "requests_in_flight", "requests_in_flight")
    target: ScaleTarget = field("What the metric shall be.", "12 per replica")
    stableWindow: DurationMs = field("Window of ordinary decisions.", "60s", 60_000)
    panicWindow: DurationMs = field("Window that notices a burst.", "6s", 6_000)


class Apa(Model):
    metric: Text = field("Metric to follow.", "kv_cache_usage", "requests_in_flight")
    target: ScaleTarget = field("What the metric shall be.", "50%")
    tolerance: Ratio = field("Band around the target in which nothing changes.", "10%", 0.1)
    downWindow: DurationMs = field("How long a lower need must last before replicas go.", "300s", 300_000)


class Slo(Model):
    utilization: Ratio = field("How full replicas may be while the objective holds.", "70%", 0.7)
    downWindow: DurationMs = field("How long a lower need must last before replicas go.", "300s", 300_000)


class ScalingStrategy(Choice):
    what: ClassVar[str] = "scaling strategy"

    none: Nothing | None = field("Git owns the number.", {}, None)
    hpa: Hpa | None = field(
        "Kubernetes' HorizontalPodAutoscaler.", {"metric": "requests_in_flight", "target": "12 per replica"}, None
    )
    kpa: Kpa | None = field(
        "Stable and panic windows, as Knative does.", {"metric": "requests_in_flight", "target": "12 per replica"}, None
    )
    apa: Apa | None = field(
        "Follows a per-replica mean with a tolerance band.", {"metric": "kv_cache_usage", "target": "50%"}, None
    )
    slo: Slo | None = field("Sizes the pools so that the service's slo holds.", {"utilization": "70%"}, None)


Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


class Schedule(Model):
    days: list[Day] = field("Days of the week.", ["Mon", "Tue"], ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
    start: TimeOfDay = field("Begin, local time.", "08:00", alias="from")
    to: TimeOfDay = field("End, local time; before `from` it is on the next day.", "19:00")
    timezone: Timezone = field("Time zone of the schedule.", "Europe/Berlin", "UTC")
    min: Count | None = field("Fewest replicas of the service meanwhile.", 2, None)
    max: Count | None = field("Most replicas of the service meanwhile.", 8, None)


class Budget(Model):
    maxGPUs: Positive | None = field("Most GPUs of the service.", 8, None)
    maxCostPerHour: Cost | None = field("Most money per hour, at the prices of the environment.", "20 USD", None)


class Scaling(Model):
    strategy: ScalingStrategy = field(
        "Who chooses the number of replicas.", "slo", lambda: ScalingStrategy.model_validate("none")
    )
    schedules: list[Schedule] = field(
        "Bounds by time of day.", [{"days": ["Mon"], "from": "08:00", "to": "19:00", "min": 2}], []
    )
    budget: Budget | None = field("Limits of the whole service.", {"maxGPUs": 8}, None)
    scaleToZeroAfter: DurationMs | None = field(
        "Idle time after which the last replica goes; needs a pool with min 0.", "15m", None
    )
    warmPool: Count = field("Loaded replicas kept idle for bursts.", 1, 0)
    seasonal: Bool = field("Use the same time yesterday and last week as a floor.", True, False)


# --- routing


class Session(Model):
    header: Text | None = field("Request header that names the session.", "x-session-id", None)
    cookie: Text | None = field("Cookie that names the session.", "session", None)


class Custom(Model):
    function: Text = field(
        "Python function (request, endpoints, now) -> scores, as package.module:function.", "acme_routing.scores:score"
    )
    source: Text | None = field(
        "File with that module, relative to this one; it is mounted into the picker. Default: its image has the module.",
        "scores.py",
        None,
    )


class RoutingStrategy(Choice):
    what: ClassVar[str] = "routing strategy"

    leastRequest: Nothing | None = field("Fewest requests in flight.", {}, None, alias="least-request")
    random: Nothing | None = field("Any replica.", {}, None)
    cost: Nothing | None = field("Least predicted time, for this request and for the others.", {}, None)
    prefixCache: Nothing | None = field("Longest cached prefix.", {}, None, alias="prefix-cache")
    leastKvCache: Nothing | None = field("Least KV cache in use.", {}, None, alias="least-kv-cache")
    loraAffinity: Nothing | None = field("A replica that has the adapter.", {}, None, alias="lora-affinity")
    session: Session | None = field("The same replica for a session.", {"header": "x-session-id"}, None)
    weighted: dict[str, Number] | None = field(
        "Weighted mean of other strategies.", {"prefix-cache": 2, "least-request": 1}, None
    )
    custom: Custom | None = field("A function of yours.", {"function": "acme_routing.scores:score"}, None)


class Retries(Model):
    attempts: Count = field("Further tries on another replica; never after an answer has begun.", 2, 2)
    when: list[Text] = field(
        "Conditions of a retry.", ["connect-failure", "503"], ["connect-failure", "refused-stream", "reset", "503"]
    )


class Hold(Model):
    maxWait: DurationMs = field("Longest time that a request waits for a replica or an adapter.", "180s", 60_000)
    maxRequests: Positive = field("Most requests held at once.", 256, 256)
    maxBytes: Bytes = field("Most bytes of held requests.", "64Mi", 64 * 2**20)


class Canary(Model):
    service: DnsLabel = field("The service that gets the share.", "support-chat-next")
    weight: Ratio = field("Its share of the requests.", "10%")


class Routing(Model):
    strategy: RoutingStrategy = field(
        "How a replica is chosen.", "cost", lambda: RoutingStrategy.model_validate("cost")
    )
    fallback: Literal["least-request", "random"] = field(
        "Used, and reported, when the strategy's inputs are missing.", "least-request", "least-request"
    )
    timeout: DurationMs = field("Longest whole answer.", "300s", 300_000)
    idleTimeout: DurationMs = field("Longest gap between two parts of an answer; it bounds TTFT too.", "120s", 120_000)
    retries: Retries = field("When a request is tried again.", {"attempts": 2}, Retries)
    hold: Hold | None = field("Hold requests that must wait, instead of refusing them.", {"maxWait": "180s"}, None)
    whenPickerDown: Literal["serve", "refuse"] = field(
        "Serve by the fallback, or refuse, while no picker answers.", "serve", "serve"
    )
    canary: Canary | None = field(
        "Another service that gets a share of the requests.", {"service": "chat-next", "weight": "10%"}, None
    )
    spillTo: DnsLabel | None = field("Another service that takes over when no replica is left.", "chat-small", None)
    priority: list[Text] = field(
        "Classes of header x-priority, highest first; the lowest is shed first.", ["interactive", "batch"], []
    )


# --- adapters


class Limits(Model):
    maxLoaded: Positive = field("GPU slots per replica (max_loras).", 8, 8)
    maxCached: Positive = field("Host-memory slots per replica (max_cpu_loras).", 64, 32)
    maxRank: LoraRank = field("Largest rank served (max_lora_rank).", 32, 16)


class AdapterReplicas(Short):
    short: ClassVar[str] = "count"
    short_schema: ClassVar[dict[str, Any]] = {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]}

    count: AllOrCount | None = field("`all`, or how many replicas hold it at least.", "all", None)
    min: Count | None = field("How many replicas hold it at least.", 1, None)


class Adapter(Model):
    name: AdapterName = field("What clients send as `model`.", "refunds-v3")
    uri: Uri = field("Where the adapter is, in PEFT format.", "s3://adapters/refunds/v3")
    replicas: AdapterReplicas | None = field("Where it is kept loaded: all, n, or {min: n}.", "all", None)
    rank: Positive | None = field("Its rank. Default: what aibrix.lock read from the adapter.", 16, None)
    modules: list[Text] = field("Modules that it changes, to be checked against the model.", ["q_proj", "v_proj"], [])
    priority: Count = field("Placed first when room is short; higher is first.", 10, 0)
    digest: Text | None = field("Hash of its files; a changed digest is rolled out.", "sha256:" + "0" * 64, None)
    credentials: SecretRef | None = field(
        "The Secret that reads it. Default: the model's.", {"secret": "adapters-s3"}, None
    )


class Adapters(Model):
    limits: Limits = field("Room for adapters on one replica.", {"maxLoaded": 8, "maxRank": 32}, Limits)
    whenMissing: Literal["hold", "reject", "base"] = field(
        "A request for an adapter that no replica has yet: wait as routing.hold bounds it (its defaults if not written), refuse, or answer with the base model and say so.",
        "hold",
        "reject",
    )
    items: list[Adapter] = field("The adapters.", [{"name": "refunds-v3", "uri": "s3://adapters/refunds/v3"}], [])
    include: list[Text] = field(
        "Files with further items, relative to this file; globs allowed.", ["adapters/*.yaml"], []
    )


# --- access, objectives, load, rollout, monitoring


class TenantAccess(Model):
    name: DnsLabel = field("Tenant of the environment.", "acme")
    adapters: list[AdapterName] | None = field("Adapters that it may use. Default: all.", ["refunds-v3"], None)


class Access(Model):
    tenants: list[TenantAccess] = field("Who may use the service.", [{"name": "acme"}])


Percentiles = dict[Literal["p50", "p90", "p95", "p99", "p99.9"], DurationMs]


class Objectives(Model):
    ttft: Percentiles = field("Time to first token.", {"p99": "2s"}, {})
    itl: Percentiles = field("Time between tokens.", {"p95": "80ms"}, {})
    e2e: Percentiles = field("Whole answer.", {"p99": "30s"}, {})


class Workload(Model):
    inputTokens: Positive = field("Mean prompt, tokens.", 1200)
    outputTokens: Positive = field("Mean answer, tokens.", 250)
    requestsPerSecond: Number = field("Mean rate at peak hours.", 12)


class Rollout(Model):
    maxUnavailable: CountOrPercent | None = field("Replicas that may be missing meanwhile. Default: by quota.", 0, None)
    maxSurge: CountOrPercent | None = field("Replicas above the number meanwhile. Default: by quota.", 1, None)


class Monitoring(Model):
    podMonitor: Bool = field("Emit a PodMonitor.", True, False)
    alerts: Bool = field("Emit alert rules derived from `slo`.", True, False)
    dashboard: Bool = field("Emit a Grafana dashboard.", True, False)


class ServiceSpec(Model):
    model: ModelSource = field("What is served.", {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"})
    engine: Engine = field("What serves it.", {"name": "vllm", "version": "0.32.0"})
    pools: list[Pool] = field(
        "Sets of identical replicas, each on one accelerator.", [{"accelerator": "nvidia-l4", "replicas": 2}]
    )
    scaling: Scaling | None = field("Who chooses the number of replicas. Default: Git.", {"strategy": "slo"}, None)
    routing: Routing = field("How requests reach replicas.", {"strategy": "cost"}, Routing)
    adapters: Adapters | None = field(
        "LoRA adapters on the base model.", {"items": [{"name": "a", "uri": "s3://adapters/a"}]}, None
    )
    access: Access | None = field(
        "Who may use the service. Default: every tenant of the environment.", {"tenants": [{"name": "acme"}]}, None
    )
    slo: Objectives | None = field("Objectives: percentile -> duration.", {"ttft": {"p99": "2s"}}, None)
    workload: Workload | None = field(
        "Expected load.", {"inputTokens": 1200, "outputTokens": 250, "requestsPerSecond": 12}, None
    )
    rollout: Rollout = field("How a change is rolled out.", {"maxUnavailable": 0, "maxSurge": 1}, Rollout)
    monitoring: Monitoring = field(
        "Monitoring objects; they need the Prometheus operator.", {"alerts": True}, Monitoring
    )


class ModelService(Model):
    apiVersion: Literal["serving.aibrix.ai/v1alpha1"] = field("Version of the language.", API_VERSION)
    kind: Literal["ModelService"] = field("Kind of the document.", "ModelService")
    metadata: Metadata = field("Name and labels.", {"name": "chat"})
    spec: ServiceSpec = field(
        "The service.",
        {
            "model": {"uri": "hf://openai/gpt-oss-20b"},
            "engine": {"name": "vllm", "version": "0.32.0"},
            "pools": [{"accelerator": "nvidia-l4", "replicas": 2}],
        },
    )
