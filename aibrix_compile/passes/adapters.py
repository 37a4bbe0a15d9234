"""Adapters: names that nothing else has, ranks and numbers for which every replica has room."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft, PoolDraft, size_text
from aibrix_compile.passes.sizing import adapter_bytes
from aibrix_compile.plan import AdapterItem, AdaptersPlan
from aibrix_compile.policy import artifacts, lora
from aibrix_compile.policy.profile import LORA_LAYER_MS
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import Adapter
from aibrix_compile.spec.types import LORA_RANKS

_LIMITS: Path = ("spec", "adapters", "limits")
_ITEMS: Path = ("spec", "adapters", "items")


def adapter_names(draft: Draft) -> Iterator[Problem]:
    """Adapters and the base model share one name space: the request's `model`. Ranks stay within the limit."""
    adapters = draft.spec.adapters
    first: dict[str, int] = {}
    for index, item in enumerate(adapters.items if adapters else ()):
        path: Path = ("spec", "adapters", "items", index)
        if not sound(draft.invalid, path):
            continue
        if item.name == draft.served_name:
            yield Problem(
                "AC216",
                (*path, "name"),
                f'the adapter is named like the base model, "{item.name}"',
                "rename the adapter: a request could not tell them apart",
                related=((("spec", "model", "servedName"), "the base model's name"),),
            )
        elif item.name in first:
            other: Path = ("spec", "adapters", "items", first[item.name], "name")
            yield Problem(
                "AC203",
                (*path, "name"),
                f'two adapters are named "{item.name}"',
                "rename or remove one",
                related=((other, "the other one"),),
            )
        first.setdefault(item.name, index)
        locked = draft.site.lock.adapters.get(item.uri)
        rank = item.rank or (locked.rank if locked else None)
        limit = adapters.limits.maxRank if adapters else 0
        if rank is not None and rank > limit:
            source = "" if item.rank else f" (read from {locked.where if locked else ''})"
            yield Problem(
                "AC212",
                (*path, "rank" if item.rank else "name"),
                f'adapter "{item.name}" has rank {rank}{source}, but the service allows rank {limit}',
                f"set adapters.limits.maxRank: {next((r for r in LORA_RANKS if r >= rank), LORA_RANKS[-1])}",
                related=((("spec", "adapters", "limits", "maxRank"), "the limit is set here"),),
            )


def limits(draft: Draft) -> Iterator[Problem]:
    """Host memory holds at least what the GPU holds: the engine swaps between the two."""
    wanted = draft.spec.adapters.limits if draft.spec.adapters else None
    if wanted is not None and wanted.maxCached < wanted.maxLoaded:
        message = f"maxCached {wanted.maxCached} is below maxLoaded {wanted.maxLoaded}: an adapter on the GPU is in host memory too"
        yield Problem(
            "AC234", (*_LIMITS, "maxCached"), message, f"write at least {wanted.maxLoaded}", fix=str(wanted.maxLoaded)
        )


_MOST = 12_000  # sixteen sets of at most a thousand, and names do not spread quite evenly


def room(draft: Draft) -> Iterator[Problem]:
    """Every adapter that is to be kept loaded finds a slot, with the fewest replicas that there may be."""
    adapters = draft.spec.adapters
    if adapters is None:
        return
    if len(adapters.items) > _MOST:
        message = f"{len(adapters.items)} adapters are more than the {_MOST} of one service"
        yield Problem(
            "AC308", _ITEMS, message, "divide them among several services on the same base model", at_key=True
        )
    replicas = sum(pool.spec.replicas.low for pool in draft.pools)
    everywhere = sum(_everywhere(item) for item in adapters.items)
    slots = adapters.limits.maxLoaded
    if everywhere > slots:
        message = f"{everywhere} adapters are to be loaded on all replicas, and each has {slots} slots"
        yield Problem(
            "AC308", (*_LIMITS, "maxLoaded"), message, "raise maxLoaded, or keep fewer adapters on all replicas"
        )
        return
    for index, item in enumerate(adapters.items):
        if (least := _least(item)) > max(replicas, 1):
            message = f'adapter "{item.name}" is to be on {least} replicas, and there may be only {replicas}'
            yield Problem(
                "AC308",
                (*_ITEMS, index, "replicas"),
                message,
                f"write {{min: {max(replicas, 1)}}}, or raise the replicas of a pool",
            )
    if any(_least(item) > max(replicas, 1) for item in adapters.items):
        return
    needed = everywhere * replicas + sum(_least(item) for item in adapters.items)
    if needed > slots * replicas and replicas:
        message = f"adapters that are kept loaded need {needed} slots, and {replicas} replicas of {slots} have {slots * replicas}"
        yield Problem(
            "AC308",
            (*_LIMITS, "maxLoaded"),
            message,
            "raise maxLoaded or the replicas, or leave out replicas of rare adapters",
        )


def host_memory(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """Cached adapters lie in the pod's memory, beside the engine itself."""
    adapters, shape = draft.spec.adapters, draft.shape
    if adapters is None or shape is None or not pool.memory:
        return
    cached = adapter_bytes(shape, adapters.limits.maxRank) * adapters.limits.maxCached
    if cached > pool.memory // 2:
        message = f"{adapters.limits.maxCached} adapters of rank {adapters.limits.maxRank} take {size_text(cached)} of the {size_text(pool.memory)} of host memory"
        hint = "lower maxCached or maxRank, or give the pool more resources.memory; half of it is the engine's own"
        yield Problem("AC308", (*_LIMITS, "maxCached"), message, hint)


def sources(draft: Draft) -> Iterator[Problem]:
    """Addresses that the sidecar would take, below what the environment allows."""
    policy = draft.site.environment.policy.adapterSources
    for index, item in enumerate(draft.spec.adapters.items if draft.spec.adapters else ()):
        path: Path = (*_ITEMS, index, "uri")
        if not sound(draft.invalid, path):
            continue
        try:
            uri = artifacts.parse(item.uri)
        except artifacts.Refused as error:
            yield Problem("AC111", path, str(error), "write the address of the adapter's folder")
            continue
        if policy and not artifacts.within(uri, [f"{one.rstrip('/')}/" for one in policy]):
            message = f"{item.uri} is not where adapters of {draft.site.environment.name} may come from"
            yield Problem("AC407", path, message, f"move it below {' or '.join(policy)}")


def modules(draft: Draft) -> Iterator[Problem]:
    """Modules that an item names are ones that the base model has."""
    shape = draft.shape
    assert shape is not None
    sizes = (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.intermediate, shape.vocab)
    known = lora.modules(lora.Base(*sizes, shape.experts, shape.kv_lora_rank > 0))
    for index, item in enumerate(draft.spec.adapters.items if draft.spec.adapters else ()):
        for number, name in enumerate(item.modules):
            if known and name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.6)
                message = f'adapter "{item.name}" changes {name}, and the base model has no such module'
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
                yield Problem(
                    "AC241", (*_ITEMS, index, "modules", number), message, hint, fix=near[0] if near else None
                )


def demand(draft: Draft) -> Iterator[Problem]:
    """What is loaded when somebody asks for it needs somebody who hears of that: the picker of a gateway."""
    if draft.site.environment.gateway is not None or not draft.site.in_project:
        return
    items = draft.spec.adapters.items if draft.spec.adapters else ()
    rare = [index for index, item in enumerate(items) if not _everywhere(item) and not _least(item)]
    if rare:
        more = f" and {len(rare) - 1} more are" if len(rare) > 1 else " is"
        message = f'adapter "{items[rare[0]].name}"{more} loaded when asked for, and nobody would tell of requests'
        hint = f"give it replicas: {{min: 1}}, or give environment {draft.site.environment.name} a gateway"
        yield Problem("AC240", (*_ITEMS, rare[0]), message, hint)


def plan(draft: Draft) -> Iterator[Problem]:
    """What the adapters controller is told, with what the lock knows of each adapter."""
    wanted = draft.spec.adapters
    if wanted is None:
        return
    items = []
    for index, item in enumerate(wanted.items):
        locked = draft.site.lock.adapters.get(item.uri)
        secret = item.credentials or (draft.spec.model.credentials if item.uri.startswith("hf://") else None)
        items.append(
            AdapterItem(
                name=item.name,
                uri=item.uri,
                digest=item.digest or (locked.digest if locked else ""),
                rank=item.rank or (locked.rank if locked else None) or 0,
                everywhere=_everywhere(item),
                least=_least(item),
                priority=item.priority,
                secret=secret.secret if secret else "",
                key=secret.key if secret else "",
                path=(*_ITEMS, index),
            )
        )
    limits_of = wanted.limits
    draft.adapters = AdaptersPlan(
        limits_of.maxLoaded,
        limits_of.maxCached,
        limits_of.maxRank,
        wanted.whenMissing,
        draft.shape.layers * LORA_LAYER_MS if draft.shape else 0.0,
        tuple(items),
    )
    yield from ()


def _everywhere(item: Adapter) -> bool:
    return item.replicas is not None and item.replicas.count == "all"


def _least(item: Adapter) -> int:
    """Replicas that hold the adapter at least; 0 where it is loaded when it is asked for."""
    if item.replicas is None or _everywhere(item):
        return 0
    return item.replicas.min or int(item.replicas.count or 0)
