"""What the rules do when things happen, played through by Prometheus' own promtool: who is called, and who sleeps on."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from aibrix_compile.plan import Bounds, MonitoringPlan, Objective, Rollout, ScalingPlan, ServicePlan
from tests.monitoring.watched import ALL, METRICS, PLAIN, objects, played, pools, service

Series = dict[str, str]
Alert = tuple[str, str]
Fires = Callable[..., list[set[Alert]]]
TTFT = METRICS["ttft"]
STEPS = 60 * 24


@pytest.fixture
def firing(promtool: Path, tmp_path: Path) -> Fires:
    """Alerts (name, severity) that fire after so many minutes, for each of them; a sample of each series is one minute."""

    def play(plan: ServicePlan, series: Series, *minutes: int) -> list[set[Alert]]:
        rules = objects(plan)["PrometheusRule"]["spec"]
        return list(map(_alerts, played(promtool, tmp_path, rules, "alertname, severity", series, minutes)))

    return play


def _alerts(got: str) -> set[Alert]:
    found = set(re.findall(r'alertname=\\?"(\w+)\\?", severity=\\?"(\w+)\\?"', got))
    assert found or "nil" in got, got
    return found


def _labels(pod: int = 0, **more: str) -> str:
    every = {"namespace": PLAIN.namespace, "service": PLAIN.name, "pool": "l4", "pod": f"l4-{pod}", **more}
    return "{" + ",".join(f'{name}="{value}"' for name, value in every.items()) + "}"


def _up(values: Mapping[int, str] | None = None) -> Series:
    """Four replicas that report all the time, but for those that are given."""
    every = dict.fromkeys(range(4), f"1x{STEPS}") | dict(values or {})
    return {f"up{_labels(pod)}": value for pod, value in every.items() if value}


def _answers(per_minute: float, quick: float, service: str = PLAIN.name, le: str = "2.5") -> Series:
    """Four replicas that answer, a share of them quickly."""
    found = {}
    for pod in range(4):
        labels = _labels(pod, service=service)
        found[f"{TTFT}_count{labels}"] = f"0+{per_minute}x{STEPS}"
        found[f"{TTFT}_bucket{_labels(pod, service=service, le=le)}"] = f"0+{per_minute * quick}x{STEPS}"
    return found


ONLY_TTFT = MonitoringPlan(True, True, True, (Objective("ttft", 0.99, 2.0),), METRICS)
BURNS, TICKET = ("ModelServiceObjectiveBurning", "page"), ("ModelServiceObjectiveBurning", "ticket")
BLIND, STUCK = ("ModelServiceObjectiveBlind", "ticket"), ("ModelServiceReplicaStuck", "page")
ABSENT, DOWN, MISSING = (
    ("ModelServiceAbsent", "page"),
    ("ModelServiceDown", "page"),
    ("ModelServiceReplicasMissing", "ticket"),
)
UNSTABLE, QUEUEING, FULL = (
    (f"ModelService{name}", "ticket") for name in ("ReplicaUnstable", "Queueing", "KVCacheFull")
)
WATCHED = service(ONLY_TTFT)


def test_nobody_is_called_without_traffic(firing: Fires) -> None:
    """Counters stand still: every ratio would be 0 / 0."""
    idle = {f"{metric}{_labels(pod)}": f"0x{STEPS}" for metric in METRICS.values() for pod in range(4)}
    assert firing(service(ALL), _up() | _answers(0, 0) | idle, 5, 70, 1400) == [set()] * 3


def test_nobody_is_called_when_all_is_well(firing: Fires) -> None:
    assert firing(WATCHED, _up() | _answers(60, 1), 10, 90, 1400) == [set()] * 3
    slow_within_the_budget = _answers(1000, 0.995)
    assert firing(WATCHED, _up() | slow_within_the_budget, 10, 90, 1400) == [set()] * 3


def test_slow_answers_call_somebody_within_minutes(firing: Fires) -> None:
    for quick in (0.5, 0):
        (found,) = firing(WATCHED, _up() | _answers(60, quick), 20)
        assert found == {BURNS}


def test_a_slow_leak_is_a_ticket_and_no_call(firing: Fires) -> None:
    assert firing(WATCHED, _up() | _answers(1000, 0.98), 1400) == [{TICKET}]


def test_an_end_of_slow_answers_ends_the_call(firing: Fires) -> None:
    slow = _up()
    for pod in range(4):  # an hour of slow ones, then quick ones
        slow[f"{TTFT}_count{_labels(pod)}"] = "0+60x1000"
        slow[f"{TTFT}_bucket{_labels(pod, le='2.5')}"] = "0+30x60 1860+60x900"
    during, after = firing(WATCHED, slow, 60, 100)
    assert BURNS in during and BURNS not in after


def test_a_single_slow_request_at_night_wakes_nobody(firing: Fires) -> None:
    night = _up()
    night[f"{TTFT}_count{_labels()}"] = f"0x30 1x30 2x{STEPS}"
    night[f"{TTFT}_bucket{_labels(le='2.5')}"] = f"0x{STEPS}"
    assert firing(WATCHED, night, 33, 40, 63, 70) == [set()] * 4


def test_slow_answers_of_others_call_nobody(firing: Fires) -> None:
    assert firing(WATCHED, _up() | _answers(60, 1) | _answers(60, 0, "other"), 60) == [set()]


def test_an_objective_that_can_not_be_judged_is_said(firing: Fires) -> None:
    assert firing(WATCHED, _up() | _answers(60, 1, le="3.0"), 10, 30) == [set(), {BLIND}]


def test_a_wide_budget_still_calls(firing: Fires) -> None:
    """Half of all answers may be slow; 14.4 times half is more than all."""
    median = service(MonitoringPlan(True, True, True, (Objective("ttft", 0.5, 2.0),), METRICS))
    assert BURNS in firing(median, _up() | _answers(60, 0), 60)[0]
    assert firing(median, _up() | _answers(60, 0.6), 1000) == [set()]


def test_series_that_vanish_call_somebody(firing: Fires) -> None:
    gone = _up(dict.fromkeys(range(4), "1x30 stale"))
    before, a_moment, later, long = firing(WATCHED, gone, 30, 38, 45, 1400)
    assert (before, a_moment, later, long) == (set(), set(), {ABSENT}, {ABSENT, MISSING})


def test_a_service_that_was_never_there_calls_somebody(firing: Fires) -> None:
    assert firing(WATCHED, {"up": "1x60"}, 5, 12) == [set(), {ABSENT}]


def test_replicas_that_do_not_answer(firing: Fires) -> None:
    start = PLAIN.pools[0].startup_seconds // 60
    starting, down, long = firing(
        WATCHED, _up(dict.fromkeys(range(4), f"1x30 0x{STEPS}")), 30 + start, 36 + start, 1400
    )
    assert (starting, down, long) == (set(), {DOWN}, {DOWN, MISSING})


def test_one_replica_that_is_missing_is_a_ticket(firing: Fires) -> None:
    assert firing(WATCHED, _up({3: "1x30 stale"}), 35, 1400) == [set(), {MISSING}]


def test_a_rollout_is_no_incident(firing: Fires) -> None:
    pool = PLAIN.pools[0]
    plan = service(ONLY_TTFT, **pools("l4", rollout=Rollout(1, 0)))
    start = pool.startup_seconds // 60
    turns = {n: f"1x{30 + n * start} 0x{start} 1x{STEPS}" for n in range(4)}  # one after the other
    minutes = range(30, 30 + 4 * start + 12, 3)
    assert firing(plan, _up(turns), *minutes) == [set()] * len(minutes)


def test_scaled_to_zero_is_no_incident(firing: Fires) -> None:
    plan = service(ALL, **pools("l4", bounds=Bounds(0, 4)))
    assert firing(plan, {}, 1400) == [set()]
    assert firing(plan, _up(dict.fromkeys(range(4), "1x30 stale")), 32, 1400) == [set()] * 2
    woken = _up(dict.fromkeys(range(4), "_x30 0x3 1x20 stale"))
    assert firing(plan, woken, 32, 40, 60, 120) == [set()] * 4


def test_a_scaled_pool_is_watched_at_its_minimum(firing: Fires) -> None:
    plan = service(ONLY_TTFT, **pools("l4", bounds=Bounds(2, 6)))
    assert firing(plan, _up({2: "", 3: ""}), 120) == [set()]
    assert firing(plan, _up({1: "", 2: "", 3: ""}), 120) == [{MISSING}]


def test_a_replica_that_comes_and_goes(firing: Fires) -> None:
    flapping = _up({3: " ".join(["1x5 0x3"] * 60)})
    assert UNSTABLE in firing(WATCHED, flapping, 80)[0]
    assert firing(WATCHED, _up({3: f"1x30 0x5 1x{STEPS}"}), 60) == [set()]


def test_a_replica_that_hangs(firing: Fires) -> None:
    def tokens(values: str) -> Series:
        roles = ("prompt_tokens", "generation_tokens")
        return {f"{METRICS[role]}_total{_labels()}": values for role in roles}

    busy = _up() | {f"{METRICS['running']}{_labels()}": f"7x{STEPS}"}
    assert firing(WATCHED, busy | tokens(f"0+500x{STEPS}"), 60) == [set()]
    assert firing(WATCHED, busy | tokens(f"0+500x30 15000x{STEPS}"), 35, 60) == [set(), {STUCK}]
    idle = _up() | {f"{METRICS['running']}{_labels()}": f"0x{STEPS}"}
    assert firing(WATCHED, idle | tokens(f"9x{STEPS}"), 60) == [set()]


def test_a_queue_that_stays(firing: Fires) -> None:
    waiting = f"{METRICS['waiting']}{_labels()}"
    assert firing(WATCHED, _up() | {waiting: "0x10 3x10 0x100"}, 22) == [set()]
    assert firing(WATCHED, _up() | {waiting: "0x10 3x100"}, 22, 40) == [set(), {QUEUEING}]


def test_a_full_cache_matters_when_work_is_thrown_away(firing: Fires) -> None:
    full = _up() | {f"{METRICS['kv_usage']}{_labels()}": f"0.97x{STEPS}"}
    preempted, elsewhere = (f"{METRICS['preemptions']}_total{_labels(pod)}" for pod in (0, 1))
    assert firing(WATCHED, full | {preempted: f"0x{STEPS}"}, 60) == [set()]
    assert firing(WATCHED, full | {elsewhere: f"0+3x{STEPS}"}, 60) == [set()]
    assert firing(WATCHED, full | {preempted: f"0+3x{STEPS}"}, 60) == [{FULL}]


def _scaler(**values: str) -> Series:
    """One copy leads, and tells what it thinks."""
    labels = f'{{namespace="{PLAIN.namespace}",service="{PLAIN.name}",pod="scaler-1"}}'
    every = {"wanted": f"3x{STEPS}", "limited": f"0x{STEPS}", "missing": f"0x{STEPS}", "flapping": f"0x{STEPS}"}
    return {f"scaler_{name}{labels}": value for name, value in (every | values).items() if value}


def test_a_scaler_calls_for_help(firing: Fires) -> None:
    scaling = ScalingPlan("slo", {}, (), 0, "", 0, 0, False)
    plan = service(ONLY_TTFT, scaling=scaling, **pools("l4", bounds=Bounds(2, 6)))
    assert firing(plan, _up() | _scaler(), 30, 600) == [set()] * 2
    wants, blind, flaps, gone = (
        (f"ModelService{name}", "ticket") for name in ("WantsMore", "ScalesBlind", "Flapping", "NotScaled")
    )
    assert firing(plan, _up() | _scaler(limited="0x10 1x100"), 20, 30, 100) == [set(), {wants}, {wants}]
    assert firing(plan, _up() | _scaler(missing="0x10 1x8 0x20 1x30"), 20, 60) == [set(), {blind}]
    assert firing(plan, _up() | _scaler(flapping=" ".join(["1x5 0x3"] * 20)), 10, 60) == [set(), {flaps}]
    assert firing(plan, _up() | _scaler(flapping="0x10 1x2 0x100"), 60) == [set()]
    assert firing(plan, _up() | _scaler(wanted="3x10 stale"), 15, 30) == [set(), {gone}]
    others = {name.replace(PLAIN.name, "other"): value for name, value in _scaler(limited=f"1x{STEPS}").items()}
    assert firing(plan, _up() | _scaler() | others, 60) == [set()]
    hpa = service(ONLY_TTFT, scaling=ScalingPlan("hpa", {}, (), 0, "", 0, 0, False), **pools("l4", bounds=Bounds(2, 6)))
    assert firing(hpa, _up(), 60) == [set()]
