"""The sidecar beside the engine: what it is told, what it may read, how much disk it has.

Its configuration may change while it runs - a new adapter from another bucket, another caller - so it is no part of what pods
are restarted for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.emit import json_text
from aibrix_compile.passes.draft import Draft, size_text
from aibrix_compile.passes.engine import PORT as PORT_OF_ENGINE
from aibrix_compile.passes.monitoring import ROLES
from aibrix_compile.passes.routing import SIGNALS
from aibrix_compile.passes.sizing import adapter_bytes
from aibrix_compile.plan import RuntimePlan
from aibrix_compile.policy import artifacts

PORT = 8080
CLAIMS = "/mnt/claims"
AUDIENCE = "aibrix-runtime"
_GIB = 2**30
_LEAST_DISK, _LEAST_ADAPTER = 2 * _GIB, 64 * 2**20
_WIDER = 4  # times the largest adapter of its rank: float32, and embeddings
_PATH: Path = ("spec", "adapters")


def plan(draft: Draft) -> Iterator[Problem]:
    """Where the project has an image of it."""
    site, shape = draft.site, draft.shape
    assert shape is not None and draft.engine is not None
    if not site.runtime:
        return
    wanted = draft.adapters
    largest = adapter_bytes(shape, wanted.max_rank) if wanted else 0
    disk = _disk(largest, wanted.max_cached) if wanted else 0
    items = wanted.items if wanted else ()
    places = [artifacts.parse(item.uri) for item in items]
    claims = tuple(sorted({place.host for place in places if place.scheme == "pvc"}))
    s3 = site.environment.storage.s3
    config = {
        "engine": {
            "kind": draft.spec.engine.name,
            "url": f"http://127.0.0.1:{PORT_OF_ENGINE}",
            "model": draft.served_name,
        },
        "base": {
            "layers": shape.layers,
            "hidden": shape.hidden,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "intermediate": shape.intermediate,
            "vocab": shape.vocab,
            "experts": shape.experts,
            "mla": shape.kv_lora_rank > 0,
        },
        "adapters": {
            "max_loaded": wanted.max_loaded,
            "max_cached": wanted.max_cached,
            "max_rank": wanted.max_rank,
            "folder": "/adapters",
            "disk_bytes": disk,
            "max_bytes": max(_LEAST_ADAPTER, _WIDER * largest),
            "allow": sorted({artifacts.root(place) for place in places}),
        }
        if wanted
        else None,
        "metrics": {role: name for role, name in (ROLES | SIGNALS).items() if draft.engine.metric(name) is not None},
        "storage": {"s3": {"endpoint": s3.endpoint, "region": s3.region or ""} if s3 else None},
        "claims": {name: f"{CLAIMS}/{name}" for name in claims},
        "models": {"folder": "/run/aibrix/models", "allow": []},
        "access": {"audience": AUDIENCE, "subjects": _subjects(draft)},
    }
    secrets = tuple(sorted({item.secret for item in items if item.secret}))
    draft.runtime = RuntimePlan(site.runtime, PORT, json_text(config), secrets, claims, disk)
    if wanted:
        reason = f"{wanted.max_cached} cached adapters and a fourth of them to come, {size_text(largest)} each at rank {wanted.max_rank}"
        draft.decide((*_PATH, "limits"), f"{size_text(disk)} of disk for adapters", reason)
    yield from ()


def _disk(largest: int, cached: int) -> int:
    return max(_LEAST_DISK, math.ceil(largest * (cached + max(4, cached // 4)) / _GIB) * _GIB)


def _subjects(draft: Draft) -> dict[str, list[str]]:
    """Who may call, by ServiceAccount. The names are those of `platform`."""
    environment = draft.site.environment
    found = {
        f"system:serviceaccount:{environment.namespace}:aibrix-adapters": ["read", "load"],
        f"system:serviceaccount:{environment.namespace}:aibrix-scaler": ["read"],
    }
    if environment.gateway is not None:
        found[f"system:serviceaccount:{environment.gateway.namespace}:aibrix-picker"] = ["read"]
    return found


def missing(draft: Draft) -> Iterator[Problem]:
    """Adapters and numbers of replicas without what acts on them: only a build has to know."""
    site, spec = draft.site, draft.spec
    wanted: list[tuple[Path, str, str]] = []
    if spec.adapters is not None and spec.adapters.items:
        wanted.append((_PATH, "the sidecar that loads adapters", "the controller that places adapters"))
    if spec.scaling is not None and spec.scaling.strategy.name not in ("none", "hpa"):
        wanted.append((("spec", "scaling"), "the sidecar that tells a replica's load", "the controller that scales"))
    for path, sidecar, controller in wanted:
        for name, image, what in (("runtime", site.runtime, sidecar), ("controllers", site.controllers, controller)):
            if not image:
                message = f"no image is known of {what}, and none is published yet"
                folder = "runtime_images/runtime" if name == "runtime" else "controllers/"
                hint = f"set spec.images.{name} in aibrix.yaml to one that you built from {folder}"
                yield Problem("AC502", path, message, hint, at_key=True)
