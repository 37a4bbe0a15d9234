"""What the language has and no backend compiles yet: `build` refuses it, so nothing is accepted and ignored.

`check` validates the whole language and does not run these.
"""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.spec.base import Model

_SERVICE = {  # path below spec -> what would act on it
    "access": "the gateway",
}


def unbuilt(draft: Draft) -> Iterator[Problem]:
    """Every field that is explicitly set and that nothing would act on."""
    for dotted, what in _SERVICE.items():
        if (path := _set(draft.spec, dotted)) is not None:
            yield _refuse(path, what)
    watched = draft.spec.monitoring.alerts or draft.spec.monitoring.dashboard or draft.spec.workload
    if draft.spec.slo is not None and not watched and (draft.scaling is None or draft.scaling.strategy == "hpa"):
        message = "slo is valid, but nothing would act on it: neither alerts nor a dashboard nor a scaler is asked for, nor a workload to simulate"
        hint = "set monitoring.alerts or a scaling strategy or workload, or remove slo to build"
        yield Problem("AC501", ("spec", "slo"), message, hint, at_key=True)
    for name in draft.spec.routing.model_fields_set:
        yield _refuse(("spec", "routing", name), "the gateway")
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


def _set(spec: Model, dotted: str) -> Path | None:
    """The path of a field below spec if the spec sets it."""
    node: object = spec
    steps = dotted.split(".")
    for step in steps:
        if not isinstance(node, Model) or step not in node.model_fields_set:
            return None
        node = getattr(node, step)
    return ("spec", *steps)


def _refuse(path: Path, what: str) -> Problem:
    name = ".".join(str(step) for step in path[1:] if isinstance(step, str))
    return Problem(
        "AC501",
        path,
        f"{name} is valid, but what would act on it is not compiled yet: {what}",
        f"remove {path[-1]} to build; `check` accepts it",
        at_key=True,
    )
