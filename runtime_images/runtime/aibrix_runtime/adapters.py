"""Adapters of the engine beside us: loaded, replaced, unloaded, one thing at a time for each name.

The engine's own list is the truth; what is remembered here is only who waits for what. An adapter is announced when the engine
lists it from one of our folders, and no longer from the moment at which it is to go: then it is taken away only when nobody uses
it any more. So a request that was sent because it was announced finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aibrix_runtime import precheck
from aibrix_runtime.config import Config
from aibrix_runtime.engine import Away, Engine, Listed
from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Secret
from aibrix_runtime.fetch.uris import Uri
from aibrix_runtime.load import Announced, Board
from aibrix_runtime.store import About, Kept, Store

SETTLE_S = 1.0
"""From the last announcement until nobody sends any more: a line of the stream, and requests that are on their way."""
LOOK_S = 0.2
"""Between looks at who still uses an adapter."""


class Wanted(NamedTuple):
    """`drain_s`: how long another content of that name may still be in use before it gives way."""

    name: str
    uri: Uri
    digest: str
    secret: Secret | None
    drain_s: float


class Loaded(NamedTuple):
    """`seconds` it took; `cached`: nothing was fetched."""

    name: str
    digest: str
    rank: int
    bytes: int
    cached: bool
    seconds: float


class Adapters:
    """`store` is None where the service has no adapters. `clock` in seconds."""

    def __init__(
        self,
        config: Callable[[], Config],
        engine: Engine,
        board: Board,
        clock: Callable[[], float],
        in_use: Callable[[], Awaitable[Set[str]]],
    ) -> None:
        """`in_use`: adapters with requests, as the engine says now; Away."""
        self._config, self._engine, self._board, self._clock, self._in_use = config, engine, board, clock, in_use
        self.store: Store | None = None
        self.listed: dict[str, Listed] | None = None
        """The engine's adapters; None before it was ever asked."""
        self._going: set[str] = set()
        self._loading: set[str] = set()
        """Folders that the engine is reading."""
        self._new: set[str] = set()
        """Names for which a place is taken that the engine does not list yet."""
        self._tasks: dict[str, tuple[object, asyncio.Task[Any]]] = {}
        self._gate = asyncio.Lock()
        self._known: dict[str, About] = {}

    # --- what there is

    def seen(self, rows: Sequence[Listed]) -> None:
        """The engine's list, whenever somebody has read it."""
        self.listed = {row.name: row for row in rows if row.parent}
        self.announce()

    def lost(self) -> None:
        """The engine has ended: the next one begins with nothing."""
        self.listed = {}
        self.announce()

    def announce(self) -> None:
        rows = (self.listed or {}).values()
        found = [self._announced(row) for row in rows if row.name not in self._going]
        self._board.announce(sorted(one for one in found if one))

    def in_engine(self) -> Set[str] | None:
        """Folders that must stay; None: all, as the engine was not asked yet."""
        if self.listed is None:
            return None
        return {row.root for row in self.listed.values()} | self._loading

    def card(self, row: Listed) -> dict[str, object]:
        """What we know of an adapter that the engine lists."""
        known = self._announced(row)
        return {
            "digest": known.digest if known else "",
            "rank": known.rank if known else 0,
            "announced": known is not None and row.name not in self._going,
            "in_use": row.name in self._board.figures.in_use,
        }

    def _announced(self, row: Listed) -> Announced | None:
        """None for one that was loaded past us: nobody knows what it is."""
        if row.root not in self._known and self.store and (about := self.store.about(row.root)):
            self._known[row.root] = about
        about = self._known.get(row.root)
        return Announced(row.name, about.digest, about.rank, about.uri) if about else None

    # --- what is asked for

    async def load(self, wanted: Wanted) -> Loaded:
        """Once it is announced. Who leaves meanwhile does not end it; who asks for the same joins. Failed."""
        found: Loaded = await self._only(wanted.name, wanted, lambda: self._load(wanted))
        return found

    async def unload(self, name: str, drain_s: float) -> None:
        """Once the engine does not list it. Failed: not_loaded, in_use, engine_away."""
        await self._only(name, "unload", lambda: self._unload(name, drain_s))

    async def _only(self, name: str, what: object, act: Callable[[], Awaitable[Any]]) -> Any:
        while name in self._tasks:
            before, task = self._tasks[name]
            if before == what:
                return await asyncio.shield(task)
            await asyncio.wait((task,))
        task = asyncio.ensure_future(act())
        self._tasks[name] = what, task
        task.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(task)

    def _ended(self, name: str, task: asyncio.Task[Any]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # somebody may have left: it was told to who stayed, and is in the log

    async def _load(self, wanted: Wanted) -> Loaded:
        config, store, began = self._config(), self._store(), self._clock()
        await self._refresh()
        row = (self.listed or {}).get(wanted.name)
        there = self._announced(row) if row else None
        if row and there and wanted.digest == there.digest:
            return self._result(wanted, Kept(Path(row.root), there.digest, 0, cached=True), there.rank, began)
        with self._place(wanted.name, new=row is None):
            kept = await store.obtain(wanted.name, wanted.uri, wanted.digest, wanted.secret)
            limits = config.adapters
            assert limits
            checked = await asyncio.to_thread(precheck.check, kept.path, config.base, limits.max_rank, wanted.name)
            store.remember(kept.path, checked.rank)
            self._known.pop(str(kept.path), None)
            if not (row and row.root == str(kept.path)):
                self._loading.add(str(kept.path))
                try:
                    if row:
                        await self._drained(wanted.name, wanted.drain_s)
                    async with self._gate:
                        await self._engine.load(wanted.name, str(kept.path), replace=row is not None)
                    await self._refresh()
                finally:
                    self._loading.discard(str(kept.path))
                    self._going.discard(wanted.name)
                    self.announce()
                row = (self.listed or {}).get(wanted.name)
                if row is None or row.root != str(kept.path):
                    raise Failed("engine_refused", f"the engine took {wanted.name} and does not list it")
        return self._result(wanted, kept, checked.rank, began)

    def _result(self, wanted: Wanted, kept: Kept, rank: int, began: float) -> Loaded:
        return Loaded(wanted.name, kept.digest, rank, kept.bytes, kept.cached, self._clock() - began)

    async def _unload(self, name: str, drain_s: float) -> None:
        await self._refresh()
        if name not in (self.listed or {}):
            raise Failed("not_loaded", f"the engine does not list {name}")
        try:
            await self._drained(name, drain_s)
            async with self._gate:
                await self._engine.unload(name)
            await self._refresh()
        finally:
            self._going.discard(name)
            self.announce()
        if name in (self.listed or {}):
            raise Failed("engine_refused", f"the engine unloaded {name} and still lists it")

    async def _drained(self, name: str, drain_s: float) -> None:
        """Announced no more, and then used no more. Failed: in_use, engine_away."""
        self._going.add(name)
        self.announce()
        until, quiet = self._clock() + max(drain_s, SETTLE_S), 0
        await asyncio.sleep(SETTLE_S)
        while quiet < 2:
            try:
                quiet = 0 if name in await self._in_use() else quiet + 1
            except Away as error:
                raise Failed("engine_away", f"the engine does not answer: {error.why}") from None
            if quiet < 2:
                if not quiet and self._clock() > until:
                    raise Failed("in_use", f"{name} still has requests after {drain_s:g} s")
                await asyncio.sleep(LOOK_S)

    @contextmanager
    def _place(self, name: str, *, new: bool) -> Iterator[None]:
        """Holds a place in the engine while an adapter is fetched: the engine itself refuses none, it evicts. Failed: no_room."""
        limits, taken = self._config().adapters, len((self.listed or {}).keys() | self._new)
        if new and limits and taken >= limits.max_cached:
            message = (
                f"the engine holds {taken} adapters, and {limits.max_cached} are allowed (maxCached); unload one first"
            )
            raise Failed("no_room", message)
        if new:
            self._new.add(name)
        try:
            yield
        finally:
            self._new.discard(name)

    async def _refresh(self) -> None:
        try:
            _, rows = await self._engine.models()
        except Away as error:
            raise Failed("engine_away", f"the engine does not answer: {error.why}") from None
        self.seen(rows)

    def _store(self) -> Store:
        if self.store is None:
            raise Failed("bad_request", "this service has no adapters")
        return self.store
