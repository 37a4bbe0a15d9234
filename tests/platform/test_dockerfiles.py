"""What images install is what the extras say, and what they copy is all that their packages import. Nothing here has docker."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.mock.mocks import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
IMAGES = {
    "controllers": (
        "controllers/Dockerfile",
        ("picker", "controllers"),
        ("picker.server", "adapters.server", "scaler.server"),
    ),
    "runtime": (
        "runtime_images/runtime/Dockerfile",
        ("runtime",),
        ("server", "fetch.objects", "fetch.https", "fetch.files"),
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_what_the_extra_says(name: str) -> None:
    path, extras, _ = IMAGES[name]
    text = (ROOT / path).read_text()
    installed = {one for line in re.findall(r"pip install (.*)", text) for one in re.findall(r'"([^"]+)"', line)}
    wanted = {one.partition(";")[0].strip() for extra in extras for one in EXTRAS[extra]}
    assert {
        one for one in installed if not one.startswith("protobuf")
    } == wanted  # protobuf is what xds-protos asks for


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_all_that_it_imports(name: str, tmp_path: Path) -> None:
    dockerfile, _, modules = IMAGES[name]
    package = f"aibrix_{name}"
    for source, target in re.findall(
        r"^COPY (\S+) \$\{PACKAGES\}/(\S+)", (ROOT / dockerfile).read_text(), re.MULTILINE
    ):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).symlink_to(ROOT / source)
    code = "\n".join(f"import {package}.{module}" for module in modules)
    path = f"{tmp_path}{os.pathsep}{sysconfig.get_paths()['purelib']}"
    command = [sys.executable, "-S", "-c", code]  # -S: without the link to this checkout
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
