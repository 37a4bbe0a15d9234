"""`python -m aibrix_mock` with vLLM's flags: reads them, waits as long as an engine takes to start, serves until a signal.

Exit codes: 0 after a signal, 1 when the engine died or could not start, 2 for a command line that vLLM refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import uvicorn

from aibrix_mock import nodes
from aibrix_mock.app import Server
from aibrix_mock.engine import Engine
from aibrix_mock.openai import ApiError
from aibrix_mock.options import Options, Refused, Settings, parse, settings
from aibrix_mock.serving import VERSION, Models

LOG = logging.getLogger("aibrix_mock")
_T = TypeVar("_T")
_WATCHDOG = 5.0  # seconds between two looks at the engine, as in vLLM
_KEEP_ALIVE = 5  # seconds that an idle connection stays open, VLLM_HTTP_TIMEOUT_KEEP_ALIVE's default


class _Uvicorn(uvicorn.Server):
    """Without signal handlers of its own: the engine stops before the server does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(options: Options) -> socket.socket:
    """Bound but not listening: the port is taken from the first moment, connections are refused until the engine is up."""
    family = socket.AF_INET6 if options.host and ":" in options.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((options.host or "", options.port))
    return sock


async def _serve(options: Options, chosen: Settings, stop: asyncio.Event) -> int:
    sock = _bound(options)
    gone = await _unless(stop, nodes.gather(options.nodes, options.master[1])) if options.nodes > 1 else None
    await _unless(stop, asyncio.sleep(chosen.start_seconds))
    models = Models(options, chosen)
    for name, path in options.lora_modules:
        try:
            await models.load({"lora_name": name, "lora_path": path})
        except ApiError as error:
            raise Refused(error.message) from None
    engine = Engine(models.core(), chosen.speed)
    died = asyncio.Event()
    app = Server(options, models, engine, died.set).app()
    level = (
        options.log_level if options.log_level != "info" else "warning"
    )  # a line for each request would cost more than it
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_level=level, timeout_keep_alive=_KEEP_ALIVE
    )
    server = _Uvicorn(config)
    stepping = asyncio.create_task(engine.run())
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    watching = asyncio.create_task(_watch(engine, died, gone))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, watching, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not engine.dead:
        LOG.info("shutdown triggered, mode=%s", "drain" if options.shutdown_timeout else "abort")
        await engine.stop(options.shutdown_timeout)
    server.should_exit = True
    await serving
    for task in (stepping, watching, stopping):
        task.cancel()
    return 1 if engine.dead else 0


async def _watch(engine: Engine, died: asyncio.Event, gone: asyncio.Future[None] | None) -> None:
    """Returns when the server should leave: a request met the dead engine, or nobody asked for five seconds."""

    def alone(_: asyncio.Future[None]) -> None:
        engine.die("a node of this replica is gone")
        died.set()

    if gone is not None:
        gone.add_done_callback(alone)
    while not engine.dead:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(died.wait(), _WATCHDOG)


class _Stopped(Exception):
    """A signal came before the engine was up."""


async def _unless(stop: asyncio.Event, work: Awaitable[_T]) -> _T:
    """The work's result; _Stopped if `stop` is set before it is there."""
    task, stopping = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    raise _Stopped


async def _run(options: Options, chosen: Settings) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.suppress(_Stopped):
        if not options.headless:
            return await _serve(options, chosen, stop)
        await _unless(stop, nodes.join(options.master, options.node_rank))
        LOG.error("the leader is gone")
        return 1
    return 0


def main(words: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO)
    try:
        chosen = settings(os.environ)
        options = parse(sys.argv[1:] if words is None else words, chosen)
        LOG.info(
            "mock of vLLM %s, model %s, profile %s, speed %g", VERSION, options.model, chosen.profile.name, chosen.speed
        )
        if options.without_effect:
            LOG.info("flags without effect here: %s", ", ".join(options.without_effect))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_run(options, chosen))
    except (Refused, OSError) as error:
        LOG.error("%s", error)
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
