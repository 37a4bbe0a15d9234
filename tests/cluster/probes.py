"""Probes and lifecycle hooks of a container, as the kubelet runs them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.cluster.container import Process
from tests.cluster.watch import Object


class Prober:
    """`slow` is a delay in seconds that a test adds to every probe of the kind `readiness`."""

    def __init__(self, address: str, spec: Object) -> None:
        self._address, self._spec = address, spec
        self.slow = 0.0
        self._http = httpx.AsyncClient(verify=False, limits=httpx.Limits(max_keepalive_connections=0))

    async def results(self, kind: str, process: Process) -> AsyncIterator[tuple[bool, str]]:
        """Each change of mind, as the thresholds define it: (passes, what was said). Without a probe: passes at once."""
        probe = self._spec.get(f"{kind}Probe")
        if probe is None:
            yield True, ""
            return
        verdict: bool | None = None if kind == "startup" else kind == "liveness"
        passed = failed = 0
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while True:
            began = time.monotonic()
            ok, said = await self._once(probe, process, self.slow if kind == "readiness" else 0)
            passed, failed = (passed + 1, 0) if ok else (0, failed + 1)
            if ok and verdict is not True and passed >= probe.get("successThreshold", 1):
                verdict = True
                yield True, said
            if not ok and verdict is not False and failed >= probe.get("failureThreshold", 3):
                verdict = False
                yield False, said
            await asyncio.sleep(max(0.0, probe.get("periodSeconds", 10) - (time.monotonic() - began)))

    async def _once(self, probe: Object, process: Process, delay: float) -> tuple[bool, str]:
        limit = probe.get("timeoutSeconds", 1)
        try:
            async with asyncio.timeout(limit):
                await asyncio.sleep(delay)
                return await self._act(probe, process, limit)
        except TimeoutError:
            return False, f"no answer within {limit} s"

    async def _act(self, action: Object, process: Process, limit: float) -> tuple[bool, str]:
        if one := action.get("exec"):
            code, said = await process.run(one["command"], limit)
            return code == 0, said
        if one := action.get("httpGet"):
            port = self._port(one["port"])
            url = (
                f"{one.get('scheme', 'HTTP').lower()}://{one.get('host') or self._address}:{port}{one.get('path', '/')}"
            )
            headers = {header["name"]: header["value"] for header in one.get("httpHeaders", ())}
            try:
                answer = await self._http.get(url, headers={"User-Agent": "kube-probe/1.37", **headers}, timeout=limit)
            except httpx.HTTPError as error:
                return False, f"Get {url}: {error!r}"
            return answer.status_code < 400, f"HTTP {answer.status_code}"
        if one := action.get("tcpSocket"):
            try:
                _, writer = await asyncio.open_connection(self._address, self._port(one["port"]))
            except OSError as error:
                return False, str(error)
            writer.close()
            return True, ""
        if one := action.get("sleep"):
            await asyncio.sleep(one["seconds"])
            return True, ""
        return False, f"a probe by {sorted(action)} is not offered here"

    async def hook(self, when: str, process: Process, limit: float) -> tuple[bool, str]:
        """`postStart` or `preStop`, at most `limit` seconds."""
        action = self._spec.get("lifecycle", {}).get(when)
        if action is None:
            return True, ""
        try:
            async with asyncio.timeout(limit):
                return await self._act(action, process, limit)
        except TimeoutError:
            return False, f"{when} did not end within {limit:.0f} s"

    def _port(self, port: Any) -> int:
        if isinstance(port, int):
            return port
        return int(next(one["containerPort"] for one in self._spec.get("ports", ()) if one.get("name") == port))

    async def close(self) -> None:
        await self._http.aclose()
