"""The mock as a runtime sees it: what loading an adapter answers, and what becomes of it."""

import re
import threading
from pathlib import Path
from typing import Any

import httpx
from mocks import Make, Mock, adapter

RUNNING = "vllm:num_requests_running"


def load(mock: Mock, name: str, path: Path | str, **fields: Any) -> httpx.Response:
    return mock.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)} | fields)


def unload(mock: Mock, name: str) -> httpx.Response:
    return mock.http.post("/v1/unload_lora_adapter", json={"lora_name": name})


LORA = ("--enable-lora", "--max-loras=1", "--max-cpu-loras=2", "--max-lora-rank=16", "--max-model-len=2048")


def test_what_loading_an_adapter_answers(start: Make, tmp_path: Path) -> None:
    mock = start(*LORA)
    good = adapter(tmp_path / "good")
    done = load(mock, "fr", good)
    assert done.status_code == 200 and done.text == "Success: LoRA adapter 'fr' added successfully."
    again = load(mock, "fr", good)
    assert again.status_code == 400 and again.json()["error"]["type"] == "InvalidUserInput"
    assert load(mock, "fr", good, load_inplace=True).status_code == 200
    assert load(mock, "base", good).status_code == 400
    assert load(mock, "", good).status_code == 400
    missing = load(mock, "no", tmp_path / "nowhere")
    assert missing.status_code == 404 and "No adapter found for" in missing.json()["error"]["message"]
    wide = load(mock, "wide", adapter(tmp_path / "wide", rank=64))
    assert (
        wide.status_code == 500 and wide.json()["error"]["message"] == "LoRA rank 64 is greater than max_lora_rank 16."
    )
    assert load(mock, "cut", adapter(tmp_path / "cut", cut=7)).status_code == 500
    broken = adapter(tmp_path / "broken")
    (broken / "adapter_config.json").write_text("{")
    assert load(mock, "broken", broken).status_code == 500
    (adapter(tmp_path / "empty") / "adapter_model.safetensors").unlink()
    assert load(mock, "empty", tmp_path / "empty").status_code == 500
    card = mock.http.get("/v1/models").json()["data"][1]
    assert (card["id"], card["root"], card["parent"]) == ("fr", str(good), "base")
    assert len(mock.http.get("/v1/models").json()["data"]) == 2
    assert unload(mock, "fr").text == "Success: LoRA adapter 'fr' removed successfully."
    assert unload(mock, "fr").status_code == 404
    assert mock.complete(model="fr").status_code == 404


def test_adapters_answer_as_themselves(start: Make, tmp_path: Path) -> None:
    mock = start(*LORA, f"--lora-modules=first={adapter(tmp_path / 'first')}")
    load(mock, "inert", adapter(tmp_path / "inert", layer="unheard_of"))
    base, first, inert = (mock.complete(model=name, max_tokens=20).json() for name in ("base", "first", "inert"))
    assert first["model"] == "first" and first["choices"][0]["text"].startswith("[first] ")
    assert inert["model"] == "inert" and inert["choices"] == base["choices"]
    assert mock.metric("vllm:prompt_tokens_total", model_name="base") > 0
    rows = [row for row in mock.http.get("/metrics").text.splitlines() if "vllm:" in row and "model_name" in row]
    assert all('model_name="base"' in row for row in rows)


def test_adapters_take_turns_and_are_named_in_the_metrics(start: Make, tmp_path: Path) -> None:
    mock = start(*LORA, speed=2)
    names = ["a", "b", "c", "d"]
    for name in names:  # twice as many as host memory has places for: none is refused
        assert load(mock, name, adapter(tmp_path / name)).status_code == 200
    answers: dict[str, httpx.Response] = {}
    threads = [
        threading.Thread(target=lambda n=name: answers.update({n: mock.complete(model=n, max_tokens=60)}))
        for name in names
    ]
    for thread in threads:
        thread.start()
    mock.until(RUNNING, 1)
    mock.until("vllm:num_requests_waiting_by_reason", 3, reason="deferred")
    page = mock.http.get("/metrics").text
    rows = [row for row in page.splitlines() if row.startswith("vllm:lora_requests_info{")]
    row = max(rows, key=lambda row: float(row.rpartition(" ")[2]))  # the newest: its value is a time
    running, waiting = (re.search(rf'{key}_lora_adapters="([^"]*)"', row) for key in ("running", "waiting"))
    assert running and waiting and running[1] == waiting[1] and sorted(running[1].split(",")) == names
    assert 'max_lora="1"' in row
    for thread in threads:
        thread.join()
    assert all(answers[name].json()["choices"][0]["text"].startswith(f"[{name}] ") for name in names)


def test_an_adapter_whose_files_are_gone_kills_the_engine(start: Make, tmp_path: Path) -> None:
    mock = start(*LORA)
    for name in "abc":
        load(mock, name, adapter(tmp_path / name))
    for name in "bc":  # in host memory: their files are not needed
        (tmp_path / name / "adapter_config.json").unlink()
        assert mock.complete(model=name).status_code == 200
    (tmp_path / "a" / "adapter_config.json").unlink()
    dead = mock.complete(model="a")
    assert dead.status_code == 500 and "EngineCore encountered an issue" in dead.json()["error"]["message"]
    assert mock.process.wait(10) == 1


def test_adapters_need_the_flag_and_the_variable(start: Make, tmp_path: Path) -> None:
    good = adapter(tmp_path / "good")
    assert load(start(), "x", good).status_code == 500
    assert load(start(*LORA, VLLM_ALLOW_RUNTIME_LORA_UPDATING="0"), "x", good).status_code == 404
