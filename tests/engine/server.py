"""A real vLLM on CPU as a process: started, waited for, stopped, with nothing left behind.

The model runs on one core. vLLM's HTTP front end goes to the other one, with whoever sends load: beside a GPU it has cores of its
own too, and on the model's core it would stretch steps that the simulator takes for the model's. Files that vLLM writes go to a
folder that is removed. If this process is killed, so is the engine.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.toolchain import Missing, on_path

START_S, STOP_S = 240.0, 20.0
"""What an engine gets to start and to stop."""


@dataclass(frozen=True, slots=True)
class Engine:
    port: int
    pid: int
    """Of the front end, which is the head of the engine's process group."""
    core: int
    """The model's."""

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    @property
    def kv_tokens(self) -> int:
        """What its KV cache holds, from its own metrics."""
        row = next(row for row in self.get("/metrics").splitlines() if row.startswith("vllm:cache_config_info{"))
        labels = dict(part.split("=", 1) for part in row[row.index("{") + 1 : row.rindex("}")].split(","))
        return int(labels["num_gpu_blocks"].strip('"')) * int(labels["block_size"].strip('"'))

    def core_s(self) -> tuple[float, float]:
        """CPU seconds of the model's core so far: everybody's, and of them the engine's."""
        tick = os.sysconf("SC_CLK_TCK")
        row = next(row for row in Path("/proc/stat").read_text().splitlines() if row.startswith(f"cpu{self.core} "))
        times = [int(one) for one in row.split()[1:9]]
        own = 0
        for pid in members(self.pid):
            if pid != self.pid:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                own += int(fields[11]) + int(fields[12])
        return (sum(times) - times[3] - times[4]) / tick, own / tick

    @property
    def model(self) -> str:
        name: str = json.loads(self.get("/v1/models"))["data"][0]["id"]
        return name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[int, int]:
    """The model's and everybody else's; the same one where there is but one."""
    there = sorted(os.sched_getaffinity(0))
    return there[0], there[-1]


@contextmanager
def engine(
    python: Path, model: Path, flags: Sequence[str], variables: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[Engine]:
    """vLLM answers from here on; ended at exit. RuntimeError with the end of its log if it does not come up."""
    tools = {name: on_path(name) for name in ("setpriv", "taskset")}
    if None in tools.values():
        raise Missing("to start an engine needs: apt-get install util-linux")
    port = port or free_port()
    core, rest = cores()
    with tempfile.TemporaryDirectory(prefix="aibrix-engine-") as name:
        folder = Path(name)
        command = [
            *(str(tools["setpriv"]), "--pdeathsig", "TERM", str(tools["taskset"]), "-c", str(core)),
            *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(model), "--served-model-name", "m", "--enforce-eager"),
            *("--distributed-executor-backend", "uni", *flags),
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(folder) | dict(variables or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                _wait(process, port, folder / "log")
                for thread in Path(f"/proc/{process.pid}/task").iterdir():
                    with suppress(ProcessLookupError):
                        os.sched_setaffinity(int(thread.name), {rest})
                yield Engine(port, process.pid, core)
            finally:
                _stop(process)


def _environment(folder: Path) -> dict[str, str]:
    homes = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON"))}
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return kept | settings | dict.fromkeys(homes, str(folder))


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1),
        ):
            return
        time.sleep(0.2)
    what = f"ended with {process.returncode}" if process.returncode is not None else f"was not ready in {START_S:.0f} s"
    raise RuntimeError(f"vLLM {what}:\n{log.read_text('utf-8', 'replace')[-4000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and what has not ended in time is killed, the whole group of it."""
    process.terminate()
    until = time.monotonic() + STOP_S
    while (process.poll() is None or members(process.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while members(process.pid):
        time.sleep(0.01)


def members(group: int) -> list[int]:
    """Processes of a group that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(stat.parent.name))
    return found
