"""Figures from known numbers, settings from text, and what a gate says."""

from __future__ import annotations

from array import array

import pytest

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.plan import Objective
from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate import gate, settings
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scoring import by_time, latency, rank, rounded, score
from aibrix_compile.simulate.series import ROWS, Series
from aibrix_compile.simulate.trace import Request


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.95, 95), (0.99, 99), (0.991, 100), (1.0, 100)],
)
def test_percentiles_are_nearest_rank(share: float, expected: int) -> None:
    assert rank(range(1, 101), share) == expected


def test_of_nothing_there_is_no_latency() -> None:
    assert latency([]).p99 == 0 and latency([2_000_000]).p50 == 2


def test_six_digits() -> None:
    assert rounded({"a": [1 / 3, 123_456_789.0, 2], "b": (True, None, "x")}) == {
        "a": [0.333333, 123_457_000.0, 2],
        "b": [True, None, "x"],
    }


def finished(times: list[tuple[int, int, int]], refused: int = 0) -> Simulation:
    """A run whose record is (arrived, ttft, e2e) in milliseconds."""
    pool = Pool("p", TABLE["h100/8b"], Limits(), 1000, 1, gpus=2, cost_per_hour=3.0)
    run = Simulation(Setup((pool,), routing.Config("random")))
    run.go([Request(0, 10, 2)])
    record = run.record
    for name in ("arrived", "ttft", "e2e", "tpot"):
        setattr(record, name, array("q"))
    for arrived, ttft, e2e in times:
        record.arrived.append(arrived * 1000)
        record.ttft.append(ttft * 1000)
        record.e2e.append(e2e * 1000)
        record.tpot.append(0)
    record.refused, run.now = refused, 3_600_000_000
    return run


def test_objectives_and_their_budget() -> None:
    run = finished([(0, 100 + 10 * step, 1000) for step in range(100)])
    ttft, late, whole = score(
        run, [Objective("ttft", 0.9, 1.0), Objective("ttft", 0.5, 0.3), Objective("e2e", 0.99, 2.0)]
    ).objectives
    assert (ttft.measured, ttft.good_share, ttft.kept) == (0.99, 0.91, True) and ttft.budget_used == pytest.approx(0.9)
    assert (round(late.good_share, 9), late.kept) == (0.21, False) and late.budget_used == pytest.approx(79 / 50)
    assert whole.kept and whole.budget_used == 0


def test_failed_requests_count_against_objectives() -> None:
    run = finished([(0, 100, 1000)] * 98, refused=2)
    (one,) = score(run, [Objective("ttft", 0.99, 1.0)]).objectives
    assert one.good_share == pytest.approx(0.98) and one.budget_used == pytest.approx(2) and not one.kept


def test_money_is_time_of_replicas() -> None:
    made = score(finished([(0, 1, 2)]), currency="USD")
    assert (made.gpu_hours, made.cost, made.cost_per_month) == (2, 3, 3 * 730)
    assert made.pools[0].replicas_mean == 1 and made.tokens_per_currency_unit == pytest.approx(4)


def test_percentiles_over_time() -> None:
    rows = by_time(array("q", [5, 1, 12, 25]), array("q", [10, 30, 7, 9]), [0, 10, 20, 30, 40], [0.5, 1.0])
    assert rows == [[1e-5, 7e-6, 9e-6, None], [3e-5, 7e-6, 9e-6, None]]


def test_a_series_is_bounded_and_keeps_its_means() -> None:
    series = Series(("a", "b"), 1_000_000)
    for step in range(5 * ROWS):
        series.add((step, 1))
    assert ROWS <= len(series.column("a")) <= 2 * ROWS and series.width == 4
    assert series.column("b") == [1.0] * len(series.column("b"))
    assert series.mean("a") == pytest.approx((5 * ROWS - 1) / 2)
    assert series.edges_us[1] == 4_000_000


# --- settings


def test_values_and_steps() -> None:
    assert settings.assignment("spec.routing.strategy=cost") == ("routing.strategy", "cost")
    path, found = settings.values("scaling.strategy=slo,{hpa: {metric: a, target: 1 per replica}},kpa")
    assert path == "scaling.strategy" and found == ["slo", "{hpa: {metric: a, target: 1 per replica}}", "kpa"]
    assert settings.steps("a.b=1:3:1")[1] == ["1", "2", "3"]
    assert settings.steps("a.b=0.5:0.9:0.2", "70%")[1] == ["50%", "70%", "90%"]
    assert settings.steps("a.b=50%:90%:20%", "70%")[1] == ["50%", "70%", "90%"]
    assert settings.steps("a.b=4:12:4", "12 per replica")[1] == ["4 per replica", "8 per replica", "12 per replica"]
    assert settings.steps("a.b=4:12:4 per replica")[1][-1] == "12 per replica"
    assert settings.steps("a.b=1:2:0.5", "2s")[1] == ["1s", "1.5s", "2s"]
    assert list(settings.combined([("a", ["1", "2"]), ("b", ["x", "y"])])) == [
        [("a", "1"), ("b", "x")],
        [("a", "1"), ("b", "y")],
        [("a", "2"), ("b", "x")],
        [("a", "2"), ("b", "y")],
    ]


@pytest.mark.parametrize("text", ["", "=", "a", "a=", "a b=c", "../x=1", "a.b.=1"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(UsageError, match="is no setting"):
        settings.assignment(text)


@pytest.mark.parametrize("text", ["a=1:2", "a=x:2:1", "a=1:2:0", "a=2:1:1", "a=1.1.1:2:1", "a=1:2:1:1"])
def test_what_is_no_sweep(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no sweep|is no setting"):
        settings.steps(text)


def test_a_pool_is_named_in_an_overlay() -> None:
    text = settings.overlay("chat", [("pools.l4.replicas", "3"), ("routing.strategy", "cost")])
    first, second = text.split("---\n")
    assert first.endswith("spec:\n  pools:\n    - name: l4\n      replicas: 3\n")
    assert second.endswith("spec:\n  routing:\n    strategy: cost\n")


# --- gate


def document(**score: object) -> dict:  # type: ignore[type-arg]
    base = {"objectives": [], "cost": 10.0, "seconds": 3600.0, "currency": "USD", "unserved": 0}
    return {"budget_per_hour": 0, "variants": [{"name": "chat", "score": {**base, **score}}]}


def test_what_a_gate_says() -> None:
    assert gate.broken(document()) == []
    kept = {
        "metric": "ttft",
        "percentile": 0.99,
        "limit": 2.0,
        "measured": 1.9,
        "good_share": 0.991,
        "budget_used": 0.9,
    }
    assert gate.broken(document(objectives=[kept])) == []
    broken = {**kept, "measured": 2.5, "good_share": 0.98, "budget_used": 2.0}
    assert gate.broken(document(objectives=[broken])) == [
        "slo.ttft.p99 is 2.5 s, the limit is 2 s: 2.00% are above it, 1.00% may be"
    ]
    assert gate.broken({**document(), "budget_per_hour": 9}) == [
        "scaling.budget.maxCostPerHour is 9 USD, the mean was 10.00"
    ]
    assert gate.broken(document(unserved=3)) == ["3 requests found no replica"]
