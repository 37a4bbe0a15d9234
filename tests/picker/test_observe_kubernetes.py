"""Pods become replicas. `kube_api` plays the API server, for its outages; the real one is in tests/cluster."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from kube_api import KubeApi, pod
from observed import Notes, clock, configured, fleet, running, status, until

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe import Fleet, kubernetes
from aibrix_controllers.picker.state import State


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "BACK_OFF_S", 0.02)
    monkeypatch.setattr(kubernetes, "BACK_OFF_MOST_S", 0.1)
    monkeypatch.setattr(kubernetes, "PERIOD_S", 0.05)


class Scene(NamedTuple):
    api: KubeApi
    state: State
    fleet: Fleet
    notes: Notes
    configs: list[Config]


def play(folder: Path, work: Callable[[Scene], AsyncIterator[None]], *services: str) -> Scene:
    """`work` is in two halves: before its first yield the API server is prepared, then it is watched."""
    (folder / "token").write_text("secret\n")
    made: list[Scene] = []

    async def run() -> None:
        configs = [configured(*services)]
        seen, state, notes = fleet(configs[0])
        made.append(scene := Scene(KubeApi(), state, seen, notes, configs))
        steps = work(scene)
        await anext(steps)
        async with scene.api.listening() as api:
            server = kubernetes.Server("127.0.0.1", api.port, folder, tls=False)
            async with running(kubernetes.follow(lambda: configs[-1], seen, server, lambda: 0.5)):
                async for _ in steps:
                    pass

    asyncio.run(run())
    return made[0]


def test_what_a_pod_says_of_its_replica() -> None:
    told = kubernetes.replica(pod("a", "10.0.0.1", restarts=2, pool="h100"), 8000)
    assert told is not None
    address, one = told
    assert (address, one.pool, one.ready, one.draining) == ("10.0.0.1:8000", "h100", True, False)
    again = kubernetes.replica(pod("a", "10.0.0.1", restarts=3), 8000)
    other = kubernetes.replica(pod("b", "10.0.0.1", restarts=2), 8000)
    assert again and other and len({one.incarnation, again[1].incarnation, other[1].incarnation}) == 3
    draining = kubernetes.replica(pod("a", "fd00::1", draining=True, ready=False), 8000)
    assert draining and draining[0] == "[fd00::1]:8000" and draining[1].draining and not draining[1].ready


@pytest.mark.parametrize(
    "one", [pod("a"), pod("a", "10.0.0.1", phase="Failed"), pod("a", "10.0.0.1", phase="Succeeded")]
)
def test_pods_that_are_no_replica(one: dict[str, object]) -> None:
    assert kubernetes.replica(one, 8000) is None


def test_pods_come_change_and_go(tmp_path: Path) -> None:
    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state = scene.api, scene.state
        api.put(pod("a", "10.0.0.1"))
        api.put(pod("worker", "10.0.0.9", role="worker"))
        api.put(pod("stranger", "10.0.0.8", namespace="elsewhere"))
        yield
        await until(lambda: status(state) == {"10.0.0.1:8000": "ready"})
        assert scene.fleet.begun.is_set()
        api.put(pod("b"))  # pending: it has no address yet
        api.put(pod("b", "10.0.0.2", ready=False))
        await until(lambda: status(state) == {"10.0.0.1:8000": "ready", "10.0.0.2:8000": "not ready"})
        api.put(pod("b", "10.0.0.2"))
        api.put(pod("a", "10.0.0.1", draining=True))
        await until(lambda: status(state) == {"10.0.0.1:8000": "draining", "10.0.0.2:8000": "ready"})
        before = state.fleets["chat"].replicas["10.0.0.2:8000"]
        api.put(pod("b", "10.0.0.2", restarts=1))
        api.remove("a")
        await until(lambda: status(state) == {"10.0.0.2:8000": "ready"})
        assert state.fleets["chat"].replicas["10.0.0.2:8000"] is not before  # its KV cache is empty
        api.put(pod("b", "10.0.0.2", phase="Failed"))
        await until(lambda: not status(state))

    assert not play(tmp_path, work).notes


def test_an_address_that_a_new_pod_has_by_now_is_the_new_pods(tmp_path: Path) -> None:
    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state = scene.api, scene.state
        api.put(pod("old", "10.0.0.1", draining=True))
        yield
        await until(lambda: status(state) == {"10.0.0.1:8000": "draining"})
        api.put(pod("new", "10.0.0.1"))
        await until(lambda: status(state) == {"10.0.0.1:8000": "ready"})
        api.put(pod("old", "10.0.0.1", draining=True, ready=False))
        api.remove("old")
        api.put(pod("last", "10.0.0.2"))
        await until(lambda: len(status(state)) == 2)
        assert status(state)["10.0.0.1:8000"] == "ready"

    play(tmp_path, work)


def test_a_long_list_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 7)

    async def work(scene: Scene) -> AsyncIterator[None]:
        for number in range(20):
            scene.api.put(pod(f"a{number:02}", f"10.0.0.{number}"))
        yield
        await until(lambda: len(status(scene.state)) == 20)

    assert sum("limit=7" in path for path in play(tmp_path, work).api.asked) == 3


def test_a_watch_that_ends_goes_on_where_it_was(tmp_path: Path) -> None:
    """Also from a bookmark, when what came before is forgotten: nothing is listed again."""

    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state = scene.api, scene.state
        api.put(pod("a", "10.0.0.1"))
        yield
        await until(lambda: status(state) and any("watch" in path for path in api.asked))
        api.bookmark()
        await asyncio.sleep(0.1)
        api.forget()
        api.end.set()
        await asyncio.sleep(0.1)
        api.end.clear()
        api.put(pod("b", "10.0.0.2"))
        await until(lambda: len(status(state)) == 2)
        assert sum("watch" not in path for path in api.asked) == 1
        assert sum("watch" in path for path in api.asked) < 20  # and not as fast as it can

    assert not play(tmp_path, work).notes


@pytest.mark.parametrize("by", ["event", "status"])
def test_a_version_that_is_forgotten_is_listed_anew(tmp_path: Path, by: str) -> None:
    """410 comes as an event of the watch or, as for the rest of a long list, as the answer."""

    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state = scene.api, scene.state
        api.put(pod("a", "10.0.0.1"))
        yield
        await until(lambda: any("watch" in path for path in api.asked))
        api.fail = 410 if by == "status" else 0
        api.end.set()
        await asyncio.sleep(0.1)
        api.remove("a")
        api.put(pod("b", "10.0.0.2"))
        api.forget()
        api.fail = 0
        api.end.clear()
        await until(lambda: status(state) == {"10.0.0.2:8000": "ready"})

    assert not play(tmp_path, work).notes


@pytest.mark.parametrize("outage", ["refused", "500", "401"])
def test_without_the_api_server_what_is_known_stays(tmp_path: Path, outage: str) -> None:
    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state, notes = scene.api, scene.state, scene.notes
        api.put(pod("a", "10.0.0.1"))
        yield
        await until(lambda: status(state))
        if outage == "refused":
            api.stop()
            await until(lambda: notes)
            await asyncio.sleep(0.3)
            api.remove("a")
            assert status(state) == {"10.0.0.1:8000": "ready"}
            await api.start()
        elif outage == "500":
            api.fail = 500
            api.end.set()
            await until(lambda: notes)
            await asyncio.sleep(0.3)
            assert status(state) == {"10.0.0.1:8000": "ready"}
            api.fail = 0
            api.end.clear()
        else:
            (tmp_path / "token").write_text("expired")
            api.end.set()
            await until(lambda: notes)
            await asyncio.sleep(0.3)
            assert status(state) == {"10.0.0.1:8000": "ready"}
            (tmp_path / "token").write_text("secret")  # the kubelet brings a new one
            api.end.clear()
        await until(lambda: notes.count("kubernetes_back") == 1)
        api.put(pod("c", "10.0.0.3"))
        await until(lambda: "10.0.0.3:8000" in status(state))
        assert ("10.0.0.1:8000" in status(state)) == (outage != "refused")

    notes = play(tmp_path, work).notes
    assert len(notes) <= 4, notes  # each reason once, not each attempt
    assert notes[0][0] == "kubernetes_away" and notes[-1][0] == "kubernetes_back"


def test_nonsense_from_the_api_server_is_said_and_changes_nothing(tmp_path: Path) -> None:
    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state, notes = scene.api, scene.state, scene.notes
        api.put(pod("a", "10.0.0.1"))
        yield
        await until(lambda: status(state))
        api.put({"metadata": {"name": "x", "namespace": "ns-chat", "labels": pod("x")["metadata"]["labels"]}})
        await until(lambda: notes.count("kubernetes_away"))
        assert status(state) == {"10.0.0.1:8000": "ready"}
        del api.pods["ns-chat", "x"]
        api.put(pod("b", "10.0.0.2"))
        await until(lambda: len(status(state)) == 2)

    play(tmp_path, work)


def test_a_new_config_is_followed(tmp_path: Path) -> None:
    async def work(scene: Scene) -> AsyncIterator[None]:
        api, state, configs = scene.api, scene.state, scene.configs
        api.put(pod("a", "10.0.0.1"))
        api.put(pod("c", "10.0.1.1", service="code"))
        yield
        await until(lambda: status(state) == {"10.0.0.1:8000": "ready"})
        configs.append(configured("code", port=9000))
        state.configure(configs[-1], clock())
        await until(lambda: status(state, "code") == {"10.0.1.1:9000": "ready"})
        await until(lambda: scene.fleet.services() == {"code"})
        configs.append(configured("code", port=9001))
        state.configure(configs[-1], clock())
        await until(lambda: status(state, "code") == {"10.0.1.1:9001": "ready"})

    play(tmp_path, work, "chat")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl (apt-get install openssl) makes the certificate")
def test_the_certificate_is_checked(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    for name in ("ca", "other"):
        subject = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        subprocess.run([*command, "-days", "1", *subject, *files], check=True, capture_output=True)

    async def scene() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "other.crt", tmp_path / "other.key")
        config = configured()
        seen, state, notes = fleet(config)
        api = KubeApi()
        api.put(pod("a", "10.0.0.1"))
        async with api.listening(context):
            server = kubernetes.Server("127.0.0.1", api.port, tmp_path)
            async with running(kubernetes.follow(lambda: config, seen, server, lambda: 0.5)):
                await until(lambda: notes)
                assert "certificate verify failed" in str(notes[0][1]["why"]) and not api.asked
                (tmp_path / "ca.crt").write_bytes((tmp_path / "other.crt").read_bytes())  # the CA is rotated
                await until(lambda: status(state) == {"10.0.0.1:8000": "ready"})
                api.put(pod("b", "10.0.0.2"))
                await until(lambda: len(status(state)) == 2)

    asyncio.run(scene())
