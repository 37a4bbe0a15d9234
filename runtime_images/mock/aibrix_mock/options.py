"""vLLM's command line, and what only the mock knows from its environment.

Why it exists: the manifest that starts vLLM must start the mock unchanged. Every flag of vLLM 0.32.0 is known here
(`flags.json`, compared with the catalog by a test); those that change what a client can see are honoured, the others are
accepted and named once in the log. The mock's own settings are variables, `AIBRIX_MOCK_*`, because a flag more would be a
manifest that vLLM refuses.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aibrix_compile.policy.profile import TABLE, Profile
from aibrix_mock.core import Limits

HONOURED = frozenset(
    "model served-model-name host port max-model-len max-num-seqs max-num-batched-tokens block-size "
    "num-gpu-blocks-override gpu-memory-utilization enable-lora max-loras max-cpu-loras max-lora-rank lora-modules seed "
    "tensor-parallel-size pipeline-parallel-size data-parallel-size enable-prefix-caching shutdown-timeout "
    "max-num-queued-reqs max-num-queued-tokens stream-interval headless nnodes node-rank master-addr master-port "
    "enable-request-id-headers enable-prompt-tokens-details enable-force-include-usage uvicorn-log-level".split()
)
_ROOMY = ("h100", "h200", "rtx-pro-6000")  # 70 GiB or more and no A100: vLLM's larger defaults
_DEFAULT_UTILIZATION = 0.92
_LONGEST = 131_072  # Llama 3.1's context, where neither a flag nor the KV cache sets another


class Refused(Exception):
    """The engine does not start: a message as vLLM's."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the environment."""

    profile: Profile
    speed: float = 1.0
    """Simulated seconds in a real one."""
    start_seconds: float = 0.0
    """Real time before the engine listens."""
    seed: int | None = None
    """Instead of --seed."""
    answer_tokens: tuple[int, int] = (64, 512)
    """Lengths of answers without max_tokens: from, to; evenly spread in their logarithm."""
    faults: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    model: str
    names: tuple[str, ...]
    """Served names; metrics carry the first."""
    host: str | None
    port: int
    limits: Limits
    lora: bool
    max_lora_rank: int
    lora_modules: tuple[tuple[str, str], ...]
    """(name, path) loaded at the start."""
    seed: int
    shutdown_timeout: float
    max_queued: int | None
    max_queued_tokens: int | None
    stream_interval: int
    headless: bool
    nodes: int
    node_rank: int
    master: tuple[str, int]
    request_id_headers: bool
    token_details: bool
    force_usage: bool
    log_level: str
    cache_labels: Mapping[str, str]
    without_effect: tuple[str, ...]
    """Flags that were given and change nothing here."""


def human(text: str) -> int:
    """8192, 8k (8000), 8K (8192)."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt])", text):
        return int(float(match[1]) * 10 ** (3 * "_kmgt".index(match[2])))
    if match := re.fullmatch(r"(\d+)([KMGT])", text):
        return int(match[1]) << 10 * "_KMGT".index(match[2])
    return int(text)


def _context(text: str) -> int | None:
    return None if text.lower() in ("auto", "-1") else human(text)


def _module(text: str) -> tuple[str, str]:
    if "=" in text and "," not in text:
        name, _, path = text.partition("=")
        return name, path
    entry = json.loads(text)
    return entry["name"], entry["path"]


_TYPES = {"int": int, "float": float, "human-int": human, "human-int-or-auto": _context}


def _parser(flags: Mapping[str, Mapping[str, Any]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("api_server.py", add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("model_tag", nargs="?")
    for name, flag in flags.items():
        spellings = [*(f"-{short}" for short in flag.get("short", ())), f"--{name}"]
        spellings += [f"--{alias}" for alias in flag.get("aliases", ())]
        if flag["kind"] == "bool":
            action = argparse.BooleanOptionalAction if flag.get("negatable") else "store_true"
            parser.add_argument(*spellings, action=action, dest=name)
            continue
        given: dict[str, Any] = {"type": _module if name == "lora-modules" else _TYPES.get(flag["kind"], str)}
        if "nargs" in flag:
            given["nargs"] = flag["nargs"]
        if flag.get("repeatable"):
            given["action"] = "append"
        if "choices" in flag and flag["kind"] != "folded":
            given["choices"] = [given["type"](choice) for choice in flag["choices"]]
        parser.add_argument(*spellings, dest=name, metavar=name.upper().replace("-", "_"), **given)
    return parser


def _spelled(words: Sequence[str], flags: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`--max_model_len` is `--max-model-len`; keys inside of JSON flags (`--config.key value`) go with their values."""
    result, skip = [], False
    for word in words:
        if skip:
            skip = False
            continue
        head, equals, value = word.partition("=")
        if head.startswith("--"):
            name, dot, _ = head[2:].partition(".")
            name = name.replace("_", "-")
            if dot and flags.get(name, {}).get("kind") in ("json", "str-or-json"):
                skip = not equals
                continue
            word = f"--{name}{dot}{head[2:].partition('.')[2]}{equals}{value}"
        result.append(word)
    return result


def parse(words: Sequence[str], settings: Settings) -> Options:
    """SystemExit(2) for what vLLM's parser refuses, Refused for what its engine does."""
    flags = json.loads((Path(__file__).parent / "flags.json").read_text("utf-8"))
    given = vars(_parser(flags).parse_args(_spelled(words, flags)))
    tag = given.pop("model_tag", None)
    profile = settings.profile
    roomy = profile.name.startswith(_ROOMY)

    block_size = given.get("block-size") or profile.block_tokens
    share = given.get("gpu-memory-utilization", _DEFAULT_UTILIZATION)
    blocks = given.get("num-gpu-blocks-override") or int(profile.kv_tokens * share / _DEFAULT_UTILIZATION) // block_size
    longest = given.get("max-model-len") or min(_LONGEST, blocks * block_size)
    if longest > blocks * block_size or not blocks:
        raise Refused(
            f"To serve at least one request with the model's max seq len ({longest}), more KV cache is needed than the "
            f"{blocks * block_size} tokens there are. Try increasing `gpu_memory_utilization` or decreasing "
            "`max_model_len` when initializing the engine."
        )
    loras = given.get("max-loras", 1)
    host_loras = given.get("max-cpu-loras") or loras
    if host_loras < loras:
        raise Refused(f"max_cpu_loras ({host_loras}) must be >= max_loras ({loras}).")
    model = tag or given.get("model", flags["model"]["default"])
    caching = given.get("enable-prefix-caching", True)
    return Options(
        model=model,
        names=tuple(given.get("served-model-name") or (model,)),
        host=given.get("host"),
        port=given.get("port", 8000),
        limits=Limits(
            max_model_len=longest,
            max_num_seqs=given.get("max-num-seqs") or (1024 if roomy else 256),
            max_num_batched_tokens=given.get("max-num-batched-tokens") or (8192 if roomy else 2048),
            block_size=block_size,
            num_gpu_blocks=blocks,
            enable_prefix_caching=caching,
            max_loras=loras,
            max_cpu_loras=host_loras,
        ),
        lora=given.get("enable-lora", False),
        max_lora_rank=given.get("max-lora-rank", 16),
        lora_modules=tuple(given.get("lora-modules") or ()),
        seed=given.get("seed", 0) if settings.seed is None else settings.seed,
        shutdown_timeout=given.get("shutdown-timeout", 0),
        max_queued=given.get("max-num-queued-reqs"),
        max_queued_tokens=given.get("max-num-queued-tokens"),
        stream_interval=max(1, given.get("stream-interval", 1)),
        headless=given.get("headless", False),
        nodes=given.get("nnodes", 1),
        node_rank=given.get("node-rank", 0),
        master=(given.get("master-addr", "127.0.0.1"), given.get("master-port", 29501)),
        request_id_headers=given.get("enable-request-id-headers", False),
        token_details=given.get("enable-prompt-tokens-details", False),
        force_usage=given.get("enable-force-include-usage", False),
        log_level=given.get("uvicorn-log-level", "info"),
        cache_labels=_cache_labels(block_size, blocks, longest, caching, share, given),
        without_effect=tuple(sorted(given.keys() - HONOURED)),
    )


def _cache_labels(
    block_size: int, blocks: int, longest: int, caching: bool, share: float, given: Mapping[str, Any]
) -> dict[str, str]:
    """The fields of vLLM's CacheConfig as text: those that readers use, and the others' defaults."""
    override = given.get("num-gpu-blocks-override")
    values: dict[str, object] = {
        "block_size": block_size,
        "user_specified_block_size": "block-size" in given,
        "cache_dtype": given.get("kv-cache-dtype", "auto"),
        "enable_prefix_caching": caching,
        "engine": "0",
        "gpu_memory_utilization": share,
        "hash_block_size": block_size,
        "is_attention_free": False,
        "kv_cache_max_concurrency": blocks * block_size / longest,
        "kv_cache_memory_bytes": given.get("kv-cache-memory-bytes"),
        "kv_cache_size_tokens": blocks * block_size,
        "kv_offloading_backend": "native",
        "kv_offloading_size": None,
        "kv_sharing_fast_prefill": False,
        "mamba_cache_mode": "none",
        "num_cpu_blocks": None,
        "num_gpu_blocks": blocks,
        "num_gpu_blocks_override": override,
        "prefix_caching_hash_algo": given.get("prefix-caching-hash-algo", "sha256"),
        "sliding_window": None,
    }
    return {key: str(value) for key, value in values.items()}


_LINK = re.compile(r"_(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)$")  # what Kubernetes adds for a Service called aibrix-mock
_VARIABLES = {field.name: f"AIBRIX_MOCK_{field.name.upper()}" for field in fields(Settings)}


def settings(environment: Mapping[str, str]) -> Settings:
    """Refused for a variable AIBRIX_MOCK_* that does not exist, or a value that it does not take."""
    given = {
        name: text for name, text in environment.items() if name.startswith("AIBRIX_MOCK_") and not _LINK.search(name)
    }
    for name in given.keys() - set(_VARIABLES.values()):
        raise Refused(f"{name} is no variable of the mock engine; there are {', '.join(sorted(_VARIABLES.values()))}")
    values: dict[str, Any] = {"profile": TABLE["h100/8b"]}
    readers: dict[str, Callable[[str], Any]] = {
        "profile": _profile,
        "speed": _positive,
        "start_seconds": float,
        "seed": int,
        "answer_tokens": _range,
        "faults": lambda text: text == "1",
    }
    for field, reader in readers.items():
        text = given.get(_VARIABLES[field], "")
        if text:
            try:
                values[field] = reader(text)
            except (ValueError, TypeError) as error:
                raise Refused(f"{_VARIABLES[field]}={text!r}: {error}") from None
    return Settings(**values)


def _profile(text: str) -> Profile:
    """A row's name, or the fields of a Profile as JSON; with "base" those that are missing come from that row."""
    if not text.startswith("{"):
        if text not in TABLE:
            raise ValueError(f"there are {', '.join(TABLE)}, or the JSON of a profile")
        return TABLE[text]
    entry = json.loads(text)
    base = TABLE[entry.pop("base", "h100/8b")]
    known = {field.name: getattr(base, field.name) for field in fields(Profile)}
    if unknown := entry.keys() - known.keys():
        raise ValueError(f"a profile has no {', '.join(sorted(unknown))}")
    return Profile(**(known | {"name": "custom", "source": "AIBRIX_MOCK_PROFILE", "error": "unknown"} | entry))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("it must be above 0")
    return value


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    first, last = int(low), int(high or low)
    if not 1 <= first <= last:
        raise ValueError("write N or LOW-HIGH, at least 1")
    return first, last
