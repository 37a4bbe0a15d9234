"""etcd, API server, controller manager, scheduler and kube-proxy as processes of one network namespace.

The programs are the released ones; only addresses and a few intervals are ours (`--node-monitor-grace-period` and the
tolerations of a lost node are seconds instead of minutes, so that a test can wait for them).
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import time
from pathlib import Path

import httpx

ADDRESS = "10.244.0.1"  # of the API server: EndpointSlices refuse loopback addresses
PORT = 6443
TOKEN = "admin"  # of a server that nothing outside its namespace reaches
SERVICES = "10.96.0.0/16"


class Failed(Exception):
    """A program of the control plane ended or does not answer; the message has the end of its log."""


class Process:
    """A program with its log, restartable: `start` again after `stop`."""

    def __init__(self, name: str, argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name, self.argv, self.env = name, argv, env
        self.log = folder / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", **(self.env or {})}
            self._running = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def check(self) -> None:
        if self._running is None or self._running.poll() is not None:
            raise Failed(f"{self.name} ended; the end of {self.log}:\n{self.tail()}")

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text("utf-8", "replace")[-size:] if self.log.exists() else ""

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._running is None:
            return
        self._running.send_signal(how)
        deadline = time.monotonic() + 20
        while self._running.poll() is None:
            if time.monotonic() > deadline:
                self._running.kill()
            await asyncio.sleep(0.05)
        self._running = None


class ControlPlane:
    """Started once, in order. One kube-proxy, that of `node`, serves all nodes, which share a network namespace."""

    def __init__(self, programs: dict[str, Path], folder: Path, node: str) -> None:
        self.folder, keys = folder, folder / "keys"
        keys.mkdir()
        (keys / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        subprocess.run(
            ["openssl", "genrsa", "-out", str(keys / "accounts.key"), "2048"], check=True, capture_output=True
        )
        self.kubeconfig = folder / "kubeconfig"
        etcd = "http://127.0.0.1:2379"
        config = f"--kubeconfig={self.kubeconfig}"
        argv = {
            "etcd": [
                f"--data-dir={folder}/etcd",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            "kube-apiserver": [
                f"--etcd-servers={etcd}",
                f"--secure-port={PORT}",
                f"--bind-address={ADDRESS}",
                f"--advertise-address={ADDRESS}",
                f"--cert-dir={keys}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={keys}/accounts.key",
                f"--service-account-signing-key-file={keys}/accounts.key",
                f"--service-cluster-ip-range={SERVICES}",
                f"--token-auth-file={keys}/tokens.csv",
                "--authorization-mode=RBAC",
                "--default-not-ready-toleration-seconds=3",  # 300: how long a pod stays on a lost node
                "--default-unreachable-toleration-seconds=3",
                "--endpoint-reconciler-type=lease",
                "--v=1",
            ],
            "kube-controller-manager": [
                config,
                "--controllers=*,-node-ipam-controller,-kube-apiserver-serving-clustertrustbundle-publisher-controller",
                f"--service-account-private-key-file={keys}/accounts.key",
                f"--root-ca-file={keys}/apiserver.crt",
                "--use-service-account-credentials=false",
                "--leader-elect=false",
                "--node-monitor-period=1s",
                "--node-monitor-grace-period=20s",  # 50 s: until a silent node counts as lost; the API server may be away for less
                "--secure-port=0",
            ],
            "kube-scheduler": [config, "--leader-elect=false", "--secure-port=0"],
            "kube-proxy": [
                config,
                "--proxy-mode=nftables",
                f"--hostname-override={node}",
                "--masquerade-all",  # a pod that calls itself through a Service is foreign to the proxy of another node
                "--conntrack-max-per-core=0",  # 0 leaves the host's settings alone
                "--conntrack-min=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
                f"--healthz-bind-address={ADDRESS}:10256",
                "--metrics-bind-address=127.0.0.1:10249",
            ],
        }
        self.processes = {name: Process(name, [str(programs[name]), *words], folder) for name, words in argv.items()}
        self._kubeconfig()

    def _kubeconfig(self) -> None:
        cluster = {"server": f"https://{ADDRESS}:{PORT}", "insecure-skip-tls-verify": True}
        data = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(data))

    async def start(self) -> None:
        """All programs but kube-proxy, which wants to find its node; returns when ServiceAccounts are made."""
        self.processes["etcd"].start()
        self.processes["kube-apiserver"].start()
        await self.ready(60)
        for name in ("kube-controller-manager", "kube-scheduler"):
            self.processes[name].start()
        await self._answers("/api/v1/namespaces/default/serviceaccounts/default", 60)

    async def ready(self, seconds: float) -> None:
        await self._answers("/readyz", seconds)

    async def _answers(self, path: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        async with client() as api:
            while True:
                self.processes["etcd"].check()
                self.processes["kube-apiserver"].check()
                try:
                    if (answer := await api.get(path)).status_code == 200:
                        return
                    said = answer.text
                except httpx.HTTPError as error:
                    said = repr(error)
                if time.monotonic() > deadline:
                    raise Failed(f"the API server does not answer {path} after {seconds} s: {said[-2000:]}")
                await asyncio.sleep(0.1)


def client(token: str = TOKEN) -> httpx.AsyncClient:
    """Of the API server, from inside its namespace. Its certificate is made at start, for itself."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return httpx.AsyncClient(
        base_url=f"https://{ADDRESS}:{PORT}", verify=context, headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
