"""Puts the plugin where the engine finds it: a folder of its PYTHONPATH. So an engine's image needs nothing of ours."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

NAME, VERSION = "aibrix_stats", "0.1.0"
_METADATA = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"
_ENTRY = f"[vllm.stat_logger_plugins]\naibrix = {NAME}:LoadLogger\n"


def install(folder: Path) -> None:
    """The package and what tells of its entry point. It is not imported here: it needs the engine. OSError."""
    spec = find_spec(NAME)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{NAME} is not installed beside the sidecar")
    about = folder / f"{NAME}-{VERSION}.dist-info"
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    about.mkdir(exist_ok=True)
    shutil.copyfile(spec.origin, folder / NAME / "__init__.py")
    (about / "METADATA").write_text(_METADATA)
    (about / "entry_points.txt").write_text(_ENTRY)
