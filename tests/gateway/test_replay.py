"""The replay of a trace does what its table says: the trace's tokens reach engines, at its speed, with its shared prefixes."""

import asyncio
import json
from pathlib import Path

import pytest

from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.trace import Request
from tests.bench.replay.__main__ import Case, replayed, simulated
from tests.bench.replay.client import body, replay
from tests.bench.replay.fleet import MODEL, Fleet, plan, running

UNIT = 512
FLEET = Fleet("h100/8b", Limits(256, 8192), 3, 20.0)
# ten conversations of ten turns; each turn has what was there before it and one block more, the last one not full
TURNS = [
    Request(50_000 * number, UNIT * (number // 10 + 1) - 100, 8, tuple(range(100 * (number % 10), 100 * (number % 10) + number // 10 + 1)))
    for number in range(100)
]  # fmt: skip


def test_equal_blocks_are_equal_bytes() -> None:
    first, second, other = (json.loads(body(one, UNIT, MODEL)) for one in (TURNS[0], TURNS[10], TURNS[1]))
    assert [len(one["prompt"]) for one in (first, second)] == [4 * 412, 4 * 924]
    assert second["prompt"].startswith(first["prompt"])
    assert other["prompt"][:16] != first["prompt"][:16]
    assert first["max_tokens"] == 8
    assert first["stream"]


def test_a_picker_lives_at_the_speed_of_the_replay(tmp_path: Path) -> None:
    pool = plan(tmp_path, FLEET, "cost").services[0].pools[0]
    assert pool.speed.profile.weights_ms == pytest.approx(TABLE["h100/8b"].weights_ms / 20)
    assert pool.speed.profile.kv_tokens == TABLE["h100/8b"].kv_tokens
    assert pool.speed.max_num_seqs == 256


def test_all_tokens_of_a_trace_reach_the_engines(tmp_path: Path) -> None:
    with running(tmp_path, FLEET, "cost", pickers=2, exchange=True) as gateway:
        outcomes = asyncio.run(replay(gateway.url, MODEL, TURNS, UNIT, FLEET.speed))
        asked, made = (
            sum(one.metric(f"vllm:{name}") for one in gateway.engines)
            for name in ("prefix_cache_queries_total", "generation_tokens_total")
        )
        picked = [one.metric("picker_picks_total") for one in gateway.pickers]
    assert [one.failed for one in outcomes if one.failed] == []
    assert (asked, made) == (sum(one.input for one in TURNS), sum(one.output for one in TURNS))
    assert all(0 < one.ttft <= one.e2e for one in outcomes)
    assert min(picked) > 0
    assert sum(picked) == len(TURNS)


def test_both_sides_find_the_shared_prefixes() -> None:
    """Each turn but the first has 512 tokens times the turns before it in the cache of whoever had the conversation."""
    case = Case("cost")
    real, machine = replayed(case, FLEET, TURNS, UNIT)
    made = simulated(case, FLEET, TURNS, UNIT, 0)
    assert machine.failures == []
    assert made.hits > 0.5
    assert real.hits > 0.5
