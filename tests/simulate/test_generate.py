"""The generator: what comes out has the means that were asked for, and equal seeds give equal requests."""

from dataclasses import replace
from itertools import pairwise
from math import fsum, sqrt
from typing import Any

import pytest

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate import formats
from aibrix_compile.simulate.generate import Options, cv_of_p95, default, generate
from aibrix_compile.simulate.trace import Request

PLAIN = Options(seconds=2000, rate=10, input_tokens=1200, output_tokens=250)
TALK = replace(PLAIN, input_tokens=2000, turns=4, system_tokens=300)


def mean(values: list[float]) -> float:
    return fsum(values) / len(values)


def cv(values: list[float]) -> float:
    middle = mean(values)
    return sqrt(mean([(one - middle) ** 2 for one in values])) / middle


def made(options: Options, seed: int = 1) -> list[Request]:
    return list(generate(options, seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_cv": 3.0, "output_cv": 0.0},
        {"input_tokens": 1.0, "output_tokens": 2.0},
        {"input_tokens": 1.3, "output_tokens": 3.5, "output_cv": 2.0},
        {"arrival_cv": 0.0},
        {"arrival_cv": 0.4},
        {"arrival_cv": 2.5},
        {"swing": 0.9, "period_s": 500.0, "peak_s": 100.0},
        {"seconds": 4000.0, "bursts_per_hour": 240.0, "burst_s": 5.0, "burst_factor": 5.0},
        {"turns": 3.0, "input_tokens": 3000.0},
        {"turns": 6.0, "input_tokens": 4000.0, "system_tokens": 500, "think_s": 60.0},
        {"turns": 3.0, "input_tokens": 3000.0, "swing": 0.5, "period_s": 1000.0, "arrival_cv": 2.0},
    ],
    ids=str,
)
def test_means_are_those_that_were_asked_for(changes: dict[str, Any]) -> None:
    options = replace(PLAIN, **changes)
    requests = made(options)
    assert len(requests) / options.seconds == pytest.approx(options.rate, rel=0.05)
    assert mean([one.input for one in requests]) == pytest.approx(options.input_tokens, rel=0.04)
    assert mean([one.output for one in requests]) == pytest.approx(options.output_tokens, rel=0.04)
    assert cv([one.output for one in requests]) == pytest.approx(options.output_cv, rel=0.1, abs=0.001)
    assert all(one.at <= two.at for one, two in pairwise(requests))
    assert requests[0].at >= 0 and requests[-1].at < options.seconds * 1e6


@pytest.mark.parametrize("asked", [0.0, 0.4, 1.0, 2.0, 4.0])
def test_arrivals_have_the_coefficient_of_variation(asked: float) -> None:
    ats = [one.at for one in made(replace(PLAIN, arrival_cv=asked), seed=3)]
    assert cv([two - one for one, two in pairwise(ats)]) == pytest.approx(asked, rel=0.1, abs=1e-4)


def test_the_rate_follows_its_sine() -> None:
    requests = made(replace(PLAIN, rate=20, swing=0.8, period_s=2000, peak_s=500))
    tenths = [0] * 10
    for one in requests:
        tenths[one.at // 200_000_000] += 1
    # a tenth is 36 degrees and the first one's middle at 18; the mean of a sine over it is 0.9836 of the middle's
    for number, seen in enumerate(tenths):
        wave = (0.309, 0.809, 1.0, 0.809, 0.309)[number % 5] * (1 if number < 5 else -1)
        assert seen == pytest.approx(4000 * (1 + 0.8 * 0.9836 * wave), abs=250)


def test_bursts_come_as_often_as_they_should() -> None:
    options = replace(PLAIN, seconds=36_000, rate=1, bursts_per_hour=20, burst_s=30, burst_factor=8)
    seconds = [0] * 3600
    for one in made(options):
        seconds[one.at // 10_000_000] += 1
    # calm 1 / (1 + 7/6) = 0.46/s, bursts 3.7/s for a sixth of the time: steps of 10 s have 5 or 37
    busy = len([count for count in seconds if count > 18])
    assert busy / len(seconds) == pytest.approx(1 / 6, abs=0.04)


def test_conversations_are_under_way_from_the_first_second() -> None:
    tenths, prompts = [0] * 10, [0.0] * 10
    for seed in range(4):
        for one in made(replace(TALK, think_s=300), seed):
            tenths[one.at // 200_000_000] += 1
            prompts[one.at // 200_000_000] += one.input
    for number, seen in enumerate(tenths):
        assert seen == pytest.approx(8000, rel=0.05)
        assert prompts[number] / seen == pytest.approx(2000, rel=0.05)


def test_turns_and_pauses() -> None:
    last: dict[int, int] = {}
    pauses: list[float] = []
    requests = made(replace(TALK, think_s=20))
    for one in requests:
        if one.session in last:
            pauses.append(one.at - last[one.session])
        last[one.session] = one.at
    assert len(requests) / len(last) == pytest.approx(4, rel=0.05)
    assert mean(pauses) == pytest.approx(20e6, rel=0.05)


def test_a_turn_has_what_was_said_before() -> None:
    """Whole blocks of a prompt begin the next one of its conversation; its partial last block does not."""
    options = replace(TALK, adapters=("a", "b"), adapter_share=0.5, tenants=2, seconds=300)
    trace = generate(options, 2)
    unit, system = trace.block_tokens, options.system_tokens // trace.block_tokens
    before: dict[int, Request] = {}
    owner: dict[int, int] = {}
    prompts: dict[tuple[int, ...], set[str]] = {}
    for one in trace:
        assert len(one.blocks) == -(-one.input // unit) == len(set(one.blocks))
        prompts.setdefault(one.blocks[:system], set()).add(one.adapter)
        for block in one.blocks[system:]:
            assert owner.setdefault(block, one.session) == one.session, "nothing else is shared"
        last = before.get(one.session)
        if last:
            whole = last.input // unit
            assert one.blocks[:whole] == last.blocks[:whole]
            assert one.input > last.input + last.output
            assert one.adapter == last.adapter
            if last.input % unit:
                assert last.blocks[-1] not in one.blocks
        before[one.session] = one
    assert len(prompts) == 6, "two tenants, without an adapter and with each of two"
    assert all(len(adapters) == 1 for adapters in prompts.values()), "KV of different adapters differs"


def test_single_requests_have_neither_blocks_nor_conversations() -> None:
    trace = generate(PLAIN, 1)
    assert trace.block_tokens == 0
    assert {(one.blocks, one.session, one.adapter) for one in trace} == {((), -1, "")}


def test_a_system_prompt_alone_is_shared() -> None:
    trace = generate(replace(PLAIN, system_tokens=640), 1)
    assert {one.blocks[:10] for one in trace} == {tuple(range(10))}
    assert {one.session for one in trace} == {-1}


def test_adapters_by_zipf() -> None:
    names = tuple(f"adapter-{number}" for number in range(4))
    requests = made(replace(PLAIN, adapters=names, adapter_share=0.75))
    # 1, 1/2, 1/3, 1/4 of 25/12
    for name, share in zip(("", *names), (0.25, 0.36, 0.18, 0.12, 0.09), strict=True):
        assert len([one for one in requests if one.adapter == name]) / len(requests) == pytest.approx(share, abs=0.012)


def test_no_prompt_is_longer_than_the_longest() -> None:
    requests = made(replace(TALK, turns=20, input_tokens=8000, longest=10_000))
    assert max(one.input + one.output for one in requests) <= 10_000
    wide = made(replace(PLAIN, input_cv=5.0, output_cv=5.0, longest=2000))
    assert max(one.input + one.output for one in wide) == 2000
    assert min(min(one.input, one.output) for one in wide) >= 1


def test_equal_seeds_are_equal_requests() -> None:
    """Numbers of one machine are those of every other, and of every Python."""
    options = replace(
        TALK, arrival_cv=2, bursts_per_hour=10, swing=0.5, adapters=("x", "y"), block_tokens=512, seconds=30
    )
    trace = generate(options, 7)
    text = "".join(formats.json_lines(trace))
    assert text == "".join(formats.json_lines(trace))
    assert text != "".join(formats.json_lines(generate(options, 8)))
    assert text.splitlines()[1:5] == [
        '{"at":14,"input":571,"output":91,"blocks":[0,1],"adapter":"y","session":338}',
        '{"at":10597,"input":755,"output":697,"blocks":[2,3],"adapter":"x","session":339}',
        '{"at":12783,"input":584,"output":202,"blocks":[4,5],"adapter":"y","session":340}',
        '{"at":60090,"input":1888,"output":103,"blocks":[6,7,8,9],"adapter":"x","session":143}',
    ]
    assert [one[:3] for one in default(1200, 250, 10, 0.5, seed=42)] == [
        *((131_502, 559, 144), (376_915, 501, 218), (380_719, 536, 85), (381_159, 668, 123)),
    ]


def test_arrivals_do_not_change_with_lengths() -> None:
    other = replace(PLAIN, input_tokens=5000, output_cv=2.0, adapters=("a",))
    assert [one.at for one in made(PLAIN)] == [one.at for one in made(other)]


def test_the_default_is_the_workload() -> None:
    assert list(default(1200, 250, 10, 20, 3)) == made(replace(PLAIN, seconds=20), 3)


@pytest.mark.parametrize(("p95", "expected"), [(1000, 0.0), (2000, 0.55), (3000, 1.1), (3800, 2.9)])
def test_spread_by_p95(p95: float, expected: float) -> None:
    spread = cv_of_p95(1000, p95)
    assert spread == pytest.approx(expected, rel=0.15)
    outputs = sorted(one.output for one in made(replace(PLAIN, output_tokens=1000, output_cv=spread)))
    assert outputs[len(outputs) * 95 // 100] == pytest.approx(p95, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 0.0}, "rate is 0; it must be 1e-06 to 1e+06"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"seconds": -1.0}, "seconds is -1"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"output_tokens": 0.5}, "output_tokens is 0.5"),
        ({"swing": 1.5}, "swing is 1.5"),
        ({"turns": 0.5}, "turns is 0.5"),
        ({"tenants": 0}, "tenants is 0"),
        ({"bursts_per_hour": 60.0, "burst_s": 60.0}, "60 bursts of 60 s leave no pause"),
        ({"system_tokens": 70_000}, "a system prompt of 70000 tokens"),
        ({"turns": 5.0, "system_tokens": 300}, "input_tokens must be 1305 or more"),
        ({"turns": 5.0, "input_tokens": 5000.0, "rate": 1e5, "think_s": 100.0}, "8e+06 conversations"),
    ],
    ids=str,
)
def test_impossible_options(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        generate(replace(PLAIN, **changes), 1)
    assert said in str(caught.value)


def test_impossible_seeds_and_spreads() -> None:
    for call in (lambda: generate(PLAIN, -1), lambda: cv_of_p95(1000, 4000), lambda: cv_of_p95(1000, 900)):
        with pytest.raises(UsageError):
            call()
