"""Plan -> AdapterSets: the adapters of a service in sixteen buckets by a hash of their names.

One more adapter changes one object by a few lines, however many there are; ten thousand stay far below the size that the API
server takes. An adapter never moves between buckets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.backends.objects import SERVE, artifact, metadata, selector
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import AdapterItem, AdaptersPlan, ServicePlan

_ADAPTERS: Path = ("spec", "adapters")


def emit(service: ServicePlan) -> list[Artifact]:
    wanted = service.adapters
    if wanted is None:
        return []
    buckets: dict[str, list[AdapterItem]] = {}
    for item in sorted(wanted.items, key=lambda one: one.name):
        buckets.setdefault(_bucket(item.name), []).append(item)
    folder = f"{service.environment}/{service.name}"
    found = []
    for bucket, items in sorted(buckets.items()):
        sources: dict[Path, Source] = {
            (): Source(service.name, _ADAPTERS),
            ("spec", "limits"): Source(service.name, (*_ADAPTERS, "limits")),
        }
        for number, item in enumerate(items):
            sources[("spec", "items", number)] = Source(service.name, item.path)
        found.append(artifact(folder, _set(service, wanted, bucket, items), sources))
    return found


def externals(service: ServicePlan) -> Iterable[External]:
    for item in service.adapters.items if service.adapters else ():
        if item.secret:
            yield External("Secret", service.namespace, item.secret, Source(service.name, item.path))
    for claim in service.runtime.claims if service.runtime else ():
        yield External("PersistentVolumeClaim", service.namespace, claim, Source(service.name, _ADAPTERS))


def _bucket(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[0]


def _set(service: ServicePlan, wanted: AdaptersPlan, bucket: str, items: list[AdapterItem]) -> Object:
    # the definition may come with another Application: a dry run must not fail on it
    annotations = {"argocd.argoproj.io/sync-options": "SkipDryRunOnMissingResource=true"}
    return {
        "apiVersion": "serving.aibrix.ai/v1alpha1",
        "kind": "AdapterSet",
        "metadata": metadata(service, f"{service.name}-{bucket}", _ADAPTERS, annotations=annotations),
        "spec": {
            "service": service.name,
            "selector": {"matchLabels": selector(service, role=SERVE)},
            "limits": {"maxLoaded": wanted.max_loaded, "maxCached": wanted.max_cached, "maxRank": wanted.max_rank},
            "whenMissing": wanted.when_missing,
            "items": [_item(item) for item in items],
        },
    }


def _item(item: AdapterItem) -> Object:
    return {
        "name": item.name,
        "uri": item.uri,
        **({"digest": item.digest} if item.digest else {}),
        **({"rank": item.rank} if item.rank else {}),
        "replicas": {"all": True} if item.everywhere else {"min": item.least},
        **({"priority": item.priority} if item.priority else {}),
        **({"credentials": {"secret": item.secret, "key": item.key}} if item.secret else {}),
    }
