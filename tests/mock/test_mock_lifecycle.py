"""The mock as a kubelet sees it: signals, draining, crashes, replicas over several nodes."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from mocks import ROOT, Make, Mock, events, free_port

RUNNING, USAGE = "vllm:num_requests_running", "vllm:kv_cache_usage_perc"


def stream_in_background(mock: Mock, tokens: int) -> tuple[threading.Thread, list[str]]:
    text: list[str] = []

    def read() -> None:
        body = {"prompt": "x", "max_tokens": tokens, "stream": True}
        with (
            httpx.Client(base_url=mock.url, timeout=20) as client,
            client.stream("POST", "/v1/completions", json=body) as answer,
        ):
            text.extend(answer.iter_text())

    thread = threading.Thread(target=read)
    thread.start()
    mock.until(RUNNING, 1)
    return thread, text


def test_sigterm_drops_what_runs(start: Make) -> None:
    mock = start(speed=1)
    thread, text = stream_in_background(mock, 4000)
    begin = time.monotonic()
    assert mock.stop() == 0
    assert time.monotonic() - begin < 2
    thread.join()
    assert events("".join(text))[-1]["choices"][0]["finish_reason"] == "abort"


def test_sigterm_waits_as_long_as_it_is_told(start: Make) -> None:
    mock = start("--shutdown-timeout=10", speed=1)
    thread, text = stream_in_background(mock, 80)
    mock.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    late = mock.complete()
    assert late.json()["choices"][0]["finish_reason"] == "abort"  # nothing new is begun
    assert mock.process.wait(10) == 0
    thread.join()
    last = events("".join(text))[-1]["choices"][0]
    assert last["finish_reason"] == "length"


def test_sigterm_before_it_is_up(start: Make) -> None:
    mock = start(wait=False, AIBRIX_MOCK_START_SECONDS="60")
    time.sleep(1.5)
    with pytest.raises(httpx.ConnectError):
        mock.http.get("/health")
    assert mock.stop() == 0


def test_the_emitted_drain_script_waits_for_the_last_answer(start: Make, tmp_path: Path) -> None:
    text = (ROOT / "examples/01-minimal/expected/default/chat/20-configmap-chat-engine.yaml").read_text("utf-8")
    body = text.partition("drain.py: |\n")[2]
    script = "\n".join(row.removeprefix("    ") for row in body.splitlines())
    assert "127.0.0.1:8000" in script
    mock = start(speed=1)
    file = tmp_path / "drain.py"
    file.write_text(script.replace("127.0.0.1:8000", f"127.0.0.1:{mock.port}"))
    thread, _ = stream_in_background(mock, 150)
    begin = time.monotonic()
    subprocess.run([sys.executable, file, "0.1", "30"], check=True, timeout=30)
    assert not thread.is_alive() and time.monotonic() - begin > 1.5
    mock.stop()
    begin = time.monotonic()
    subprocess.run([sys.executable, file, "0.1", "30"], check=True, timeout=30)
    assert time.monotonic() - begin < 2  # the engine is gone: nothing to wait for


def test_the_image_s_own_command_starts_it(start: Make, tmp_path: Path) -> None:
    from aibrix_compile.passes.pod import _FETCH

    shim = ROOT / "runtime_images/mock/vllm_shim"
    path = ":".join(map(str, (shim, ROOT / "runtime_images/mock", ROOT)))
    command = [sys.executable, "-c", _FETCH, "org/model", "abc", str(tmp_path / "m")]
    subprocess.run(command, check=True, env={"PYTHONPATH": path})
    assert json.loads((tmp_path / "m/config.json").read_text())["revision"] == "abc"
    done = subprocess.run(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model=/m", "--nonsense"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path},
    )
    assert done.returncode == 2 and "api_server.py: error: unrecognized arguments: --nonsense" in done.stderr


def test_faults(start: Make) -> None:
    mock = start("--max-model-len=2048", "--num-gpu-blocks-override=1000", speed=10)
    mock.fault("status", 500)
    assert mock.complete().status_code == mock.complete(stream=True).status_code == 500
    mock.fault("queue_full")
    assert mock.complete().status_code == 503
    mock.fault("metrics_gone")
    assert mock.http.get("/metrics").status_code == 404 and mock.complete().status_code == 200
    mock.fault("kv", 0.95)
    assert mock.metric(USAGE) == pytest.approx(0.95)
    mock.fault("hang")
    with pytest.raises(httpx.ReadTimeout):
        mock.http.post("/v1/completions", json={"prompt": "x"}, timeout=0.3)
    assert mock.http.get("/health").status_code == 200  # a hung engine does not know that it hangs
    mock.fault("none")
    begin = time.monotonic()
    assert mock.complete(max_tokens=20).status_code == 200
    fast = time.monotonic() - begin
    mock.fault("slow", 20)
    begin = time.monotonic()
    assert mock.complete(max_tokens=20).status_code == 200
    assert time.monotonic() - begin > max(0.4, 3 * fast)
    mock.fault("die")
    assert mock.http.get("/health").status_code == 503
    assert mock.complete().status_code == 500
    assert mock.process.wait(10) == 1


def test_a_stream_of_a_dead_engine_ends_with_an_error(start: Make) -> None:
    mock = start(speed=1)
    thread, text = stream_in_background(mock, 4000)
    mock.fault("die")
    thread.join()
    assert events("".join(text))[-1]["error"]["code"] == 500
    assert mock.process.wait(10) == 1


def test_faults_are_off_by_default(start: Make) -> None:
    assert start(AIBRIX_MOCK_FAULTS="").http.post("/mock/fault", json={"kind": "die"}).status_code == 404


def test_two_nodes_make_one_replica(start: Make) -> None:
    flags = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    worker = start(*flags, "--node-rank=1", "--headless", wait=False)
    leader = start(*flags, "--node-rank=0")
    assert leader.complete().status_code == 200
    with pytest.raises(httpx.ConnectError):
        worker.http.get("/health")
    worker.process.kill()
    assert leader.process.wait(15) == 1


def test_a_worker_leaves_with_its_leader(start: Make) -> None:
    flags = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    worker = start(*flags, "--node-rank=1", "--headless", wait=False)
    leader = start(*flags, "--node-rank=0")
    leader.process.kill()
    assert worker.process.wait(10) == 1
