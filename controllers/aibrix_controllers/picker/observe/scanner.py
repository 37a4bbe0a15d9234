"""Four numbers from an engine's metrics page, without parsing the rest of it.

Why it exists: the page is 55 KB and there are hundreds of engines; one regular expression finds the few lines that are wanted
at a two-hundredth of the price of parsing the page. What is read is read strictly: a number that is not beyond doubt is a reason,
never a number, because a picker that believes a wrong one sends everybody to the wrong replica.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

_MOST = 1e9  # requests of one engine; more is no count
_LABEL = rb'[A-Za-z_][A-Za-z0-9_]*+="[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"'
_LABELS = rb"(?:" + _LABEL + rb"(?:," + _LABEL + rb")*+,?+)?+"
_REST = rb"(?:\{(" + _LABELS + rb")\})?[ \t]++([0-9.eE+-]{1,32}+)(?:[ \t]++-?[0-9]{1,19}+)?[ \t]*+(?=\n)"
_BLOCK_TOKENS = re.compile(rb'(?:^|,)block_size="([0-9]{1,9})"')
_BLOCKS = re.compile(rb'(?:^|,)num_gpu_blocks="([0-9]{1,9})"')
_Series = Mapping[bytes, float]
"""Labels as they stand in the page -> value."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one engine says of itself. Engines with several data-parallel ranks are one."""

    running: int
    waiting: int
    kv_share: float
    """Of the KV cache in use, 0 to 1; 0 where no metric of it is configured."""
    kv_tokens: int
    """What the KV cache can hold; 0: unknown."""


class Scanner:
    """For pages of one kind of engine."""

    __slots__ = ("_cache", "_find", "_kv", "_running", "_waiting")

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names`: running, waiting and, where the engine has them, kv_usage and cache_config -> the engine's metric."""
        self._running, self._waiting = names["running"].encode(), names["waiting"].encode()
        self._kv, self._cache = names.get("kv_usage", "").encode(), names.get("cache_config", "").encode()
        wanted = b"|".join(re.escape(name) for name in (self._running, self._waiting, self._kv, self._cache) if name)
        # The name of a line that is wanted and not understood is found all the same: the second group stays empty.
        self._find = re.compile(rb"\n(" + wanted + rb")(?![A-Za-z0-9_:])(?:" + _REST + rb")?")

    def scan(self, page: bytes) -> Report | str:
        """The report, or why there is none. Never raises."""
        if not page.endswith(b"\n"):
            return "the page ends within a line"
        found: dict[bytes, dict[bytes, float]] = {}
        for name, labels, text in self._find.findall(page if page[:1] == b"#" else b"\n" + page):
            series, value = found.setdefault(name, {}), _number(text)
            if value is None or value < 0:
                return f"{name.decode()} has no number"
            if labels in series:
                return f"{name.decode()} stands there twice"
            series[labels] = value
        running, waiting = found.get(self._running, {}), found.get(self._waiting, {})
        shares = found.get(self._kv, {}) if self._kv else {b"": 0.0}
        for name, series in ((self._running, running), (self._waiting, waiting), (self._kv, shares)):
            if not series:
                return f"no {name.decode()}"
        for name, series in ((self._running, running), (self._waiting, waiting)):
            if any(value > _MOST or not value.is_integer() for value in series.values()):
                return f"{name.decode()} is no number of requests"
        if max(shares.values()) > 1:
            return f"{self._kv.decode()} is no share"
        kv_share = sum(shares.values()) / len(shares)
        kv_tokens = _capacity(found.get(self._cache, {}))
        return Report(int(sum(running.values())), int(sum(waiting.values())), kv_share, kv_tokens)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _capacity(series: _Series) -> int:
    """Tokens of all ranks together; 0 unless each of them says it."""
    total = 0
    for labels in series:
        size, blocks = _BLOCK_TOKENS.search(labels), _BLOCKS.search(labels)
        if not size or not blocks:  # vLLM says None before it has measured its memory
            return 0
        total += int(size[1]) * int(blocks[1])
    return total
