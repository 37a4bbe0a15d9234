"""What each engine version understands: its flags, its metrics, its image.

Why it exists: `engine.args` are checked against the version that will run, and a scaler's metric must exist there. The
data is generated from the released source by `specs/generate_engine.py`; only `RENAMED` and `REMOVED` are written by
hand, from the difference between the generated data of vLLM 0.7.3 to 0.33.0 and the releases' own deprecation notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from aibrix_compile.catalog.data import FOLDER, load

MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SHORT_NUMBER = r"\d+(?:\.\d+)?[kmgt]|\d+[KMGT]"
MOCK = {"0.1.0": "0.32.0"}
"""Versions of the mock engine, and the vLLM whose flags and metrics they imitate."""

RENAMED = {
    "cuda-graph-sizes": "cudagraph-capture-sizes",
    "eplb-log-balancedness": "eplb-config.log_balancedness",
    "eplb-step-interval": "eplb-config.step_interval",
    "eplb-window-size": "eplb-config.window_size",
    "guided-decoding-backend": "structured-outputs-config.backend",
    "num-redundant-experts": "eplb-config.num_redundant_experts",
    "num-speculative-tokens": "spec-tokens",
    "override-pooler-config": "pooler-config",
    "speculative-model": "spec-model",
    "use-gpu-for-pooling-score": "enable-flash-late-interaction",
    "vllm:gpu_cache_usage_perc": "vllm:kv_cache_usage_perc",
    "vllm:gpu_prefix_cache_hits": "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_queries": "vllm:prefix_cache_queries",
    "vllm:time_in_queue_requests": "vllm:request_queue_time_seconds",
    "vllm:time_per_output_token_seconds": "vllm:inter_token_latency_seconds",
}
"""Old flag or metric to new one: the value keeps its meaning."""

REMOVED = {
    "calculate-kv-scales": "KV scales are no longer computed at run time, the checkpoint brings them",
    "device": "the engine finds out by itself",
    "disable-frontend-multiprocessing": "the engine always runs in a process of its own",
    "disable-log-requests": "requests are not logged unless enable-log-requests is set",
    "disable-mm-preprocessor-cache": "set mm-processor-cache-gb to 0",
    "enable-lora-bias": "LoRA biases are no longer supported",
    "enable-multimodal-encoder-data-parallel": "set mm-encoder-tp-mode to data",
    "enable-prompt-adapter": "prompt adapters are no longer supported",
    "enable-reasoning": "reasoning-parser alone turns it on",
    "long-lora-scaling-factors": "long LoRA is no longer supported",
    "lora-extra-vocab-size": "adapters can not extend the vocabulary any more",
    "max-long-partial-prefills": "the scheduler no longer counts partial prefills",
    "max-num-partial-prefills": "the scheduler no longer counts partial prefills",
    "num-lookahead-slots": "the engine derives it from the speculative configuration",
    "num-scheduler-steps": "multi-step scheduling is gone",
    "preemption-mode": "preempted requests are always recomputed",
    "rope-scaling": "use hf-overrides",
    "rope-theta": "use hf-overrides",
    "scheduler-delay-factor": "the scheduler no longer waits for fuller batches",
    "swap-space": "preempted requests are recomputed, not swapped",
    "task": "use runner and convert",
    "use-v2-block-manager": "there is only one block manager",
    "vllm:cpu_cache_usage_perc": "nothing is swapped to host memory any more",
    "vllm:gpu_prefix_cache_hit_rate": "divide the rates of vllm:prefix_cache_hits and vllm:prefix_cache_queries",
    "vllm:num_requests_swapped": "nothing is swapped to host memory any more",
    "vllm:tokens_total": "add vllm:prompt_tokens and vllm:generation_tokens",
}
"""Flags and metrics without a successor of the same meaning, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    kind: str
    """bool, int, float, str, json, str-or-json, folded (`-` and case do not matter), human-int, human-int-or-auto."""
    choices: tuple[str, ...] = ()
    default: object = None
    """None: there is none, or the engine decides when it starts."""
    nargs: str = ""
    """"+": several values after one flag; "?": the value may be missing."""
    repeatable: bool = False
    """The flag itself may be given several times."""
    negatable: bool = False
    """`--no-NAME` turns it off; a bool that is not negatable is turned off by leaving it out."""
    optional: bool = False
    """An empty text and `None` stand for no value."""
    deprecated: bool = False
    short: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def check(self, text: str) -> str:
        """Why `text` is not a value of this flag (of one of its values), or ""."""
        if self.optional and text in ("", "None"):
            return ""
        value = text.lower().replace("-", "_") if self.kind == "folded" else text
        if self.choices and value not in self.choices:
            return f"{text!r} is not one of {', '.join(self.choices)}"
        wanted = "" if self.choices else WANTED.get(self.kind, "")
        return f"{text!r} is not {wanted}" if wanted and not _reads(self.kind, text) else ""


WANTED = {
    "bool": "true or false",
    "int": "a whole number",
    "human-int": "a whole number such as 8192, 8k (8000) or 8K (8192)",
    "human-int-or-auto": "a whole number such as 8192, 8k (8000) or 8K (8192), or auto",
    "float": "a number",
    "json": "JSON",
    "str-or-json": "JSON, although it starts like it",
}


def human_int(text: str) -> int:
    """The number that the engine reads: lower-case suffixes are decimal, upper-case ones binary; ValueError if none."""
    if re.fullmatch(SHORT_NUMBER, text):
        return int(float(text[:-1]) * MULTIPLES[text[-1]])
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError(text)
    return int(text)


def _reads(kind: str, text: str) -> bool:
    try:
        match kind:
            case "bool":
                return text in ("true", "false")
            case "int":
                return bool(re.fullmatch(r"-?\d+", text))
            case "human-int" | "human-int-or-auto":
                return (kind == "human-int-or-auto" and text.lower() == "auto") or human_int(text) is not None
            case "float":
                return float(text) is not None
            case "json" | "str-or-json":
                if kind == "json" or re.fullmatch(r"\s*\{.*\}\s*", text, re.DOTALL):
                    json.loads(re.sub(rf"\b(?:{SHORT_NUMBER})\b", "0", text))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    type: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...] = ()
    """Empty where the source does not spell them out."""
    help: str = ""
    when: str = ""
    """The condition in the engine's source under which it exists; "" for always."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that Prometheus stores."""
        if self.type == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (f"{self.name.removesuffix('_total')}_total" if self.type == "counter" else self.name,)


@dataclass(frozen=True, slots=True)
class Engine:
    name: str
    version: str
    image: str
    """Without a digest; "" where none is published."""
    port: int
    flags: Mapping[str, Flag]
    """By every long name, without dashes."""
    metrics: Mapping[str, Metric]
    renamed: Mapping[str, str]
    """Names that this version does not know, to those that it does: older releases' names and short flags."""
    removed: Mapping[str, str]

    def flag(self, name: str) -> Flag | None:
        """By any spelling that the engine takes: `_` for `-`, `no-`, a key inside of a JSON flag (`config.key`)."""
        head, dot, _ = name.partition(".")
        head = head.replace("_", "-")
        flag = self.flags.get(head)
        if dot:
            return flag if flag and flag.kind in ("json", "str-or-json") else None
        negated = self.flags.get(head.removeprefix("no-"))
        return flag or (negated if negated and negated.negatable else None)

    def metric(self, series: str) -> Metric | None:
        """Of a family's name or of one of its series'."""
        return self.metrics.get(series) or next((m for m in self.metrics.values() if series in m.series), None)


@cache
def find(name: str, version: str) -> Engine | None:
    if version not in versions(name):
        return None
    data = load(f"vllm-{MOCK[version] if name == 'mock' else version}.json")
    flags: dict[str, Flag] = {}
    for key, entry in data["flags"].items():
        flag = _flag(key, entry)
        flags |= dict.fromkeys((key, *flag.aliases), flag)
    metrics = {key: Metric(key, **{**e, "labels": tuple(e.get("labels", ()))}) for key, e in data["metrics"].items()}
    known = flags.keys() | metrics.keys()
    short = {short: flag.name for flag in flags.values() for short in flag.short}
    renamed = {old: new for old, new in RENAMED.items() if old not in known and new.partition(".")[0] in known}
    removed = {old: why for old, why in REMOVED.items() if old not in known}
    image = "" if name == "mock" else f"docker.io/vllm/vllm-openai:v{version}"
    return Engine(name, version, image, data["port"], flags, metrics, short | renamed, removed)


def _flag(name: str, entry: Mapping[str, Any]) -> Flag:
    texts = {key: tuple(map(str, entry.get(key, ()))) for key in ("choices", "short", "aliases")}
    return Flag(name, **{**entry, **texts})


@cache
def versions(name: str) -> tuple[str, ...]:
    """Oldest first."""
    files = (path.name for path in FOLDER.glob("vllm-*.json")) if name == "vllm" else ()
    found = MOCK if name == "mock" else [file.removeprefix("vllm-").removesuffix(".json") for file in files]
    return tuple(sorted(found, key=lambda text: [int(part) for part in re.findall(r"\d+", text)]))
