"""Hardware: which nodes a pool runs on, how many GPUs one replica takes and what it costs."""

import difflib
from collections.abc import Iterator, Mapping

from aibrix_compile.catalog import accelerators
from aibrix_compile.diagnostics import Problem, Severity
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.spec.project import AcceleratorSite

MOCK = "mock"
LEADER_WORKER_SET = "leaderworkerset.x-k8s.io/v1"

_SPOT = {  # how providers mark interruptible nodes, known by the labels of their accelerators
    "cloud.google.com/": ("cloud.google.com/gke-spot", "true"),
    "karpenter.": ("karpenter.sh/capacity-type", "spot"),
    "eks.amazonaws.com/": ("eks.amazonaws.com/capacityType", "SPOT"),
    "kubernetes.azure.com/": ("kubernetes.azure.com/scalesetpriority", "spot"),
}


def accelerator(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The accelerator by the environment's word, else the catalog's."""
    name = pool.spec.accelerator
    local = draft.site.environment.accelerators
    pool.site = local.get(name, AcceleratorSite())
    pool.accelerator = accelerators.find(pool.site.like or name)
    if pool.accelerator is None:
        known = sorted({*accelerators.names(), *local})
        near = difflib.get_close_matches(name, known, 1, 0.6)
        if pool.site.like is not None or name in local:
            what = f'the catalog does not know "{pool.site.like or name}", which aibrix.yaml names'
            yield Problem(
                "AC206", (*pool.path, "accelerator"), what, f"set like to one of {', '.join(accelerators.names())}"
            )
            return
        hint = (f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known)}"
        yield Problem(
            "AC206",
            (*pool.path, "accelerator"),
            f'there is no accelerator "{name}"',
            hint,
            fix=near[0] if near else None,
        )
        return
    pool.gpus = pool.spec.parallelism.gpus
    pool.gpus_per_node = pool.site.gpusPerNode or pool.accelerator.gpus_per_node
    pool.nodes = -(-pool.gpus // pool.gpus_per_node)
    if pool.nodes > 1:
        yield from _several_nodes(draft, pool)


def _several_nodes(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """A replica over several nodes is a group of pods, which LeaderWorkerSet makes."""
    path, parallel, nodes = (*pool.path, "parallelism"), pool.spec.parallelism, pool.nodes
    if parallel.data > 1 or pool.gpus % nodes:
        what = "copies of the engine" if parallel.data > 1 else f"{pool.gpus} GPUs"
        message = f"{what} can not be spread evenly over {nodes} nodes of {pool.gpus_per_node} GPUs"
        hint = f"keep data: 1 and use a multiple of {pool.gpus_per_node} GPUs, or stay within one node"
        yield Problem("AC503", path, message, hint)
    elif parallel.tensor > pool.gpus_per_node:
        message = f"tensor {parallel.tensor} spans nodes of {pool.gpus_per_node} GPUs: every layer waits for the network between them"
        hint = f"use tensor: {pool.gpus_per_node} and pipeline: {nodes}"
        yield Problem("AC307", (*path, "tensor"), message, hint, severity=Severity.WARNING)
    if not draft.site.declares(LEADER_WORKER_SET):
        message = f"a replica over {nodes} nodes needs {LEADER_WORKER_SET}, which environment {draft.site.environment.name} does not declare"
        hint = (
            f"install LeaderWorkerSet and add it to apis of the environment, or stay within {pool.gpus_per_node} GPUs"
        )
        yield Problem("AC507", path, message, hint)


def placement(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """Node selector, tolerations and price. The mock engine runs anywhere and costs no GPU."""
    card = pool.accelerator
    assert card is not None
    if draft.spec.engine.name == MOCK:
        pool.gpus, pool.nodes = 0, 1
        draft.decide(
            (*pool.path, "accelerator"), "no GPU", f"the mock engine imitates {card.name} and runs on any node"
        )
        return
    labels: Mapping[str, str] = card.labels.get("nfd", {}) if pool.site.nodeSelector is None else pool.site.nodeSelector
    pool.node_selector = dict(labels)
    if pool.site.nodeSelector is None:
        because = "the labels of the vendor's feature discovery; the environment's accelerators can say otherwise"
        draft.decide((*pool.path, "accelerator"), ", ".join(f"{k}={v}" for k, v in labels.items()), because)
    taint = {"key": card.resource, "operator": "Exists", "effect": "NoSchedule"}
    pool.tolerations = tuple(pool.site.tolerations) if "tolerations" in pool.site.model_fields_set else (taint,)
    if pool.spec.spot:
        mark = next((m for prefix, m in _SPOT.items() if any(key.startswith(prefix) for key in labels)), None)
        if mark is None:
            yield Problem(
                "AC505",
                (*pool.path, "spot"),
                "nothing says how this environment marks spot nodes",
                f"give accelerators.{pool.spec.accelerator}.nodeSelector of the environment its provider's labels (GKE, EKS, Karpenter or AKS)",
            )
            return
        pool.node_selector = {**labels, mark[0]: mark[1]}
        pool.tolerations += ({"key": mark[0], "operator": "Equal", "value": mark[1], "effect": "NoSchedule"},)
    price, source = _price(pool, pool.replicas)
    pool.cost_per_hour, (pool.cost_per_replica_hour, _) = price, _price(pool, 1)
    if price:
        draft.decide(
            (*pool.path, "replicas"), f"{price} per hour", f"{pool.gpus} GPUs x {pool.replicas} replicas at {source}"
        )


def _price(pool: PoolDraft, replicas: int) -> tuple[str, str]:
    count = pool.gpus * replicas
    if (money := pool.site.pricePerGPUHour) is not None:
        return f"{money.amount * count:.2f} {money.currency}", f"the environment's {money}"
    listed = pool.accelerator.price if pool.accelerator else None
    if listed is None:
        return "", ""
    return (
        f"{listed.amount * count:.2f} {listed.currency}",
        f"a list price of {listed.amount:g} {listed.currency} of {listed.date}",
    )
