"""What a kind cluster is made of: the program, its configuration, the images that pods ask for.

Images are built here and loaded into the nodes under the names that manifests use. A name with a digest can not be
given to an image that was built here, so pods with pinned images run hollow only.
"""

import json
import os
import subprocess
from pathlib import Path

from tests.cluster.cluster import ROOT
from tests.cluster.watch import Object
from tests.toolchain import built, on_path, say

VERSION = "v0.33.0"
NODE_IMAGES = {"1.37": "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"}
"""What this release of kind boots by default. `AIBRIX_KIND_IMAGE` names another, one of the images of this release."""
REAL = ("plain-a", "plain-b", "l4-a", "l4-b")  # two to move between, with GPUs and without
MOCK = "aibrix-mock:0.1.0"
_PYTHON = "FROM docker.io/library/python:3.12-slim\n"
IMAGES = {  # name in manifests -> how it is made; a no-op build has one platform, which kind can load
    "docker.io/vllm/vllm-openai:v0.32.0": f"FROM {MOCK}\nENV AIBRIX_MOCK_FAULTS=1\n",
    "docker.io/library/python:3": _PYTHON + "LABEL test=python\n",
}
TOOLS = "aibrix-test-tools:1"
_ARGUMENTS = {
    "apiServer": {"default-not-ready-toleration-seconds": "3", "default-unreachable-toleration-seconds": "3"},  # 300
    "controllerManager": {
        "node-monitor-period": "1s",
        "node-monitor-grace-period": "8s",  # 50 s
        "leader-elect": "false",  # with it they end, and back off, whenever the API server is away for 10 s
    },
    "scheduler": {"leader-elect": "false"},
}
_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "nodeLeaseDurationSeconds": 8,  # 40; renewed four times as often
    "nodeStatusUpdateFrequency": "2s",  # 10 s
    "syncFrequency": "2s",  # 60 s: how soon a changed ConfigMap is in the files
}


def program() -> Path:
    """kind of this release: on PATH, else built once."""
    found = on_path("kind")
    if found is not None and VERSION in subprocess.run([found, "version"], capture_output=True, text=True).stdout:
        return found
    module = f"module kind\n\ngo 1.24\n\nrequire sigs.k8s.io/kind {VERSION}\n"
    return built(f"kind-{VERSION}", {"kind": "sigs.k8s.io/kind"}, module=module)["kind"]


def config(kubernetes: tuple[int, int], claims: Path) -> Object:
    """A kind.x-k8s.io/v1alpha4 Cluster: one control plane, a worker for each of `REAL`, `claims` on all of them."""
    listed = kubernetes >= (1, 36)  # kubeadm's v1beta4, which kind uses from there on, has lists of arguments
    steps: list[Object] = []
    for part, arguments in _ARGUMENTS.items():
        rows = [{"name": name, "value": value} for name, value in arguments.items()]
        if part == "scheduler":  # nothing is there to append to
            steps.append({"op": "add", "path": "/scheduler/extraArgs", "value": rows if listed else arguments})
        elif listed:
            steps += [{"op": "add", "path": f"/{part}/extraArgs/-", "value": row} for row in rows]
        else:
            steps += [{"op": "add", "path": f"/{part}/extraArgs/{row['name']}", "value": row["value"]} for row in rows]
    kind = {"group": "kubeadm.k8s.io", "version": "v1beta4" if listed else "v1beta3", "kind": "ClusterConfiguration"}
    mounts = [{"hostPath": str(claims), "containerPath": "/claims"}]
    value: Object = {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        # 10.244/16 is where hollow pods have their addresses
        "networking": {"podSubnet": "10.245.0.0/16", "serviceSubnet": "10.96.0.0/16", "kubeProxyMode": "nftables"},
        "kubeadmConfigPatches": [json.dumps(_KUBELET)],
        "kubeadmConfigPatchesJSON6902": [{**kind, "patch": json.dumps(steps)}],
        "nodes": [{"role": role, "extraMounts": mounts} for role in ("control-plane", *["worker"] * len(REAL))],
    }
    if not listed:  # admission policies that change objects are off before they are v1
        value["featureGates"] = {"MutatingAdmissionPolicy": True}
        value["runtimeConfig"] = {"admissionregistration.k8s.io/v1beta1": "true"}
    return value


def docker(*argv: str, stdin: str = "", timeout: float = 1200) -> str:
    """Output of a docker command; RuntimeError with what it said."""
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # kind can not load an image that has them
    words = ["docker", *argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(argv[:3])}: {done.stderr.strip()[-3000:] or done.stdout[-3000:]}")
    return done.stdout


def build_images() -> None:
    say(f"building {MOCK} and what tests need around it")
    docker("build", "-f", str(ROOT / "runtime_images" / "mock" / "Dockerfile"), "-t", MOCK, str(ROOT))
    for name, text in IMAGES.items():
        docker("build", "-t", name, "-", stdin=text)
    docker("build", "-t", TOOLS, "-", stdin=f'{_PYTHON}RUN pip install --no-cache-dir "httpx>=0.27,<1"\n')
