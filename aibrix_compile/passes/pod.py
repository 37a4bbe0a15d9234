"""The pod: its disk, its environment, its share of the node, and how long it takes to start and to stop.

A replica is stopped in this order: it leaves the Service's endpoints; the preStop hook waits until that is known everywhere
and until no request is running or waiting; then the engine gets SIGTERM. The grace period covers the longest answer.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes.draft import Draft, PoolDraft, size_text
from aibrix_compile.passes.engine import PORT
from aibrix_compile.passes.hardware import MOCK
from aibrix_compile.passes.routing import picker_reason
from aibrix_compile.passes.weights import MODEL_FOLDER
from aibrix_compile.plan import Prefetch, Storage, Variable, Volume

SCRATCH = "/scratch"
CONFIG_FOLDER = "/etc/aibrix"
DRAIN = "drain.py"
_GIB = 2**30
_PROPAGATION = 15  # seconds until endpoints and proxies have forgotten a pod that terminates
_NAMES = 35  # and names, which CoreDNS keeps for 30 s
_MARGIN = 15  # seconds for the engine to exit after SIGTERM
_READ = 100e6  # bytes per second that a store or disk gives at worst to each process that reads weights
_WARM_UP = 240  # seconds: imports, compilation, graph capture, profiling run
_PULL = 600  # seconds to pull a 10 GB image
_ROOM = 20 * _GIB  # disk for compile caches, temporary files and logs
_SHARE = 0.8  # of a node's CPU and memory; the rest is the system's and the daemons'

DRAIN_SCRIPT = f'''"""Wait until this replica has no request left; run by the kubelet before it stops the engine."""
import sys, time, urllib.request

propagation, limit = float(sys.argv[1]), float(sys.argv[2])
start, idle = time.monotonic(), 0
try:
    open("/run/aibrix/draining", "x").close()  # the sidecar, where there is one, tells whoever sends requests
except OSError:
    pass
time.sleep(propagation)  # new requests still come until everybody knows that the pod leaves
while time.monotonic() - start < limit and idle < 2:
    try:
        page = urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics", timeout=5).read().decode()
    except OSError:
        break  # the engine is gone
    rows = [row for row in page.splitlines() if row.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))]
    busy = sum(float(row.rsplit(None, 1)[1]) for row in rows if "_by_reason" not in row)
    idle = 0 if busy else idle + 1
    time.sleep(1)
'''

_FETCH = """import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], revision=sys.argv[2], local_dir=sys.argv[3])
"""


_SECRET = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_KEY|CREDENTIALS?)($|_ID$)")


def environment(draft: Draft) -> Iterator[Problem]:
    """engine.env: each variable is text or comes from a Secret, and is not one that the pod relies on."""
    for name, wanted in draft.spec.engine.env.items():
        path: Path = ("spec", "engine", "env", name)
        if not name.replace("_", "a").isalnum() or not name.isascii() or name[0].isdigit():
            yield Problem(
                "AC215",
                path,
                f'"{name}" is no name of an environment variable',
                "use letters, digits and _",
                at_key=True,
            )
        elif name in _OWNED or (draft.site.runtime and name in TOLD):
            yield Problem("AC215", path, f"{name} belongs to the compiler", "remove it", at_key=True)
        elif wanted.value is not None and _SECRET.search(name):
            message = f"{name} is a secret by its name, and its text stands in Git"
            yield Problem("AC236", path, message, "keep it in a Secret: {secret: name, key: entry}")
        elif (wanted.value is None) == (wanted.secret is None) or (wanted.key is not None and wanted.secret is None):
            yield Problem(
                "AC215", path, f"{name} has not exactly one source", "write its text, or {secret: name, key: entry}"
            )
        elif wanted.secret is not None and wanted.key is None:
            yield Problem(
                "AC215", path, f"{name} does not say which entry of the Secret it is", "add key: the entry's name"
            )


_WRITABLE = {  # everything that processes write lies on the scratch volume
    "HOME": SCRATCH,
    "USER": "engine",  # the image knows no user 1000, and torch asks for its name
    "LOGNAME": "engine",
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "HF_HOME": f"{SCRATCH}/huggingface",
    "VLLM_CACHE_ROOT": f"{SCRATCH}/vllm",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    "VLLM_NO_USAGE_STATS": "1",
}
RUN = "/run/aibrix"
TOLD = {"PYTHONPATH": f"{RUN}/plugins", "AIBRIX_LOAD_SOCKET": f"{RUN}/load.sock"}
"""The plugin that tells the sidecar of the engine's load, and where."""
_FETCHING = {name: _WRITABLE[name] for name in ("HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME")}
_OWNED = {
    *_WRITABLE,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
}


def variables(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """What the engine finds in its environment; a cache that the engine fills itself is its Hugging Face home."""
    cache = draft.spec.model.loading.cache
    kept = cache is not None and draft.spec.model.loading.method == "engine" and draft.spec.engine.name != MOCK
    home = {"HF_HOME": f"{MODEL_FOLDER}{cache.path.rstrip('/')}/huggingface"} if cache and kept else {}
    loras = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if draft.spec.adapters else {}
    told = TOLD if draft.site.runtime and draft.spec.engine.name != MOCK else {}
    found = _fixed(_WRITABLE | home | loras | told) + _credentials(draft)
    for name, wanted in sorted(draft.spec.engine.env.items()):
        path: Path = ("spec", "engine", "env", name)
        found.append(Variable(name, path, wanted.value or "", wanted.secret or "", wanted.key or ""))
    pool.variables = tuple(found)
    yield from ()


def _fixed(values: Mapping[str, str]) -> list[Variable]:
    return [Variable(name, ("spec", "engine"), value) for name, value in values.items()]


def _credentials(draft: Draft) -> list[Variable]:
    model, path = draft.spec.model, ("spec", "model", "credentials")
    scheme = model.uri.partition("://")[0]
    found = []
    if scheme == "hf" and model.credentials is not None:
        found.append(Variable("HF_TOKEN", path, secret=model.credentials.secret, key=model.credentials.key))
    if scheme == "s3":
        if (secret := model.credentials) is not None:
            found += [
                Variable(name, path, secret=secret.secret, key=name)
                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            ]
        if (site := draft.site.environment.storage.s3) is not None:
            found.append(Variable("AWS_ENDPOINT_URL", ("spec", "model", "uri"), site.endpoint))
            if site.region is not None:
                found.append(Variable("AWS_DEFAULT_REGION", ("spec", "model", "uri"), site.region))
    return found


def storage(draft: Draft) -> Iterator[Problem]:
    """A claim that keeps weights over restarts, filled by a Job (download) or by the engine itself."""
    model, wanted = draft.spec.model, draft.spec.model.loading.cache
    if wanted is None or draft.spec.engine.name == MOCK:
        return
    prefetch = None
    if model.loading.method == "download":
        target = draft.model_argument
        command = ("python3", "-c", _FETCH, model.uri.partition("://")[2], draft.revision, target)
        prefetch = Prefetch(command, tuple(_fixed(_FETCHING) + _credentials(draft)))
    made, mount = wanted.create, MODEL_FOLDER
    claim = wanted.claim or f"{draft.metadata.name}-weights"
    deadline = math.ceil(2 * (_PULL + draft.weight_bytes / _READ) / 600) * 600  # twice what it takes at worst
    if made is None:
        draft.storage = Storage(claim, 0, "", "", mount, prefetch, deadline)
    else:
        draft.storage = Storage(claim, made.size, made.storageClass or "", made.access, mount, prefetch, deadline)
        if made.size < draft.weight_bytes * 1.05:
            path: Path = ("spec", "model", "loading", "cache", "create", "size")
            hint = f"write at least {math.ceil(draft.weight_bytes * 1.1 / _GIB)}Gi"
            yield Problem(
                "AC301",
                path,
                f"{size_text(draft.weight_bytes)} of weights do not fit into {size_text(made.size)}",
                hint,
            )


def volumes(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """Disk: a scratch volume for all that is written, the model's folder, shared memory, the scripts."""
    model = draft.spec.model
    ours: Path = ("spec", "engine")
    kept, mock = draft.storage, draft.spec.engine.name == MOCK
    on_disk = 0 if kept or mock or not model.uri.startswith("hf://") else int(draft.weight_bytes * 1.1)
    download = model.loading.method == "download"
    found = [
        Volume("scratch", "scratch", SCRATCH, ours, size=_round(_ROOM + (0 if download else on_disk))),
        Volume("tmp", "scratch", "/tmp", ours, size=4 * _GIB),
        Volume("config", "config", CONFIG_FOLDER, ours, source=f"{draft.metadata.name}-engine", read_only=True),
    ]
    if pool.pod_gpus > 1:
        found.append(Volume("shm", "memory", "/dev/shm", (*pool.path, "parallelism"), size=4 * _GIB))
    if kept is not None:
        cache: Path = ("spec", "model", "loading", "cache")
        found.append(Volume("model", "claim", MODEL_FOLDER, cache, source=kept.claim, read_only=download))
    elif model.uri.startswith("pvc://"):
        claim = model.uri.partition("://")[2].partition("/")[0]
        found.append(Volume("model", "claim", MODEL_FOLDER, ("spec", "model", "uri"), source=claim, read_only=True))
    elif download and not mock:
        found.append(
            Volume("model", "scratch", MODEL_FOLDER, ("spec", "model", "loading", "method"), size=_round(on_disk))
        )
        command = ("python3", "-c", _FETCH, model.uri.partition("://")[2], draft.revision, MODEL_FOLDER)
        pool.prefetch = Prefetch(command, tuple(_fixed(_FETCHING) + _credentials(draft)))
    pool.volumes = tuple(found)
    yield from ()


def template(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The escape hatch is used in the open: it is merged in last, and only the closure check reads the result."""
    if pool.spec.template:
        message = "the template changes the pod past all checks of the compiler"
        hint = "prefer a field of the language; `aibrix-compile explain pools` lists them"
        yield Problem("AC227", (*pool.path, "template"), message, hint, severity=Severity.WARNING, at_key=True)


def config(draft: Draft) -> Iterator[Problem]:
    """Files that pods mount; their hash is the only thing of a ConfigMap that restarts a pod."""
    draft.config = {DRAIN: DRAIN_SCRIPT}
    yield from ()


def config_hash(draft: Draft) -> str:
    text = "\0".join(f"{name}\0{content}" for name, content in sorted(draft.config.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resources(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """CPU, memory and disk of one replica: as written, else the GPUs' share of their node."""
    card, wanted = pool.accelerator, pool.spec.resources
    assert card is not None
    path = (*pool.path, "resources")
    if draft.spec.engine.name == MOCK:
        cpu, memory, because = 1000, _GIB, "the mock engine needs little"
    else:
        gpus = pool.pod_gpus
        cpu = max(1000, int(gpus * card.cpu_per_gpu * _SHARE) * 1000)
        memory = max(_GIB, int(gpus * card.host_memory_gib_per_gpu * _SHARE) * _GIB)
        because = f"{_SHARE:.0%} of what a node of {card.name} has for {gpus} of its {card.gpus_per_node} GPUs"
    pool.cpu, pool.memory = wanted.cpu or cpu, wanted.memory or memory
    disk = sum(v.size for v in pool.volumes if v.kind == "scratch")
    pool.ephemeral_storage = wanted.ephemeralStorage or disk + 2 * _GIB
    if wanted.cpu is None:
        draft.decide((*path, "cpu"), f"{cpu / 1000:g}", because)
    if wanted.memory is None:
        draft.decide((*path, "memory"), size_text(memory), because)
    if wanted.ephemeralStorage is None:
        draft.decide(
            (*path, "ephemeralStorage"), size_text(pool.ephemeral_storage), "the scratch volumes and 2 GiB for logs"
        )
    elif wanted.ephemeralStorage < disk:
        message = f"{size_text(wanted.ephemeralStorage)} of local disk are less than the {size_text(disk)} that the pod keeps there"
        yield Problem("AC301", (*path, "ephemeralStorage"), message, f"write at least {math.ceil(disk / _GIB)}Gi")
    shared = sum(v.size for v in pool.volumes if v.kind == "memory")
    if pool.memory <= shared:
        message = f"{size_text(pool.memory)} of memory are not more than the {size_text(shared)} of shared memory in it"
        yield Problem("AC301", (*path, "memory"), message, f"write at least {math.ceil(shared / _GIB) * 2}Gi")


def times(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """Start-up: weights at 100 MB/s and warm-up. Stop: the longest answer and what surrounds it."""
    weights = 0 if draft.spec.engine.name == MOCK else draft.weight_bytes
    read, fetch = weights / _READ / max(1, pool.gpus), weights / _READ * (pool.prefetch is not None)
    pool.startup_seconds = _tens(_WARM_UP + read)
    pool.progress_deadline_seconds = math.ceil((pool.startup_seconds + fetch + _PULL) / 60) * 60
    answer = math.ceil(draft.spec.routing.timeout / 1000)
    forgotten = propagation(draft)
    pool.drain_seconds = forgotten + answer
    pool.grace_seconds = pool.drain_seconds + _MARGIN
    draft.decide(
        pool.path,
        f"{pool.startup_seconds} s to start, {pool.grace_seconds} s to stop",
        f"start: {_WARM_UP} s to warm up, {read:.0f} s to read {size_text(weights)} at 100 MB/s for each GPU",
        f"stop: {forgotten} s to leave the endpoints, {answer} s for the longest answer (routing.timeout), {_MARGIN} s to exit",
    )
    yield from ()


def propagation(draft: Draft) -> int:
    """Seconds until nobody sends to a pod that terminates. A picker knows at once, and so does Envoy where a sidecar
    says that it drains; Envoy alone trusts names."""
    alone = draft.site.environment.gateway is not None and not picker_reason(draft) and not draft.site.runtime
    return _NAMES if alone else _PROPAGATION


def _round(size: int) -> int:
    return math.ceil(size / _GIB) * _GIB


def _tens(seconds: float) -> int:
    return math.ceil(seconds / 10) * 10
