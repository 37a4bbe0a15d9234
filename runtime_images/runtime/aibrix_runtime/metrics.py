"""The engine's metrics as they are, the same ones under names that do not depend on the engine, and the sidecar's own.

Why neutral names: dashboards, alerts and scalers should not change with an engine or its version. Each appears once, beside its
original. And: what can be read from that page where there is no plugin.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from aibrix_runtime.load import Figures

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEAD = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SUFFIXES = (b"_bucket", b"_count", b"_sum")
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
_TOTALS = {  # of the load stream -> the engine's series, where a page is read
    "requests": b"vllm:request_success_total",
    "prompt_tokens": b"vllm:prompt_tokens_total",
    "output_tokens": b"vllm:generation_tokens_total",
    "ttft_s": b"vllm:time_to_first_token_seconds_sum",
    "ttft_n": b"vllm:time_to_first_token_seconds_count",
    "itl_s": b"vllm:inter_token_latency_seconds_sum",
    "itl_n": b"vllm:inter_token_latency_seconds_count",
    "cached_tokens": b"vllm:prefix_cache_hits_total",
    "queried_tokens": b"vllm:prefix_cache_queries_total",
}
_IN_USE = b"vllm:lora_requests_info"
_RUN, _WAIT = b"running_lora_adapters", b"waiting_lora_adapters"


def neutral(page: bytes, names: Mapping[str, str]) -> bytes:
    """`names`: role -> series. Histograms keep their buckets; a series that stands twice in the page is taken once."""
    roles = {series.encode(): role for role, series in names.items()}
    kinds: dict[bytes, bytes] = {}
    rows: dict[str, dict[bytes, bytes]] = {}
    for line in page.splitlines():
        if line.startswith(b"# TYPE "):
            family, _, kind = line[7:].partition(b" ")
            kinds[family] = kind
        elif match := _HEAD.match(line):
            name = match[0]
            base = next((name.removesuffix(one) for one in _SUFFIXES if name.endswith(one)), name)
            family = name if name in roles else base
            if (role := roles.get(family)) is not None:
                head, _, value = line.rpartition(b" ")
                fresh = f"aibrix_engine_{role}".encode() + head.removeprefix(family)
                rows.setdefault(role, {}).setdefault(fresh, value)
    text = []
    for role, found in rows.items():
        kind = kinds.get(names[role].encode()) or kinds.get(names[role].removesuffix("_total").encode()) or b"untyped"
        text.append(f"# TYPE aibrix_engine_{role} ".encode() + kind + b"\n")
        text += [head + b" " + value + b"\n" for head, value in found.items()]
    return b"".join(text)


def figures(page: bytes, names: Mapping[str, str]) -> Figures:
    """The load, where the engine has no plugin."""
    wanted = {series.encode(): role for role, series in names.items() if role in ("running", "waiting", "kv_usage")}
    totals: defaultdict[str, float] = defaultdict(float)
    values: defaultdict[str, float] = defaultdict(float)
    series = {name: total for total, name in _TOTALS.items()}
    cache, users, newest, parts = 0, b"", -1.0, 0
    for line in page.splitlines():
        match = _HEAD.match(line)
        if match is None:
            continue
        name = match[0]
        if name in wanted:
            values[wanted[name]] += _number(line)
            parts += wanted[name] == "kv_usage"
        elif name in series:
            totals[series[name]] += _number(line)
        elif name == names.get("cache_config", "").encode():
            labels = dict(_LABEL.findall(line))
            cache += _int(labels.get(b"num_gpu_blocks")) * _int(labels.get(b"block_size"))
        elif name == _IN_USE and _number(line) > newest:
            newest, labels = _number(line), dict(_LABEL.findall(line))
            users = labels.get(_RUN, b"") + b"," + labels.get(_WAIT, b"")
    in_use = frozenset(one.decode("utf-8", "replace") for one in users.split(b",") if one)
    return Figures(
        int(values["running"]), int(values["waiting"]), values["kv_usage"] / max(1, parts), cache, in_use, dict(totals)
    )


def _number(line: bytes) -> float:
    try:
        value = float(line.rpartition(b" ")[2])
    except ValueError:
        return 0.0
    return value if value == value else 0.0


def _int(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0


class Own:
    """The sidecar's own figures: counts by name and labels, and gauges that are asked for when somebody looks."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        self.counts[name, tuple(sorted(labels.items()))] += by

    def text(self, gauges: Iterable[tuple[str, Mapping[str, float]]]) -> bytes:
        """`gauges`: name, and value by the label `state`, which is empty for one without."""
        rows = []
        families: dict[str, list[str]] = {}
        for (name, labels), value in sorted(self.counts.items()):
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            families.setdefault(name, []).append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
        for name, lines in families.items():
            rows += [f"# TYPE {name} counter", *lines]
        for name, values in gauges:
            rows.append(f"# TYPE {name} gauge")
            rows += [
                f'{name}{{state="{state}"}} {value:g}' if state else f"{name} {value:g}"
                for state, value in values.items()
            ]
        return ("\n".join(rows) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
