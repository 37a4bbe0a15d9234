"""Replicas: numbers that do not contradict each other, and strategies that have what they need."""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.spec.decode import sound


def counts(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """A number or a range, and a scaler where there is a range."""
    wanted, path = pool.spec.replicas, (*pool.path, "replicas")
    if wanted.count is not None and (wanted.min is not None or wanted.max is not None):
        yield Problem("AC213", path, "a number and a range of replicas are given", "keep count, or min and max")
        return
    if wanted.low > wanted.high:
        yield Problem(
            "AC213",
            path,
            f"min {wanted.low} is above max {wanted.high}",
            f"write {{min: {wanted.high}, max: {wanted.low}}}",
        )
        return
    strategy = draft.spec.scaling.strategy.name if draft.spec.scaling else "none"
    if strategy == "none" and wanted.low != wanted.high:
        hint = f"write replicas: {max(1, wanted.low)}, or set scaling.strategy"
        yield Problem(
            "AC214", path, f"nobody chooses a number from {wanted.low} to {wanted.high}: scaling.strategy is none", hint
        )
    if "replicas" not in pool.spec.model_fields_set:
        draft.decide(path, 1, "the default")


def strategies(draft: Draft) -> Iterator[Problem]:
    """Scaling that has its inputs."""
    scaling = draft.spec.scaling
    if scaling is None:
        return
    path: Path = ("spec", "scaling", "strategy")
    if scaling.strategy.name == "slo" and draft.spec.slo is None:
        yield Problem(
            "AC223", path, "strategy slo has no objective to hold", "set spec.slo, for example slo: {ttft: {p99: 2s}}"
        )
    known = [pool for pool in draft.pools if sound(draft.invalid, (*pool.path, "replicas"))]
    if scaling.scaleToZeroAfter is not None and all(pool.spec.replicas.low > 0 for pool in known) and known:
        hint = "set min: 0 for a pool, or remove scaleToZeroAfter"
        yield Problem(
            "AC223",
            ("spec", "scaling", "scaleToZeroAfter"),
            "no pool may go to zero: every one has min 1 or more",
            hint,
        )


def rollout(draft: Draft) -> Iterator[Problem]:
    """A rollout that may neither take a replica away nor add one never moves."""
    wanted = draft.spec.rollout
    if _is_zero(wanted.maxUnavailable) and _is_zero(wanted.maxSurge):
        message = "with maxUnavailable 0 and maxSurge 0 no replica can ever be replaced"
        yield Problem(
            "AC219", ("spec", "rollout"), message, "allow one of them; a surge needs quota for one more replica"
        )


def _is_zero(value: int | str | None) -> bool:
    return value in (0, "0%")
