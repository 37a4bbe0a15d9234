"""The layers: who may import whom. Data flows one way, and a cold build imports nothing that it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aibrix_compile"
THIRD_PARTY = {
    "yaml": {"yamlio"},
    "pydantic": {"spec"},
    "pydantic_core": {"spec"},
    "shtab": {"cli"},
    "jinja2": {"simulate"},
    "vl_convert": {"simulate"},
}
KERNEL = {"diagnostics", "artifact", "ownership", "catalog", "policy", "emit", "codes"}

# room -> rooms it may import besides the kernel; None = anything
ALLOWED: dict[str, set[str] | None] = {
    "diagnostics": set(),
    "artifact": set(),
    "ownership": set(),
    "catalog": set(),
    "policy": set(),
    "emit": set(),
    "codes": set(),
    "plan": set(),
    "crds": set(),
    "lock": set(),
    "closure": set(),
    "report": set(),
    "writer": set(),
    "yamlio": set(),
    "fixes": {"yamlio"},
    "ignores": {"yamlio"},
    "overlay": {"spec", "yamlio"},
    "spec": {"yamlio"},
    "passes": {"spec", "plan", "lock"},
    "backends": {"plan", "crds"},
    "handover": set(),
    "simulate": {"plan"},
    "loading": {"spec", "yamlio", "overlay", "lock"},
    "compiler": {
        "fixes",
        "ignores",
        "loading",
        "yamlio",
        "spec",
        "lock",
        "overlay",
        "passes",
        "plan",
        "backends",
        "closure",
    },
    "diff": {"compiler", "passes", "plan", "backends", "yamlio"},
    "revisions": {"yamlio"},
    "review": {"diff", "simulate"},
    "explain": {"compiler", "passes", "spec", "yamlio"},
    "cli": None,
    "__main__": None,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{name.name}" for name in node.names} if module == "aibrix_compile" else {module}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_layers(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        assert path.read_text("utf-8") == ""
        return
    allowed = ALLOWED[room]
    for module in _imports(path):
        first, _, rest = module.partition(".")
        if first == "aibrix_compile":
            target = rest.partition(".")[0]
            assert allowed is None or target in KERNEL | allowed | {room}, f"{room} may not import {target}"
            if room == "backends" and target == "backends":
                own = path.relative_to(PACKAGE).parts[1] == "gateway" and rest.startswith("backends.gateway")
                shared = ("backends.grafana", "backends.objects", "backends.pods", "backends.sidecar")
                assert own or rest in shared, "backends do not know each other"
        elif first not in sys.stdlib_module_names:
            assert room in THIRD_PARTY.get(first, set()), f"{room} may not import {first}"


RUN_TIME = {  # what runs in the cluster -> what of ours it may import besides itself: its image has nothing else
    "runtime_images/mock/aibrix_mock": {"aibrix_compile.policy"},
    "runtime_images/runtime/aibrix_runtime": {"aibrix_compile.policy"},
    "runtime_images/runtime/aibrix_stats": set(),
    "controllers/aibrix_controllers/picker": {"aibrix_compile.policy"},
    "controllers/aibrix_controllers/kube": set(),
    "controllers/aibrix_controllers/observe": {"aibrix_controllers.kube"},
    "controllers/aibrix_controllers/adapters": {
        *("aibrix_compile.policy", "aibrix_controllers.kube", "aibrix_controllers.observe"),
    },
    "controllers/aibrix_controllers/scaler": {
        *("aibrix_compile.policy", "aibrix_controllers.kube", "aibrix_controllers.observe"),
    },
}
RUN_TIME_FILES = [(room, path) for room in RUN_TIME for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize(("room", "path"), RUN_TIME_FILES, ids=lambda one: str(one).removeprefix(f"{ROOT}/"))
def test_run_time_imports(room: str, path: Path) -> None:
    own = ".".join(room.split("/")[1 if room.startswith("controllers") else 2 :])
    for module in _imports(path):
        if module.startswith("aibrix_"):
            assert any(f"{module}.".startswith(f"{one}.") for one in RUN_TIME[room] | {own}), module
    if text := path.read_text("utf-8"):
        assert ast.get_docstring(ast.parse(text)), "it does not say why it exists"
        assert len(text.splitlines()) <= 500


def test_policy_is_pure() -> None:
    for path in (PACKAGE / "policy").rglob("*.py"):
        assert not _imports(path) & {"time", "random", "asyncio", "os", "socket", "pathlib", "datetime"}


def test_every_module_says_why_it_exists() -> None:
    for path in FILES:
        if path != PACKAGE / "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_files_stay_readable() -> None:
    for path in FILES:
        assert len(path.read_text("utf-8").splitlines()) <= 500, path


def test_a_build_imports_only_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from aibrix_compile.cli.main import main;"
        f"code = main(['build', {str(ROOT / 'examples/01-minimal/chat.yaml')!r}, '-o', {str(tmp_path)!r}]);"
        "heavy = {'kubernetes', 'kopf', 'httpx', 'grpc', 'jinja2', 'jsonschema', 'torch', 'vllm', 'shtab', 'asyncio',"
        " 'urllib.request', 'http.client', 'aibrix_compile.spec.schema', 'aibrix_compile.backends.gateway'};"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n", done.stdout + done.stderr


def test_a_build_touches_neither_network_nor_clock_nor_environment(tmp_path: Path) -> None:
    code = f"""
import sys
import aibrix_compile.cli.main as cli
import aibrix_compile.compiler, aibrix_compile.writer
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "urllib.", "os.putenv", "subprocess.")) else None)
import time, os
for name in ("time", "time_ns"):
    setattr(time, name, lambda: seen.append("clock") or 0)
code = cli.main(["build", {str(ROOT / "examples/02-environments")!r}, "-o", {str(tmp_path)!r}])
print(code, seen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": ""})
    assert done.stdout == "0 []\n", done.stdout + done.stderr
