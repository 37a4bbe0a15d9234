"""The sidecar as a process beside a mock engine, adapters in an S3 server: what a caller gets, whatever it sends."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mock.mocks import Mock, free_port
from tests.runtime import buckets, written
from tests.runtime.sidecar import READER, Sidecar, beside, code, wait
from tests.toolchain import Missing, absent

HOSTILE = [
    *("../x", "/etc/x", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[31m", "", "x" * 101, "a\u202eb"),
    *(None, 7, ["a"], {"a": 1}, "base"),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With adapters a0..a5 of 160 kB, and others that are of no use."""
    try:
        buckets.program()
    except Missing as missing:
        absent(str(missing))
    files = tmp_path_factory.mktemp("files")
    with buckets.running(tmp_path_factory.mktemp("s3"), "adapters") as endpoint:
        for number in range(6):
            buckets.put(endpoint, "adapters", f"a{number}", written.adapter(files / f"a{number}", seed=number))
        buckets.put(endpoint, "adapters", "wide", written.adapter(files / "wide", rank=64))
        buckets.put(endpoint, "adapters", "other", written.adapter(files / "other", modules={"q_proj": (2048, 2048)}))
        cut = written.adapter(files / "cut") / "adapter_model.safetensors"
        cut.write_bytes(cut.read_bytes()[:-100])
        buckets.put(endpoint, "adapters", "cut", cut.parent)
        long = written.adapter(files / "long") / "adapter_model.safetensors"
        long.write_bytes((10 << 30).to_bytes(8, "little") + long.read_bytes()[8:])
        buckets.put(endpoint, "adapters", "long", long.parent)
        pickled = files / "pickled"
        pickled.mkdir()
        (pickled / "adapter_config.json").write_text("{}")
        (pickled / "adapter_model.bin").write_bytes(b"\x80\x04N.")
        buckets.put(endpoint, "adapters", "pickled", pickled)
        yield endpoint


Start = Callable[..., tuple[Sidecar, Mock]]


@pytest.fixture
def start(bucket: str, tmp_path: Path) -> Iterator[Start]:
    ends: list[Callable[[], None]] = []

    def begin(**settings: Any) -> tuple[Sidecar, Mock]:
        engine = Mock("--enable-lora", "--max-loras=2", "--max-cpu-loras=4")
        ends.append(engine.close)
        context = beside(tmp_path, engine.url, **{"endpoint": bucket, **settings})
        sidecar = context.__enter__()
        ends.append(lambda: context.__exit__(None, None, None))
        sidecar.ready()
        return sidecar, engine

    yield begin
    for end in reversed(ends):
        end()


def test_an_adapter_is_loaded_announced_answered_and_unloaded(start: Start, tmp_path: Path) -> None:
    sidecar, engine = start()
    wanted = written.digest(written.adapter(tmp_path / "a0", seed=0))
    answer = sidecar.load("a0")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["digest"], found["rank"], found["cached"]) == (wanted, 8, False)
    assert sidecar.announced() == {"a0": wanted}
    assert engine.complete(model="a0").status_code == 200
    (card,) = [one for one in sidecar.http.get("/v1/models").json()["data"] if one["id"] == "a0"]
    assert card["announced"] and card["digest"] == wanted
    again = sidecar.load("a0", digest=wanted).json()
    assert again["cached"]
    assert sidecar.unload("a0").json() == {"status": "unloaded", "lora_name": "a0"}
    assert sidecar.announced() == {} and engine.complete(model="a0").status_code == 404
    assert code(sidecar.unload("a0")) == "not_loaded"
    assert sidecar.load("a0", digest=wanted).json()["cached"], "files stay for the next time"


def test_what_does_not_fit_is_refused_before_the_engine_sees_it(start: Start) -> None:
    sidecar, engine = start()
    for name, error, words in (
        ("wide", "unusable", "its rank is 64, and the service allows 16"),
        ("other", "unusable", "is for 2048 -> 2048"),
        ("cut", "unusable", "has 425884 bytes of tensors, and its header speaks of 425984"),
        ("long", "unusable", "says that its header has 10737418240 bytes"),
        ("pickled", "not_found", "pickled weights can run code"),
        ("missing", "not_found", "there is nothing"),
    ):
        answer = sidecar.load(name)
        assert code(answer) == error and words in answer.text, answer.text
    assert [one["id"] for one in engine.http.get("/v1/models").json()["data"]] == ["base"]
    assert code(sidecar.load("a0", digest="sha256:" + "0" * 64)) == "digest_mismatch"
    log = {one["adapter"]: one["code"] for one in sidecar.log() if one["event"] == "load_failed"}
    assert log["wide"] == "unusable"
    assert 'runtime_adapter_loads_total{result="unusable"} 4' in sidecar.http.get("/metrics").text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_and_nothing_is_touched(shared: Sidecar, name: Any) -> None:
    before = sorted(path for path in shared.folder.rglob("*") if path.name != "log")
    for path in ("load", "unload"):
        body = {"lora_name": name, "lora_path": "s3://adapters/a0"}
        assert code(shared.http.post(f"/v1/lora_adapter/{path}", json=body)) == "bad_name"
    assert sorted(path for path in shared.folder.rglob("*") if path.name != "log") == before


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        *(
            (uri, "bad_request")
            for uri in ("s3://adapters/../secrets", "file:///../etc", "/etc/passwd", "s3://x/%2e/y")
        ),
        *(
            (uri, "bad_request")
            for uri in ("http://169.254.169.254/latest", "s3://k:s@adapters/a", None, 3, "s3://b//x")
        ),
        *(
            (uri, "uri_not_allowed")
            for uri in ("s3://others/a0", "file:///etc", "https://host/x", "s3://adapters.evil/a")
        ),
    ],
)
def test_hostile_addresses_are_refused(shared: Sidecar, uri: Any, error: str) -> None:
    body = {"lora_name": "x", "lora_path": uri}
    assert code(shared.http.post("/v1/lora_adapter/load", json=body)) == error
    assert not (shared.adapters / "x").exists()


@pytest.mark.parametrize(
    ("header", "error"),
    [
        *((None, "unauthorized"), ("", "unauthorized"), ("Bearer", "unauthorized"), ("Bearer nobody", "unauthorized")),
        *(
            ("Basic bG9hZGVyOng=", "unauthorized"),
            (f"Bearer {'x' * 8000}", "unauthorized"),
            (f"Bearer {READER}", "forbidden"),
        ),
    ],
)
def test_who_may_not_load_loads_nothing(shared: Sidecar, header: str | None, error: str) -> None:
    headers = {} if header is None else {"authorization": header}
    answer = httpx.post(
        f"{shared.url}/v1/lora_adapter/load", json={"lora_name": "a0", "lora_path": "s3://adapters/a0"}, headers=headers
    )
    assert code(answer) == error
    assert ("www-authenticate" in answer.headers) is (error == "unauthorized")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        *((b"", "bad_request"), (b"[]", "bad_request"), (b"{", "bad_request"), (b'"x"', "bad_request")),
        *((b"[" * 60_000, "bad_request"), (b'{"lora_name":"' + b"x" * 70_000 + b'"}', "too_large")),
        *((b'{"lora_name":"x","lora_path":"s3://adapters/a0","digest":"sha256:x"}', "bad_request"),),
        *((b'{"lora_name":"x","lora_path":"s3://adapters/a0","drain_s":1e9}', "bad_request"),),
        *((b'{"lora_name":"x","lora_path":"s3://adapters/a0","drain_s":true}', "bad_request"),),
        *((b'{"lora_name":"x","lora_path":"s3://adapters/a0","credentials":{"secret":"../x"}}', "bad_request"),),
        *((b'{"lora_name":"x","lora_path":"s3://adapters/a0","credentials":{"secret":"nobody"}}', "denied"),),
    ],
)
def test_hostile_bodies_are_refused(shared: Sidecar, body: bytes, error: str) -> None:
    assert code(shared.http.post("/v1/lora_adapter/load", content=body)) == error


def test_huge_headers_and_half_requests_end_in_an_answer_or_an_end(shared: Sidecar) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 15) as line:
        line.sendall(b"GET /v1/load HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + b"x" * 100_000 + b"\r\n\r\n")
        assert b" 400 " in line.recv(100)
    with socket.create_connection(("127.0.0.1", shared.port), 15) as line:
        head = b"POST /v1/lora_adapter/load HTTP/1.1\r\nhost: x\r\nauthorization: Bearer loader\r\ncontent-length: 100\r\n\r\n{"
        line.sendall(head)
        assert b" 400 " in line.recv(100), "a body that does not come is given up"


@pytest.fixture(scope="module")
def shared(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """For what must leave no trace. Reads time out later than the sidecar gives up."""
    engine = Mock("--enable-lora")
    with beside(tmp_path_factory.mktemp("shared"), engine.url, endpoint=bucket) as sidecar:
        sidecar.ready()
        yield sidecar
    engine.close()


def test_the_engine_s_places_are_not_overdrawn(start: Start) -> None:
    sidecar, _ = start()
    with ThreadPoolExecutor(6) as pool:
        codes = sorted(code(one) for one in pool.map(sidecar.load, [f"a{number}" for number in range(6)]))
    assert codes == ["200"] * 4 + ["no_room"] * 2
    assert len(sidecar.announced()) == 4


def test_who_asks_for_the_same_joins(start: Start) -> None:
    sidecar, engine = start()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(sidecar.load, ["a1"] * 8))
    assert [one.status_code for one in answers] == [200] * 8
    assert engine.metric("vllm:lora_requests_info") == 0
    assert len([one for one in sidecar.log() if one["event"] == "loaded" and not one["cached"]]) == 8, (
        "one load, told to all"
    )
    fetched = sum(path.stat().st_size for path in sidecar.adapters.rglob("adapter_*") if path.is_file())
    assert _fetched(sidecar) == fetched, "fetched once"


def _fetched(sidecar: Sidecar) -> float:
    return _figure(sidecar, "runtime_fetched_bytes_total")


def _figure(sidecar: Sidecar, name: str) -> float:
    rows = sidecar.http.get("/metrics").text.splitlines()
    return next(float(row.split()[1]) for row in rows if row.startswith(f"{name} "))


def test_files_of_loaded_adapters_are_never_evicted(start: Start) -> None:
    """The budget has room for two: a third one takes the place of what is not loaded, and else there is none."""
    size = 8 * 2 * (2 * 4096 + 4096 + 1024) * 2 + 4000
    sidecar, engine = start(disk_bytes=int(2.5 * size))
    assert sidecar.load("a0").status_code == sidecar.load("a1").status_code == 200
    answer = sidecar.load("a2")
    assert code(answer) == "disk_full" and "what the engine has loaded stays" in answer.text
    assert sorted(sidecar.announced()) == ["a0", "a1"]
    assert sidecar.unload("a0", drain_s=0).status_code == 200
    assert sidecar.load("a2").status_code == 200
    assert not list(sidecar.adapters.glob("a0/*/adapter_config.json")), "the least recently used made room"
    assert engine.complete(model="a1").status_code == engine.complete(model="a2").status_code == 200


def test_another_content_waits_until_nobody_uses_the_old(start: Start, bucket: str, tmp_path: Path) -> None:
    sidecar, engine = start()
    name = f"changing-{tmp_path.name}"
    buckets.put(bucket, "adapters", name, written.adapter(tmp_path / "old", seed=10))
    assert sidecar.load(name).status_code == 200
    fresh = written.digest(written.adapter(tmp_path / "new", seed=11))
    buckets.put(bucket, "adapters", name, tmp_path / "new")
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(engine.complete, model=name, max_tokens=2000, ignore_eos=True)
        engine.until("vllm:num_requests_running", 1)
        asked = time.monotonic()
        changed = pool.submit(sidecar.load, name, digest=fresh, drain_s=30)
        wait(lambda: name not in sidecar.announced(), "it is announced no more")
        assert not changed.done()
        assert long.result().status_code == 200
        ended = time.monotonic() - asked
        assert changed.result().json()["digest"] == fresh
    assert ended > 1.0, "the request outlived the settling"
    assert sidecar.announced() == {name: fresh}


def test_who_does_not_end_in_time_keeps_its_adapter(start: Start) -> None:
    sidecar, engine = start()
    sidecar.load("a0")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(engine.complete, model="a0", max_tokens=5000, ignore_eos=True)
        engine.until("vllm:num_requests_running", 1)
        assert code(sidecar.unload("a0", drain_s=0.5)) == "in_use"
        assert "a0" in sidecar.announced(), "and it is announced again"
        assert long.result().status_code == 200


def test_a_restarted_sidecar_knows_what_is_loaded(start: Start) -> None:
    sidecar, engine = start()
    sidecar.load("a0")
    before = sidecar.announced()
    for number in (signal.SIGKILL, signal.SIGTERM):
        sidecar.stop(number)
        assert engine.complete(model="a0").status_code == 200
        sidecar.start()
        wait(lambda: sidecar.announced() == before, "it is announced again")


def test_a_sidecar_killed_in_a_download_goes_on_where_it_was(bucket: str, tmp_path: Path) -> None:
    """Ranges that came are kept; what was half written is no adapter."""
    modules = written.LLAMA | {"k_proj": (4096, 1024), "o_proj": (4096, 4096)}
    big = written.adapter(tmp_path / "big", rank=16, layers=32, modules=modules)
    buckets.put(bucket, "adapters", "big", big)
    engine = Mock("--enable-lora")
    gate = Slow(bucket)
    with beside(tmp_path / "s", engine.url, endpoint=gate.url, max_bytes=10**9, disk_bytes=2 * 10**9) as sidecar:
        sidecar.ready()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: _lost(sidecar))
            wait(lambda: list(sidecar.adapters.glob(".part/*/*.state")), "a range has come")
            sidecar.stop(signal.SIGKILL)
        assert not list(sidecar.adapters.glob("big/*"))
        gate.open()
        sidecar.start()
        sidecar.ready()
        assert sidecar.load("big").status_code == 200
        size = (big / "adapter_model.safetensors").stat().st_size
        assert 0 < _fetched(sidecar) < size, "what had come was not fetched again"
    engine.close()
    gate.close()


def _lost(sidecar: Sidecar) -> None:
    with pytest.raises(httpx.TransportError):
        sidecar.load("big")


def test_an_engine_that_ends_is_seen_and_filled_again(start: Start, bucket: str) -> None:
    sidecar, engine = start()
    sidecar.load("a0")
    engine.process.kill()
    wait(lambda: sidecar.http.get("/readyz").status_code == 503, "it is seen", seconds=2)
    assert sidecar.announced() == {} and "engine is gone" in sidecar.http.get("/readyz").text
    assert code(sidecar.load("a0")) == "engine_away"
    fresh = Mock("--enable-lora", at=(engine.host, engine.port))
    try:
        sidecar.ready()
        assert sidecar.load("a0").json()["cached"] or sidecar.announced()
        assert fresh.complete(model="a0").status_code == 200
    finally:
        fresh.close()


def test_an_engine_that_hangs_or_is_dead_is_not_ready(start: Start) -> None:
    sidecar, engine = start()
    engine.process.send_signal(signal.SIGSTOP)
    wait(lambda: sidecar.line()["engine"] == "hung", "it hangs", seconds=5)
    engine.process.send_signal(signal.SIGCONT)
    sidecar.ready()


def test_a_drain_is_said_at_once(start: Start) -> None:
    sidecar, _ = start()
    (sidecar.run / "draining").touch()
    wait(lambda: sidecar.http.get("/readyz").text == "draining\n", "it drains", seconds=1.5)
    assert sidecar.line()["draining"]


def test_the_load_stream_follows_the_engine(start: Start) -> None:
    sidecar, engine = start()
    with (
        ThreadPoolExecutor(1) as pool,
        sidecar.http.stream("GET", "/v1/load", params={"watch": "1"}) as answer,
    ):
        lines = (json.loads(line) for line in answer.iter_lines())
        first = next(lines)
        assert first["adapters"] == [] and first["engine"] == "ready"
        pool.submit(engine.complete, max_tokens=3000, ignore_eos=True)
        assert any(line["running"] == 1 for _, line in zip(range(20), lines, strict=False))
        began = time.monotonic()
        quiet = [next(lines) for _ in range(2)]
        assert time.monotonic() - began < 4, "a line comes each second though nothing moves"
        assert all("adapters" not in line for line in quiet)
        sidecar.load("a0")
        assert any("adapters" in line and line["adapters"] for _, line in zip(range(20), lines, strict=False))
        engine.process.kill()


def test_a_configuration_is_read_again_and_a_bad_one_is_not(start: Start) -> None:
    sidecar, _ = start(allow=())
    assert code(sidecar.load("a0")) == "uri_not_allowed"
    sidecar.configure(adapters=sidecar.config["adapters"] | {"allow": ["s3://adapters/"]})
    wait(lambda: sidecar.load("a0").status_code == 200, "it may be loaded", seconds=5)
    sidecar.configure(adapters=sidecar.config["adapters"] | {"allow": "everything"})
    wait(lambda: any(one["event"] == "config_rejected" for one in sidecar.log()), "it is rejected", seconds=5)
    (said,) = [one for one in sidecar.log() if one["event"] == "config_rejected"]
    assert 'adapters.allow: a list, not "everything"' in said["why"]
    assert sidecar.load("a1").status_code == 200, "the old one stays in force"


def test_a_bucket_that_is_away_is_said_with_its_address(start: Start, bucket: str) -> None:
    sidecar, _ = start(endpoint=f"http://127.0.0.1:{free_port()}")
    answer = sidecar.load("a0")
    assert code(answer) == "source_failed" and "s3://adapters/a0 can not be read" in answer.text


def test_starting_takes_little(bucket: str, tmp_path: Path) -> None:
    """Memory of a sidecar that has loaded nothing. What it has later, and times, are the bench's."""
    engine = Mock("--enable-lora")
    with beside(tmp_path, engine.url, endpoint=bucket) as sidecar:
        sidecar.ready()
        assert 10e6 < _figure(sidecar, "runtime_resident_bytes") < 60e6
    engine.close()


class Slow:
    """Before an S3 server: lets the first ranges of large files pass, and holds the others until it is opened."""

    def __init__(self, target: str) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        gate, ranges = threading.Event(), iter(range(10**6))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if "safetensors" in self.path and next(ranges) > 2:
                    gate.wait(30)
                # the host is signed: it stays as the client wrote it
                headers = {name: text for name, text in self.headers.items() if name.lower() != "connection"}
                found = httpx.request(self.command, f"{target}{self.path}", headers=headers, timeout=60)
                self.send_response(found.status_code)
                for name, text in found.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "keep-alive", "content-encoding"):
                        self.send_header(name, text)
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(found.content)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.open = gate.set

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
