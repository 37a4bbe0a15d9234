"""A container's life within its pod: started, probed, restarted with back-off, stopped with grace; its status as Kubernetes
writes it."""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.cluster import container
from tests.cluster.container import Process, Setting
from tests.cluster.probes import Prober
from tests.cluster.volumes import NotYet
from tests.cluster.watch import Object

_BACK_OFF = (1.0, 30.0)  # 10 and 300 s in a real node: first wait and longest
_QUIET = 600.0  # seconds of running after which the back-off is forgotten


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Unit:
    """One container of a pod. `changed` is called when its status is another; `event` gets (type, reason, message)."""

    def __init__(
        self,
        spec: Object,
        setting: Callable[[Object], Setting],
        address: str,
        logs: Path,
        changed: Callable[[], None],
        event: Callable[[str, str, str], None],
    ) -> None:
        self.spec, self.name = spec, str(spec["name"])
        self._setting, self._logs, self._changed, self._event = setting, logs, changed, event
        self.prober = Prober(address, spec)
        self.state: Object = {"waiting": {"reason": "PodInitializing"}}
        self.last: Object = {}
        self.restarts, self.ready, self.started = 0, False, False
        self.exit_code: int | None = None
        self.process: Process | None = None
        self._back_off = _BACK_OFF[0]
        self._ending = False
        self._starting = asyncio.Lock()

    @property
    def log(self) -> Path:
        return self._logs / self.name / f"{self.restarts}.log"

    def status(self) -> Object:
        identity = f"process://{self.process.pid}" if self.process else ""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "containerID": identity,
            "state": self.state,
            "lastState": self.last,
            "restartCount": self.restarts,
            "ready": self.ready,
            "started": self.started,
        }

    async def live(self, restart: str) -> None:
        """Run until the container ends for good under the pod's restart policy, or `stop` is called."""
        while not self._ending:
            began = time.monotonic()
            code = await self._once()
            if code is None:
                return
            self.exit_code = code
            if self._ending or restart == "Never" or (restart == "OnFailure" and code == 0):
                return
            if time.monotonic() - began > _QUIET:
                self._back_off = _BACK_OFF[0]
            self.last = self.state
            message = f"back-off {self._back_off:.0f}s restarting failed container={self.name}"
            self._to({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
            self._event("Warning", "BackOff", message)
            await asyncio.sleep(self._back_off)
            self._back_off = min(self._back_off * 2, _BACK_OFF[1])
            self.restarts += 1

    async def _once(self) -> int | None:
        """One process from start to end: its exit code; None when told to stop before it could start."""
        while True:
            try:
                async with self._starting:  # `stop` must not come between the decision to start and the process
                    if self._ending:
                        return None
                    self.process = await container.start(self.spec, self._setting(self.spec), self.log)
                break
            except NotYet as error:
                reason, colon, _ = str(error).partition(": ")
                known = colon and " " not in reason
                self._to(
                    {"waiting": {"reason": reason if known else "CreateContainerConfigError", "message": str(error)}}
                )
                self._event("Warning", "Failed", str(error))
                await asyncio.sleep(1)
        began = now()
        self._to({"running": {"startedAt": began}})
        watching = asyncio.create_task(self._watch(self.process))
        try:
            code = await self.process.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self.ready = self.started = False
        reason = "Completed" if code == 0 else "Error"
        self._to({"terminated": {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}})
        return code

    async def _watch(self, process: Process) -> None:
        """Hooks and probes of a running container."""
        ok, said = await self.prober.hook("postStart", process, 60)
        if not ok:
            self._event("Warning", "FailedPostStartHook", said)
            process.signal(signal.SIGKILL)
            return
        async for ok, said in self.prober.results("startup", process):
            if not ok:
                self._event("Warning", "Unhealthy", f"Startup probe failed: {said}")
                process.signal(signal.SIGTERM)
                return
            break
        self.started = True
        self._changed()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._readiness(process))
            group.create_task(self._liveness(process))

    async def _readiness(self, process: Process) -> None:
        async for ok, said in self.prober.results("readiness", process):
            if not ok:
                self._event("Warning", "Unhealthy", f"Readiness probe failed: {said}")
            self.ready = ok
            self._changed()

    async def _liveness(self, process: Process) -> None:
        async for ok, said in self.prober.results("liveness", process):
            if not ok and not self._ending:
                self._event("Warning", "Killing", f"Container {self.name} failed liveness probe: {said}")
                await self._kill(process, self.spec.get("terminationGracePeriodSeconds", 30))

    async def stop(self, grace: float) -> None:
        """preStop hook, SIGTERM, and SIGKILL when `grace` seconds are over; the hook's time counts."""
        self._ending = True
        async with self._starting:
            pass
        if self.process is not None and self.process.outer.returncode is None:
            await self._kill(self.process, grace)

    async def _kill(self, process: Process, grace: float) -> None:
        deadline = time.monotonic() + grace
        ok, said = await self.prober.hook("preStop", process, grace)
        if not ok:
            self._event("Warning", "FailedPreStopHook", said)
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(2.0, deadline - time.monotonic())):
                await process.wait()
        except TimeoutError:
            process.signal(signal.SIGKILL)
            await process.wait()

    def _to(self, state: Object) -> None:
        self.state = state
        self._changed()
