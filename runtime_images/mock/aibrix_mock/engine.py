"""Runs the scheduler in real time. Why it exists: the core decides and counts, this sleeps until a step's end and wakes
the answers that got a token.

Simulated time runs `speed` times as fast as the clock. A step that ends within a millisecond is taken at once - timers
are no finer -, and when the process is late it takes steps without waiting and wakes each answer once for all tokens that
it got meanwhile, so a busy machine makes chunks longer before it makes the engine slower.
"""

from __future__ import annotations

import asyncio
import logging

from aibrix_mock.core import EngineCore, Request

LOG = logging.getLogger("aibrix_mock")
_AHEAD = 0.001  # real seconds that a step may be taken before its end
_BURST = 0.004  # real seconds of steps before others get the event loop
_BEHIND = 0.25  # real seconds of delay that are made up for; what is beyond them is lost
_RETRY = 0.05  # real seconds until requests that do not fit are looked at again


class Dead(Exception):
    """The engine is gone; vLLM's words."""

    def __init__(self) -> None:
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")


class Ticket:
    """An answer in the making, for the one coroutine that sends it."""

    __slots__ = ("_engine", "_woken", "request", "want")

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self.request, self.want = engine, request, 0
        self._woken: asyncio.Future[None] | None = None

    async def reach(self, tokens: int) -> None:
        """Until `tokens` are there or it is finished; Dead if the engine dies."""
        request = self.request
        while not request.finished and request.generated < tokens:
            if self._engine.dead:
                raise Dead
            self.want = tokens
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def cancel(self) -> None:
        """The client is gone: its place and blocks are free now."""
        if not self.request.finished:
            self._engine.core.abort(self.request)
            self._engine.flush()


class Engine:
    def __init__(self, core: EngineCore, speed: float = 1.0) -> None:
        self.core, self.speed = core, speed
        self.dead = self.hanging = self.stopping = False
        self._tickets: dict[Request, Ticket] = {}
        self._work = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._said_late = False

    def clock(self) -> float:
        """Simulated seconds since the engine started."""
        return (self._loop.time() - self._start) * self.speed

    def submit(self, request: Request) -> Ticket:
        """Dead if it is; while the engine stops, the request is aborted at once, as vLLM does."""
        if self.dead:
            raise Dead
        self.core.add(request, self.clock())
        ticket = self._tickets[request] = Ticket(self, request)
        if self.stopping:
            self.core.abort(request)
            self.flush()
        self._work.set()
        return ticket

    def die(self, why: str) -> None:
        """As a crash of the engine's process: every answer fails, nothing is served again."""
        LOG.error("EngineCore encountered a fatal error: %s", why)
        self.dead = True
        for ticket in self._tickets.values():
            ticket.wake()
        self._tickets.clear()
        self._work.set()

    def wake(self) -> None:
        """After somebody changed what the engine may do."""
        self._work.set()

    async def stop(self, timeout: float) -> None:
        """New requests are aborted; those that there are get `timeout` real seconds (0: none), then they are too."""
        self.stopping = True
        limit = self._loop.time() + timeout
        while self.core.unfinished and not self.dead and self._loop.time() < limit:
            await asyncio.sleep(0.02)
        for request in list(self._tickets):
            self.core.abort(request)
        self.flush()

    async def run(self) -> None:
        """Until the engine dies."""
        try:
            while not self.dead:
                if self.hanging or not self.core.unfinished:
                    self._work.clear()
                    await self._work.wait()
                    self.core.now = max(self.core.now, self.clock())
                else:
                    await self._steps()
        except Exception as error:  # whatever the core could not do ends a real engine's process as well
            self.die(f"{type(error).__name__}: {error}")

    async def _steps(self) -> None:
        core, loop = self.core, self._loop
        yield_at = loop.time() + _BURST
        while core.unfinished and not (self.dead or self.hanging):
            end = core.begin(core.now)
            if end is None:
                self.flush()
                await asyncio.sleep(_RETRY)
                core.now = max(core.now, self.clock())
                return
            ahead = (end - self.clock()) / self.speed
            if ahead > _AHEAD:
                self.flush()
                await asyncio.sleep(ahead)
            core.finish()
            if loop.time() >= yield_at:
                self.flush()
                await asyncio.sleep(0)
                self._keep_up()
                yield_at = loop.time() + _BURST
        self.flush()
        await asyncio.sleep(0)

    def _keep_up(self) -> None:
        late = (self.clock() - self.core.now) / self.speed
        if late > _BEHIND:
            self.core.now = self.clock()
            if not self._said_late:
                self._said_late = True
                LOG.warning("this machine is too slow for the profile at speed %g: answers take longer", self.speed)

    def flush(self) -> None:
        """Wakes the answers that have what they wait for."""
        tickets = self._tickets
        for request in self.core.progressed:
            ticket = tickets.get(request)
            if ticket is None:
                continue
            if request.finished:
                del tickets[request]
                ticket.wake()
            elif request.generated >= ticket.want:
                ticket.wake()
        self.core.progressed.clear()
