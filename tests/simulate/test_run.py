"""Whole runs: what is counted, who waits, what a scaler's number does, and that a run is a function of its arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from dataclasses import replace

import pytest

from aibrix_compile.plan import Objective
from aibrix_compile.policy import routing
from aibrix_compile.policy.autoscaling import Config
from aibrix_compile.policy.kpa import Kpa
from aibrix_compile.policy.pools import Pool as ScaledPool
from aibrix_compile.policy.profile import TABLE, slower
from aibrix_compile.policy.quantities import PerReplica
from aibrix_compile.simulate import generate
from aibrix_compile.simulate.engine import Limits, Sequence
from aibrix_compile.simulate.fleet import Fleet, Pool, Replica, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scaling import Watcher, Watchers
from aibrix_compile.simulate.scoring import score
from aibrix_compile.simulate.trace import Request, Trace

H100 = TABLE["h100/8b"]
SECOND = 1_000_000
GOLDEN = (3051, 0.0281157, 0.068386, 1.84099, 0.70672)


def pool(replicas: int = 1, **more: object) -> Pool:
    given = {"name": "p", "profile": H100, "limits": Limits(), "max_model_len": 16_384, "cost_per_hour": 10.0, **more}
    return Pool(replicas=replicas, **given)  # type: ignore[arg-type]


def ran(requests: Many[Request], *pools: Pool, scaler: object = None, **more: object) -> Simulation:
    setup = Setup(pools or (pool(),), routing.Config(str(more.pop("strategy", "least-request"))), **more)  # type: ignore[arg-type]
    run = Simulation(setup, scaler)  # type: ignore[arg-type]
    run.go(requests)
    return run


class Script:
    """A scaler that says what it was told to say."""

    def __init__(self, *steps: tuple[int, int, int]) -> None:
        """(second, pool, replicas)"""
        self.steps = list(steps)

    def arrived(self, request: Request) -> None: ...

    def answered(self, sequence: Sequence) -> None: ...

    def look(self, fleet: Fleet, held: int, now: int) -> list[tuple[int, int, str]]:
        due = [one for one in self.steps if one[0] * SECOND <= now]
        self.steps = [one for one in self.steps if one not in due]
        return [(index, count, "told so") for _, index, count in due]


def steady(count: int, gap_us: int = 100_000, output: int = 20) -> list[Request]:
    return [Request(index * gap_us, 200, output) for index in range(count)]


def test_everything_that_arrives_is_accounted_for() -> None:
    requests = [*steady(50), Request(6 * SECOND, 16_384, 5), Request(6 * SECOND, 16_000, 5000)]
    run = ran(requests)
    made = score(run)
    assert (made.requests, made.answered, made.refused, made.unserved) == (52, 51, 1, 0)
    assert run.record.truncated == 1
    assert made.output_tokens == 50 * 20 + 384 and made.input_tokens == 50 * 200 + 16_000


def test_times_include_the_gateway() -> None:
    near, far = (ran(steady(1), gateway_us=delay).record for delay in (0, 7000))
    assert far.ttft[0] - near.ttft[0] == far.e2e[0] - near.e2e[0] == 7000


def test_without_a_replica_requests_are_refused_or_held_until_one_is_there() -> None:
    refused = ran(steady(5), pool(0))
    assert score(refused).unserved == 5 and score(refused).answered == 0
    started = ran(steady(5), pool(0, start_us=3 * SECOND), scaler=Script((1, 0, 1)), hold_us=60 * SECOND)
    made = score(started)
    assert made.answered == 5 and made.ttft.max > 3.9
    late = ran(steady(5), pool(0, start_us=30 * SECOND), scaler=Script((1, 0, 1)), hold_us=10 * SECOND)
    assert score(late).unserved == 5


def test_a_leaving_replica_finishes_what_it_has_and_is_paid_until_then() -> None:
    requests = steady(40, output=400)
    run = ran(requests, pool(2), scaler=Script((2, 0, 1)))
    gone = next(one for one in run.fleet.replicas if one.until_us >= 0)
    assert score(run).answered == 40
    assert gone.until_us > 2 * SECOND and gone.sent < 25
    assert not gone.engine.running and gone.engine.until is None
    made = score(run)
    hours = sum((run.now if one.until_us < 0 else one.until_us) for one in run.fleet.replicas) / 3.6e9
    assert made.gpu_hours == pytest.approx(hours) and made.cost == pytest.approx(hours * 10)


def test_a_starting_replica_gets_nothing_and_is_paid() -> None:
    run = ran(steady(100), pool(1, start_us=4 * SECOND), scaler=Script((1, 0, 2)))
    second = run.fleet.replicas[1]
    assert second.from_us == 1 * SECOND and second.ready_us == 5 * SECOND and 20 <= second.sent <= 30
    assert [(one.before, one.after, one.reason) for one in run.record.decisions] == [(1, 2, "told so")]


def test_a_start_that_is_cancelled_never_serves() -> None:
    run = ran(steady(100), pool(1, start_us=4 * SECOND), scaler=Script((1, 0, 2), (3, 0, 1)))
    second = run.fleet.replicas[1]
    assert second.sent == 0 and second.until_us == 3 * SECOND
    assert score(run).answered == 100


def test_reports_are_as_old_as_they_may_be() -> None:
    """Between two reports a picker that goes by them sends everything to the replica that looked best."""
    requests = steady(40, gap_us=50_000, output=200)
    often, seldom = (ran(requests, pool(2), strategy="least-kv-cache", report_us=us) for us in (50_000, 10 * SECOND))
    assert score(often).imbalance < 1.3 < score(seldom).imbalance


def test_a_prefix_that_another_replica_has_is_of_no_use() -> None:
    blocks = tuple(range(8))
    requests = [Request(index * 500_000, 4000, 5, blocks) for index in range(20)]
    follows = ran(requests, pool(4), strategy="cost", block_tokens=512)
    blind = ran(requests, pool(4), strategy="random", block_tokens=512)
    assert score(follows).prefix_hit_share > 0.9 > score(blind).prefix_hit_share
    assert score(ran(requests, pool(4), strategy="cost")).prefix_hit_share == 0


def of_four_turns(seconds: int = 300, rate: float = 6) -> Trace:
    options = generate.Options(
        seconds=seconds, rate=rate, input_tokens=3000, output_tokens=60, turns=4, system_tokens=300, think_s=10
    )
    return generate.generate(options, 3)


def test_several_pickers_keep_the_prefix_hits_if_they_tell_each_other() -> None:
    found = of_four_turns()

    def hits(pickers: int, exchange_us: int) -> float:
        run = ran(
            list(found),
            pool(8),
            strategy="cost",
            block_tokens=found.block_tokens,
            pickers=pickers,
            exchange_us=exchange_us,
        )
        return score(run).prefix_hit_share

    alone = hits(1, -1)
    assert hits(2, 20_000) > 0.95 * alone and hits(4, 20_000) > 0.95 * alone
    assert hits(2, -1) < 0.85 * alone and hits(4, -1) < hits(2, -1)


def test_what_a_picker_did_is_known_to_the_others_after_the_exchange() -> None:
    requests = [Request(0, 1000, 400), Request(10_000, 1000, 400), Request(40_000, 1000, 400)]
    run = ran(requests, pool(1), pickers=2, exchange_us=20_000, estimate_error=0.0)
    assert [(one.in_flight, one.prompt_tokens, one.work_ms) for one in run.fleet.replicas[0].endpoints] == [
        (0, 0, 0)
    ] * 2
    seen: list[tuple[int, int]] = []
    simulation = Simulation(run.setup)
    choose = simulation.pickers.choose

    def watched(
        sequence: Sequence, now: int, chance: float, places: list[int] | None = None
    ) -> tuple[Replica, routing.Choice]:
        found = choose(sequence, now, chance, places)
        first, second = (one.in_flight for one in found[0].endpoints)
        seen.append((first, second))
        return found

    simulation.pickers.choose = watched  # type: ignore[method-assign]
    simulation.go(requests)
    assert seen == [(1, 0), (1, 1), (3, 2)]  # the third one is the first picker's: the other has not heard of it


def test_pickers_that_tell_nothing_know_the_others_by_reports_alone() -> None:
    requests = [Request(0, 1000, 2000), Request(10_000, 1000, 2000), Request(1_500_000, 1000, 2000)]
    setup = Setup((pool(1),), routing.Config("least-request"), pickers=2, exchange_us=-1)
    seen: list[tuple[int, int, int]] = []

    def look(now: int, requests: int) -> None:
        first, second = run.fleet.replicas[0].endpoints
        seen.append((first.in_flight, first.others, second.others))

    run = Simulation(setup, watch=look)
    run.go(requests)
    assert seen[:3] == [(1, 0, 1), (1, 1, 1), (2, 1, 2)]


def test_a_picker_estimates_tokens_and_is_right_in_the_mean() -> None:
    def estimates(error: float, seed: int = 0) -> list[int]:
        run = Simulation(Setup((pool(),), routing.Config("cost"), seed=seed, estimate_error=error))
        return [run.pickers.estimate(Sequence(index, Request(0, 1000, 1), 0)) for index in range(1000)]

    assert estimates(0.0) == [1000] * 1000
    found = estimates(0.2)
    assert sum(found) / 1000 == pytest.approx(1000, rel=0.02)
    assert sum(value < 800 for value in found) / 1000 == pytest.approx(0.15, abs=0.04)
    assert found == estimates(0.2) != estimates(0.2, seed=1)


def test_a_last_block_that_is_not_full_is_no_prefix_for_a_picker() -> None:
    for tokens, expected in ((1024, 1023), (1023, 512), (511, 0)):
        blocks = (1, 2)[: -(-tokens // 512)]
        requests = [Request(at, tokens, 5, blocks) for at in (0, SECOND)]
        run = Simulation(Setup((pool(),), routing.Config("cost"), 512, estimate_error=0.0))
        guesses: list[int] = []
        run.ended = lambda one, guesses=guesses: guesses.append(one.cached_guess)
        run.go(requests)
        assert guesses == [0, expected]


def test_pickers_may_be_wrong_about_an_engine() -> None:
    """They take the second pool for as slow as it is fast, and send where nothing is gained."""
    fast, slow = pool(2), pool(2, profile=slower(H100, 4), name="slow")
    crossed = [replace(fast, known=slow.profile), replace(slow, known=fast.profile)]
    options = generate.Options(seconds=120, rate=6, input_tokens=3000, output_tokens=50)
    requests = list(generate.generate(options, 2))
    right, wrong = (ran(requests, *pools, strategy="cost") for pools in ((fast, slow), crossed))
    assert score(wrong).ttft.mean > 2 * score(right).ttft.mean


def test_the_warm_up_counts_in_no_figure() -> None:
    cold = [*steady(200, gap_us=1000, output=100), *[one._replace(at=one.at + 60 * SECOND) for one in steady(20)]]
    run = ran(cold, warm_us=30 * SECOND)
    made = score(run, [Objective("ttft", 0.99, 1.0)])
    assert made.answered == 20 and made.ttft.max < 0.1 and made.objectives[0].good_share == 1
    assert sum(run.fleet.replicas[0].engine.itl.values()) == 20 * 19 and run.fleet.replicas[0].sent == 20
    assert made.seconds < 35 and made.gpu_hours * 3600 == pytest.approx(made.seconds, rel=0.01)


def test_a_real_scaler_follows_the_load() -> None:
    options = generate.Options(
        seconds=900, rate=4, input_tokens=800, output_tokens=200, swing=0.9, period_s=900, peak_s=450
    )
    requests = list(generate.generate(options, 1))
    scaled = ScaledPool("p", 1, 8, cold_start_seconds=20, profile=H100)
    watcher = Watcher(Config((scaled,), Kpa("requests_in_flight", PerReplica(4))), (0,), 0)
    run = ran(requests, pool(1, low=1, high=8, start_us=20 * SECOND), scaler=Watchers([watcher]))
    counts = run.record.series.column("replicas 0")
    assert 3 <= max(counts) <= 8 and counts[0] == 1 and counts[-1] < max(counts)
    assert all(one.reason and one.before != one.after for one in run.record.decisions)


def test_equal_arguments_give_equal_bytes() -> None:
    options = generate.Options(seconds=300, rate=8, input_tokens=900, output_tokens=100, turns=3, system_tokens=300)
    found = generate.generate(options, 7)

    def text(strategy: str, seed: int) -> str:
        run = ran(list(found), pool(3), strategy=strategy, block_tokens=found.block_tokens, seed=seed)
        return json.dumps(score(run).data())

    for strategy in ("random", "cost", "prefix-cache"):
        assert text(strategy, 1) == text(strategy, 1)
    assert text("random", 1) != text("random", 2)


def test_rows_are_bounded_and_mean_what_they_say() -> None:
    requests = steady(4000, gap_us=1_000_000, output=5)
    run = ran(requests)
    series = run.record.series
    assert 480 <= len(series.column("ready")) <= 960 and series.width == 8
    assert len(series.edges_us) == len(series.column("ready")) + 1
    assert series.mean("arrived") == pytest.approx(1, rel=0.01)
    assert all(value == pytest.approx(1, rel=0.2) for value in series.column("arrived")[:-1])


def test_the_same_figures_on_every_python() -> None:
    """Six digits of a made trace, as CPython 3.11, 3.12 and 3.13 give them; a change of the model changes them on purpose."""
    options = generate.Options(
        seconds=600,
        rate=5,
        input_tokens=1500,
        output_tokens=150,
        turns=3,
        system_tokens=500,
        arrival_cv=2,
        block_tokens=128,
    )
    found = generate.generate(options, 11)
    made = score(ran(list(found), pool(2), strategy="cost", block_tokens=found.block_tokens, seed=3)).data()
    figures = (
        made["requests"],
        made["ttft"]["mean"],
        made["ttft"]["p99"],
        made["e2e"]["mean"],
        made["prefix_hit_share"],
    )
    assert figures == GOLDEN
