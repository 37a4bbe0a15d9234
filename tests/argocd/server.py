"""A real Argo CD without containers: repo server, application controller and plugin server as processes on a test cluster.

What is not started: API server, user interface, single sign-on. So the two objects that the API server makes at its first
start are made here, and a refresh is asked for with the annotation that the API server would write.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from tests.argocd.assets import MODULE, VERSION, programs
from tests.cluster.api import Refused, wait
from tests.cluster.assets import foreign
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ADDRESS, PORT, TOKEN
from tests.cluster.watch import Object
from tests.toolchain import downloaded

NAMESPACE = "argocd"
IN_CLUSTER = "https://kubernetes.default.svc"
_REFRESH = "argocd.argoproj.io/refresh"
_REDIS, _REPO = 6379, 8081  # ports inside the cluster's own network


class ArgoCD:
    """`log` has the programs' logs by name."""

    def __init__(self, cluster: Cluster, log: dict[str, Path]) -> None:
        self.cluster, self.api, self.log = cluster, cluster.api, log

    @classmethod
    @contextmanager
    def start(cls, cluster: Cluster, plugins: dict[str, str] | None = None) -> Iterator["ArgoCD"]:
        """`Missing` if programs are missing. `plugins` are plugin.yaml texts by name."""
        found, folder = programs(), cluster.folder / "argocd"
        for name in ("tmp", "plugins"):
            (folder / name).mkdir(parents=True)
        _install(cluster)
        config = json.loads(cluster.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = NAMESPACE  # where it looks for Applications and argocd-cm
        (folder / "kubeconfig").write_text(json.dumps(config))
        (folder / ".gitconfig").write_text(
            "[safe]\n\tdirectory = *\n"
        )  # inside, the repository's owner is another user
        env = {
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "KUBECONFIG": str(folder / "kubeconfig"),
            "ARGOCD_FAKE_IN_CLUSTER": "true",  # the kubeconfig is what kubernetes.default.svc means
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_ASK_PASS_SOCK": str(folder / "ask-pass.sock"),
            "ARGOCD_PLUGINSOCKFILEPATH": str(folder / "plugins"),
            "ARGOCD_CONTROLLER_SHARD": "0",
            "ARGOCD_EXEC_TIMEOUT": "60s",
            "PATH": f"{sys.prefix}/bin:{found['git'].parent}:{os.environ['PATH']}",  # the plugin server runs aibrix-compile
        }
        redis = f"--redis=127.0.0.1:{_REDIS}"
        repo = ("--address=127.0.0.1", f"--port={_REPO}", "--metrics-address=127.0.0.1", "--disable-tls", redis)
        controller = (f"--repo-server=127.0.0.1:{_REPO}", "--repo-server-plaintext", redis, "--persist-resource-health")
        resync = ("--app-resync=30", "--app-resync-jitter=0")  # 120 and 60 s
        with ExitStack() as stack:

            def run(name: str, program: str, *words: str, **more: str) -> Path:
                return stack.enter_context(
                    cluster.program(name, str(found[program]), *words, env={**env, "ARGOCD_BINARY_NAME": name, **more})
                )

            log = {"redis": run("redis", "redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")}
            for name, plugin in (plugins or {}).items():
                work = folder / name
                work.mkdir()
                (work / "plugin.yaml").write_text(plugin)
                server = ("argocd-cmp-server", "argocd", f"--config-dir-path={work}")
                log[name] = run(*server, ARGOCD_CMP_WORKDIR=str(work / "work"))
            log["repo server"] = run("argocd-repo-server", "argocd", *repo)
            log["controller"] = run("argocd-application-controller", "argocd", *controller, *resync)
            yield cls(cluster, log)

    # --- objects that a person makes

    def project(self, name: str) -> None:
        """An AppProject that allows everything."""
        anything = [{"group": "*", "kind": "*"}]
        spec = {"sourceRepos": ["*"], "destinations": [{"server": "*", "name": "*", "namespace": "*"}]}
        spec |= {"clusterResourceWhitelist": anything}
        self.apply({**_argo("AppProject", name), "spec": spec})

    def register(self, name: str) -> None:
        """This cluster once more under a name and its own address, as a cluster elsewhere is known to Argo CD."""
        access = {"bearerToken": TOKEN, "tlsClientConfig": {"insecure": True}}
        data = {"name": name, "server": f"https://{ADDRESS}:{PORT}", "config": json.dumps(access)}
        secret = _core("Secret", f"cluster-{name}")
        secret["metadata"]["labels"] = {"argocd.argoproj.io/secret-type": "cluster"}
        self.apply({**secret, "stringData": data})

    def apply(self, value: Object) -> None:
        self.api.apply(value, "kubectl")

    # --- Applications

    def application(self, name: str) -> Object:
        return self.api.get("Application", name, NAMESPACE, "argoproj.io/v1alpha1")

    def refresh(self, name: str, *, hard: bool = False) -> None:
        """Compare now; returns when it has been done. `hard` forgets what it knows of Git and of the last comparison."""
        change = {"metadata": {"annotations": {_REFRESH: "hard" if hard else "normal"}}}
        self.api.patch(_argo("Application", name), change)
        self.until(name, "is refreshed", lambda app: _REFRESH not in app["metadata"].get("annotations", {}))

    def synced(self, name: str, commit: str = "", *, healthy: bool = True, seconds: float = 60) -> Object:
        """Wait until it is Synced (at `commit`) and no operation is left to do."""
        self.refresh(name)

        def done(app: Object) -> bool:
            status = app.get("status", {})
            there = status.get("sync", {}).get("status") == "Synced" and "operation" not in app
            there = there and commit in ("", status["sync"].get("revision"))
            there = there and status.get("operationState", {}).get("phase", "Succeeded") == "Succeeded"
            return there and (not healthy or status["health"]["status"] == "Healthy")

        what = f"is Synced{' and Healthy' * healthy}{f' at {commit[:8]}' * bool(commit)}"
        return self.until(name, what, done, seconds)

    def until(self, name: str, what: str, test: Callable[[Object], bool], seconds: float = 60) -> Object:
        """Wait for an Application; if that fails, AssertionError with what Argo CD says of it."""
        began, app = time.monotonic(), self.application(name)
        while not test(app):
            if time.monotonic() > began + seconds:
                raise AssertionError(
                    f"{name} not within {seconds:.0f} s: {what}\n{describe(app)}\n{self._complaints()}"
                )
            time.sleep(0.2)
            app = self.application(name)
        return app

    def gone(self, name: str, seconds: float = 60) -> None:
        def missing() -> bool:
            try:
                self.application(name)
            except Refused as error:
                return error.code == 404
            return False

        wait(f"the end of Application {name}", missing, seconds)

    def _complaints(self) -> str:
        """The last warnings and errors in the logs."""
        said = []
        for name, log in self.log.items():
            lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            bad = [line for line in lines if '"level":"error"' in line or '"level":"warning"' in line][-3:]
            said += [f"{name}: {line[:600]}" for line in bad]
        return "\n".join(said)


def operation(app: Object) -> str:
    """When the last operation began: another value means that something was synced in between."""
    return str(app["status"].get("operationState", {}).get("startedAt", ""))


def conditions(app: Object) -> dict[str, str]:
    """Message by type."""
    return {one["type"]: one["message"] for one in app["status"].get("conditions", ())}


def health(app: Object) -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, name) -> (status, message) of the Application's objects that have a health."""
    return {
        (one["kind"], one["name"]): (one["health"]["status"], one["health"].get("message", ""))
        for one in app["status"].get("resources", ())
        if "health" in one
    }


def describe(app: Object) -> str:
    """What a person would look at first."""
    status = app.get("status", {})
    state = status.get("operationState", {})
    lines = [f"sync: {status.get('sync', {}).get('status')} at {status.get('sync', {}).get('revision', '')[:8]}"]
    lines += [f"health: {status.get('health', {}).get('status')}"]
    lines += [f"operation: {state.get('phase')}: {state.get('message')}"] if state else ["no operation"]
    lines += [f"condition {kind}: {message}" for kind, message in (conditions(app) if status else {}).items()]
    for one in status.get("resources", ()):
        judged = one.get("health", {})
        if one.get("status") != "Synced" or judged.get("status", "Healthy") != "Healthy":
            words = [
                one["kind"],
                one["name"],
                one.get("status", ""),
                judged.get("status", ""),
                judged.get("message", ""),
            ]
            lines.append("  " + " ".join(words))
    for one in state.get("syncResult", {}).get("resources", ()):
        if one.get("status") not in ("Synced", "Pruned"):
            lines.append(f"  {one['kind']} {one['name']}: {one.get('status')}: {one.get('message')}")
    return "\n".join(lines)


def _install(cluster: Cluster) -> None:
    """Kinds and configuration as Argo CD's own manifests have them; Deployments and rights are what is not needed here."""
    api = cluster.api
    for path in foreign("argo-cd"):
        api.apply(yaml.safe_load(path.read_text()), "install")
    wait("Argo CD's kinds", lambda: _served(cluster), 30)
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for path in sorted((downloaded(MODULE, VERSION) / "manifests" / "base" / "config").glob("argocd-*.yaml")):
        value = yaml.safe_load(path.read_text())
        value["metadata"]["namespace"] = NAMESPACE
        api.apply(value, "install")
    secret = {**_core("Secret", "argocd-secret"), "stringData": {"server.secretkey": "of tests"}}
    api.apply(secret, "argocd-server")


def _served(cluster: Cluster) -> bool:
    cluster.api.forget()
    try:
        return not any(
            cluster.api.list(kind, NAMESPACE, api="argoproj.io/v1alpha1") for kind in ("Application", "AppProject")
        )
    except (Refused, KeyError):
        return False


def _argo(kind: str, name: str) -> Object:
    return {**_core(kind, name), "apiVersion": "argoproj.io/v1alpha1"}


def _core(kind: str, name: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}
