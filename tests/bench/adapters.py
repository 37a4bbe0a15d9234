"""Many adapters on a real control plane: how long it takes until all of them have answered, and what that costs.

`python -m tests.bench.adapters [--adapters 1000] [--replicas 8]`. Mock engines under vLLM's name, sidecars, controllers, pickers
and Envoy as emitted; weights of 26 kB in an S3 server. Everything shares this machine's cores, engines included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import assets
from tests.cluster.adapters import PORT, Fleet, Item
from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.control_plane import ADDRESS
from tests.runtime import written

_PUT = """\
import sys, pathlib
from tests.runtime import buckets
bucket = buckets.store(sys.argv[1], "adapters")
files = {path.name: path.read_bytes() for path in pathlib.Path(sys.argv[2]).iterdir()}
for number in range(int(sys.argv[3])):
    for name, data in files.items():
        bucket.put(f"many-{number}/{name}", data)
"""

_ASK = """\
import sys, time, httpx
from concurrent.futures import ThreadPoolExecutor
url, host, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = httpx.Client(timeout=60, trust_env=False, headers={"host": host}, limits=httpx.Limits(max_connections=200))
def ask(number):
    begun = time.monotonic()
    body = {"model": f"many-{number}", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    try:
        answer = client.post(f"{url}/v1/chat/completions", json=body)
    except httpx.TransportError as error:
        return 0, time.monotonic() - begun, f"{type(error).__name__} of many-{number}"
    return answer.status_code, time.monotonic() - begun, answer.text[:200]
with ThreadPoolExecutor(64) as pool:
    rows = list(pool.map(ask, range(count)))
times = sorted(took for _, took, _ in rows)
print(sum(code != 200 for code, _, _ in rows), times[len(times) // 2], times[-1])
print({text for code, _, text in rows if code != 200}, file=sys.stderr)
"""


def until(done: Callable[[], bool], begun: float, seconds: float = 600) -> float:
    """Seconds since `begun` when that is so."""
    while not done():
        if time.monotonic() - begun > seconds:
            raise TimeoutError
        time.sleep(0.1)
    return time.monotonic() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adapters", description=__doc__)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=8)
    options = parser.parse_args(arguments)
    places = -(-options.adapters * 5 // 4 // options.replicas)
    limits = f"{{maxLoaded: 8, maxCached: {places}, maxRank: 8}}"
    with tempfile.TemporaryDirectory() as folder, Cluster.start(assets.DEFAULT) as cluster:
        first = {"first": Item("{min: 1}")}
        with Fleet.on(cluster, Path(folder), options.replicas, first, limits) as fleet:
            files = written.adapter(Path(folder) / "small", rank=1, layers=1)
            words = (sys.executable, "-c", _PUT, f"http://{ADDRESS}:{PORT}", str(files), str(options.adapters))
            done = cluster.run(*words, env={"PYTHONPATH": str(ROOT)})
            assert not done["code"], done["err"]
            _many(fleet, options.adapters, options.replicas)
            _one(fleet)


def _many(fleet: Fleet, count: int, replicas: int) -> None:
    names = ("process_cpu_seconds_total", "adapters_api_requests_total")
    idle = {name: fleet.metric(name) for name in names}
    time.sleep(20)
    idle = {name: (fleet.metric(name) - before) / 20 for name, before in idle.items()}
    before = {name: fleet.metric(name) for name in names}
    applied = fleet.change(**{f"many-{number}": Item() for number in range(count)})
    until(lambda: fleet.counts()["desired"] == count + 1, applied)
    until(lambda: fleet.edge.one(f"many-{count - 1}")["error"] == "", applied)
    time.sleep(3)  # the other picker has read its file by now, too
    began = time.monotonic()
    words = (sys.executable, "-c", _ASK, fleet.edge.url, fleet.edge.host, str(count))
    done = fleet.cluster.run(*words, env={"PYTHONPATH": str(ROOT)}, timeout=500)
    assert not done["code"], done["err"]
    if done["err"].strip() != "set()":
        print(done["err"][:2000], file=sys.stderr)
    failed, middle, longest = done["out"].split()
    took = time.monotonic() - began
    loaded = len({name for held in fleet.held().values() for name in held})
    cpu, calls = (fleet.metric(name) - before[name] - idle[name] * took for name in names)
    print(f"{count} adapters on demand over {replicas} replicas, one request for each, 64 at once:")
    print(f"  all were answered after {took:.1f} s, {failed} failed, {loaded} adapters are loaded")
    print(f"  a request that waits for its adapter: p50 {float(middle):.2f} s, at most {float(longest):.2f} s")
    print(f"  controllers: {cpu:.1f} s of CPU, {calls:.0f} calls of the API server, beside those of every second")
    print(f"  idle, both together: {idle[names[0]] * 1000:.0f} ms of CPU and {idle[names[1]]:.1f} calls a second")
    memory = [_resident(fleet, pod["status"]["podIP"]) / 1e6 for pod in fleet.edge.pods("support")]
    print(f"  sidecars: {statistics.mean(memory):.0f} MB of memory each, at most {max(memory):.0f} MB")


def _resident(fleet: Fleet, address: str) -> float:
    text = str(fleet.cluster.run("curl", "--silent", f"http://{address}:8080/metrics")["out"])
    return next(float(row.split()[1]) for row in text.splitlines() if row.startswith("runtime_resident_bytes "))


def _one(fleet: Fleet, times: int = 5) -> None:
    """Another content of an adapter among all of them: until the first answer, which then is of that content."""
    took = []
    for number in range(times):
        name = f"changed-{number}"
        fleet.put(name)
        applied = fleet.change(**{name: Item()})
        took.append(until(lambda name=name: fleet.edge.one(name)["error"] == "", applied))  # type: ignore[misc]
    print(
        f"one more beside them: first answer {statistics.median(took):.1f} s after kubectl apply, at most {max(took):.1f} s"
    )
    print(json.dumps({"seconds": [round(one, 2) for one in took]}))


if __name__ == "__main__":
    main()
