"""Looks at the engine, and hears its plugin. What comes of it stands on the board."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path

import orjson

from aibrix_runtime import metrics
from aibrix_runtime.adapters import Adapters
from aibrix_runtime.config import Config
from aibrix_runtime.engine import Away, Engine
from aibrix_runtime.load import TOTALS, Board, Figures

LOOK_S, STARTING_S = 0.5, 0.2
PAGE_S = 1.0
"""Between two readings of the metrics page, where there is no plugin."""
DRAINING, SOCKET, PLUGINS = "draining", "load.sock", "plugins"
_DATAGRAM = 1 << 16


class Plugin:
    """The engine's own word, by datagrams; with data parallel one of each of its cores. `boot` is the engine process's."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._parts: dict[int, Figures] = {}
        self.boot = ""

    def heard(self, text: bytes) -> None:
        """Whatever it is: what can not be read is left."""
        try:
            data = orjson.loads(text)
            boot, core, found = str(data["boot"]), int(data["engine"]), Figures.read(data)
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if boot != self.boot:
            self.boot, self._parts = boot, {}
        self._parts[core] = found
        self._board.load("plugin", _sum(self._parts))

    def lost(self) -> None:
        self.boot, self._parts = "", {}

    @property
    def in_use(self) -> Set[str]:
        return self._board.figures.in_use


def _sum(parts: Mapping[int, Figures]) -> Figures:
    if len(parts) == 1:
        return next(iter(parts.values()))
    rows = parts.values()
    tokens = sum(one.kv_tokens for one in rows)
    return Figures(
        sum(one.running for one in rows),
        sum(one.waiting for one in rows),
        sum(one.kv_used * one.kv_tokens for one in rows) / max(1, tokens),
        tokens,
        frozenset().union(*(one.in_use for one in rows)),
        {name: sum(one.totals[name] for one in rows) for name in TOTALS},
    )


class Observer:
    def __init__(self, config: Callable[[], Config], engine: Engine, board: Board, run: Path) -> None:
        self._config, self._engine, self._board, self._run = config, engine, board, run
        self.plugin = Plugin(board)

    async def in_use(self) -> Set[str]:
        """Adapters with requests, now. Away."""
        if self.plugin.boot:
            return self.plugin.in_use
        page = await self._engine.page()
        if page is None:
            raise Away("ready", "/metrics, where it says who uses which adapter, is not there")
        return metrics.figures(page, self._config().metrics).in_use

    async def follow(self, adapters: Adapters) -> None:
        """Until cancelled. The engine's list is read with each look: it changes also without us."""
        loop = asyncio.get_running_loop()
        read = loop.time() - PAGE_S
        while True:
            board = self._board
            board.drain((self._run / DRAINING).exists())
            try:
                await self._engine.health()
                _, rows = await self._engine.models()
                model = self._config().engine.model
                if all(row.name != model for row in rows):
                    raise Away("dead", f"it does not list {model}")
                adapters.seen(rows)
                board.engine("ready")
                if not self.plugin.boot and loop.time() - read >= PAGE_S:
                    read, page = loop.time(), await self._engine.page()
                    if page is None:
                        board.load("none", Figures())
                    else:
                        board.load("page", metrics.figures(page, self._config().metrics))
            except Away as error:
                board.engine(error.state, error.why)
                if error.state == "gone":
                    adapters.lost()
                    (self._run / DRAINING).unlink(missing_ok=True)  # the kubelet drains an engine that it restarts, too
                    self.plugin.lost()
                    board.load("page", Figures())
            await asyncio.sleep(LOOK_S if board.state == "ready" and not board.draining else STARTING_S)

    def listen(self) -> None:
        """Datagrams of the plugin, from now on."""
        path = self._run / SOCKET
        with suppress(FileNotFoundError):
            path.unlink()
        line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        line.setblocking(False)
        line.bind(str(path))
        path.chmod(0o660)  # the engine runs as the same user, or in the same group

        def heard() -> None:
            with suppress(BlockingIOError):
                for _ in range(64):
                    self.plugin.heard(line.recv(_DATAGRAM))

        asyncio.get_running_loop().add_reader(line, heard)
