"""A service with adapters on a cluster: its weights in an S3 server that runs beside the nodes, its items edited as in Git."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aibrix_compile import crds
from tests.cluster.api import wait
from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.control_plane import ADDRESS
from tests.cluster.edge import Edge, Environment
from tests.cluster.watch import Object
from tests.platform.judge import judged
from tests.runtime import buckets, written

EDGE, MODELS, PORT = "lora-edge", "lora-models", 4568
PROJECT = f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {{name: adapters}}
spec:
  services: [services/*.yaml]
  images:
    controllers: registry.example.com/aibrix/controllers:0.1.0
    runtime: registry.example.com/aibrix/runtime:0.1.0
  environments:
    - name: lora
      namespace: {MODELS}
      storage: {{s3: {{endpoint: "http://{ADDRESS}:{PORT}", region: us-east-1}}}}
      accelerators: {{nvidia-l4: {{nodeSelector: {{cloud.google.com/gke-accelerator: nvidia-l4}}, quota: 12}}}}
      gateway: {{namespace: {EDGE}, hostname: llm.example.com, replicas: 1, picker: {{replicas: 2}}}}
"""


class Item(NamedTuple):
    replicas: str = ""
    priority: int = 0
    digest: str = ""

    def text(self, name: str) -> str:
        more = f", replicas: {self.replicas}" if self.replicas else ""
        more += f", priority: {self.priority}" if self.priority else ""
        more += f", digest: '{self.digest}'" if self.digest else ""
        return f"{{name: {name}, uri: 's3://adapters/{name}', credentials: {{secret: s3-keys}}{more}}}"


_PUT = (
    "import sys, pathlib\n"
    "from tests.runtime import buckets\n"
    "buckets.put(sys.argv[1], 'adapters', sys.argv[2], pathlib.Path(sys.argv[3]))\n"
)
_ASK = ("curl", "--silent", "--max-time", "5")


class Fleet:
    """Service `support` behind its gateway. `edge` has the project, the pods and the requests."""

    def __init__(self, cluster: Cluster, folder: Path, replicas: int, items: dict[str, Item], limits: str) -> None:
        self.cluster, self.api, self._folder, self._replicas = cluster, cluster.api, folder, replicas
        self._limits, self._items = limits, items
        (folder / "bucket").mkdir()
        self._serving = self._server()
        self._serving.__enter__()
        environment = Environment("lora", EDGE, MODELS, "llm.example.com", {})
        for name in items:
            self.put(name)
        self.edge = Edge(cluster, folder, environment, PROJECT, {"support": self._service()})
        keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}
        meta = {"name": "s3-keys", "namespace": MODELS}
        self.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": keys})
        words = ("create", "token", "aibrix-adapters", "-n", MODELS, "--audience=aibrix-runtime", "--duration=3h")
        self._token = cluster.kubectl(*words).strip()

    @classmethod
    @contextmanager
    def on(
        cls,
        cluster: Cluster,
        folder: Path,
        replicas: int,
        items: dict[str, Item],
        limits: str = "{maxLoaded: 8, maxCached: 12, maxRank: 16}",
    ) -> Iterator["Fleet"]:
        """Everything is up, and Envoy has heard of the pickers, which it asked DNS for before they were there."""
        found = cls(cluster, folder, replicas, items, limits)
        try:
            for name, count in (("support", replicas), ("gateway", 1), ("picker", 2)):
                found.edge.settled(name, count)
            wait("a controller leads", found.leader)
            cluster.forget_names()
            wait("the picker is asked", lambda: found.edge.picked(found.edge.one("support")))
            yield found
        finally:
            for value in reversed([*found.edge.platform, *found.edge.objects]):
                if value["kind"] != "CustomResourceDefinition":
                    found.api.delete(value)
            found._serving.__exit__(None, None, None)

    def _service(self) -> str:
        items = "\n".join(f"      - {item.text(name)}" for name, item in self._items.items())
        return f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {{name: support}}
spec:
  model: {{uri: hf://meta-llama/Llama-3.1-8B-Instruct, servedName: support}}
  engine: {{name: vllm, version: 0.32.0, maxModelLen: 8192}}
  pools: [{{name: l4, accelerator: nvidia-l4, replicas: {self._replicas}, resources: {{memory: 48Gi}}}}]
  routing: {{strategy: cost, hold: {{maxWait: 20s}}}}
  adapters:
    limits: {self._limits}
    whenMissing: hold
    items:
{items}
"""

    # --- Git

    def change(self, **items: Item | None) -> float:
        """Adds, replaces and removes items, compiles and applies; when that was done (time.monotonic)."""
        before = self._service()
        for name, item in items.items():
            if item is None:
                del self._items[name]
            else:
                self._items[name] = item
        self.edge.change(("services/support.yaml", before, self._service()))
        return time.monotonic()

    # --- weights

    def _server(self) -> Any:
        command = buckets.command(ADDRESS, PORT, self._folder / "bucket", "adapters")
        return self.cluster.program("s3", *command)

    @contextmanager
    def bucket_down(self) -> Iterator[None]:
        self._serving.__exit__(None, None, None)
        try:
            yield
        finally:
            self._serving = self._server()
            self._serving.__enter__()

    def put(self, name: str, rank: int = 8, seed: int = 0) -> str:
        """An adapter into the bucket; its digest."""
        folder = self._files(name, rank, seed)
        done = {"code": 1, "err": ""}
        deadline = time.monotonic() + 20
        while done["code"] and time.monotonic() < deadline:  # the server may still be starting
            words = (sys.executable, "-c", _PUT, f"http://{ADDRESS}:{PORT}", name, str(folder))
            done = self.cluster.run(*words, env={"PYTHONPATH": str(ROOT)})
        assert not done["code"], done["err"]
        return written.digest(folder)

    def digest(self, name: str, seed: int, rank: int = 8) -> str:
        return written.digest(self._files(name, rank, seed))

    def _files(self, name: str, rank: int, seed: int) -> Path:
        return written.adapter(self._folder / "weights" / f"{name}-{rank}-{seed}", rank=rank, seed=seed)

    # --- what there is

    def sets(self) -> list[Object]:
        return self.api.list("AdapterSet", MODELS, api=crds.API_VERSION)

    def health(self) -> str:
        """Of all sets together, as Argo CD judges them."""
        found = {judged(one)[0] for one in self.sets()}
        return next(one for one in ("Degraded", "Progressing", "Healthy") if one in found)

    def counts(self) -> dict[str, int]:
        rows = [one.get("status", {}).get("counts", {}) for one in self.sets()]
        return {name: sum(row.get(name, 0) for row in rows) for name in ("desired", "loaded", "failed")}

    def exceptions(self, name: str) -> list[Object]:
        """Of one adapter, those that do not pass by themselves."""
        rows = [row for one in self.sets() for row in one.get("status", {}).get("exceptions", ())]
        return [row for row in rows if row["name"] == name and row["reason"] not in ("Loading", "Waiting")]

    def events(self) -> list[str]:
        """Notes of events about sets."""
        found = self.api.list("Event", MODELS, api="events.k8s.io/v1")
        return [f"{one['reason']}: {one.get('note', '')}" for one in found if one["regarding"]["kind"] == "AdapterSet"]

    def lines(self) -> dict[str, Object]:
        """Pod -> what its sidecar says of the replica; those that do not answer are left out."""
        found = {}
        for pod in self.edge.pods("support"):
            address = pod["status"].get("podIP")
            if address and "deletionTimestamp" not in pod["metadata"]:
                header = f"authorization: Bearer {self._token}"
                done = self.cluster.run(*_ASK, "--header", header, f"http://{address}:8080/v1/load")
                if not done["code"]:
                    found[pod["metadata"]["name"]] = json.loads(done["out"])
        return found

    def held(self) -> dict[str, set[str]]:
        """Pod -> adapters that its sidecar announces."""
        return {pod: {one["name"] for one in line.get("adapters", ())} for pod, line in self.lines().items()}

    def digests(self, name: str) -> list[str]:
        """Of that adapter on each replica that announces it."""
        rows = [one for line in self.lines().values() for one in line.get("adapters", ())]
        return [one["digest"] for one in rows if one["name"] == name]

    # --- the controller

    def controllers(self) -> list[Object]:
        return self.api.list("Pod", MODELS, "serving.aibrix.ai/controller=adapters")

    def leader(self) -> str:
        leases = [one for one in self.api.list("Lease", MODELS) if one["metadata"]["name"] == "aibrix-adapters"]
        return str(leases[0]["spec"].get("holderIdentity") or "") if leases else ""

    def page(self, pod: Object, path: str) -> str:
        return str(self.cluster.run(*_ASK, f"http://{pod['status']['podIP']}:9090{path}")["out"])

    def metric(self, name: str, **labels: str) -> float:
        """The sum over controllers of the series of that name with these labels."""
        total = 0.0
        for pod in self.controllers():
            for row in self.page(pod, "/metrics").splitlines():
                head, _, value = row.rpartition(" ")
                if re.split("[{ ]", head)[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
                    total += float(value)
        return total

    def restarts(self, pod: str, container: str) -> int:
        status = self.api.get("Pod", pod, MODELS)["status"]
        rows = [*status["containerStatuses"], *status.get("initContainerStatuses", ())]
        return int(next(one["restartCount"] for one in rows if one["name"] == container))
