"""The end of a pod, and its certificate: what has begun ends whole, and a new certificate needs no restart."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from aibrix_compile.backends.gateway import workloads
from tests.gateway import projects
from tests.gateway.running import Gateway, certificate, running, wait

SPEED = 0.5
"""Of the mock: a token in 22 ms."""
MESSAGES = [{"role": "user", "content": "hello"}]
FORGET = 1
"""Seconds that the test gives load balancers; a pod gives them fifteen."""


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    plan = projects.plan(tmp_path_factory.mktemp("drain"), [projects.service("chat")])
    with running(plan, {"chat": 1}, speed=SPEED) as gateway:
        yield gateway


def test_a_stream_that_has_begun_ends_whole(gateway: Gateway) -> None:
    tokens = 250  # some six seconds
    body = {"model": "chat", "messages": MESSAGES, "max_tokens": tokens, "stream": True}
    pieces: list[str] = []

    def listen() -> None:
        with gateway.caller() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces.extend(answer.iter_text())

    listener = threading.Thread(target=listen)
    listener.start()
    wait(lambda: len(pieces) > 2, 10)
    admin = urlsplit(gateway.admin).port
    script = gateway.folder / "drain.sh"
    assert gateway.plan.gateway is not None
    script.write_text(workloads.scripts(gateway.plan.gateway)["drain.sh"])
    drain = subprocess.Popen(["bash", str(script), str(admin), str(FORGET), "60"], stdout=subprocess.DEVNULL)
    try:
        wait(lambda: httpx.get(f"{gateway.ops}/ready").status_code == 503, 3)
        short = gateway.client.post("/v1/chat/completions", json=body | {"stream": False, "max_tokens": 1})
        assert short.status_code == 200  # until load balancers have forgotten it, clients still come
        assert drain.poll() is None and listener.is_alive()
        assert drain.wait(60) == 0
        listener.join(1)
        assert not listener.is_alive(), "the script ended before the stream did"
    finally:
        drain.kill()
        listener.join(30)
    text = "".join(pieces)
    assert text.endswith("data: [DONE]\n\n") and text.count('"content"') >= tokens
    assert gateway.envoy.poll() is None
    gateway.envoy.terminate()
    assert gateway.envoy.wait(20) == 0


def test_without_a_request_nothing_is_waited_for(gateway: Gateway) -> None:
    script = workloads.scripts(gateway.plan.gateway)["drain.sh"] if gateway.plan.gateway else ""
    begun = time.monotonic()
    subprocess.run(
        ["bash", "-c", script, "drain", str(urlsplit(gateway.admin).port), "0", "300"], check=True, timeout=60
    )
    assert time.monotonic() - begun < 30


# --- TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    plan = projects.plan(
        tmp_path_factory.mktemp("tls"),
        [projects.service("chat")],
        hostname="llm.example.com",
        tls={"secret": "llm-tls"},
    )
    with running(plan, {"chat": 1}, speed=100) as gateway:
        yield gateway


def served(gateway: Gateway) -> bytes:
    """The certificate that a client sees now."""
    where, context = urlsplit(gateway.url), ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((where.hostname, where.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="llm.example.com") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_tls_speaks_both_versions(secured: Gateway, version: str) -> None:
    body = {"model": "chat", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    with secured.caller(http1=version == "HTTP/1.1", http2=version == "HTTP/2") as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.http_version) == (200, version)
        last = answer.text.strip().split("\n\n")
        assert last[-1] == "data: [DONE]" and json.loads(last[0].removeprefix("data: "))["model"] == "chat"


def test_other_hosts_are_not_served(secured: Gateway) -> None:
    with secured.caller() as client:
        answer = client.post("/v1/chat/completions", json={"model": "chat"}, headers={"host": "evil.example.com"})
    assert answer.status_code == 404


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_and_plain_text_are_refused(secured: Gateway) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        httpx.get(secured.url, verify=context)
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.url.replace("https", "http"))


def test_a_new_certificate_is_served_without_a_restart(secured: Gateway) -> None:
    before = served(secured)
    with secured.caller() as client:
        assert client.get("/v1/models").status_code == 200  # a connection from before
        certificate(secured.folder / "tls", "llm.example.com")
        wait(lambda: served(secured) != before, 10)
        assert client.get("/v1/models").status_code == 200
    assert secured.envoy.poll() is None
