"""The cluster's process: PID 1 of its own user, network and process namespaces; when it ends, all that it started ends.

It starts the control plane and the nodes, then obeys one JSON request a line on `control.sock` and passes bytes between
`api.sock` and the API server, because the tests are outside and share only the file system. It ends when its standard input
closes, so a test run that is killed leaves nothing behind.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ADDRESS, PORT, ControlPlane, Failed, Process, client
from tests.cluster.dns import Names
from tests.cluster.network import Network
from tests.cluster.node import Nodes, Spec


class World:
    def __init__(self, folder: Path, programs: dict[str, Path], nodes: list[Spec]) -> None:
        self.folder, self._specs = folder, nodes
        self.plane = ControlPlane(programs, folder, nodes[0].name)
        self.network = Network()
        self.programs: dict[str, Process] = {}

    async def live(self) -> None:
        await self.network.prepare()
        await self.plane.start()
        async with client() as api, asyncio.TaskGroup() as group:
            self.nodes = Nodes(api, self.network, self.folder, self._specs)
            self.names = Names(api)
            await self.nodes.register()
            self.plane.processes["kube-proxy"].start()
            group.create_task(self.nodes.run())
            group.create_task(self.names.run())
            await asyncio.start_unix_server(self._control, self.folder / "control.sock", limit=2**24)
            await asyncio.start_unix_server(self._pass, self.folder / "api.sock")
            print("ready", flush=True)
            await self._until_stdin_closes()
            os._exit(0)

    async def _until_stdin_closes(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(ADDRESS, PORT)
        except OSError:
            writer.close()  # the API server is down: the caller's connection breaks as it would
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            try:
                action: Callable[..., Awaitable[Any]] = getattr(self, f"do_{request.pop('do')}")
                answer = {"ok": await action(**request)}
            except Exception as error:  # told to the test, which raises it there
                answer = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()

    # --- what a test may ask for

    async def do_run(self, argv: list[str], env: dict[str, str], timeout: float, stdin: str = "") -> dict[str, Any]:
        """A program in the nodes' network, to its end."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(stdin.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return {
            "code": process.returncode,
            "out": out.decode("utf-8", "replace"),
            "err": err.decode("utf-8", "replace"),
        }

    async def do_start(self, name: str, argv: list[str], env: dict[str, str]) -> str:
        """A program in the nodes' network, in the background; answers with its log's path."""
        process = self.programs[name] = Process(name, argv, self.folder, {**os.environ, **env})
        process.start()
        return str(process.log)

    async def do_stop(self, name: str) -> None:
        await self.programs.pop(name).stop()

    async def do_exec(self, namespace: str, name: str, argv: list[str], timeout: float) -> list[Any]:
        unit = self.nodes.pod(namespace, name).units[0]
        assert unit.process is not None, f"{name} is not running"
        return list(await unit.process.run(argv, timeout))

    async def do_logs(self, namespace: str, name: str, container: str = "") -> str:
        pod = self.nodes.pod(namespace, name)
        unit = next(one for one in (*pod.units, *pod.sidecars) if container in ("", one.name))
        return unit.log.read_text("utf-8", "replace") if unit.log.exists() else ""

    async def do_kill(self, namespace: str, name: str, container: str = "") -> None:
        self.nodes.kill(namespace, name, container)

    async def do_freeze(self, namespace: str, name: str, thaw: bool = False) -> None:
        self.nodes.freeze(namespace, name, thaw)

    async def do_cut(self, namespace: str, name: str, mend: bool = False) -> None:
        await self.nodes.cut(namespace, name, mend)

    async def do_slow_readiness(self, namespace: str, name: str, seconds: float) -> None:
        self.nodes.slow_readiness(namespace, name, seconds)

    async def do_lose_node(self, node: str) -> None:
        await self.nodes.lose(node)

    async def do_restore_node(self, node: str) -> None:
        await self.nodes.restore(node)

    async def do_api_down(self) -> None:
        await self.plane.processes["kube-apiserver"].stop(signal.SIGKILL)

    async def do_api_up(self) -> None:
        self.plane.processes["kube-apiserver"].start()
        await self.plane.ready(60)

    async def do_forget_names(self) -> None:
        self.names.forget()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--programs", type=json.loads, required=True)
    parser.add_argument("--nodes", type=json.loads, required=True)
    arguments = parser.parse_args()
    programs = {name: Path(path) for name, path in arguments.programs.items()}
    os.environ["PATH"] = (
        ":".join(dict.fromkeys(str(path.parent) for path in programs.values())) + ":" + os.environ["PATH"]
    )
    try:
        asyncio.run(World(arguments.folder, programs, [Spec(**one) for one in arguments.nodes]).live())
    except* Failed as failed:
        print("\n".join(str(error) for error in failed.exceptions), flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
