"""What the language has and no backend compiles yet: `build` refuses it, so nothing is accepted and ignored.

`check` validates the whole language and does not run these.
"""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft, PoolDraft


def unbuilt(draft: Draft) -> Iterator[Problem]:
    """Every field that is explicitly set and that nothing would act on."""
    watched = draft.spec.monitoring.alerts or draft.spec.monitoring.dashboard or draft.spec.workload
    if draft.spec.slo is not None and not watched and (draft.scaling is None or draft.scaling.strategy == "hpa"):
        message = "slo is valid, but nothing would act on it: neither alerts nor a dashboard nor a scaler is asked for, nor a workload to simulate"
        hint = "set monitoring.alerts or a scaling strategy or workload, or remove slo to build"
        yield Problem("AC501", ("spec", "slo"), message, hint, at_key=True)
    if draft.site.environment.gateway is None:
        yield from _without_gateway(draft)
    if draft.spec.model.loading.method == "stream":
        yield _refuse(("spec", "model", "loading", "method"), "the stream loader")
    if draft.spec.engine.name == "mock" and draft.spec.engine.image is None:
        yield Problem(
            "AC502",
            ("spec", "engine", "name"),
            "the mock engine has no published image yet",
            "set engine.image to one that you built",
        )


def unbuilt_pool(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The same for one pool."""
    if pool.spec.role != "serve":
        yield _refuse((*pool.path, "role"), "the hand-off of KV cache between prefill and decode")


def _without_gateway(draft: Draft) -> Iterator[Problem]:
    """What only a gateway enforces."""
    paths: list[Path] = [("spec", "routing", name) for name in sorted(draft.spec.routing.model_fields_set)]
    paths += [("spec", "access")] if draft.spec.access is not None else []
    if draft.spec.adapters is not None and "whenMissing" in draft.spec.adapters.model_fields_set:
        paths.append(("spec", "adapters", "whenMissing"))
    environment = draft.site.environment.name
    for path in paths:
        name = ".".join(map(str, path[1:]))
        message = f"{name} is enforced by a gateway, and environment {environment} has none"
        hint = "add gateway: {} to the environment in aibrix.yaml, or reset the field there: an overlay with null"
        yield Problem("AC509", path, message, hint, at_key=True)


def _refuse(path: Path, what: str) -> Problem:
    name = ".".join(str(step) for step in path[1:] if isinstance(step, str))
    return Problem(
        "AC501",
        path,
        f"{name} is valid, but what would act on it is not compiled yet: {what}",
        f"remove {path[-1]} to build; `check` accepts it",
        at_key=True,
    )
