"""A study as one HTML file that opens offline: the verdict in words first, then where the spikes are and why, then everything.

The page is a function of the JSON document alone, so equal documents give equal bytes. Charts are drawn in the browser by
Vega, whose JavaScript `vl-convert-python` carries; the page's own policy forbids it to fetch anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import fsum
from typing import Any

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate import charts, gate
from aibrix_compile.simulate.charts import clock, shown
from aibrix_compile.simulate.gate import span

DETAILED = 12
"""Variants that get charts of their own; the table has all of them."""
_NEEDED = "the report needs `pip install aibrix-compile[report]`"
_METRICS = (("ttft", "TTFT"), ("itl", "ITL"), ("e2e", "e2e"))
_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Cell:
    """`note` is smaller and below; `tone` good, risk or bad; `bar` from 0 to 1."""

    text: str
    note: str = ""
    tone: str = ""
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of a row is its header."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` kept, risk, broken or none; `reasons` say what is broken."""

    state: str
    words: str
    reasons: tuple[str, ...] = ()

    @property
    def symbol(self) -> str:
        return {"kept": "✓", "risk": "!", "broken": "✗", "none": "–"}[self.state]

    @property
    def tone(self) -> str:
        return {"kept": "good", "risk": "risk", "broken": "bad", "none": ""}[self.state]


def page(document: dict[str, Any]) -> str:
    """The report of what `study.document` gives. UsageError: the libraries of the extra `report` are not installed."""
    library = vega()
    from jinja2 import Environment, StrictUndefined

    budget, variants = document["budget_per_hour"], document["variants"]
    several = len(variants) > 1
    overlay = list(charts.compared(variants, budget)) if several else []
    drawn = {f"all-{one.key}": charts.data(one) for one in overlay}
    views = []
    for number, one in enumerate(variants[:DETAILED]):
        view = _view(document, one, f"v{number}")
        drawn |= {f"v{number}-{chart.key}": charts.data(chart) for chart in view["charts"]}
        views.append(view)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_asset("report.html.jinja")).render(
        document=document,
        head=_head(document),
        verdict=_overall(document) if several else views[0]["verdict"],
        comparison=comparison(document) if several else None,
        overlay=overlay,
        overlaid=min(len(variants), charts.MOST_LINES),
        views=views,
        rows=charts.rows,
        peaks=_peaks,
        data=drawn,
        style=_asset("report.css"),
        script=_asset("report.js"),
        library=library,
    )
    return text.strip() + "\n"


@cache
def vega() -> str:
    """The JavaScript of the chart library; two seconds. UsageError where the extra `report` is missing."""
    try:
        import jinja2  # noqa: F401
        from vl_convert import javascript_bundle
    except ImportError:
        raise UsageError(_NEEDED) from None
    return javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return (resources.files("aibrix_compile.simulate") / name).read_text("utf-8")


def _head(document: dict[str, Any]) -> list[str]:
    """What was asked, in a few words each."""
    score, trace = document["variants"][0]["score"], document["trace"]
    answered = max(1, score["answered"])
    bent = {"rate": "rate ×{}", "inputs": "prompts ×{}", "outputs": "answers ×{}", "share": "{} of the conversations"}
    cut = {"start_s": "from {} s", "end_s": "until {} s", "limit": "the first {} requests"}
    names = [words.format(trace[key]) for key, words in (bent | cut).items() if trace.get(key) is not None]
    return [
        ", ".join([trace["name"], *names]),
        f"{score['requests']:,} requests in {clock(score['seconds'])}",
        f"{score['requests'] / score['seconds'] if score['seconds'] else 0:.3g} requests/s",
        f"{score['input_tokens'] / answered:.0f} tokens in, {score['output_tokens'] / answered:.0f} out",
        f"routing {document['routing']}",
        f"scaling {document['scaling']}",
        f"seed {document['seed']}",
    ]


def verdict(document: dict[str, Any], variant: Mapping[str, Any]) -> Verdict:
    """What `--gate` says, and whether it depends on how far the profile is right."""

    def broken(score: Any) -> tuple[str, ...]:
        return tuple(gate.broken({**document, "variants": [{"name": "", "score": score}]}))

    reasons, low, high = broken(variant["score"]), variant.get("low"), variant.get("high")
    refused = variant["score"]["refused"]
    more = (f"{refused:,} requests were refused: the prompt fills the context",) if refused else ()
    if reasons:
        lucky = low is not None and not broken(low)
        return Verdict(
            "broken", "Objectives broken" + (", kept if engines are faster" if lucky else ""), reasons + more
        )
    if not variant["score"]["objectives"] and not document["budget_per_hour"]:
        return Verdict("none", "No objective is set", more)
    if high is not None and (slow := broken(high)):
        return Verdict(
            "risk", "Objectives kept, but not if engines are slower", (*(f"then {one}" for one in slow), *more)
        )
    return Verdict("kept", "Objectives kept" + ("" if high is None else ", also if engines are slower"), more)


def _overall(document: dict[str, Any]) -> Verdict:
    """Of several variants: how many keep everything, and which of those is the cheapest."""
    variants = document["variants"]
    found = [(one, verdict(document, one).state) for one in variants]
    if all(state == "none" for _, state in found):
        return Verdict("none", "No objective is set")
    kept = [one for one, state in found if state in ("kept", "risk")]
    if not kept:
        least = min(variants, key=_worst)
        return Verdict("broken", f"None of {len(variants)} variants keeps everything", (f"nearest: {least['name']}",))
    reasons: tuple[str, ...] = ()
    if None not in (costs := [one["score"]["cost_per_month"] for one in kept]):
        cheap = kept[costs.index(min(costs))]
        reasons = (f"cheapest of them: {cheap['name']}, {min(costs):,.0f} {cheap['score']['currency']} a month",)
    state = "kept" if len(kept) == len(found) else "risk"
    return Verdict(state, f"{len(kept)} of {len(variants)} variants keep everything", reasons)


def _worst(variant: Mapping[str, Any]) -> float:
    return max((float(one["budget_used"]) for one in variant["score"]["objectives"]), default=0.0)


def comparison(document: dict[str, Any]) -> Table:
    """A row for each variant; differences are to the first."""
    variants = document["variants"]
    first, names, rows = variants[0]["score"], charts.names(variants), []
    for name, one in zip(names, variants, strict=True):
        score, found = one["score"], verdict(document, one)
        failed = score["requests"] - score["answered"]
        worst = f"error budget {_worst(one):.0%}" if score["objectives"] else ""
        row = [Cell(name), Cell(f"{found.symbol} {found.words.removeprefix('Objectives ')}", worst, found.tone)]
        for metric, place in (("ttft", "p99"), ("itl", "p95"), ("e2e", "p95")):
            row.append(_versus(score[metric][place], first[metric][place], span(score[metric][place])))
        replicas, base = (fsum(pool["replicas_mean"] for pool in which["pools"]) for which in (score, first))
        row.append(_versus(replicas, base, f"{replicas:.2f}"))
        month = score["cost_per_month"]
        row.append(Cell("unknown") if month is None else _versus(month, first["cost_per_month"], f"{month:,.0f}"))
        row.append(Cell(shown("share", score["prefix_hit_share"])))
        row.append(Cell(f"{failed:,}", "", "bad" if failed else ""))
        rows.append(tuple(row))
    month = f"{first['currency']} a month".strip()
    what = variants[0]["name"].partition("=")[0] if names[0] != variants[0]["name"] else "variant"
    head = (what, "objectives", "TTFT p99", "ITL p95", "e2e p95", "replicas", month, "cached", "failed")
    return Table("Variants; differences are to the first", head, tuple(rows))


def _versus(value: float, base: float | None, text: str) -> Cell:
    """Less is better; a difference below half a percent is none."""
    if not base or round(value / base - 1, 2) == 0:
        return Cell(text)
    return Cell(text, f"{value / base - 1:+.0%}", "bad" if value > base else "good")


def _view(document: dict[str, Any], variant: dict[str, Any], key: str) -> dict[str, Any]:
    """What one variant's part of the page shows."""
    score = variant["score"]
    tables = [_latencies(variant), _pools(score), _figures(variant)]
    return {
        "key": key,
        "limited": any(one["metric"] == "ttft" for one in score["objectives"]),
        "ranged": "low" in variant,
        "name": variant["name"],
        "verdict": verdict(document, variant),
        "tiles": list(_tiles(document, variant)),
        "objectives": objectives(variant) if score["objectives"] else None,
        "spikes": charts.spikes(variant),
        "charts": list(charts.of(variant, document["budget_per_hour"])),
        "decisions": _decisions(variant) if variant["decisions"] else None,
        "scalings": score["scalings"],
        "balance": _balance(variant),
        "tables": tables,
    }


def _tiles(document: dict[str, Any], variant: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """The figures that decide, with what they are measured by."""
    score, budget = variant["score"], document["budget_per_hour"]
    if score["cost_per_month"] is None:
        yield "Cost", Cell("unknown", "a pool has no price")
    else:
        rate = score["cost"] / score["seconds"] * 3600 if score["seconds"] else 0.0
        note = f"{rate:.2f} an hour" + (f" of {budget:g} allowed" if budget else "")
        yield "Cost a month", Cell(f"{score['cost_per_month']:,.0f} {score['currency']}", note)
    for metric, name in _METRICS:
        found = [one for one in score["objectives"] if one["metric"] == metric]
        if not found:
            yield f"{name} p99", Cell(span(score[metric]["p99"]), f"median {span(score[metric]['p50'])}")
            continue
        one = max(found, key=lambda one: float(one["budget_used"]))
        kept = one["budget_used"] <= 1
        note = f"{'within' if kept else 'above'} the limit of {span(one['limit'])}"
        yield f"{name} p{one['percentile'] * 100:g}", Cell(span(one["measured"]), note, "good" if kept else "bad")
    mean = fsum(pool["replicas_mean"] for pool in score["pools"])
    most = ", ".join(f"{pool['name']} {pool['replicas_max']}" for pool in score["pools"])
    yield "Replicas, mean", Cell(f"{mean:.2f}", f"at most: {most}")
    failed = score["requests"] - score["answered"]
    yield "Requests answered", Cell(f"{score['answered']:,}", f"{failed:,} failed", "bad" if failed else "")


def objectives(variant: Mapping[str, Any]) -> Table:
    """Objectives with their error budgets, and the range from faster and slower engines."""
    ends = [variant[name]["objectives"] for name in ("low", "high") if name in variant]
    rows = []
    for number, one in enumerate(variant["score"]["objectives"]):
        used, others = one["budget_used"], [end[number] for end in ends]
        kept, safe = used <= 1, all(other["budget_used"] <= 1 for other in others)
        tone = "bad" if not kept else "good" if safe else "risk"
        words = "✗ broken" if not kept else "✓ kept" if safe else "! kept, at risk"
        spans = " to ".join(span(other["measured"]) for other in others)
        shares = " to ".join(f"{other['budget_used']:.0%}" for other in others)
        rows.append(
            (
                Cell(f"{one['metric'].upper() if one['metric'] != 'e2e' else 'e2e'} p{one['percentile'] * 100:g}"),
                Cell(words, "", tone),
                Cell(f"{used:.0%}", shares, tone, min(1.0, used)),
                Cell(span(one["measured"]), spans),
                Cell(span(one["limit"])),
                Cell(f"{one['good_share']:.2%}"),
            )
        )
    head = ("objective", "verdict", "error budget used", "measured", "limit", "within the limit")
    return Table("Objectives and error budgets", head, tuple(rows))


def _latencies(variant: Mapping[str, Any]) -> Table:
    rows = []
    for metric, name in _METRICS:
        cells = [Cell(name)]
        for column in _COLUMNS:
            ends = [span(variant[end][metric][column]) for end in ("low", "high") if end in variant]
            cells.append(Cell(span(variant["score"][metric][column]), " to ".join(ends)))
        rows.append(tuple(cells))
    return Table("Latency over the whole run", ("", *_COLUMNS), tuple(rows))


def _pools(score: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(pool["name"], pool["profile"]),
            Cell(f"{pool['replicas_mean']:.2f}"),
            Cell(str(pool["replicas_max"])),
            Cell(str(pool["gpus_per_replica"])),
            Cell(f"{pool['gpu_hours']:.2f}"),
            Cell("unknown" if pool["cost"] is None else f"{pool['cost']:,.2f} {score['currency']}"),
            Cell(f"{pool['busy_share']:.0%}"),
        )
        for pool in score["pools"]
    )
    head = ("pool", "replicas, mean", "most", "GPUs each", "GPU-hours", "cost", "engines busy")
    return Table("Pools", head, rows)


def _figures(variant: Mapping[str, Any]) -> Table:
    """Everything else that was measured, and how it would be with faster and slower engines."""

    def tokens(score: Mapping[str, Any]) -> str:
        value = score["tokens_per_currency_unit"]
        return "unknown" if value is None else f"{value:,.0f}"

    def money(score: Mapping[str, Any]) -> str:
        return "unknown" if score["cost"] is None else f"{score['cost']:,.2f} {score['currency']}"

    scores: list[Mapping[str, Any]] = [variant[name] for name in ("score", "low", "high") if name in variant]
    lines: list[tuple[str, list[str]]] = [
        ("length of the run", [clock(one["seconds"]) for one in scores]),
        ("cost of the run", [money(one) for one in scores]),
        (f"tokens per {scores[0]['currency'] or 'unit of money'}", [tokens(one) for one in scores]),
        *((words, [f"{one[key]:,.2f}" for one in scores]) for key, words in _DECIMALS),
        *((words, [shown("share", one[key]) for one in scores]) for key, words in _SHARES),
        *((words, [f"{one[key]:,}" for one in scores]) for key, words in _COUNTS),
    ]
    rows = [(Cell(words), *(Cell(text) for text in texts)) for words, texts in lines]
    skipped = variant["skipped"]
    for reason in sorted(skipped):
        rows.append((Cell(f"rows of the trace left out: {reason}"), *[Cell(f"{skipped[reason]:,}")] * len(scores)))
    head = ("figure", "expected", "engines faster", "engines slower")[: len(scores) + 1]
    return Table("All other figures", head, tuple(rows))


_DECIMALS = (
    ("gpu_hours", "GPU-hours"),
    ("output_tokens_per_gpu_second", "output tokens per GPU-second"),
    ("imbalance", "requests of the busiest replica over the mean"),
)
_SHARES = (
    ("prefix_hit_share", "prompt tokens from the prefix cache"),
    ("kv_mean_share", "KV cache in use, mean"),
    ("kv_peak_share", "KV cache in use, most"),
)
_COUNTS = (
    ("requests", "requests"),
    ("answered", "answered"),
    ("refused", "refused: the prompt fills the context"),
    ("unserved", "found no replica"),
    ("degraded", "choices by the fallback of routing"),
    ("preemptions", "preemptions"),
    ("input_tokens", "input tokens"),
    ("output_tokens", "output tokens"),
    ("adapter_loads", "adapter loads"),
    ("scalings", "decisions of the scaler"),
)


def _decisions(variant: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(clock(one["second"])),
            Cell(one["pool"]),
            Cell(f"{'▲' if one['to'] > one['from'] else '▼'} {one['from']} → {one['to']}"),
            Cell(one["reason"]),
        )
        for one in variant["decisions"]
    )
    return Table("Decisions of the scaler", ("when", "pool", "replicas", "reason"), rows)


def _balance(variant: Mapping[str, Any]) -> Table:
    ones = variant["balance"]
    most = max((one["requests"] for one in ones), default=0) or 1
    total = sum(one["requests"] for one in ones) or 1
    rows = tuple(
        (
            Cell(one["replica"]),
            Cell(f"{one['requests']:,}", "", "", one["requests"] / most),
            Cell(f"{one['requests'] / total:.1%}"),
            Cell(f"{one['hit_tokens']:,}"),
        )
        for one in ones
    )
    return Table("Requests by replica", ("replica", "requests", "share", "tokens from the prefix cache"), rows)


def _peaks(chart: charts.Chart) -> list[str]:
    """The highest value of each line as it is drawn, which the legend shows while nothing is pointed at."""
    lines = charts.data(chart)["lines"]
    tops = [[value for value in line["values"] if value is not None] for line in lines]
    return [shown(chart.unit, max(top, default=None)) for top in tops]
