"""picker.json: what is taken, and what is one clear line."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy.profile import TABLE
from aibrix_controllers.picker.config import Mistake, load, parse

WHOLE: dict[str, Any] = {
    "version": "9f3c",
    "clusters": {"chat": ["chat"], "chat.spill": ["chat", "small"]},
    "services": {
        "chat": {
            "namespace": "assistants",
            "host": "chat-headless.assistants.svc.cluster.local",
            "port": 8000,
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "metrics": {"running": "r", "waiting": "w", "kv_usage": "k", "cache_config": "c"},
            "pools": {"l4": {"profile": asdict(TABLE["l4/8b"]), "max_num_seqs": 256, "slots": 8, "block_tokens": 16}},
            "strategy": "cost",
            "weights": {},
            "function": "",
            "session": {"header": "X-Session", "cookie": ""},
            "fallback": "least-request",
            "hold": {"wait_seconds": 180.0, "requests": 256, "bytes": 67108864},
            "priority": ["interactive", "batch"],
            "when_missing": "hold",
            "adapters": {"everywhere": ["legal-de"], "placed": ["refunds-v3"]},
            "tenants": {"acme": ["refunds-v3"], "internal": None},
        },
        "small": {"port": 8000, "model": "meta-llama/Llama-3.1-8B-Instruct", "pools": {}},
    },
    "tenants": {"acme": {"tokens_per_minute": 200000}},
}


def test_all_of_it() -> None:
    found = parse(WHOLE)
    chat = found.services["chat"]
    assert chat.pools["l4"].profile == TABLE["l4/8b"]
    assert chat.session_header == "x-session" and chat.hold and chat.hold.wait_seconds == 180
    assert found.models == {
        "meta-llama/Llama-3.1-8B-Instruct": ("chat", "small"),
        "legal-de": ("chat",),
        "refunds-v3": ("chat",),
    }
    assert found.budgets == {"acme": 200000}
    assert chat.permits("acme", "refunds-v3") and not chat.permits("acme", "legal-de")
    assert found.services["small"].permits("anybody", "x")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("version", None, "version: missing"),
        ("version", 7, "version: text, not 7"),
        ("servics", {}, "servics: unknown"),
        ("services", [], "services: a table, not []"),
        ("services.chat.port", "8000", 'services.chat.port: a number from 1 to 65535, not "8000"'),
        ("services.chat.port", 70000, "services.chat.port: a number from 1 to 65535, not 70000"),
        ("services.chat.model", None, "services.chat.model: missing"),
        ("services.chat.strategy", "best", "services.chat.strategy: one of random, least-request"),
        ("services.chat.strategy", "weighted", "services.chat.weights: none"),
        ("services.chat.strategy", "custom", 'services.chat.function: "package.module:name", not ""'),
        ("services.chat.weights", {"best": 1}, "services.chat.weights.best: no such strategy"),
        ("services.chat.weights", {"cost": -1}, "services.chat.weights.cost: a number from 0"),
        ("services.chat.hold", {"requests": 1, "bytes": 1}, "services.chat.hold.wait_seconds: missing"),
        ("services.chat.hold.bites", 7, "services.chat.hold.bites: unknown"),
        ("services.chat.priority", "high", 'services.chat.priority: a list, not "high"'),
        ("services.chat.priority", [1], "services.chat.priority: a list of names, not [1]"),
        ("services.chat.when_missing", "wait", "services.chat.when_missing: one of hold, reject, base"),
        ("services.chat.adapters.placed", [1], "services.chat.adapters.placed: a list of names"),
        ("services.chat.tenants.acme", "all", 'services.chat.tenants.acme: a list of names, not "all"'),
        ("services.chat.pools.l4.max_num_seqs", 0, "services.chat.pools.l4.max_num_seqs: a number from 1"),
        ("services.chat.pools.l4.profile.speed", 1, "services.chat.pools.l4.profile.speed: unknown"),
        (
            "services.chat.pools.l4.profile.weights_ms",
            "fast",
            'services.chat.pools.l4.profile.weights_ms: a number, not "fast"',
        ),
        ("services.chat.pools.l4.profile", {"name": "x"}, "services.chat.pools.l4.profile: missing"),
        ("services.chat.session.header", 1, "services.chat.session.header: text, not 1"),
        ("clusters.chat", ["chit"], "clusters.chat: no service chit"),
        ("clusters.chat", "chat", 'clusters.chat: a list of names, not "chat"'),
        ("tenants.acme.tokens_per_minute", -1, "tenants.acme.tokens_per_minute: a number from 0"),
    ],
)
def test_mistakes(path: str, value: Any, words: str) -> None:
    data = copy.deepcopy(WHOLE)
    *way, last = path.split(".")
    place = data
    for name in way:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(Mistake) as caught:
        parse(data)
    assert str(caught.value).startswith(words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_ten_thousand_adapters() -> None:
    data = copy.deepcopy(WHOLE)
    data["services"]["chat"]["adapters"]["placed"] = [f"adapter-{number}" for number in range(10_000)]
    found = parse(data)
    assert len(found.models) == 10_002 and found.services["chat"].has("adapter-9999")


def places(data: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to everything in it."""
    rows = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [way, *(deeper for key, value in rows for deeper in places(value, (*way, key)))]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(places(WHOLE)[1:]), anything)
def test_whatever_stands_somewhere_it_is_taken_or_a_mistake(way: tuple[Any, ...], value: Any) -> None:
    """Nothing else may come out: the process goes on with the old config only after a Mistake."""
    data = copy.deepcopy(WHOLE)
    place: Any = data
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    with contextlib.suppress(Mistake):
        parse(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory"),
        ("{", "not JSON"),
        ("[]", "the file: a table, not []"),
        (orjson.dumps(WHOLE | {"version": 1}).decode(), "version: text, not 1"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "picker.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(Mistake, match=r"picker\.json: "):
        load(file)
    command = [sys.executable, "-m", "aibrix_controllers.picker", "run", "--config", str(file), "--endpoints", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1 and str(file) in done.stderr


def test_outside_of_a_cluster_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "picker.json").write_bytes(orjson.dumps(WHOLE))
    command = [sys.executable, "-m", "aibrix_controllers.picker", "run", "--config", str(tmp_path / "picker.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    assert done.returncode == 2
    assert done.stderr == "neither --endpoints nor a cluster around it: 'KUBERNETES_SERVICE_HOST' is not set\n"
