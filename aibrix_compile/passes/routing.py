"""Routing: strategies that have what they need, and times that fit each other. `build` compiles it with the gateway."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes.draft import Draft
from aibrix_compile.plan import RoutingPlan
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import RoutingStrategy

_ROUTING: Path = ("spec", "routing")
_STRATEGY: Path = (*_ROUTING, "strategy")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z", re.ASCII)
_MIXED = tuple(name for name in RoutingStrategy.names() if name not in ("weighted", "session", "custom"))
_RETRIES = (
    "5xx",
    "connect-failure",
    "gateway-error",
    "refused-stream",
    "reset",
    "reset-before-request",
    "retriable-4xx",
)


def strategy(draft: Draft) -> Iterator[Problem]:
    """Each strategy's inputs are there."""
    wanted = draft.spec.routing.strategy
    if wanted.name == "lora-affinity" and draft.spec.adapters is None:
        yield Problem(
            "AC223", _STRATEGY, "lora-affinity has no adapters to be near to", "add adapters, or use another strategy"
        )
    if wanted.name == "session" and (wanted.parameters.header is None) == (wanted.parameters.cookie is None):
        yield Problem(
            "AC223",
            _STRATEGY,
            "a session is named by a header or by a cookie",
            "write {session: {header: x-session-id}}",
        )
    if wanted.name == "custom" and not _FUNCTION.match(wanted.parameters.function):
        path = (*_STRATEGY, "custom", "function")
        yield Problem(
            "AC107", path, f'"{wanted.parameters.function}" names no Python function', "write package.module:function"
        )
    if wanted.name == "weighted":
        weights = wanted.parameters
        for name in weights.keys() - set(_MIXED):
            near = difflib.get_close_matches(name, _MIXED, 1, 0.5)
            hint = (f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(_MIXED)}"
            yield Problem(
                "AC106",
                (*_STRATEGY, "weighted", name),
                f'"{name}" is no strategy that can be weighed',
                hint,
                at_key=True,
            )
        if not any(weights.values()):
            yield Problem(
                "AC223", _STRATEGY, "no strategy has a weight", "write {weighted: {prefix-cache: 2, least-request: 1}}"
            )


def plan(draft: Draft) -> RoutingPlan:
    """What the picker is told, and the simulator."""
    routing = draft.spec.routing
    given = routing.strategy.parameters
    parameters = dict(given) if isinstance(given, dict) else {k: v for k, v in vars(given).items() if v is not None}
    hold = routing.hold.maxWait / 1000 if routing.hold else 0.0
    return RoutingPlan(routing.strategy.name, parameters, routing.fallback, hold)


def policy(draft: Draft) -> Iterator[Problem]:
    """An environment may forbid that requests pass while no picker answers."""
    routing = draft.spec.routing
    if "fail-open" in draft.site.environment.policy.forbid and draft.spec.access and routing.whenPickerDown == "serve":
        message = f"the policy of {draft.site.environment.name} forbids fail-open, and requests are served while no picker answers"
        hint = "write whenPickerDown: refuse; token budgets lapse without a picker"
        yield Problem("AC406", (*_ROUTING, "whenPickerDown"), message, hint)


def retries(draft: Draft) -> Iterator[Problem]:
    """Conditions are those of Envoy's router, or a status code."""
    for index, one in enumerate(draft.spec.routing.retries.when):
        if one not in _RETRIES and not re.fullmatch(r"[45]\d\d", one):
            hint = f'use a status code like "503", or one of {", ".join(_RETRIES)}'
            yield Problem("AC106", (*_ROUTING, "retries", "when", index), f'"{one}" is no condition of a retry', hint)


def times(draft: Draft) -> Iterator[Problem]:
    """The timeout covers the longest answer that the objective allows, and a hold a cold start."""
    routing, workload = draft.spec.routing, draft.spec.workload
    slowest = max((one.seconds for one in draft.objectives if one.metric == "itl"), default=0.0)
    if workload is not None and slowest and routing.timeout < workload.outputTokens * slowest * 1000:
        needed = round(workload.outputTokens * slowest)
        message = f"an answer of {workload.outputTokens} tokens may take {needed} s by the objective, and the timeout is {routing.timeout / 1000:g} s"
        yield Problem("AC235", (*_ROUTING, "timeout"), message, f"write at least {needed}s", severity=Severity.WARNING)
    if routing.idleTimeout > routing.timeout:
        message = f"a gap of {routing.idleTimeout / 1000:g} s can not be reached within a timeout of {routing.timeout / 1000:g} s"
        yield Problem(
            "AC235", (*_ROUTING, "idleTimeout"), message, "make it at most the timeout", severity=Severity.WARNING
        )
    known = [pool for pool in draft.pools if pool.startup_seconds and sound(draft.invalid, (*pool.path, "replicas"))]
    if routing.hold is not None and known and all(pool.spec.replicas.low == 0 for pool in known):
        start = min(pool.startup_seconds for pool in known)
        if routing.hold.maxWait < start * 1000:
            message = f"the service may have no replica, and one takes up to {start} s to start; requests wait for {routing.hold.maxWait / 1000:g} s"
            hint = f"write at least {start}s, or keep min: 1 for a pool"
            yield Problem("AC235", (*_ROUTING, "hold", "maxWait"), message, hint, severity=Severity.WARNING)
