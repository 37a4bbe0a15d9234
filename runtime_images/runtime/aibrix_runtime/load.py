"""What is known of the engine and told to who watches: state, load, the adapters that may be asked for.

Why a board: the plugin's datagrams, looks at the engine and loads write here, streams read here, and none of them knows another.
A line goes out when a value moves, at most every 50 ms, and once a second in any case, so that silence means something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

SPACING_S, BEAT_S = 0.05, 1.0
TOTALS = (
    *("requests", "prompt_tokens", "output_tokens", "ttft_s", "ttft_n", "itl_s", "itl_n"),
    *("cached_tokens", "queried_tokens"),
)


class Announced(NamedTuple):
    """An adapter that may be asked for here."""

    name: str
    digest: str
    rank: int
    uri: str


class Figures(NamedTuple):
    """The engine's load. `in_use`: adapters with requests, as far as it says."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    kv_tokens: int = 0
    in_use: frozenset[str] = frozenset()
    totals: Mapping[str, float] = {}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Figures:
        """From a datagram. ValueError, TypeError, KeyError."""
        totals = {name: float(data["totals"].get(name, 0)) for name in TOTALS}
        numbers = int(data["running"]), int(data["waiting"]), float(data["kv_used"]), int(data["kv_tokens"])
        return cls(*numbers, frozenset(map(str, data["in_use"])), totals)


class Board:
    """`seed`: where revisions begin; random, so that a restart is seen as a change. `source` of the figures: plugin, page, or none."""

    def __init__(self, seed: int, prefix: str) -> None:
        self.state, self.why, self.source = "starting", "it has not answered yet", "page"
        self.figures = Figures()
        self.draining = False
        self.adapters: Sequence[Announced] = ()
        self.revision = seed
        self._prefix, self._starts = prefix, 0
        self._watching: set[asyncio.Event] = set()

    @property
    def incarnation(self) -> str:
        return f"{self._prefix}-{self._starts}"

    def engine(self, state: str, why: str = "") -> None:
        if state == self.state and why == self.why:
            return
        if state == "gone" and self.state not in ("starting", "gone"):
            self._starts += 1
        if state == "gone" and self.state == "starting":
            return  # it is not there yet
        self.state, self.why = state, why
        self._moved()

    def load(self, source: str, figures: Figures) -> None:
        if (source, figures) != (self.source, self.figures):
            self.source, self.figures = source, figures
            self._moved()

    def drain(self, draining: bool) -> None:
        if draining != self.draining:
            self.draining = draining
            self._moved()

    def announce(self, adapters: Sequence[Announced]) -> None:
        if adapters != self.adapters:
            self.adapters, self.revision = adapters, self.revision + 1
            self._moved()

    @property
    def ready(self) -> str:
        """Why the replica may not get requests; empty if it may. Adapters have no say in it."""
        if self.draining:
            return "draining"
        return "" if self.state == "ready" else f"the engine is {self.state}: {self.why}"

    def line(self, adapters: bool = True) -> bytes:
        one = self.figures
        data: dict[str, Any] = {
            "engine": self.state,
            "why": self.why,
            "source": self.source,
            "incarnation": self.incarnation,
            "running": one.running,
            "waiting": one.waiting,
            "kv_used": round(one.kv_used, 4),
            "kv_tokens": one.kv_tokens,
            "in_flight_tokens": round(one.kv_used * one.kv_tokens),
            "draining": self.draining,
            "revision": self.revision,
            "totals": one.totals,
        }
        if adapters:
            data["adapters"] = [row._asdict() for row in self.adapters]
        return orjson.dumps(data) + b"\n"

    async def lines(self) -> AsyncIterator[bytes]:
        """For one watcher, without end."""
        event, told = asyncio.Event(), -1
        self._watching.add(event)
        try:
            while True:
                event.clear()
                before, told = told, self.revision  # it may move while the line is on its way
                yield self.line(before != told)
                await asyncio.sleep(SPACING_S)
                try:
                    async with asyncio.timeout(BEAT_S - SPACING_S):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            self._watching.discard(event)

    def _moved(self) -> None:
        for event in self._watching:
            event.set()
