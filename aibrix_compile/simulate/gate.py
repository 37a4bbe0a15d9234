"""Whether a simulation says no to a change: objectives that break, a budget that is exceeded."""

from __future__ import annotations

from typing import Any

from aibrix_compile.diagnostics import Problem
from aibrix_compile.plan import ServicePlan


def unknown(service: ServicePlan) -> Problem | None:
    """A gate needs something to hold: objectives, or a budget."""
    if service.objectives or (service.scaling and service.scaling.max_cost_per_hour):
        return None
    message = f"{service.name} has no objective, so there is nothing that a gate could hold it to"
    return Problem("AC612", ("spec",), message, "write slo: {ttft: {p99: 2s}, itl: {p95: 80ms}}", at_key=True)


def broken(document: dict[str, Any]) -> list[str]:
    """A line for each promise that a variant breaks, by the expected figures (not by the ends of their range)."""
    found = []
    for one in document["variants"]:
        prefix = f"{one['name']}: " if len(document["variants"]) > 1 else ""
        score = one["score"]
        for kept in score["objectives"]:
            if kept["budget_used"] > 1:
                name = f"slo.{kept['metric']}.p{kept['percentile'] * 100:g}"
                found.append(
                    f"{prefix}{name} is {span(kept['measured'])}, the limit is {span(kept['limit'])}: "
                    f"{1 - kept['good_share']:.2%} are above it, {1 - kept['percentile']:.2%} may be"
                )
        budget = document["budget_per_hour"]
        if budget and score["cost"] is not None:
            rate = score["cost"] / (score["seconds"] / 3600)
            if rate > budget * 1.0001:
                found.append(
                    f"{prefix}scaling.budget.maxCostPerHour is {budget:g} {score['currency']}, the mean was {rate:.2f}"
                )
        if score["unserved"]:
            found.append(f"{prefix}{score['unserved']} requests found no replica")
    return found


def span(seconds: float) -> str:
    """A time as a person reads it."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
