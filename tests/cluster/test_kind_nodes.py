"""The hollow nodes of a kind cluster and its admission policies, on a real API server and scheduler, without docker."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import kind_nodes
from tests.cluster.api import ready, wait
from tests.cluster.cluster import NODES, Cluster
from tests.cluster.control_plane import TOKEN
from tests.cluster.hollow import LABEL
from tests.cluster.network import Network
from tests.cluster.node import Spec


def test_pods_of_hollow_namespaces_go_to_hollow_nodes_and_real_ones_ask_for_little(
    cluster: Cluster, namespace: str
) -> None:
    if not isinstance(cluster, Cluster):
        pytest.skip("this cluster has these policies anyway")
    hollow, api = f"{namespace}-hollow", cluster.api
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": hollow, "labels": {LABEL: "true"}}}
    specs = [Spec("hollow-l4", "10.244.0.99", 8, "c", {"nvidia.com/gpu.product": "NVIDIA-L4"})]
    with _agent(cluster, specs), _applied(cluster, [*kind_nodes.policies(), space]):
        wait("an account", lambda: api.list("ServiceAccount", hollow))
        wait("the node", lambda: "hollow-l4" in ready(api.list("Node")))
        pod = _pod(hollow)
        wait(
            "the policies are in force", lambda: LABEL in api.apply(pod, "t", dry_run=True)["spec"]["nodeSelector"], 20
        )
        seen = api.create(pod)
        assert seen["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4", LABEL: "true"}
        assert seen["spec"]["containers"][0]["resources"]["requests"]["memory"] == "38Gi"
        wait(
            "it runs there",
            lambda: [p["spec"]["nodeName"] for p in api.list("Pod", hollow) if ready([p])] == ["hollow-l4"],
        )
        small = api.create(_pod(namespace))["spec"]
        assert LABEL not in small["nodeSelector"] and small["containers"][0]["resources"]["requests"] == {
            "cpu": "10m",
            "memory": "64Mi",
            "ephemeral-storage": "64Mi",
            "nvidia.com/gpu": "1",
        }
        (value,) = wait("it has a node", lambda: [p for p in api.list("Pod", namespace) if "nodeName" in p["spec"]])
        assert value["spec"]["nodeName"] in {one.name for one in NODES}
        for one in (*api.list("Pod", hollow), *api.list("Pod", namespace)):
            api.delete({"apiVersion": "v1", "kind": "Pod", **one}, grace=0)


def _pod(namespace: str) -> dict[str, Any]:
    """As example 01 has them."""
    resources = {"requests": {"cpu": "9", "memory": "38Gi", "ephemeral-storage": "43Gi", "nvidia.com/gpu": "1"}}
    resources["limits"] = {"memory": "38Gi", "nvidia.com/gpu": "1"}
    spec = {
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [{"name": "engine", "image": "registry.example.com/none:1", "resources": resources}],
    }
    meta = {"name": "engine", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


@contextlib.contextmanager
def _applied(cluster: Cluster, values: list[dict[str, Any]]) -> Iterator[None]:
    for value in values:
        cluster.api.apply(value, "test")
    try:
        yield
    finally:
        for value in values:
            cluster.api.delete(value)


@contextlib.contextmanager
def _agent(cluster: Cluster, specs: list[Spec]) -> Iterator[None]:
    """The agent in a thread, through the socket by which tests reach the API server."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    transport = httpx.AsyncHTTPTransport(uds=str(cluster.folder / "api.sock"), verify=tls)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    loop = asyncio.new_event_loop()

    async def live() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="https://cluster", headers=headers) as api:
            await kind_nodes.live(api, cluster.folder, specs)

    task = loop.create_task(live())

    def turn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        for spec in specs:
            cluster.api.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": spec.name}})


def test_a_claim_gets_a_folder_that_any_user_can_write_to(tmp_path: Path) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201)

    async def act() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="https://cluster") as api:
            meta = {"name": "weights", "namespace": "default", "uid": "1"}
            spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {}}, "storageClassName": "standard"}
            await kind_nodes.HollowNodes(api, Network(), tmp_path, [])._provision({"metadata": meta, "spec": spec})

    asyncio.run(act())
    assert (tmp_path / "claims" / "pv-1").stat().st_mode & 0o777 == 0o777
    assert json.loads(asked[0].content)["spec"]["hostPath"] == {"path": "/claims/pv-1"}
