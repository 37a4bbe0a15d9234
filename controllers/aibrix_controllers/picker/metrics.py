"""What the picker counts, in Prometheus' text format. Why it is written by hand: a count is one addition in a dictionary, in a
process that counts ten things for each of a thousand requests a second.

Labels have few values: services, codes, strategies, kinds of degradation and tenants that the config names. Adapters, clients and
addresses are never labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds."""

_COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "picker_requests_total": (
        ("service", "code"),
        "Requests by what became of them: picked, or the status of the refusal.",
    ),
    "picker_picks_total": (("service", "strategy"), "Choices by the strategy that made them."),
    "picker_degraded_total": (("service", "reason"), "Choices made in a lesser way than configured."),
    "picker_prompt_tokens_total": (("service",), "Estimated tokens of prompts that were sent to a replica."),
    "picker_prefix_hit_tokens_total": (("service",), "Those of them thought to be cached there."),
    "picker_held_total": (("service", "outcome"), "Requests that were held, by how it ended."),
    "picker_shed_total": (("service", "priority"), "Requests turned away while replicas were saturated."),
    "picker_budget_refused_total": (("tenant",), "Requests beyond a tenant's tokens per minute."),
    "picker_tokens_total": (("service", "tenant", "direction"), "Tokens as engines reported them."),
    "picker_events_total": (("event",), "What the log has a line for."),
    "picker_config_rejected_total": ((), "New configs that were not taken."),
}


class Metrics:
    """`counts[name][labels]` is all there is to count with."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _COUNTERS}
        self.counts["picker_config_rejected_total"][()] = 0
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def decided(self, seconds: float) -> None:
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def text(self, gauges: Iterable[tuple[str, str, Mapping[tuple[tuple[str, str], ...], float]]]) -> str:
        """`gauges`: name, help, and values by (label, value) pairs."""
        lines: list[str] = []
        for name, (labels, words) in _COUNTERS.items():
            lines += (f"# HELP {name} {words}", f"# TYPE {name} counter")
            for values, count in sorted(self.counts[name].items()):
                lines.append(f"{name}{_labels(zip(labels, values, strict=True))} {count}")
        lines += (
            "# HELP picker_decision_seconds From a whole request to its answer, without what it was held.",
            "# TYPE picker_decision_seconds histogram",
        )
        total = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'picker_decision_seconds_bucket{{le="{bound}"}} {total}')
        lines += (f"picker_decision_seconds_sum {self._seconds}", f"picker_decision_seconds_count {total}")
        for name, words, found in gauges:
            lines += (f"# HELP {name} {words}", f"# TYPE {name} gauge")
            lines += [f"{name}{_labels(pairs)} {value}" for pairs, value in sorted(found.items())]
        return "\n".join(lines) + "\n"


def _labels(pairs: Iterable[tuple[str, str]]) -> str:
    inner = ",".join([f'{name}="{_escaped(value)}"' for name, value in pairs])
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
