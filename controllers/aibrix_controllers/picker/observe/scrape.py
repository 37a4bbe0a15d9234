"""Asks each engine once a second how it is, where it has no sidecar that tells (`stream.py`).

Why it exists: what a picker knows of load beyond its own requests, and that an engine hangs, it knows from here. Three things
can come of a look and are kept apart: a report; an answer without numbers (the engine lives, its report is stale); no answer
(it hangs or is gone, and gets nothing). An engine that is merely late is forgiven at the moment its answer comes: a look is
not given up when it is judged, so a pause of 1.2 s costs 0.4 s without new requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import orjson

from aibrix_controllers.picker.config import Config, Service
from aibrix_controllers.picker.observe.fleet import Fleet, Key
from aibrix_controllers.picker.observe.http import Answer, Connection, TooLarge, Unreachable
from aibrix_controllers.picker.observe.scanner import Report, Scanner
from aibrix_controllers.picker.observe.stream import Listener

PERIOD_S = 1.0
TIMEOUT_S = 0.8
"""Of a look, all of it; with the period, a hung engine is known after 1.8 s at the latest."""
PATIENCE_S = 3.0
"""How long a late answer is still waited for; then the connection is given up, for the address may be somebody else's."""
LATE_S = 0.05
"""When this process itself came that late to a timeout, the answer may lie unread: it looks once more before it judges."""
PAGE_BYTES = 1 << 20
LIST_BYTES = 4 << 20
"""10,000 adapters at 350 bytes each."""
T = TypeVar("T")


class Look(NamedTuple):
    """An engine's answer. `why`: what is missing in it; empty: nothing."""

    report: Report | None
    models: frozenset[str] | None
    why: str


async def follow(
    config: Callable[[], Config], fleet: Fleet, random: Callable[[], float], token: Path | None = None
) -> None:
    """Asks every replica of the fleet that belongs to a service of the configuration, until cancelled. `random` in [0, 1)
    spreads the looks over the second."""
    looking: dict[Key, asyncio.Task[None]] = {}
    try:
        while True:
            fleet.changed.clear()
            for key in looking.keys() - fleet.replicas.keys():
                looking.pop(key).cancel()
            for key in fleet.replicas.keys() - looking.keys():
                looking[key] = asyncio.create_task(_Watcher(config, fleet, key, token).run(random()))
            await fleet.changed.wait()
    finally:
        for task in looking.values():
            task.cancel()


class _Watcher:
    """Of one replica."""

    def __init__(self, config: Callable[[], Config], fleet: Fleet, key: Key, token: Path | None) -> None:
        self._config, self._fleet, self._key, self._token = config, fleet, key, token
        host, _, port = key[1].rpartition(":")
        self._connection = Connection(host.strip("[]"), int(port))
        self._service: Service | None = None
        self._scanner: Scanner | None = None
        self._said = ("", "")
        self._stream = ""
        """Why there is no stream, when that was said."""

    async def run(self, phase: float) -> None:
        """The first look at once, the next ones a second apart, the second one after `phase` of a second."""
        loop = asyncio.get_running_loop()
        due = loop.time() - (1 - phase) * PERIOD_S
        try:
            while True:
                if service := self._config().services.get(self._key[0]):
                    try:
                        if service.runtime:
                            await self._listen(service)
                        await self._look(service)
                    except Exception as error:  # a mistake here must not blind the picker to one replica for good
                        self._say("scrape_broken", repr(error))
                due = max(due + PERIOD_S, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            self._connection.close()

    async def _listen(self, service: Service) -> None:
        """To the sidecar, for as long as it tells. When it does not, the engine itself is asked once, and then the sidecar again."""

        def heard() -> None:
            if self._stream:
                self._fleet.note("stream_back", service=self._key[0], address=self._key[1])
            self._stream = ""

        why = await Listener(self._config, self._fleet, self._key, service, self._token).follow(heard)
        if why and why != self._stream:
            self._fleet.note("stream_away", service=self._key[0], address=self._key[1], why=why)
        self._stream = why
        self._fleet.state.leaves(*self._key, False, "page", self._fleet.clock())

    async def _look(self, service: Service) -> None:
        loop, fleet = asyncio.get_running_loop(), self._fleet
        asked = asyncio.create_task(self._ask(service))
        try:
            deadline = loop.time() + TIMEOUT_S
            await asyncio.wait((asked,), timeout=TIMEOUT_S)
            if not asked.done() and loop.time() > deadline + LATE_S:
                await asyncio.wait((asked,), timeout=LATE_S)
            if not asked.done():
                fleet.state.failed(*self._key, hung=True, now=fleet.clock())
                self._say("engine_hung", f"no answer for {TIMEOUT_S:g} s")
                await asyncio.wait((asked,), timeout=PATIENCE_S)
            if asked.done():
                self._tell(asked.result())
        finally:
            asked.cancel()

    async def _ask(self, service: Service) -> Look | Unreachable:
        if service is not self._service:
            known = service.metrics.get("running") and service.metrics.get("waiting")
            self._service, self._scanner = service, Scanner(service.metrics) if known else None
        try:
            report = await self._numbers()
            models = await self._models() if service.adapters else None
        except Unreachable as error:
            return error
        whys = [one for one in (report, models) if isinstance(one, str) and one]
        return Look(
            report if isinstance(report, Report) else None,
            models if isinstance(models, frozenset) else None,
            "; ".join(whys),
        )

    async def _numbers(self) -> Report | str:
        """An engine without metrics is asked for its health, to know that it lives."""
        if self._scanner is None:
            return await self._get("/health", PAGE_BYTES, lambda _: "")
        return await self._get("/metrics", PAGE_BYTES, self._scanner.scan)

    async def _models(self) -> frozenset[str] | str:
        return await self._get("/v1/models", LIST_BYTES, served)

    async def _get(self, path: str, limit: int, read: Callable[[bytes], T]) -> T | str:
        try:
            answer: Answer = await self._connection.get(path, limit)
        except TooLarge as error:
            return f"{path}: {error}"
        return read(answer.body) if answer.status == 200 else f"{path} answers {answer.status}"

    def _tell(self, found: Look | Unreachable) -> None:
        fleet, state, now = self._fleet, self._fleet.state, self._fleet.clock()
        if isinstance(found, Unreachable):
            fleet.heard(self._key, listening=not found.refused)
            state.failed(*self._key, hung=True, gone=found.refused, now=now)
            self._say("engine_unreachable", str(found))
            return
        fleet.heard(self._key, listening=True)
        if found.report is None:
            state.failed(*self._key, hung=False, now=now)
        else:
            one = found.report
            state.report(
                *self._key,
                running=one.running,
                waiting=one.waiting,
                kv_share=one.kv_share,
                kv_tokens=one.kv_tokens,
                now=now,
            )
        if found.models is not None:
            state.serves(*self._key, found.models, now)
        self._say("engine_report_missing" if found.why else "engine_well", found.why)

    def _say(self, event: str, why: str) -> None:
        """Once, not each second."""
        if (event, why) != self._said and (self._said[0] or event != "engine_well"):
            self._fleet.note(event, service=self._key[0], address=self._key[1], why=why)
        self._said = (event, why)


def served(body: bytes) -> frozenset[str] | str:
    """The names in an engine's list of models, or why there is none."""
    try:
        rows = orjson.loads(body)["data"]
        return frozenset(row["id"] for row in rows if isinstance(row["id"], str))
    except (ValueError, TypeError, LookupError):
        return "/v1/models is no list of models"
