"""The part of tests on kind that needs no docker: docker itself is a mock here, since it can not run inside our CI.

Everything around it is real: kind reads our configuration and writes kubeadm's, nft loads our tables, and TLS is spoken
with the kubeconfig that kind writes.
"""

import base64
import contextlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from tests.cluster import kind, kubeconfig
from tests.cluster.api import wait
from tests.cluster.cluster import NODES
from tests.cluster.kind import KindCluster
from tests.cluster.kind_setup import IMAGES, NODE_IMAGES, REAL, config, program
from tests.golden.trees import EXAMPLES
from tests.toolchain import Missing, absent, on_path


class Docker:
    """The mock: what it was asked so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def asked(self) -> list[list[str]]:
        return [argv for argv, _ in self.pairs()]

    def pairs(self) -> list[tuple[list[str], str]]:
        log = self.folder / "log"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [(argv, said) for argv, said in rows]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    found = Docker(tmp_path / "docker")
    found.folder.mkdir()
    file = found.folder / "docker"
    script = Path(__file__).with_name("fake_docker.py").read_text("utf-8")
    file.write_text(f"#!{sys.executable} -IS\n{script}")  # without site: a cluster is a hundred calls
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{found.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DOCKER", str(found.folder))
    monkeypatch.setenv("FAKE_VERSION", "v1.37.0")
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "docker")
    return found


@pytest.fixture(scope="module")
def binary() -> Path:
    try:
        return program()
    except Missing as missing:
        absent(str(missing))
        raise


class Authority:
    """A CA, a server's certificate for 127.0.0.1 and an administrator's, as kubeadm makes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._do(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca"
        )
        self.issue("server", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1")
        self.issue("admin", "/O=system:masters/CN=kubernetes-admin", "extendedKeyUsage=clientAuth")

    def _do(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name: str, subject: str, extension: str) -> None:
        (self.folder / "extension").write_text(extension)
        words = [
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            subject,
        ]
        self._do(*words)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extension"]
        self._do("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")

    def admin_conf(self) -> str:
        """What kubeadm leaves on the node, and kind reads."""

        def data(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        cluster = {"server": "https://aibrix-control-plane:6443", "certificate-authority-data": data("ca.crt")}
        user = {"client-certificate-data": data("admin.crt"), "client-key-data": data("admin.key")}
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kubernetes", "cluster": cluster}],
            "users": [{"name": "kubernetes-admin", "user": user}],
            "contexts": [{"name": "admin", "context": {"cluster": "kubernetes", "user": "kubernetes-admin"}}],
            "current-context": "admin",
        }
        return yaml.safe_dump(value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if on_path("openssl") is None:
        absent("needs openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


def _create(binary: Path, docker: Docker, kubernetes: tuple[int, int], image: str) -> Path:
    """What `KindCluster` does first; the kubeconfig."""
    file, out = docker.folder / "kind.json", docker.folder / "kubeconfig"
    file.write_text(json.dumps(config(kubernetes, docker.folder / "claims")))
    words = ["create", "cluster", "--name", "aibrix", "--config", str(file), "--image", image, "--kubeconfig", str(out)]
    done = subprocess.run([binary, *words, "--retain", "--wait", "9s"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kubernetes", [(1, 37), (1, 34)], ids=["1.37", "1.34"])
def test_kind_takes_the_configuration_and_gives_kubeadm_our_arguments(
    kubernetes: tuple[int, int], binary: Path, docker: Docker, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"v{kubernetes[0]}.{kubernetes[1]}.0"
    monkeypatch.setenv("FAKE_VERSION", version)
    (docker.folder / "admin.conf").write_text(authority.admin_conf())
    _create(binary, docker, kubernetes, f"kindest/node:{version}")
    started = [argv for argv in docker.asked() if argv[0] == "run"]
    names = [argv[argv.index("--name") + 1] for argv in started]
    found = KindCluster("aibrix", docker.folder, binary, NODES)
    assert sorted(names) == sorted([found.control, *found._real])
    assert [spec.name for spec in found._real.values()] == list(REAL)
    assert all(f"--volume={docker.folder}/claims:/claims" in argv for argv in started)

    written = [said for argv, said in docker.pairs() if argv[-1] == "/kind/kubeadm.conf"]
    assert len(written) == len(names)
    for text in written:
        parts = {one["kind"]: one for one in yaml.safe_load_all(text) if one}
        assert parts["KubeletConfiguration"]["nodeLeaseDurationSeconds"] == 8
        assert parts["KubeProxyConfiguration"]["mode"] == "nftables"
        whole = parts["ClusterConfiguration"]
        assert whole["networking"]["podSubnet"] == "10.245.0.0/16"
        assert _arguments(whole, "scheduler") == {"leader-elect": "false"}
        manager = _arguments(whole, "controllerManager")
        assert manager["node-monitor-grace-period"] == "8s" and manager["enable-hostpath-provisioner"] == "true"
        server = _arguments(whole, "apiServer")
        assert server["default-unreachable-toleration-seconds"] == "3" and "runtime-config" in server
        if kubernetes < (1, 36):
            assert server["runtime-config"] == "admissionregistration.k8s.io/v1beta1=true"
            assert server["feature-gates"] == "MutatingAdmissionPolicy=true"


def _arguments(whole: dict[str, Any], part: str) -> dict[str, str]:
    found = whole[part]["extraArgs"]
    return {row["name"]: row["value"] for row in found} if isinstance(found, list) else found


def test_kind_refuses_a_field_that_it_does_not_know(binary: Path, docker: Docker) -> None:
    file = docker.folder / "kind.json"
    file.write_text(json.dumps({**config((1, 37), docker.folder), "nodez": []}))
    words = ["create", "cluster", "--name", "aibrix", "--config", str(file)]
    done = subprocess.run([binary, *words], capture_output=True, text=True)
    assert done.returncode != 0 and "nodez" in done.stderr


def test_images_are_loaded_under_the_names_that_manifests_use(
    binary: Path, docker: Docker, authority: Authority
) -> None:
    (docker.folder / "admin.conf").write_text(authority.admin_conf())
    _create(binary, docker, (1, 37), NODE_IMAGES["1.37"])
    kind.build_images()
    words = ["load", "docker-image", "--name", "aibrix", *IMAGES]
    done = subprocess.run([binary, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [argv[3:] for argv in docker.asked() if argv[0] == "save"] == [list(IMAGES)]
    builds = [argv for argv in docker.asked() if argv[0] == "build"]
    assert Path(builds[0][2]).is_file() and set(IMAGES) <= {argv[2] for argv in builds[1:]}
    manifest = next((EXAMPLES / "01-minimal" / "expected").rglob("*deployment*.yaml"))
    pod = yaml.safe_load(manifest.read_text("utf-8"))["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] in IMAGES


# --- the kubeconfig


@contextlib.contextmanager
def _server(authority: Authority) -> Iterator[int]:
    """Answers with the name in the client's certificate; without one there is no connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            subject = (self.connection.getpeercert() or {})["subject"]
            names = dict(pair for one in subject for pair in one)
            body = json.dumps({"user": names["commonName"]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.folder / "server.crt", authority.folder / "server.key")
    tls.load_verify_locations(authority.folder / "ca.crt")
    tls.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_the_kubeconfig_that_kind_writes_proves_who_we_are(
    binary: Path, docker: Docker, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docker.folder / "admin.conf").write_text(authority.admin_conf())
    with _server(authority) as port:
        monkeypatch.setenv("FAKE_PORT", str(port))
        file = _create(binary, docker, (1, 37), NODE_IMAGES["1.37"])
        address, tls = kubeconfig.read(file)
        assert address == f"https://127.0.0.1:{port}"
        with httpx.Client(base_url=address, verify=tls, trust_env=False) as client:
            assert client.get("/").json() == {"user": "kubernetes-admin"}
        anonymous = ssl.create_default_context(cafile=str(authority.folder / "ca.crt"))
        with (
            httpx.Client(base_url=address, verify=anonymous, trust_env=False) as client,
            pytest.raises(httpx.HTTPError),
        ):
            client.get("/")


def test_a_kubeconfig_without_a_certificate_says_what_is_missing(tmp_path: Path, authority: Authority) -> None:
    value = yaml.safe_load(authority.admin_conf())
    value["users"][0]["user"] = {"token": "x"}
    (tmp_path / "config").write_text(yaml.safe_dump(value))
    with pytest.raises(ValueError, match=r"no client-certificate-data; it has \['token'\]"):
        kubeconfig.read(tmp_path / "config")


# --- faults: what docker is asked to do


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> KindCluster:
    """With an API server that knows one pod; docker is the mock."""
    found = KindCluster("t", tmp_path, Path("kind"), NODES)
    status = {
        "podIP": "10.245.3.4",
        "containerStatuses": [{"state": {"running": {}}, "containerID": "containerd://abc"}],
    }
    pod = {"spec": {"nodeName": "t-worker3", "containers": [{"name": "engine"}]}, "status": status}
    found.api = SimpleNamespace(get=lambda kind, name, namespace="": pod)  # type: ignore[assignment]
    return found


def test_faults_are_single_commands_on_the_pod_s_node_and_are_undone(docker: Docker, running: KindCluster) -> None:
    task = ["exec", "t-worker3", "ctr", "--namespace=k8s.io", "tasks"]
    running.kill("default", "chat")
    with running.frozen("default", "chat"):
        assert docker.asked()[-1] == [*task, "pause", "abc"]
    with running.cut_off("default", "chat"):
        assert docker.pairs()[-1] == (["exec", "-i", "t-worker3", "nft", "-f", "-"], kind.cut("10.245.3.4")[1])
    assert docker.asked() == [
        [*task, "kill", "--signal", "SIGKILL", "abc"],
        [*task, "pause", "abc"],
        [*task, "resume", "abc"],
        ["exec", "-i", "t-worker3", "nft", "-f", "-"],
        ["exec", "t-worker3", "nft", "delete", "table", "ip", "cut_10_245_3_4"],
    ]
    with pytest.raises(ValueError, match="no machine that can be lost"), running.lost_node("h100-a"):
        pass


def test_programs_run_beside_the_control_plane_and_are_told_to_end(docker: Docker, running: KindCluster) -> None:
    running.run(sys.executable, "-m", "x", env={"A": "1"}, timeout=5)
    with running.program("load", sys.executable, "-m", "tests.cluster.load", env={"PYTHONPATH": "/x"}) as log:
        assert log == running.folder / "load.log"
        wait("it was started", lambda: len(docker.asked()) == 2, 10)
    running.kubectl("get", "pods", stdin="text")
    running.exec("default", "chat", "ls")
    first, second, *_ = docker.asked()
    assert first == ["exec", "-i", "--env", "A=1", "t-tools", "timeout", "--kill-after=1", "5", "python3", "-m", "x"]
    assert second[:4] == ["exec", "--env", "PYTHONPATH=/x", "t-tools"] and second[-3:] == [
        "python3",
        "-m",
        "tests.cluster.load",
    ]
    admin = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]
    assert (["exec", "-i", "t-control-plane", *admin, "get", "pods"], "text") in docker.pairs()
    exec_ = ["exec", "-n", "default", "chat", "-c", "engine", "--", "ls"]
    assert docker.asked()[-1] == ["exec", "t-control-plane", "timeout", "30", *admin, *exec_]


@pytest.mark.parametrize(
    ("container", "why"),
    [
        ({"readinessProbe": {"httpGet": {}}}, ""),
        ({"readinessProbe": {"exec": {}}}, "its probe is a command"),
        ({"readinessProbe": {"httpGet": {}, "timeoutSeconds": 9}}, "waits longer"),
        ({"livenessProbe": {"httpGet": {}, "periodSeconds": 1, "failureThreshold": 60}}, ""),
        ({"livenessProbe": {"httpGet": {}, "periodSeconds": 1}}, "would restart it after 3 s"),
        ({"livenessProbe": {"exec": {}, "periodSeconds": 1}}, ""),
    ],
)
def test_slow_readiness_is_offered_only_where_it_is_one(container: dict[str, Any], why: str) -> None:
    found = kind.unfaithful([container], 5)
    assert why in found and bool(why) == bool(found)


@pytest.mark.parametrize("table", [kind.cut("127.0.0.1"), kind.deaf("127.0.0.1")], ids=["cut", "deaf"])
def test_nft_loads_the_tables_and_packets_vanish(table: tuple[str, str]) -> None:
    """In a network namespace of its own."""
    if lacking := [name for name in ("nft", "unshare", "ip") if on_path(name) is None]:
        absent(f"needs {lacking}")
    name, text = table
    script = """
import socket, subprocess, sys
name, text = sys.argv[1:]
def sh(*argv, stdin=""): subprocess.run(argv, input=stdin, text=True, check=True)
def passes():
    there, back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12")
    back.bind(("127.0.0.1", 0)); back.settimeout(0.3)
    try:
        there.sendto(b"x", back.getsockname())
        return back.recv(1) == b"x"
    except OSError:
        return False
sh("ip", "link", "set", "lo", "up")
before = passes()
sh("nft", "-f", "-", stdin=text)
during = passes()
sh("nft", "delete", "table", "ip", name)
print(before, during, passes())
"""
    words = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", script, name, text]
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.stdout.split() == ["True", "False", "True"], done.stderr
