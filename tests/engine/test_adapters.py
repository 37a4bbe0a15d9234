"""Adapters on a real vLLM: three things that go wrong with the engine alone, and can not behind the sidecar.

Each is shown first where nothing stands before the engine, so that the second half of the file has something to prevent.
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine import lora_model, server, venv
from tests.runtime.sidecar import Sidecar, beside, code, wait

SLOTS = ("--enable-lora", "--max-loras", "2", "--max-cpu-loras", "3", "--max-lora-rank", "16")
ALLOWED = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    if venv.found() is None and not os.environ.get("AIBRIX_ENGINE"):
        pytest.skip("no vLLM: `make engine-venv` gets it (7 GB), or set AIBRIX_ENGINE=1")


class Bare:
    """vLLM and nothing before it."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)

    def say(self, model: str, **more: Any) -> str:
        body = {"model": model, "prompt": "w1 w2 w3", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = self.http.post("/v1/completions", json=body | more)
        return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else f"HTTP {answer.status_code}"

    def load(self, name: str, path: Path) -> httpx.Response:
        return self.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})

    def listed(self) -> set[str]:
        return {one["id"] for one in self.http.get("/v1/models").json()["data"]} - {"m"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_model.write(tmp_path_factory.mktemp("model"))


def test_the_engine_alone_answers_in_anothers_name_and_dies(model: Path, tmp_path: Path) -> None:
    """In one test, for a start takes most of a minute and the last hazard ends the engine."""
    with server.engine(venv.python(), model, (*lora_model.FLAGS, *SLOTS), ALLOWED) as engine:
        bare = Bare(engine.port)
        plain = bare.say("m")
        # 2: an adapter for a narrower model loads and answers, and one whose layers have other names is the base model
        narrow = lora_model.adapter(tmp_path / "narrow", seed=1, hidden=lora_model.HIDDEN // 2)
        other = lora_model.adapter(tmp_path / "other", seed=1, prefix="base_model.model.transformer.layers")
        assert bare.load("narrow", narrow).status_code == 200
        assert bare.say("narrow").startswith(" w") and bare.say("narrow") != plain
        assert bare.load("other", other).status_code == 200
        assert bare.say("other") == plain
        # 3: the engine has room for three adapters, and refuses none
        for number in range(6):
            assert bare.load(f"a{number}", lora_model.adapter(tmp_path / f"a{number}", seed=number)).status_code == 200
        assert len(bare.listed()) == 8
        answers = {bare.say(f"a{number}") for number in range(6)}
        assert len(answers) == 6 and plain not in answers
        # 1: the files of one that was evicted are gone, and somebody asks for it
        shutil.rmtree(tmp_path / "a0")
        assert "a0" in bare.listed()
        asked = threading.Thread(target=lambda: _quietly(bare, "a0"))
        asked.start()
        wait(lambda: not _alive(engine), "the engine exits", seconds=60)
        asked.join()


def _quietly(bare: Bare, name: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        bare.say(name)


def _alive(engine: server.Engine) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{engine.port}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


class Served:
    """vLLM with the plugin, and the sidecar beside it."""

    def __init__(self, bare: Bare, engine: server.Engine, sidecar: Sidecar, source: Path) -> None:
        self.bare, self.engine, self.sidecar, self._source = bare, engine, sidecar, source

    def put(self, name: str, **settings: Any) -> str:
        lora_model.adapter(self._source / name, **settings)
        return f"file://{self._source / name}"


@contextlib.contextmanager
def serving(model: Path, folder: Path, slots: Sequence[str], **limits: int) -> Iterator[Served]:
    source, port = folder / "source", server.free_port()
    settings: dict[str, Any] = {"base": lora_model.BASE, "model": "m", "kind": "vllm", **limits}
    with beside(folder, f"http://127.0.0.1:{port}", allow=(f"file://{source}/",), **settings) as sidecar:
        variables = ALLOWED | {"PYTHONPATH": f"{folder}/run/plugins", "AIBRIX_LOAD_SOCKET": f"{folder}/run/load.sock"}
        with server.engine(venv.python(), model, (*lora_model.FLAGS, *slots), variables, port) as engine:
            sidecar.ready()
            yield Served(Bare(port), engine, sidecar, source)


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(model, tmp_path_factory.mktemp("sidecar"), SLOTS, max_cached=3, disk_bytes=470_000) as found:
        yield found


def test_two_hundred_adapters_share_two_slots(model: Path, tmp_path: Path) -> None:
    """And each answers as itself, however they push each other out of the batch."""
    slots = ("--enable-lora", "--max-loras", "2", "--max-cpu-loras", "200", "--max-lora-rank", "16")
    names = [f"n{number}" for number in range(200)]
    with serving(model, tmp_path, slots, max_cached=200, disk_bytes=10**9) as served, ThreadPoolExecutor(16) as pool:
        for number, name in enumerate(names):
            assert served.sidecar.load(name, served.put(name, seed=number, rank=2)).status_code == 200
        assert code(served.sidecar.load("more", served.put("more", seed=999, rank=2))) == "no_room"
        assert len(served.sidecar.announced()) == len(served.bare.listed()) == 200
        crowded = dict(zip(names, pool.map(served.bare.say, names), strict=True))
        assert not [answer for answer in crowded.values() if answer.startswith("HTTP")]
        assert len(set(crowded.values())) > 150, "adapters of random weights seldom agree"
        for name in names[::20]:
            assert served.bare.say(name) == crowded[name]


def test_the_plugin_tells_of_load_and_of_its_end(served: Served) -> None:
    began = served.sidecar.line()["totals"]
    wait(lambda: served.sidecar.line()["source"] == "plugin", "the plugin speaks", seconds=60)
    asking = threading.Thread(target=lambda: served.bare.say("m", max_tokens=200))
    asking.start()
    wait(lambda: served.sidecar.line()["running"] == 1, "it runs")
    asking.join()
    wait(lambda: served.sidecar.line()["running"] == 0, "it has ended")
    line = served.sidecar.line()
    assert line["totals"]["output_tokens"] - began.get("output_tokens", 0) >= 200
    assert line["totals"]["ttft_n"] >= 1 and line["totals"]["itl_n"] >= 199 and line["kv_tokens"] > 0


def test_what_does_not_fit_is_refused_in_words(served: Served) -> None:
    plain = served.bare.say("m")
    for name, settings, word in (
        ("narrow", {"hidden": lora_model.HIDDEN // 2}, "64"),
        ("other", {"prefix": "base_model.model.transformer.layers"}, "no module of the base model"),
        ("high", {"rank": 64}, "64"),
    ):
        answer = served.sidecar.load(name, served.put(name, seed=1, **settings))
        assert code(answer) == "unusable" and word in answer.json()["error"]["message"]
        assert served.bare.say(name) == "HTTP 404"
    corrupt = served.put("corrupt", seed=1).removeprefix("file://")
    data = Path(corrupt, "adapter_model.safetensors").read_bytes()
    Path(corrupt, "adapter_model.safetensors").write_bytes(data[:-100])
    assert code(served.sidecar.load("corrupt", f"file://{corrupt}")) == "unusable"
    assert code(served.sidecar.load("ghost", served.put("ghost", seed=1) + "-not-there")) == "not_found"
    assert served.bare.say("m") == plain


def test_no_more_is_loaded_than_the_engine_holds_and_nothing_that_it_lists_goes(served: Served) -> None:
    """The disk has room for few of them: files go only where the engine has let go of them first."""
    for number in range(3):
        assert served.sidecar.load(f"b{number}", served.put(f"b{number}", seed=number)).status_code == 200
    assert code(served.sidecar.load("b3", served.put("b3", seed=3))) == "no_room"
    said = {number: served.bare.say(f"b{number}") for number in range(3)}
    assert len(set(said.values())) == 3
    for number in range(3, 9):
        assert served.sidecar.unload(f"b{number - 3}").status_code == 200
        assert served.sidecar.load(f"b{number}", served.put(f"b{number}", seed=number)).status_code == 200
        assert (
            {f"b{one}" for one in range(number - 2, number + 1)}
            == served.bare.listed()
            == set(served.sidecar.announced())
        )
    assert all(served.bare.say(f"b{number}").startswith(" w") for number in (6, 7, 8))
    assert len(list(served.sidecar.adapters.glob("*/*/adapter_config.json"))) < 9
    for number in (6, 7, 8):
        assert served.sidecar.unload(f"b{number}").status_code == 200


def test_another_content_takes_over_when_nobody_uses_the_old(served: Served) -> None:
    uri = served.put("c", seed=1)
    first = served.sidecar.load("c", uri).json()["digest"]
    old = served.bare.say("c")
    longer: list[str] = []
    asking = threading.Thread(target=lambda: longer.append(served.bare.say("c", max_tokens=300)))
    asking.start()
    wait(lambda: served.sidecar.line()["running"] == 1, "it runs")
    served.put("c", seed=2)
    answer = served.sidecar.load("c", uri)
    asking.join()
    assert longer[0].startswith(old), "the old content answered to the end"
    assert answer.status_code == 200 and answer.json()["digest"] != first
    assert served.bare.say("c") != old and served.sidecar.announced()["c"] == answer.json()["digest"]
    assert served.sidecar.unload("c").status_code == 200


def test_a_sidecar_that_is_killed_finds_everything_again(served: Served) -> None:
    digest = served.sidecar.load("d", served.put("d", seed=4)).json()["digest"]
    served.sidecar.stop(signal.SIGKILL)
    served.sidecar.start()
    wait(lambda: served.sidecar.announced() == {"d": digest}, "it knows again what the engine has")
    wait(lambda: served.sidecar.line()["source"] == "plugin", "and hears it", seconds=60)
    assert served.sidecar.unload("d").status_code == 200


def test_an_engine_that_dies_is_seen_within_seconds(served: Served) -> None:
    served.sidecar.load("e", served.put("e", seed=5))
    for pid in server.members(served.engine.pid):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    wait(lambda: served.sidecar.http.get("/readyz").status_code == 503, "it is seen")
    assert time.monotonic() - began < 5
    assert served.sidecar.announced() == {}
    assert code(served.sidecar.load("e", served.put("e", seed=5))) == "engine_away"
    assert code(served.sidecar.unload("e")) == "engine_away"
    assert list(served.sidecar.adapters.glob("e/*/adapter_config.json")), "its files are kept for the next engine"
