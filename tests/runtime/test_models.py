"""Whole models: fetched with progress, found again, refused where they may not be; and the plugin's place."""

import subprocess
import sys
import time
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from aibrix_runtime import plugin
from tests.mock.mocks import Mock
from tests.runtime.sidecar import Sidecar, beside, code, wait

FILES = {
    "config.json": 20,
    "model-1.safetensors": 3000,
    "model-2.safetensors": 4000,
    "run.py": 9,
    "old.bin": 9,
    "sub/a.json": 5,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "models-of-others" / "tiny"
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    return folder


def card(sidecar: Sidecar, name: str) -> dict[str, object]:
    rows = sidecar.http.get("/v1/model/list").json()["data"]
    return next((one for one in rows if one["model_name"] == name), {})


def test_a_model_is_downloaded_with_progress_and_found_again(source: Path, tmp_path: Path) -> None:
    engine = Mock()
    folder = tmp_path / "sidecar"
    folder.mkdir()
    try:
        with beside(folder, engine.url, allow=(f"file://{source.parent}/",)) as sidecar:
            ask = lambda **body: sidecar.http.post("/v1/model/download", json=body)  # noqa: E731
            assert code(ask(model_uri="file:///etc")) == "uri_not_allowed"
            for local in ("/etc/x", "../x", str(folder / "models/.."), str(folder / "models/a/b")):
                assert code(ask(model_uri=f"file://{source}", local_dir=local)) == "bad_request"
            begun = ask(model_uri=f"file://{source}")
            assert begun.status_code == 202 and begun.json()["model_status"] == "downloading"
            wait(
                lambda: card(sidecar, "tiny").get("model_status") == "downloaded",
                "it is there",
                lambda: str(card(sidecar, "tiny")),
            )
            found = card(sidecar, "tiny")
            assert found["bytes"] == found["total"] == 7025
            there = sorted(
                path.relative_to(folder / "models/tiny").as_posix()
                for path in (folder / "models/tiny").rglob("*")
                if path.is_file()
            )
            assert there == [
                ".aibrix-model.json",
                "config.json",
                "model-1.safetensors",
                "model-2.safetensors",
                "sub/a.json",
            ], "no code, no pickles"
            other = source.parent / "other/tiny"
            other.mkdir(parents=True)
            assert "choose another local_dir" in ask(model_uri=f"file://{other}").text
            failed = ask(model_uri=f"file://{other}", local_dir=str(folder / "models/empty"))
            assert failed.status_code == 202
            wait(lambda: card(sidecar, "empty").get("model_status") == "failed", "it failed")
            assert "has no safetensors files" in str(card(sidecar, "empty")["message"])
            sidecar.stop()
            sidecar.start()
            assert card(sidecar, "tiny")["model_status"] == "downloaded"
            assert ask(model_uri=f"file://{source}").status_code == 200
    finally:
        engine.close()


def test_the_plugin_is_found_by_python_in_a_folder_of_its_path(tmp_path: Path) -> None:
    plugin.install(tmp_path)
    plugin.install(tmp_path)
    (found,) = Distribution.discover(name=plugin.NAME, path=[str(tmp_path)])
    (entry,) = found.entry_points.select(group="vllm.stat_logger_plugins")
    assert (entry.name, entry.value) == ("aibrix", "aibrix_stats:LoadLogger")
    assert (tmp_path / "aibrix_stats/__init__.py").read_text().startswith('"""vLLM')


def test_a_sidecar_starts_within_a_moment(tmp_path: Path) -> None:
    """Generous: a machine with busy cores. The bench tells the time."""
    from tests.mock.mocks import ROOT

    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "aibrix_runtime", "run", "--config", str(tmp_path / "none")],
        env={"PYTHONPATH": f"{ROOT / 'runtime_images/runtime'}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < 10
    assert done.returncode == 2 and done.stderr == f"{tmp_path / 'none'}: No such file or directory\n"
