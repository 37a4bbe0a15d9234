"""The node agent: a pod here is what a pod is anywhere, and every fault can be made and undone."""

import base64
import json
import time
from typing import Any

import pytest

from tests.cluster.api import Refused, ready, wait
from tests.cluster.cluster import Cluster

SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = not os.path.exists("/state/bad")
        body = os.environ["HOSTNAME"].encode()
        self.send_response(200 if ok else 500); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
signal.signal(signal.SIGTERM, lambda *a: (print("terminated", flush=True), sys.exit(0)))
print("serving", flush=True)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
PROBE = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2}


def container(script: str = SERVER, **more: Any) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8000}]
    mounts = [{"name": "state", "mountPath": "/state"}]
    return {
        "name": "main",
        "image": "python:3",
        "command": ["python3", "-c", script],
        "ports": ports,
        "volumeMounts": mounts,
        **more,
    }


def pod(name: str, namespace: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    wanted = {
        "containers": list(containers) or [container(readinessProbe=PROBE)],
        "volumes": [{"name": "state", "emptyDir": {}}],
    }
    labels = {"app": "server"}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"terminationGracePeriodSeconds": 5, **wanted, **spec},
    }


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    wanted = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "http"}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": wanted}


def run(cluster: Cluster, value: dict[str, Any], seconds: float = 20) -> dict[str, Any]:
    """The pod, once it is ready."""
    cluster.api.create(value)
    wait(f"{value['metadata']['name']} ready", lambda: ready([cluster.api.read_back(value)]), seconds)
    return cluster.api.read_back(value)


def state(cluster: Cluster, value: dict[str, Any]) -> dict[str, Any]:
    """Of its first container, empty before a node has said anything."""
    found: dict[str, Any] = cluster.api.read_back(value)["status"].get(
        "containerStatuses", [{"state": {}, "restartCount": 0}]
    )[0]
    return found


def fetch(cluster: Cluster, address: str, timeout: float = 3) -> str:
    """What a client on a node gets."""
    code = f"import urllib.request as r; print(r.urlopen('http://{address}', timeout={timeout}).read().decode())"
    done = cluster.run("python3", "-c", code)
    return str(done["out"]).strip() if done["code"] == 0 else "failed: " + done["err"].strip().splitlines()[-1]


def gone(cluster: Cluster, value: dict[str, Any]) -> bool:
    try:
        cluster.api.read_back(value)
    except Refused as refused:
        return refused.code == 404
    return False


def test_a_service_reaches_ready_pods_by_name_and_mapped_port(cluster: Cluster, namespace: str) -> None:
    cluster.api.create(service("web", namespace))
    cluster.api.create(service("all", namespace, clusterIP="None"))
    first, second = (run(cluster, pod(name, namespace)) for name in ("one", "two"))
    assert first["status"]["podIP"] != second["status"]["podIP"]
    address = cluster.api.get("Service", "web", namespace)["spec"]["clusterIP"]
    seen = wait("both answer", lambda: {fetch(cluster, address) for _ in range(6)} >= {"one", "two"})
    assert seen
    names = f"import socket; print(*sorted({{a[4][0] for a in socket.getaddrinfo('all.{namespace}', 80)}}))"
    found = cluster.exec(namespace, "one", "python3", "-c", names)
    assert found.split() == sorted([first["status"]["podIP"], second["status"]["podIP"]])
    assert f"web.{namespace}" in cluster.exec(
        namespace,
        "two",
        "python3",
        "-c",
        f"import urllib.request as r; r.urlopen('http://web.{namespace}'); print('web.{namespace}')",
    )


def test_environment_files_user_and_root_are_those_of_the_manifest(cluster: Cluster, namespace: str) -> None:
    meta = {"name": "settings", "namespace": namespace}
    cluster.api.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a.txt": "first", "NAME": "x"}}
    )
    secret = {"token": base64.b64encode(b"hidden").decode()}
    cluster.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": secret})
    script = """
import json, os, pathlib, time
def tried(path):
    try: pathlib.Path(path).write_text("x"); return True
    except OSError: return False
print(json.dumps({"uid": os.getuid(), "env": {k: os.environ.get(k) for k in ("NAME", "TOKEN", "IP", "JOINED")},
  "file": pathlib.Path("/config/a.txt").read_text(), "root": tried("/x"), "state": tried("/state/x"), "config": tried("/config/x"),
  "first": os.getpid(), "others": sum(p.name.isdigit() for p in pathlib.Path("/proc").iterdir())}), flush=True)
time.sleep(1000)
"""
    env = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "token"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "JOINED", "value": "$(TOKEN)-$(MISSING)-$$(TOKEN)"},
    ]
    mounts = [{"name": "state", "mountPath": "/state"}, {"name": "config", "mountPath": "/config", "readOnly": True}]
    security = {"runAsUser": 1000, "runAsNonRoot": True, "readOnlyRootFilesystem": True}
    one = container(
        script, env=env, envFrom=[{"configMapRef": {"name": "settings"}}], volumeMounts=mounts, securityContext=security
    )
    volumes = [{"name": "state", "emptyDir": {}}, {"name": "config", "configMap": {"name": "settings"}}]
    found = run(cluster, pod("seen", namespace, one, volumes=volumes))
    said = json.loads(wait("output", lambda: cluster.logs(namespace, "seen")))
    ip = found["status"]["podIP"]
    assert said["env"] == {"NAME": "x", "TOKEN": "hidden", "IP": ip, "JOINED": "hidden-$(MISSING)-$(TOKEN)"}
    assert said["uid"] == 1000 and said["file"] == "first" and said["first"] == 1 and said["others"] == 1
    assert (said["root"], said["state"], said["config"]) == (False, True, False)
    cluster.api.patch({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}, {"data": {"a.txt": "second"}})
    wait("the file is another", lambda: cluster.exec(namespace, "seen", "cat", "/config/a.txt") == "second", 10)


def test_a_user_that_may_not_be_root_is_not_started_as_root(cluster: Cluster, namespace: str) -> None:
    value = pod("root", namespace, container(securityContext={"runAsNonRoot": True}))
    cluster.api.create(value)
    waiting = wait(
        "waiting",
        lambda: state(cluster, value)["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError",
    )
    assert waiting


def test_an_unknown_image_and_a_missing_secret_wait_with_their_reason(cluster: Cluster, namespace: str) -> None:
    unknown = pod("unknown", namespace, container(image="registry.example.com/nothing:1"))
    missing = pod(
        "missing",
        namespace,
        container(env=[{"name": "T", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]),
    )
    for value in (unknown, missing):
        cluster.api.create(value)
    wait("pull error", lambda: state(cluster, unknown)["state"].get("waiting", {}).get("reason") == "ErrImagePull")
    wait(
        "no secret",
        lambda: 'secret "later" not found' in state(cluster, missing)["state"].get("waiting", {}).get("message", ""),
    )
    meta = {"name": "later", "namespace": namespace}
    cluster.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"k": "v"}})
    wait("it runs once the secret is there", lambda: ready([cluster.api.read_back(missing)]))


def test_init_containers_and_sidecars_come_in_order_and_a_job_ends(cluster: Cluster, namespace: str) -> None:
    def step(name: str, script: str, **more: Any) -> dict[str, Any]:
        return {**container(f"import time,os\n{script}"), "name": name, "ports": [], **more}

    write = "open('/state/log', 'a').write('{} ')"
    inits = [
        step("first", write.format("first")),
        step("side", write.format("side") + "\nwhile True: time.sleep(1)", restartPolicy="Always"),
        step("second", write.format("second")),
    ]
    main = step("main", write.format("main") + "\nprint(open('/state/log').read(), flush=True); time.sleep(0.5)")
    value = pod("ordered", namespace, main, initContainers=inits, restartPolicy="Never")
    meta = {"name": "ordered", "namespace": namespace}
    template = {"spec": value["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template, "backoffLimit": 0}}
    cluster.api.create(job)
    (one,) = wait("a pod", lambda: cluster.api.list("Pod", namespace))
    said = wait("its log", lambda: _quiet(lambda: cluster.logs(namespace, one["metadata"]["name"], "main")))
    assert said.split() == ["first", "side", "second", "main"]
    wait("the Job is complete", lambda: cluster.api.read_back(job)["status"].get("succeeded") == 1)


def _quiet(act: Any) -> Any:
    try:
        return act()
    except RuntimeError:
        return None


def test_a_container_that_ends_is_restarted_with_back_off(cluster: Cluster, namespace: str) -> None:
    value = pod("crash", namespace, container("raise SystemExit(3)"))
    cluster.api.create(value)
    wait("three restarts", lambda: state(cluster, value)["restartCount"] >= 2, 20)
    assert state(cluster, value)["lastState"]["terminated"]["exitCode"] == 3
    wait("back-off", lambda: state(cluster, value)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")


def test_probes_decide_about_traffic_and_restarts(cluster: Cluster, namespace: str) -> None:
    liveness = {**PROBE, "failureThreshold": 4}
    startup = {**PROBE, "failureThreshold": 20}
    value = pod("probed", namespace, container(readinessProbe=PROBE, livenessProbe=liveness, startupProbe=startup))
    run(cluster, value)
    cluster.exec(namespace, "probed", "touch", "/state/bad")
    wait("not ready", lambda: not ready([cluster.api.read_back(value)]), 10)
    assert state(cluster, value)["restartCount"] == 0
    wait("restarted", lambda: state(cluster, value)["restartCount"] == 1, 15)
    said = [one["message"] for one in cluster.api.list("Event", namespace)]
    assert any("Readiness probe failed: HTTP" in one and "500" in one for one in said)
    assert any("failed liveness probe" in one for one in said)


def test_deletion_runs_the_hook_then_terminates_then_kills(cluster: Cluster, namespace: str) -> None:
    hook = {
        "preStop": {
            "exec": {"command": ["sh", "-c", "sleep 1; echo hook > /state/hook; cat /state/hook >> /proc/1/fd/1"]}
        }
    }
    value = pod("polite", namespace, container(lifecycle=hook))
    run(cluster, value)
    began = time.monotonic()
    with cluster.followed(namespace, "polite", "main") as path:
        cluster.api.delete(value)
        wait("it is gone", lambda: gone(cluster, value), 10)
        assert 1 <= time.monotonic() - began < 8  # a kubelet confirms some seconds later
        wait("all was said", lambda: path.read_text().split() == ["serving", "hook", "terminated"], 5)

    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(1000)"
    value = pod("deaf", namespace, container(deaf), terminationGracePeriodSeconds=2)
    run(cluster, value)
    began = time.monotonic()
    cluster.api.delete(value)
    wait("it is killed", lambda: gone(cluster, value), 10)
    assert time.monotonic() - began >= 2


def test_a_claim_is_bound_when_a_pod_needs_it_and_keeps_what_was_written(cluster: Cluster, namespace: str) -> None:
    meta = {"name": "kept", "namespace": namespace}
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
    cluster.api.create(claim)
    volumes = [{"name": "state", "persistentVolumeClaim": {"claimName": "kept"}}]
    value = pod("writer", namespace, volumes=volumes)
    run(cluster, value)
    cluster.exec(namespace, "writer", "touch", "/state/file")
    cluster.api.delete(value, grace=0)
    run(cluster, pod("reader", namespace, volumes=volumes))
    assert cluster.exec(namespace, "reader", "ls", "/state").strip() == "file"


def test_faults_are_made_and_undone(cluster: Cluster, namespace: str) -> None:
    liveness = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60}
    value = pod("victim", namespace, container(readinessProbe=PROBE, livenessProbe=liveness))
    address = run(cluster, value)["status"]["podIP"] + ":8000"
    assert fetch(cluster, address) == "victim"

    cluster.kill(namespace, "victim")
    wait("killed and restarted", lambda: state(cluster, value)["restartCount"] == 1)
    assert state(cluster, value)["lastState"]["terminated"]["exitCode"] == 137
    wait("it answers again", lambda: fetch(cluster, address) == "victim")

    with cluster.frozen(namespace, "victim"):
        assert "timed out" in fetch(cluster, address, 1)
    assert fetch(cluster, address) == "victim"

    with cluster.cut_off(namespace, "victim"):
        assert "failed" in fetch(cluster, address, 1)
        wait("not ready", lambda: not ready([cluster.api.read_back(value)]), 10)
    wait("ready again", lambda: ready([cluster.api.read_back(value)]), 10)

    with cluster.slow_readiness(namespace, "victim", 5):
        wait("not ready", lambda: not ready([cluster.api.read_back(value)]), 10)
        assert fetch(cluster, address) == "victim"
    wait("ready again", lambda: ready([cluster.api.read_back(value)]), 10)


def test_a_lost_node_gives_up_its_pods_and_takes_them_back(cluster: Cluster, namespace: str) -> None:
    meta = {"name": "moved", "namespace": namespace}
    template = {"metadata": {"labels": {"app": "server"}}, "spec": pod("x", namespace)["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "server"}}, "template": template}
    cluster.api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    first = wait("a pod", lambda: ready(cluster.api.list("Pod", namespace)))
    (one,) = cluster.api.list("Pod", namespace)
    with cluster.lost_node(one["spec"]["nodeName"]):
        wait("another pod elsewhere", lambda: set(ready(cluster.api.list("Pod", namespace))) - set(first), 60)
        assert len(cluster.api.list("Pod", namespace)) == 2, "nobody confirmed that the first is gone"
    wait("the first is confirmed gone", lambda: len(cluster.api.list("Pod", namespace)) == 1, 30)


def test_pods_run_on_while_the_api_server_is_away(cluster: Cluster, namespace: str) -> None:
    value = pod("steady", namespace)
    address = run(cluster, value)["status"]["podIP"] + ":8000"
    with cluster.api_server_down():
        with pytest.raises(Exception, match=r"."):
            cluster.api.read_back(value)
        assert fetch(cluster, address) == "steady"
    wait("the API server knows", lambda: ready([cluster.api.read_back(value)]), 20)
    assert state(cluster, value)["restartCount"] == 0
    cluster.api.delete(value)
    wait("and is obeyed", lambda: gone(cluster, value), 20)
