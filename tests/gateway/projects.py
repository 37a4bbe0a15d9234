"""Projects for the gateway's tests, written as data: a test says what its services and its gateway differ in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aibrix_compile.emit import yaml_text
from aibrix_compile.plan import EnvironmentPlan
from tests.gateway.running import compiled

VERSION = "serving.aibrix.ai/v1alpha1"
LLAMA = "hf://meta-llama/Llama-3.1-8B-Instruct"


def service(name: str, served: str = "", **spec: Any) -> dict[str, Any]:
    """A service of a small model on one pool; it answers to `served`, else to its name."""
    given = {
        "model": {"uri": LLAMA, "servedName": served or name},
        "engine": {"name": "vllm", "version": "0.32.0", "maxModelLen": 8192},
        "pools": [{"name": "l4", "accelerator": "nvidia-l4", "replicas": 2}],
        "routing": {"strategy": "least-request"},
    }
    return {"apiVersion": VERSION, "kind": "ModelService", "metadata": {"name": name}, "spec": given | spec}


def adapters(*everywhere: str, placed: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """The field `adapters`: those on every replica, and those on some."""
    items = [{"name": name, "uri": f"s3://adapters/{name}", "rank": 8, "replicas": "all"} for name in everywhere]
    items += [{"name": name, "uri": f"s3://adapters/{name}", "rank": 8} for name in placed]
    return {"limits": {"maxLoaded": 8}, "items": items, **settings}


def access(**tenants: list[str] | None) -> dict[str, Any]:
    """The field `access`: tenant -> its adapters, None for all of them."""
    return {
        "tenants": [{"name": name} | ({} if some is None else {"adapters": some}) for name, some in tenants.items()]
    }


def plan(folder: Path, services: list[dict[str, Any]], **gateway: Any) -> EnvironmentPlan:
    """The compiled environment of a project with these services; `gateway` is the Project's field, names of tenants
    standing for tenants without limits."""
    callers = [{"name": one} if isinstance(one, str) else one for one in gateway.pop("tenants", ())]
    keys: Mapping[str, Any] = {"apiKeys": {"secret": "tenant-keys"}, "tenants": callers} if callers else {}
    environment = {
        "name": "test",
        "namespace": "models",
        "accelerators": {"nvidia-l4": {"nodeSelector": {"gpu": "l4"}, "quota": 200}},
        "gateway": {"picker": {"image": "registry.example.com/picker:1"}, **keys, **gateway},
    }
    spec: dict[str, Any] = {"services": ["*.service.yaml"], "environments": [environment]}
    if any("adapters" in one["spec"] for one in services):  # else nothing needs sidecars, and none are started
        spec["images"] = {"controllers": "registry.example.com/aibrix:1", "runtime": "registry.example.com/runtime:1"}
    project = {"apiVersion": VERSION, "kind": "Project", "metadata": {"name": "gateway"}, "spec": spec}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    (folder / "aibrix.yaml").write_text(yaml_text(project))
    for one in services:
        (folder / f"{one['metadata']['name']}.service.yaml").write_text(yaml_text(one))
    return compiled(folder)
