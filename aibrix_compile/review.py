"""One comment for a pull request: the difference first, then what simulations of both sides say, then warnings.

The whole stays below the limit of a comment: the difference is cut by its own rules, and what is added has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aibrix_compile.diagnostics import Diagnostic
from aibrix_compile.diff.difference import Difference
from aibrix_compile.diff.markdown import LIMIT, markdown, marker
from aibrix_compile.diff.quoting import code
from aibrix_compile.simulate import gate

_ROOM = 20_000
"""Characters that simulations and warnings may take."""
_MOST_WARNINGS = 20
_HEADER = ("service", "TTFT p99", "ITL p95", "whole answer, mean", "replicas", "a month", "objectives")


def broken(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the new side promises and does not keep, a line each."""
    found = []
    for one in studies:
        head = {**one, "variants": [variant for variant in one["variants"] if variant["name"] == "head"]}
        found += [f"{one['service']} in {one['environment']}: {line}" for line in gate.broken(head)]
    return found


def comment(
    changed: Difference,
    studies: Sequence[Mapping[str, Any]],
    left: Mapping[str, str],
    warnings: Sequence[Diagnostic],
    broken_lines: Sequence[str],
    suffix: str = "",
) -> str:
    """Markdown, below LIMIT characters."""
    parts = []
    if broken_lines:
        parts += ["\n**Broken promises**\n\n", *(f"- {code(line)}\n" for line in broken_lines)]
    if studies:
        notes = list(dict.fromkeys(note for one in studies for note in one["notes"]))
        parts += ["\n**Simulated**, before → after (the range is that of the engine profile's error)\n\n"]
        parts += [_row(_HEADER), _row("---" for _ in _HEADER), *(_row(_cells(one)) for one in studies)]
        parts += [
            "\n<details><summary>What the figures rest on</summary>\n\n",
            *(f"- {code(note)}\n" for note in notes),
            "\n</details>\n",
        ]
    if left:
        parts += ["\nNot simulated: ", "; ".join(f"{code(name)}: {code(why)}" for name, why in left.items()), ".\n"]
    if warnings:
        shown = [f"- {one.code} {code(f'{one.span.file}:{one.span.line}')}: {code(one.message)}\n" for one in warnings]
        parts += [
            f"\n<details><summary>{len(warnings)} warning{'s' * (len(warnings) != 1)}</summary>\n\n",
            *shown[:_MOST_WARNINGS],
        ]
        parts += [f"- ... {len(shown) - _MOST_WARNINGS} more\n"] if len(shown) > _MOST_WARNINGS else []
        parts += ["\n</details>\n"]
    more = "".join(parts)
    if len(more) > _ROOM:
        more = "\nThe simulations are too many for a comment; they are in the report's files.\n"
    return _within(markdown(changed, suffix), LIMIT - len(more), suffix) + more


def _within(text: str, room: int, suffix: str) -> str:
    """The difference, or its beginning, which says the most."""
    if len(text) <= room:
        return text
    cut = text[: text.rfind("\n\n<details>", 0, room - 200)]
    left_out = "\nMore is left out here; `aibrix-compile diff` prints it.\n"
    return f"{cut}\n{left_out}" if cut.startswith(marker(suffix)) else f"{marker(suffix)}\n{left_out}"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cells(one: Mapping[str, Any]) -> list[str]:
    variants = {variant["name"]: variant for variant in one["variants"]}
    after, before = variants["head"], variants.get("base")
    score = after["score"]

    def pair(show: Any) -> str:
        new = show(score)
        old = show(before["score"]) if before else ""
        return new if not before or old == new else f"{old} → {new}"

    def cost(of: Mapping[str, Any]) -> str:
        return "-" if of["cost_per_month"] is None else f"{of['cost_per_month']:,.0f} {of['currency']}"

    ends = sorted(after[side]["ttft"]["p99"] for side in ("low", "high") if side in after)
    ranged = f" ({gate.span(ends[0])} to {gate.span(ends[1])})" if ends else ""
    return [
        code(f"{one['service']} in {one['environment']}"),
        pair(lambda of: gate.span(of["ttft"]["p99"])) + ranged,
        pair(lambda of: gate.span(of["itl"]["p95"])),
        pair(lambda of: gate.span(of["e2e"]["mean"])),
        pair(lambda of: f"{sum(pool['replicas_mean'] for pool in of['pools']):.2f}"),
        pair(cost),
        pair(_objectives),
    ]


def _objectives(score: Mapping[str, Any]) -> str:
    if not score["objectives"]:
        return "none"
    bad = [one for one in score["objectives"] if one["budget_used"] > 1]
    if not bad:
        return f"✅ kept, {max(one['budget_used'] for one in score['objectives']):.0%} of the budget"
    return "❌ " + ", ".join(f"{one['metric']} p{one['percentile'] * 100:g}" for one in bad)
