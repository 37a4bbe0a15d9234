"""A project with a gateway on a real control plane, as the tests of the gateway and of adapters see it: edited, compiled,
synced, loaded, asked."""

import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.api import ready, wait
from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.gitops import compiled, sync
from tests.cluster.test_serving import Answers
from tests.cluster.watch import Object

Services = Mapping[str, str]
_LOADS = itertools.count(1)


class Environment(NamedTuple):
    """Its name, the namespaces of its gateway and of its services, the gateway's host name, the tenants' keys."""

    name: str
    edge: str
    models: str
    host: str
    keys: Mapping[str, str]


class Edge:
    """A project with a gateway on the cluster; `change` edits it, compiles and syncs."""

    def __init__(
        self, cluster: Cluster, folder: Path, environment: Environment, project: str, services: Services
    ) -> None:
        """`services`: name -> the text of its file."""
        self.cluster, self.api = cluster, cluster.api
        self.name, self.edge, self.models, self.host, self.keys = environment
        self._project, self._output = folder / "project", folder / "deploy"
        (self._project / "services").mkdir(parents=True)
        (self._project / "aibrix.yaml").write_text(project)
        for name, text in services.items():
            (self._project / "services" / f"{name}.yaml").write_text(text)
        platform = compiled(self._project, folder / "platform", command="platform")
        self.platform = [one for one in platform if one["metadata"].get("namespace") != "argocd"]  # which is not here
        sync(self.api, self.platform)
        if self.keys:
            meta = {"name": "tenant-keys", "namespace": self.edge}
            entries = {tenant: f"{key}\n" for tenant, key in self.keys.items()}
            self.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": entries})
        self.objects: list[Object] = []
        self.change()

    def change(self, *edits: tuple[str, str, str]) -> None:
        """Each is a file, a text in it, and what stands there from now on."""
        for file, old, new in edits:
            path = self._project / file
            text = path.read_text("utf-8")
            assert old in text
            path.write_text(text.replace(old, new, 1), "utf-8")
        before, self.objects = self.objects, compiled(self._project, self._output)
        sync(self.api, self.objects)
        kept = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in self.objects}
        for one in before:  # as Argo CD prunes
            if (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) not in kept:
                self.api.delete(one)

    # --- pods

    def pods(self, name: str) -> list[Object]:
        """Of the gateway, the picker or a service."""
        if name in ("gateway", "picker"):
            return self.api.list(
                "Pod", self.edge, f"serving.aibrix.ai/gateway={self.name},serving.aibrix.ai/role={name}"
            )
        return self.api.list("Pod", self.models, f"serving.aibrix.ai/service={name}")

    def deployment(self, name: str) -> Object:
        if name in ("gateway", "picker"):
            return self.api.get("Deployment", f"{self.name}-{name}", self.edge)
        return self.api.get("Deployment", f"{name}-l4", self.models)

    def settled(self, name: str, replicas: int, seconds: float = 120) -> list[str]:
        """Names of the ready pods once there are exactly so many, all of the current revision, and none on its way out."""

        def look() -> list[str] | None:
            pods, deployment = self.pods(name), self.deployment(name)
            status = deployment["status"]
            seen = deployment["metadata"]["generation"] == status.get("observedGeneration")
            whole = len(pods) == len(ready(pods)) == status.get("updatedReplicas", 0) == replicas
            return ["", *ready(pods)] if seen and whole else None

        found: list[str] = wait(f"{replicas} replicas of {name}", look, seconds)
        return found[1:]

    def seen(self, engines: int) -> None:
        """Waits until each picker holds so many replicas for ready, no more and no less."""

        def look() -> bool:
            pages = [self.metrics(pod) for pod in self.pods("picker")]
            return all(
                summed(page, "picker_endpoints") == summed(page, 'picker_endpoints{.*"ready"') == engines
                for page in pages
            )

        wait(f"{engines} replicas in the pickers' eyes", look)

    # --- requests

    @property
    def url(self) -> str:
        return f"http://{self.api.get('Service', f'{self.name}-gateway', self.edge)['spec']['clusterIP']}"

    def words(self, model: str, *more: str, tenant: str = "internal", tokens: int = 160) -> list[str]:
        words = [sys.executable, "-m", "tests.cluster.load", f"{self.url}/v1/chat/completions", model]
        words += [f"--header=authorization=Bearer {self.keys[tenant]}"] if self.keys else []
        return [*words, f"--header=host={self.host}", f"--tokens={tokens}", *more]

    @contextmanager
    def load(self, rate: float, *more: str, model: str = "chat", tokens: int = 64) -> Iterator[Answers]:
        """A load that ends with the block; its rows are complete after it."""
        words, answers = self.words(model, f"--rate={rate}", *more, tokens=tokens), Answers()
        with self.cluster.program(f"load-{next(_LOADS)}", *words, env={"PYTHONPATH": str(ROOT)}) as log:
            answers.log = log
            yield answers
        answers.read()

    def one(self, model: str, tenant: str = "internal", tokens: int = 4, patience: float = 10) -> dict[str, Any]:
        """One request and what became of it."""
        words = self.words(model, "--count=1", f"--patience={patience}", tenant=tenant, tokens=tokens)
        done = self.cluster.run(*words, env={"PYTHONPATH": str(ROOT)}, timeout=patience + 120)
        row, count = map(json.loads, done["out"].splitlines())
        assert count == {"started": 1}
        found: dict[str, Any] = row
        return found

    def call(self, method: str, path: str, key: str = "", body: str = "", url: str = "") -> tuple[int, str]:
        """Status and text of one answer."""
        code = (
            "import sys, httpx\n"
            "method, url, host, key, body = sys.argv[1:]\n"
            "headers = {'host': host, 'content-type': 'application/json'} | ({'authorization': 'Bearer ' + key} if key else {})\n"
            "answer = httpx.request(method, url, headers=headers, content=body or None, timeout=30, trust_env=False)\n"
            "print(answer.status_code)\n"
            "print(answer.text)\n"
        )
        done = self.cluster.run(sys.executable, "-c", code, method, (url or self.url) + path, self.host, key, body)
        assert done["code"] == 0, done["err"]
        status, _, text = done["out"].partition("\n")
        return int(status), text.rstrip("\n")

    @staticmethod
    def picked(row: dict[str, Any]) -> bool:
        """Whether the picker chose, and not Envoy in its place."""
        return " by cost: " in str(row.get("x-gateway-reason"))

    def metrics(self, pod: Object) -> str:
        """The page of a picker."""
        return self.call("GET", "/metrics", key="", url=f"http://{pod['status']['podIP']}:9090")[1]

    def held(self) -> float:
        """Requests that wait in pickers."""
        return sum(summed(self.metrics(pod), "picker_held") for pod in self.pods("picker"))


def summed(page: str, series: str) -> float:
    """Of the values of all series whose text begins like that; an expression."""
    return sum(float(value) for value in re.findall(rf"^{series}(?![a-z_])[^ ]* (.*)$", page, re.MULTILINE))
