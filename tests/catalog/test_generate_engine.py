"""The generator reads a small made-up release and finds what its parser would accept."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SPECS = Path(__file__).resolve().parents[2] / "specs"
RELEASE = {
    "vllm/config/__init__.py": "from .model import ModelConfig\nfrom .cache import CacheConfig\n",
    "vllm/config/model.py": '''
from typing import TYPE_CHECKING, Any, Literal
from pydantic import Field
from .types import Mode
from ..shared import LIMIT
if TYPE_CHECKING:
    from elsewhere import Methods
else:
    Methods = str
Task = Literal["chat", Mode]

@config
class ModelConfig:
    model: str = "tiny"
    task: Task = "chat"
    rank: Literal[8, 16] = 16
    method: Methods | Literal["a"] | None = None
    length: int = Field(default=None, gt=0)
    budget: int = LIMIT * 2
    names: list[str] | None = None
    traces: list[Task] = Field(default_factory=list)
    extra: dict[str, Any] | None = None
    token: bool | str | None = None
    gone: bool = False
    """Deprecated: does nothing."""
''',
    "vllm/config/types.py": 'from typing import Literal\nMode = Literal["x", "y"]\n',
    "vllm/config/cache.py": "@config\nclass CacheConfig:\n    share: float = 0.9\n    on: bool = True\n",
    "vllm/shared.py": "LIMIT = 2048\n",
    "vllm/engine/arg_utils.py": """
import argparse, json
from vllm.config import CacheConfig, ModelConfig
from vllm.config.types import Mode

def _compute_kwargs(cls):
    special = {"budget"}
    for field in fields(cls):
        if name == "length":
            kwargs[name]["type"] = human_readable_int_or_auto
        elif name in special:
            kwargs[name]["type"] = human_readable_int

class EngineArgs:
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        model_kwargs["task"]["choices"].remove("y")
        group = parser.add_argument_group(title="ModelConfig")
        if not help_wanted:
            group.add_argument("--model", **model_kwargs["model"])
        group.add_argument("--task", **model_kwargs["task"])
        group.add_argument("--lora-rank", "-lr", **model_kwargs["rank"])
        group.add_argument("--method", **model_kwargs["method"])
        group.add_argument("--length", **{**model_kwargs["length"], "default": None})
        group.add_argument("--budget", **model_kwargs["budget"])
        group.add_argument("--names", **model_kwargs["names"])
        group.add_argument("--traces", **model_kwargs["traces"])
        extra_kwargs = model_kwargs["extra"]
        extra_kwargs["type"] = optional_type(json.loads)
        group.add_argument("--extra", **extra_kwargs)
        group.add_argument("--token", **model_kwargs["token"])
        group.add_argument("--gone", **model_kwargs["gone"])
        cache_kwargs = get_kwargs(CacheConfig)
        group.add_argument("--gpu-share", "--device-share", dest="share", **cache_kwargs["share"])
        group.add_argument("--on", **cache_kwargs["on"])
        parser.add_argument("--quiet", action="store_true", help="Say less.")
        return parser

class AsyncEngineArgs(EngineArgs):
    def add_cli_args(parser):
        parser = EngineArgs.add_cli_args(parser)
        parser.add_argument("--verbose", action=argparse.BooleanOptionalAction, default=False)
        return parser
""",
    "vllm/entrypoints/cli_args.py": """
@config
class BaseFrontendArgs:
    origins: list[str] = field(default_factory=lambda: ["*"])

    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs["origins"]["type"] = json.loads
        del frontend_kwargs["origins"]["nargs"]
        return frontend_kwargs

@config
class FrontendArgs(BaseFrontendArgs):
    host: str | None = None
    port: int = 8000
    middleware: list[str] = field(default_factory=lambda: [])

    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs = super()._customize_cli_kwargs(frontend_kwargs)
        frontend_kwargs["middleware"]["action"] = "append"
        if "nargs" in frontend_kwargs["middleware"]:
            del frontend_kwargs["middleware"]["nargs"]
        return frontend_kwargs

def make_arg_parser(parser):
    parser.add_argument("model_tag", type=str, nargs="?")
    parser.add_argument("--config", help="A file.")
    parser = FrontendArgs.add_cli_args(parser)
    return AsyncEngineArgs.add_cli_args(parser)
""",
    "vllm/metrics.py": """
from prometheus_client import Counter, Histogram
BUSY = "vllm:busy_seconds"
histogram = Histogram(BUSY, "Time busy.", ["operation"])

class Logger:
    def __init__(self, config):
        labelnames = ["model_name", "engine"]
        self.running = self._gauge_cls(name="vllm:running", documentation=("Running " "now."), labelnames=labelnames)
        self.by = self._counter_cls(name="vllm:by_reason", documentation="By reason.", labelnames=labelnames + ["reason"])
        if config.lora is not None:
            self.lora = self._gauge_cls(name="vllm:lora", documentation="LoRA.", labelnames=list_of(config))

class Other:
    def __init__(self, labelnames):
        specs = [("vllm:one", "One."), ("vllm:two", "Two.")]
        self.all = [self._counter_cls(name=name, documentation=doc, labelnames=labelnames) for name, doc in specs]
""",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, object]]]:
    tree = tmp_path_factory.mktemp("release")
    for name, text in RELEASE.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    out = tree / "out.json"
    sys.path.insert(0, str(SPECS))
    try:
        runpy.run_path(str(SPECS / "generate_engine.py"))["main"](
            ["vllm", "0.0.1", "--tree", str(tree), "--out", str(out)]
        )
    finally:
        sys.path.remove(str(SPECS))
    loaded: dict[str, dict[str, dict[str, object]]] = json.loads(out.read_text())
    return loaded


def test_flags(generated: dict[str, dict[str, dict[str, object]]]) -> None:
    assert generated["flags"] == {
        "budget": {"kind": "human-int", "default": 4096},
        "config": {"kind": "str"},
        "extra": {"kind": "json", "optional": True},
        "gone": {"kind": "bool", "default": False, "negatable": True, "deprecated": True},
        "gpu-share": {"kind": "float", "default": 0.9, "aliases": ["device-share"]},
        "host": {"kind": "str", "optional": True},
        "length": {"kind": "human-int-or-auto"},
        "lora-rank": {"kind": "int", "default": 16, "choices": [8, 16], "short": ["lr"]},
        "method": {"kind": "str", "optional": True},
        "middleware": {"kind": "str", "repeatable": True},
        "model": {"kind": "str", "default": "tiny"},
        "names": {"kind": "str", "nargs": "+", "optional": True},
        "on": {"kind": "bool", "default": True, "negatable": True},
        "origins": {"kind": "json", "default": ["*"]},
        "port": {"kind": "int", "default": 8000},
        "quiet": {"kind": "bool", "default": False},
        "task": {"kind": "str", "default": "chat", "choices": ["chat", "x"]},
        "token": {"kind": "str", "nargs": "?", "optional": True},
        "traces": {"kind": "str", "nargs": "+", "choices": ["chat", "x", "y"]},
        "verbose": {"kind": "bool", "default": False, "negatable": True},
    }


def test_metrics(generated: dict[str, dict[str, dict[str, object]]]) -> None:
    engine = ["model_name", "engine"]
    assert generated["metrics"] == {
        "vllm:busy_seconds": {"type": "histogram", "help": "Time busy.", "labels": ["operation"]},
        "vllm:by_reason": {"type": "counter", "help": "By reason.", "labels": [*engine, "reason"]},
        "vllm:lora": {"type": "gauge", "help": "LoRA.", "when": "config.lora is not None"},
        "vllm:one": {"type": "counter", "help": "One.", "labels": engine},
        "vllm:running": {"type": "gauge", "help": "Running now.", "labels": engine},
        "vllm:two": {"type": "counter", "help": "Two.", "labels": engine},
    }
