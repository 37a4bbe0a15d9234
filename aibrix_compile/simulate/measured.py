"""What a real engine did, as a log of its requests, and how far a simulation of the same requests is from it.

A log is CSV with the columns arrival_s, input_tokens, output_tokens, ttft_s and e2e_s (others are not read): one engine alone,
times in seconds since the log began, TTFT and e2e from arrival. `errors` compares; `fit` finds the profile that comes nearest.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, log
from pathlib import Path

from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import Profile
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.fleet import Pool, Setup
from aibrix_compile.simulate.lines import Findings, blocks, opened, shown
from aibrix_compile.simulate.run import Simulation
from aibrix_compile.simulate.scoring import rank
from aibrix_compile.simulate.trace import MOST_SECONDS, MOST_TOKENS, Request

COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "ttft_s", "e2e_s")
LEAST = 20
"""Requests that a fit needs."""
FITTED = ("weights_ms", "token_ms", "context_ms", "attention_ms", "step_ms")
_ROUNDS, _STEP, _SMALLEST = 60, 0.5, 0.005
_LONGEST = MOST_TOKENS


@dataclass(frozen=True, slots=True)
class Measured:
    """A request and its times, microseconds."""

    request: Request
    ttft: int
    e2e: int


@dataclass(frozen=True, slots=True)
class Error:
    """One figure, seconds, as it was measured and as it is simulated."""

    figure: str
    measured: float
    simulated: float

    @property
    def share(self) -> float:
        return self.simulated / self.measured - 1 if self.measured else 0.0


def read(path: Path) -> list[Measured]:
    """By arrival. CompileError with every place that is wrong; UsageError: no such file."""
    findings, found = Findings(str(path)), []
    places: list[int] = []
    with opened(path) as file:
        for first, lines in blocks(file, findings):
            for number, line in enumerate(lines, first):
                if not line.strip():
                    continue
                cells = next(csv.reader([line]))
                if not places:
                    if missing := [name for name in COLUMNS if name not in cells]:
                        hint = f"a log of an engine has the columns {', '.join(COLUMNS)}; `simulate --trace` needs no times"
                        findings.add(
                            "AC601", findings.span(number, 1, len(line)), f"there is no column {missing[0]}", hint
                        )
                        raise findings.error()
                    places = [cells.index(name) for name in COLUMNS]
                    continue
                if (one := _measured(cells, places)) is not None:
                    found.append(one)
                    continue
                hint = "times in seconds with 0 < ttft_s <= e2e_s, whole tokens from 1 on"
                findings.add(
                    "AC604", findings.span(number, 1, len(line)), f"{shown(line[:60])} is no measured request", hint
                )
    if findings.found:
        raise findings.error()
    if not found:
        findings.add(
            "AC606", findings.span(1), "the log has no request", f"it needs {', '.join(COLUMNS)} and a line for each"
        )
        raise findings.error()
    return sorted(found, key=lambda one: one.request.at)


def _measured(cells: Sequence[str], places: Sequence[int]) -> Measured | None:
    try:
        at, before, after, ttft, e2e = (cells[place] for place in places)
        times = [float(at), float(ttft), float(e2e)]
        prompt, answer = int(before), int(after)
    except (ValueError, IndexError):
        return None
    if not (0 <= times[0] <= MOST_SECONDS and 0 < times[1] <= times[2] <= MOST_SECONDS):
        return None
    if not (1 <= prompt <= _LONGEST and 1 <= answer <= _LONGEST):
        return None
    return Measured(Request(round(times[0] * 1e6), prompt, answer), round(times[1] * 1e6), round(times[2] * 1e6))


def simulated(log_: Sequence[Measured], profile: Profile, limits: Limits) -> list[tuple[int, int]]:
    """(TTFT, e2e) in microseconds of each request, in order, on one engine."""
    pool = Pool("engine", profile, limits, _LONGEST, 1)
    run = Simulation(Setup((pool,), routing.Config("random"), gateway_us=0))
    found: list[tuple[int, int]] = [(0, 0)] * len(log_)
    run.ended = lambda one: found.__setitem__(one.index, (one.first - one.arrived, one.finished - one.arrived))
    run.go(one.request for one in log_)
    return found


def errors(log_: Sequence[Measured], profile: Profile, limits: Limits) -> dict[str, list[Error]]:
    """Means and percentiles side by side, of the requests that `fit` sees and of those that are held back from it."""
    pairs, parts = simulated(log_, profile, limits), _held_back(len(log_))
    return {
        name: _errors(
            [pair for pair, one in zip(pairs, parts, strict=True) if one == held],
            [one for one, other in zip(log_, parts, strict=True) if other == held],
        )
        for name, held in (("fitted to", False), ("held back", True))
        if held in parts
    }


def overall(log_: Sequence[Measured], profile: Profile, limits: Limits) -> list[Error]:
    """The same of all requests."""
    return _errors(simulated(log_, profile, limits), log_)


def _errors(pairs: Sequence[tuple[int, int]], log_: Sequence[Measured]) -> list[Error]:
    found = []
    for name, mine, real in (
        ("TTFT", sorted(ttft for ttft, _ in pairs), sorted(one.ttft for one in log_)),
        ("e2e", sorted(e2e for _, e2e in pairs), sorted(one.e2e for one in log_)),
    ):
        found.append(Error(f"{name} mean", sum(real) / len(real) / 1e6, sum(mine) / len(mine) / 1e6))
        for percent in (50, 90, 99):
            found.append(Error(f"{name} p{percent}", rank(real, percent / 100) / 1e6, rank(mine, percent / 100) / 1e6))
    return found


def _held_back(count: int) -> list[bool]:
    """Every other tenth of a log: both parts see all of its load, and neighbours in time are not torn apart."""
    return [bool(index * 10 // count % 2) for index in range(count)]


def fit(log_: Sequence[Measured], start: Profile, limits: Limits) -> Profile:
    """The profile near `start` under which the simulated times come nearest to the measured ones: the mean over requests of
    |ln(simulated / measured)| of TTFT and of e2e is smallest. One factor after the other is tried a step up and down, and the
    step halved when none helps; a function of its arguments."""
    best, least = start, _distance(log_, start, limits)
    step, rounds = _STEP, 0
    while step >= _SMALLEST and rounds < _ROUNDS:
        rounds += 1
        improved = False
        for name in FITTED:
            for factor in (exp(step), exp(-step)):
                other = replace(best, **{name: getattr(best, name) * factor})
                distance = _distance(log_, other, limits)
                if distance < least:
                    best, least, improved = other, distance, True
                    break
        if not improved:
            step /= 2
    return best


def _distance(log_: Sequence[Measured], profile: Profile, limits: Limits) -> float:
    pairs, parts = simulated(log_, profile, limits), _held_back(len(log_))
    found = []
    for (ttft, e2e), one, held in zip(pairs, log_, parts, strict=True):
        if not held:
            found.append(abs(log(max(ttft, 1) / one.ttft)) + abs(log(max(e2e, 1) / one.e2e)))
    return fsum(found) / len(found)
