"""The programs of a Kubernetes control plane: found, or built once from the released modules.

Looked for in `KUBEBUILDER_ASSETS` (the convention of controller-runtime's envtest), in the cache folder, on PATH; what is
missing is built with Go: ten minutes for all of one version on two cores, and no container engine. A program that reports
another minor version than the one asked for is not taken; etcd is never the distribution's, which is years older. `python -m tests.cluster.assets [MINOR...]` gets
everything ahead of the tests (`make cluster-assets`).
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.toolchain import Missing, built, cache, downloaded, go, on_path, say

VERSIONS = {"1.37": "v1.37.2", "1.34": "v1.34.4"}
"""Kubernetes minors that emitted objects are proven on, and the release that stands for each. The first is the default."""
DEFAULT = next(iter(VERSIONS))
ETCD = "v3.7.3"
LWS = "v0.7.0"
KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl")
HOST = {  # program -> Debian's package
    "bwrap": "bubblewrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "openssl": "openssl",
}
FOREIGN = {  # custom resources of others that emitted objects use: module, version, files
    "leaderworkerset": (
        "sigs.k8s.io/lws",
        LWS,
        ("config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml",),
    ),
    "prometheus-operator": (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        tuple(
            f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml"
            for name in ("podmonitors", "prometheusrules")
        ),
    ),
    "argo-cd": (
        "github.com/argoproj/argo-cd/v3",
        "v3.2.11",
        tuple(f"manifests/crds/{name}-crd.yaml" for name in ("application", "appproject")),
    ),
}


def control_plane(minor: str = DEFAULT) -> dict[str, Path]:
    """Every program of one version by name, and the host's tools; `Missing` says what to install."""
    host = {name: on_path(name) for name in HOST}
    if lacking := sorted({HOST[name] for name, path in host.items() if path is None}):
        raise Missing(f"a cluster without containers needs: apt-get install {' '.join(lacking)}")
    version, places = VERSIONS[minor], [Path(p) for p in [os.environ.get("KUBEBUILDER_ASSETS", "")] if p]
    found = {name: path for name, path in host.items() if path is not None}
    for name in (*KUBERNETES, "etcd"):
        path = next((place / name for place in places if (place / name).exists()), None) or on_path(name)
        if path is not None and (path.parent in places if name == "etcd" else _minor(path) == minor):
            found[name] = path
    wanted = {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES if name not in found}
    if wanted:
        edition = f"kubernetes-{version}"
        ready = all((cache() / edition / "bin" / name).exists() for name in wanted)
        found |= built(edition, wanted, module="" if ready else _module(version))
    if "etcd" not in found:
        module = f"module etcd\n\ngo 1.24\n\nrequire go.etcd.io/etcd/server/v3 {ETCD}\n"
        found |= built(f"etcd-{ETCD}", {"etcd": "go.etcd.io/etcd/server/v3"}, module=module)
    return found


def foreign(name: str) -> list[Path]:
    """Files with the CustomResourceDefinitions of another project, pinned, through the Go module proxy."""
    module, version, files = FOREIGN[name]
    folder = downloaded(module, version)
    return [folder / file for file in files]


def leader_worker_set() -> Path:
    """The folder of LeaderWorkerSet's source, with its manifests; its controller is built besides, and images.py finds it."""
    module = f"module lws\n\ngo 1.24\n\nrequire sigs.k8s.io/lws {LWS}\n"
    built(f"lws-{LWS}", {"manager": "sigs.k8s.io/lws/cmd"}, module=module)
    return downloaded("sigs.k8s.io/lws", LWS)


def _module(version: str) -> str:
    """A module that builds Kubernetes: its own `replace`d parts (k8s.io/api and its siblings) are released under
    v0.x of the same number, and replacements of a dependency do not count, so they must be ours."""
    cache().mkdir(parents=True, exist_ok=True)
    info = go("mod", "download", "-json", f"k8s.io/kubernetes@{version}", folder=cache(), purpose="to build Kubernetes")
    text = Path(re.findall(r'"GoMod": "(.*)"', info)[0]).read_text()
    parts = re.findall(r"^\s+(k8s\.io/\S+) => \./staging/", text, re.MULTILINE)
    staged = "v0." + version.removeprefix("v1.")
    head = "\n\n".join(re.findall(r"^(?:go|godebug) .*$", text, re.MULTILINE))
    replaced = "\n".join(f"\t{part} => {part} {staged}" for part in parts)
    return f"module cluster\n\n{head}\n\nrequire k8s.io/kubernetes {version}\n\nreplace (\n{replaced}\n)\n"


def _minor(path: Path) -> str:
    words = ["version", "--client"] if path.name == "kubectl" else ["--version"]
    done = subprocess.run([path, *words], capture_output=True, text=True)
    match = re.search(r"v(1\.\d+)\.", done.stdout)
    return match.group(1) if match else ""


if __name__ == "__main__":
    start = time.monotonic()
    try:
        for wanted in sys.argv[1:] or [DEFAULT]:
            for name, path in sorted(control_plane(wanted).items()):
                say(f"{wanted} {name:26} {path}")
        leader_worker_set()
        for name in FOREIGN:
            say(f"{name:31} {len(foreign(name))} definitions")
    except (Missing, KeyError) as error:
        sys.exit(f"{error}")
    say(f"{time.monotonic() - start:.0f} s")
