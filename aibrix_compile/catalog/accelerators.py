"""GPUs by catalog name: what fits on one, how fast it is, which nodes have it, what it costs.

Why it exists: a spec names an accelerator and nothing else; memory, node labels, default resources and prices follow
from the name, and an environment overrides what is different there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from aibrix_compile.catalog.data import load


@dataclass(frozen=True, slots=True)
class Price:
    """A public list price of one GPU for an hour, with its share of the node. `date`: when it was read, year-month."""

    amount: float
    currency: str
    date: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Accelerator:
    name: str
    vendor: str
    product: str
    resource: str
    """The Kubernetes resource that a device plugin offers."""
    memory_mib: int
    """What nvidia-smi or rocm-smi reports as total, not the data sheet's round number."""
    bandwidth_gbps: float
    """Memory bandwidth, 10^9 bytes a second."""
    link_gbps: float
    """To the other GPUs of the node in one direction, 10^9 bytes a second: NVLink, Infinity Fabric, else PCIe."""
    tflops: Mapping[str, float]
    """Dense peak by dtype; a dtype that the hardware does not have is absent."""
    gpus_per_node: int
    """Of the largest common machine."""
    cpu_per_gpu: int
    host_memory_gib_per_gpu: int
    """With `cpu_per_gpu`: the least share that the large clouds' common machines give one GPU."""
    labels: Mapping[str, Mapping[str, str]]
    """Node labels by platform: gke, eks (Karpenter), aks, nfd (a vendor's discovery). No key: not offered there."""
    price: Price | None
    source: str


@cache
def _all() -> Mapping[str, Accelerator]:
    return {name: _accelerator(name, entry) for name, entry in load("accelerators.json").items()}


def _accelerator(name: str, entry: Mapping[str, Any]) -> Accelerator:
    price = Price(**entry["price"]) if entry["price"] else None
    return Accelerator(**{**entry, "name": name, "price": price})


def find(name: str) -> Accelerator | None:
    return _all().get(name)


def names() -> tuple[str, ...]:
    return tuple(sorted(_all()))
