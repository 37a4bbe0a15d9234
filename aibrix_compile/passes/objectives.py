"""Objectives: percentiles and durations that alerts watch and scalers size for."""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft
from aibrix_compile.plan import Objective


def objectives(draft: Draft) -> Iterator[Problem]:
    """slo as a list, in the order of its fields; of one metric, a higher percentile is never the shorter time."""
    found = []
    for metric in ("ttft", "itl", "e2e"):
        wanted: dict[str, int] = getattr(draft.spec.slo, metric) if draft.spec.slo else {}
        previous = 0
        for name, milliseconds in sorted(wanted.items(), key=lambda one: float(one[0][1:])):
            path: Path = ("spec", "slo", metric, name)
            if milliseconds < max(1, previous):
                message = f"{name} of {metric} is {milliseconds}ms, and a lower percentile already {previous}ms"
                if not milliseconds:
                    message = f"no answer takes {milliseconds}ms"
                yield Problem("AC233", path, message, "give higher percentiles longer times")
            previous = milliseconds
            found.append(Objective(metric, float(name[1:]) / 100, milliseconds / 1000))
    draft.objectives = tuple(found)
