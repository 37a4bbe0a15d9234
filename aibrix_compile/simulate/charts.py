"""What a report shows of a run over time: lines, the sentence that says the same, rows of a table, the worst moments.

Why apart from the page: what is worth saying about a series is a decision about numbers and can be tested as one; the page
only lays it out. Times are seconds since the trace began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, fsum
from statistics import median
from typing import Any, Literal

from aibrix_compile.simulate.gate import span

ROWS, POINTS = 60, 160
"""At most, of the table behind a chart and of a line in it: percentiles of the few requests of a few seconds are noise."""
MOST_LINES = 8  # more can not be told apart
_LATENCY = (
    ("ttft", "TTFT", "Time to first token (TTFT)"),
    ("tpot", "TPOT", "Time per output token (TPOT, the mean ITL of a request)"),
    ("e2e", "e2e", "End to end (e2e)"),
)
_WORST = 3  # stretches that are described, and decisions in one
_NEAR = 0.02  # of the run: stretches that are closer are one
_USUAL = 4.0  # times the median is a spike where no objective says so

Unit = Literal["time", "share", "count", "money"]
Fold = Literal["highest", "mean", "median"]


@dataclass(frozen=True, slots=True)
class Line:
    """Values of stretches of `step` seconds each; None where nothing happened. `fold`: what several become."""

    name: str
    values: Sequence[float | None]
    step: float
    fold: Fold = "highest"


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision of the scaler, at `value` on the vertical axis; None: at its foot."""

    second: float
    value: float | None
    up: bool
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`stepped`: values hold for their stretch, and none is folded."""

    key: str
    title: str
    sentence: str
    unit: Unit
    lines: tuple[Line, ...]
    limits: tuple[tuple[str, float], ...] = ()
    marks: tuple[Mark, ...] = ()
    log: bool = False
    stepped: bool = False


def shown(unit: Unit, value: float | None) -> str:
    """A value as people read it; report.js has the same rules."""
    if value is None:
        return "-"
    if unit == "time":
        return span(value)
    if unit == "share":
        return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"
    if unit == "money":
        return f"{value:,.2f}"
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """Two units at most: 12 min 30 s."""
    whole = int(seconds + 0.5)
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large} {rest} {small}" if rest else f"{whole // size} {large}"
    return f"{whole} s" if whole == seconds or whole >= 10 else f"{seconds:.2g} s"


def step(variant: Mapping[str, Any]) -> float:
    """Seconds that a row of the series stands for."""
    seconds = variant["seconds"]
    return float(seconds[1] - seconds[0]) if len(seconds) > 1 else float(max(1.0, variant["score"]["seconds"]))


def of(variant: Mapping[str, Any], budget_per_hour: float) -> Iterator[Chart]:
    """The charts of one run, those first that a reader needs first; none for what did not happen."""
    series, score = variant["series"], variant["score"]
    marks = _marks(variant)
    ttft, tpot, e2e = (_latency(variant, *names, marks) for names in _LATENCY)
    yield ttft
    yield _replicas(variant, marks)
    queue = _lines(variant, running="running", waiting="waiting", held="held, no replica")
    sentence = f"{_average(queue[0])} requests run on average; waiting: at most {_peak(queue[1], 'count')}."
    yield Chart("queue", "Requests in the engines", sentence, "count", queue)
    load = _lines(variant, "mean", requests_per_second="arrived", failed_per_second="failed")
    sentence = f"{_average(load[0])} requests/s arrive on average, at most {_peak(load[0], 'count')}"
    failed = score["requests"] - score["answered"]
    sentence += f"; {failed:,} failed" if failed else "; none failed"
    yield Chart("load", "Requests a second", f"{sentence}.", "count", load)
    yield tpot
    yield e2e
    memory = _lines(variant, "mean", kv_share="KV cache in use", prefix_hit_share="prompt tokens from the prefix cache")
    sentence = f"The KV cache is {_average(memory[0], 'share')} full on average, at most {_peak(memory[0], 'share')}"
    sentence += f", on one replica {shown('share', score['kv_peak_share'])}"
    sentence += f"; {shown('share', score['prefix_hit_share'])} of prompt tokens come from the prefix cache."
    yield Chart("kv", "KV cache and prefix hits", sentence, "share", memory)
    if "cost_per_hour" in series:
        line, currency = Line("cost", series["cost_per_hour"], step(variant)), score["currency"]
        sentence = f"{_average(line, 'money')} {currency} an hour on average, at most {_peak(line, 'money')}"
        sentence += f"; the budget is {budget_per_hour:g}." if budget_per_hour else "."
        limits = (("budget", budget_per_hour),) if budget_per_hour else ()
        yield Chart("cost", f"Cost ({currency} an hour)", sentence, "money", (line,), limits, stepped=True)
    if any(series["adapters"]):
        line = Line("in use", series["adapters"], step(variant))
        sentence = f"{_average(line)} adapters are in use on average, at most {_peak(line, 'count')}"
        sentence += f"; {score['adapter_loads']:,} loads."
        yield Chart("adapters", "LoRA adapters, all replicas together", sentence, "count", (line,))


def compared(variants: Sequence[Mapping[str, Any]], budget_per_hour: float) -> Iterator[Chart]:
    """Charts with a line for each variant."""
    ones = variants[:MOST_LINES]
    limits = {}
    for metric in ("ttft", "itl"):
        found = {tuple(_limits(one, metric)) for one in ones}
        limits[metric] = found.pop() if len(found) == 1 else ()
    limits["budget"] = (("budget", budget_per_hour),) if budget_per_hour else ()
    kinds: tuple[tuple[str, str, str, Unit, str, bool], ...] = (
        ("ttft", "TTFT p99", "ttft_p99", "time", "ttft", False),
        ("tpot", "TPOT p95", "tpot_p95", "time", "itl", False),
        ("ready", "Replicas that are ready", "ready", "count", "", True),
        ("waiting", "Requests that wait in engines", "waiting", "count", "", False),
        ("cost", f"Cost ({ones[0]['score']['currency']} an hour)", "cost_per_hour", "money", "budget", True),
    )
    for key, title, column, unit, limit, stepped in kinds:
        if any(column not in one["series"] for one in ones):
            continue
        pairs = zip(names(ones), ones, strict=True)
        lines = tuple(Line(name, one["series"][column], step(one)) for name, one in pairs)
        if any(value for line in lines for value in line.values):
            sentence = f"Highest: {'; '.join(f'{line.name} {_peak(line, unit)}' for line in lines)}."
            held = limits.get(limit, ())
            yield Chart(key, title, sentence, unit, lines, held, log=unit == "time", stepped=stepped)


def names(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of variants, less a setting's path where all have the same and no other."""
    found = [one["name"] for one in variants]
    paths = {name.partition("=")[0] for name in found}
    if len(paths) > 1 or any(name.count("=") != 1 for name in found):
        return found
    return [name.partition("=")[2] for name in found]


def rows(chart: Chart) -> list[tuple[str, ...]]:
    """The values behind a chart, in at most ROWS rows: when a stretch begins, and a value for each line."""
    pace = _width(chart, ROWS)
    lines = [folded(line, pace) for line in chart.lines]
    return [
        (clock(index * pace), *(shown(chart.unit, line[index] if index < len(line) else None) for line in lines))
        for index in range(max(len(line) for line in lines))
    ]


def data(chart: Chart) -> dict[str, Any]:
    """The same for report.js."""
    pace = _width(chart, POINTS)
    lines = [(one.step, one.values) if chart.stepped else (pace, folded(one, pace)) for one in chart.lines]
    return {
        "unit": chart.unit,
        "log": chart.log,
        "stepped": chart.stepped,
        "end": _end(chart),
        "lines": [
            {"name": one.name, "step": pace, "values": values}
            for one, (pace, values) in zip(chart.lines, lines, strict=True)
        ],
        "limits": [{"value": value} for _, value in chart.limits],
        "marks": [{"second": one.second, "value": one.value, "up": one.up, "text": one.text} for one in chart.marks],
    }


def folded(line: Line, width: float) -> list[float | None]:
    """Values of stretches of `width` seconds, six digits; None where nothing happened in all of a stretch."""
    groups: dict[int, list[float]] = {}
    for index, value in enumerate(line.values):
        if value is not None:
            groups.setdefault(int(index * line.step / width + 1e-9), []).append(value)
    count = ceil(len(line.values) * line.step / width - 1e-9)
    return [float(f"{_fold(groups[one], line.fold):.6g}") if one in groups else None for one in range(count)]


def _fold(values: list[float], fold: Fold) -> float:
    return max(values) if fold == "highest" else median(values) if fold == "median" else _mean(values)


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def _width(chart: Chart, most: int) -> float:
    """Seconds of a stretch, so that there are at most `most`: a whole number of the longest steps."""
    pace = max(line.step for line in chart.lines)
    return pace * max(1, ceil(_end(chart) / pace / most - 1e-9))


def _end(chart: Chart) -> float:
    return max(line.step * len(line.values) for line in chart.lines)


def spikes(variant: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The worst stretches of TTFT p99, at most three, in their order: when, how high, what was going on, what the scaler did.

    A stretch is above the strictest limit on TTFT, or above four times the median where there is none.
    """
    series, pace = variant["series"], step(variant)
    values = series["ttft_p99"]
    there = [value for value in values if value is not None]
    if not there:
        return []
    limit = min((value for _, value in _limits(variant, "ttft")), default=_USUAL * median(there))
    high = [index for index, value in enumerate(values) if value is not None and value > limit]
    gap = max(2, int(len(values) * _NEAR))
    cuts = [0, *(number + 1 for number, (one, two) in enumerate(pairwise(high)) if two - one > gap), len(high)]
    stretches = [high[start:end] for start, end in pairwise(cuts) if end > start]
    worst = sorted(stretches, key=lambda one: (-max(values[index] for index in one), one[0]))[:_WORST]
    return [_spike(variant, one[0], one[-1] + 1, pace) for one in sorted(worst)]


def _spike(variant: Mapping[str, Any], start: int, end: int, pace: float) -> dict[str, Any]:
    series = variant["series"]
    top = max(range(start, end), key=lambda index: (series["ttft_p99"][index] or 0.0, -index))
    ready, starting, waiting, held = (series[name][top] for name in ("ready", "starting", "waiting", "held"))
    rate = fsum(series["requests_per_second"][start:end]) / (end - start)
    usual = fsum(series["requests_per_second"]) / len(series["requests_per_second"])
    facts = [
        f"replicas: {round(ready)} ready" + (f", {round(starting)} starting" if round(starting) else ""),
        f"requests: {round(waiting)} waiting" + (f", {round(held)} held" if round(held) else ""),
        f"KV cache {shown('share', series['kv_share'][top])} full",
        f"arrivals: {shown('count', rate)}/s in this stretch, {shown('count', usual)}/s in the whole run",
    ]
    decisions = [one for one in variant["decisions"] if one["second"] < end * pace]
    meanwhile = [one for one in decisions if one["second"] >= start * pace]
    said = [f"{clock(one['second'])}: {decision(one)}" for one in meanwhile[:_WORST]]
    if len(meanwhile) > _WORST:
        said.append(f"and {len(meanwhile) - _WORST} more until {clock(meanwhile[-1]['second'])}")
    if not meanwhile:
        last = f"the last one before was at {clock(decisions[-1]['second'])}" if decisions else "nor before"
        said.append(f"no decision in this stretch, {last}")
    return {
        "from": clock(start * pace),
        "until": clock(min(end * pace, variant["seconds"][-1] + pace)),
        "peak": span(series["ttft_p99"][top]),
        "at": clock(top * pace),
        "facts": facts,
        "decisions": said,
    }


def decision(one: Mapping[str, Any]) -> str:
    return f"{one['pool']} {one['from']} → {one['to']}: {one['reason']}"


def _marks(variant: Mapping[str, Any]) -> tuple[Mark, ...]:
    return tuple(Mark(one["second"], one["to"], one["to"] > one["from"], decision(one)) for one in variant["decisions"])


def _latency(variant: Mapping[str, Any], key: str, name: str, title: str, marks: Sequence[Mark]) -> Chart:
    lines = _lines(variant, "highest", **{f"{key}_{one}": one for one in ("p99", "p95")})
    lines += _lines(variant, "median", **{f"{key}_p50": "p50"})
    limits = tuple(_limits(variant, {"tpot": "itl"}.get(key, key)))
    there = [value for value in lines[0].values if value is not None]
    if there:
        sentence = f"{name} p99 is at most {_peak(lines[0], 'time')}, its median over time {span(median(there))}"
        if limits and key != "tpot":
            strict = min(limit for _, limit in limits)
            sentence += f"; above {span(strict)} in {_mean([value > strict for value in there]):.0%} of the time"
    else:
        sentence = "Nothing was answered"
    feet = tuple(Mark(one.second, None, one.up, one.text) for one in marks) if key == "ttft" else ()
    return Chart(key, title, f"{sentence}.", "time", lines, limits, feet, log=True)


def _replicas(variant: Mapping[str, Any], marks: tuple[Mark, ...]) -> Chart:
    pace, series = step(variant), variant["series"]
    lines = [Line(f"pool {name}", values, pace) for name, values in series["replicas"].items()]
    lines.append(Line("ready, all pools", series["ready"], pace))
    mean = fsum(pool["replicas_mean"] for pool in variant["score"]["pools"])
    sentence = f"{shown('count', mean)} replicas on average; ready: at most {_peak(lines[-1], 'count')}"
    count = variant["score"]["scalings"]
    sentence += (
        f". The scaler decided {count} {'time' if count == 1 else 'times'}." if count else "; nothing is scaled."
    )
    return Chart(
        "replicas", "Replicas and decisions", sentence, "count", tuple(lines[:MOST_LINES]), (), marks, stepped=True
    )


def _limits(variant: Mapping[str, Any], metric: str) -> Iterator[tuple[str, float]]:
    for one in variant["score"]["objectives"]:
        if one["metric"] == metric:
            yield f"{metric.upper() if metric != 'e2e' else metric} p{one['percentile'] * 100:g} limit", one["limit"]


def _lines(variant: Mapping[str, Any], fold: Fold = "highest", **names: str) -> tuple[Line, ...]:
    """Lines of columns, less `held` and `failed` ones where none were."""
    series, pace = variant["series"], step(variant)
    rare = ("held", "failed_per_second")
    return tuple(
        Line(name, series[key], pace, fold) for key, name in names.items() if key not in rare or any(series[key])
    )


def _peak(line: Line, unit: Unit) -> str:
    there = [(value, -index) for index, value in enumerate(line.values) if value is not None]
    if not there:
        return "-"
    value, index = max(there)
    return f"{shown(unit, value)} (at {clock(-index * line.step)})" if value else shown(unit, value)


def _average(line: Line, unit: Unit = "count") -> str:
    there = [value for value in line.values if value is not None]
    return shown(unit, _mean(there)) if there else "-"
