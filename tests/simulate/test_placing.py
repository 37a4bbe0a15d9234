"""Adapters are placed in a run as in the cluster: loads take their time, requests wait, are refused or are answered by the base model."""

from dataclasses import replace
from typing import Any

import pytest

from aibrix_compile.policy import routing
from aibrix_compile.policy.placement import Adapter
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate.engine import Engine, Limits, Sequence
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.trace import Request

PROFILE = TABLE["a100/8b"]
LIMITS = Limits(max_loras=2, max_cpu_loras=4)
SECOND = 1_000_000


def run(
    requests: list[Request], *adapters: Adapter, replicas: int = 2, limits: Limits = LIMITS, **more: Any
) -> Simulation:
    pool = Pool("a100", PROFILE, limits, 8192, replicas)
    made = Setup((pool,), routing.Config("cost"), adapters=adapters, **{"hold_us": 60 * SECOND, **more})
    simulation = Simulation(made)
    simulation.go(iter(requests))
    return simulation


def asked(name: str, *seconds: float, prompt: int = 100, output: int = 10) -> list[Request]:
    return [Request(round(at * SECOND), prompt, output, (), name) for at in seconds]


def test_a_request_waits_for_a_load_and_the_next_one_does_not() -> None:
    found = run(asked("rare", 0.5, 20.0))
    first, second = found.record.ttft
    assert 2.0 * SECOND < first < 3.5 * SECOND and second < 0.2 * SECOND
    assert found._placing and found._placing.loads == 1


def test_what_is_wanted_in_any_case_is_there_from_the_start() -> None:
    found = run(asked("legal", 0.0), Adapter("legal", everywhere=True))
    assert found.record.ttft[0] < 0.2 * SECOND and found._placing and found._placing.loads == 0


@pytest.mark.parametrize(("rule", "unserved", "answered"), [("hold", 0, 2), ("reject", 2, 0), ("base", 0, 2)])
def test_what_becomes_of_a_request_whose_adapter_is_nowhere(rule: str, unserved: int, answered: int) -> None:
    found = run(asked("rare", 0.1, 0.2), when_missing=rule)
    assert (found.record.unserved, len(found.record.ttft)) == (unserved, answered)
    if rule == "base":
        assert max(found.record.ttft) < 0.2 * SECOND


def test_a_wait_without_end_ends() -> None:
    """More adapters than there are places, all of them in use."""
    busy = [one for name in "abcd" for one in asked(name, 0.1, output=8000, prompt=10)]
    found = run([*busy, *asked("e", 30.0)], replicas=1, hold_us=5 * SECOND)
    assert found.record.unserved == 1


def test_requests_go_where_their_adapter_is_and_hot_ones_spread() -> None:
    times = [number / 8 for number in range(8 * 120)]
    found = run(asked("hot", *times), Adapter("hot", minimum=1), replicas=3)
    assert found._placing and 1 <= found._placing.loads <= 3, "8 requests/s need more than one replica"
    assert all(one.sent for one in found.fleet.replicas)


def test_more_adapters_than_places_take_turns() -> None:
    names = [f"a{number}" for number in range(12)]
    requests = [one for number, name in enumerate(names * 3) for one in asked(name, 30.0 * number)]
    found = run(sorted(requests), replicas=1)
    assert len(found.record.ttft) == 36 and found.record.unserved == 0
    assert found._placing and found._placing.unloads >= 8


def test_adapters_slow_a_batch_down_and_only_then() -> None:
    def took(adapter: str, limits: Limits) -> int:
        engine = Engine(PROFILE, limits, 0)
        sequence = Sequence(0, Request(0, 100, 200, (), adapter), 0)
        engine.hold("a")
        until = engine.add(sequence, 0)
        while until is not None:
            until = engine.advance(until)
        return sequence.finished - sequence.first

    slow = replace(LIMITS, lora_step_us=2000.0, lora_token_share=0.05)
    assert took("", slow) == took("", LIMITS) == took("a", LIMITS)
    assert took("a", slow) - took("a", LIMITS) == pytest.approx(199 * 2000, rel=0.02)
