"""A study on a terminal: one variant as a page, several as a table that can be compared line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aibrix_compile.simulate.gate import span

_BOLD, _RED, _GREEN, _DIM, _OFF = "\033[1m", "\033[31m", "\033[32m", "\033[2m", "\033[0m"


def text(document: dict[str, Any], *, color: bool, width: int) -> str:
    """Lines for people; figures are those of the JSON."""
    variants = document["variants"]
    lines = _head(document)
    lines += _one(variants[0], color) if len(variants) == 1 else _several(variants, color, width)
    lines += ["", *_notes(document, color)]
    return "\n".join(lines) + "\n"


def _head(document: dict[str, Any]) -> list[str]:
    score, trace = document["variants"][0]["score"], document["trace"]
    seconds = score["seconds"]
    rate = score["requests"] / seconds if seconds else 0.0
    mean_in = score["input_tokens"] / max(1, score["answered"])
    mean_out = score["output_tokens"] / max(1, score["answered"])
    line = (
        f"{document['service']} in {document['environment']}, {trace['name']}: {score['requests']:,} requests in "
        f"{_clock(seconds)} ({rate:.3g}/s, {mean_in:.0f} tokens in, {mean_out:.0f} out)"
    )
    return [line, ""]


def _one(variant: dict[str, Any], color: bool) -> list[str]:
    score = variant["score"]
    lines = [f"{'':10} {'mean':>9} {'p50':>9} {'p90':>9} {'p95':>9} {'p99':>9}   p99, if engines are faster or slower"]
    for metric in ("ttft", "itl", "e2e"):
        row = "".join(f" {span(score[metric][name]):>9}" for name in ("mean", "p50", "p90", "p95", "p99"))
        lines.append(f"{metric.upper() if metric != 'e2e' else 'whole':10}{row}   {_range(variant, metric, 'p99')}")
    lines.append("")
    for one in score["objectives"]:
        kept = one["budget_used"] <= 1
        mark = _painted("kept  " if kept else "BROKEN", _GREEN if kept else _RED, color)
        low = variant.get("low"), variant.get("high")
        worst = _worst(one, low)
        lines.append(
            f"{mark} {one['metric']} p{one['percentile'] * 100:g} {span(one['measured'])} of {span(one['limit'])}, "
            f"{one['good_share']:.2%} good, {one['budget_used']:.0%} of the error budget{worst}"
        )
    if score["objectives"]:
        lines.append("")
    for pool in score["pools"]:
        price = f", {pool['cost']:.2f} {score['currency']}" if pool["cost"] is not None else ", price unknown"
        lines.append(
            f"{'pool ' + pool['name']:20} {pool['replicas_mean']:.2f} replicas on average, {pool['replicas_max']} at most; "
            f"{pool['gpu_hours']:.1f} GPU-hours{price}; engines busy {pool['busy_share']:.0%} of the time"
        )
    if score["cost"] is not None:
        lines.append(
            f"{'cost':20} {score['cost_per_month']:,.0f} {score['currency']} a month at this load; "
            f"{score['tokens_per_currency_unit'] or 0:,.0f} tokens per {score['currency']}"
        )
    lines.append(
        f"{'KV cache':20} {score['kv_mean_share']:.0%} in use on average, {score['kv_peak_share']:.0%} at most; "
        f"{score['prefix_hit_share']:.1%} of prompt tokens cached; {score['preemptions']} preemptions"
    )
    lines.append(f"{'balance':20} the busiest replica got {score['imbalance']:.2f} times the mean")
    if score["scalings"]:
        lines.append(f"{'scaling':20} {score['scalings']} changes; the last: {variant['decisions'][-1]['reason']}")
    if score["adapter_loads"]:
        lines.append(f"{'adapters':20} {score['adapter_loads']} loads")
    for count, words in (
        (score["refused"], "requests refused: the prompt fills the context"),
        (score["unserved"], "requests found no replica"),
        (score["degraded"], "choices by the fallback of routing"),
        (sum(variant["skipped"].values()), "rows of the trace left out"),
    ):
        if count:
            lines.append(_painted(f"{count:,} {words}", _RED, color))
    return lines


def _worst(one: dict[str, Any], ends: Sequence[dict[str, Any] | None]) -> str:
    used = []
    for score in ends:
        for other in score["objectives"] if score else ():
            if (other["metric"], other["percentile"]) == (one["metric"], one["percentile"]):
                used.append(other["budget_used"])
    return f" ({min(used):.0%} to {max(used):.0%})" if used else ""


def _range(variant: dict[str, Any], metric: str, name: str) -> str:
    if "low" not in variant:
        return ""
    ends = sorted((variant["low"][metric][name], variant["high"][metric][name]))
    return f"{span(ends[0])} to {span(ends[1])}"


def _several(variants: list[dict[str, Any]], color: bool, width: int) -> list[str]:
    """The first is what the others are compared with."""
    names = [one["name"] for one in variants]
    shared, _, _ = names[0].partition("=")
    if all(name.startswith(f"{shared}=") and name.count("=") == 1 for name in names):
        names = [name.partition("=")[2] for name in names]
    else:
        shared = ""
    wide = min(max(len(name) for name in (shared, *names)), max(20, width - 86))
    head = f"{_cut(shared, wide):{wide}} {'TTFT mean':>10} {'p99':>9} {'':>6} {'ITL p95':>8} {'whole':>8} {'':>6} {'replicas':>8} {'a month':>9}  objectives"
    lines, first = [head], variants[0]["score"]
    for name, one in zip(names, variants, strict=True):
        score = one["score"]
        broken = [f"{o['metric']} p{o['percentile'] * 100:g}" for o in score["objectives"] if o["budget_used"] > 1]
        words = ""
        if score["objectives"]:
            words = _painted("broken: " + ", ".join(broken), _RED, color) if broken else _painted("kept", _GREEN, color)
        failed = score["requests"] - score["answered"]
        words += _painted(f" {failed} failed", _RED, color) if failed else ""
        price = "-" if score["cost_per_month"] is None else f"{score['cost_per_month']:,.0f}"
        replicas = sum(pool["replicas_mean"] for pool in score["pools"])
        lines.append(
            f"{_cut(name, wide):{wide}} {span(score['ttft']['mean']):>10} {span(score['ttft']['p99']):>9} "
            f"{_change(score['ttft']['p99'], first['ttft']['p99']):>6} {span(score['itl']['p95']):>8} "
            f"{span(score['e2e']['mean']):>8} {_change(score['e2e']['mean'], first['e2e']['mean']):>6} "
            f"{replicas:>8.2f} {price:>9}  {words}"
        )
    return lines


def _cut(name: str, wide: int) -> str:
    return name if len(name) <= wide else "..." + name[3 - wide :]


def _change(value: float, base: float) -> str:
    if not base or value == base:
        return ""
    return f"{value / base - 1:+.0%}"


def _notes(document: dict[str, Any], color: bool) -> list[str]:
    return [_painted(f"note: {one}", _DIM, color) for one in document["notes"]]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.3g} s"


def _painted(words: str, code: str, color: bool) -> str:
    return f"{code}{words}{_OFF}" if color else words
