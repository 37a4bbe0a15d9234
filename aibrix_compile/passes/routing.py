"""Routing: strategies that have what they need, times that fit each other, and whether a picker is needed at all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes.draft import Draft
from aibrix_compile.passes.monitoring import ROLES
from aibrix_compile.plan import CanaryPlan, HoldPlan, RoutingPlan
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import Custom, Hold, RoutingStrategy

_ROUTING: Path = ("spec", "routing")
_STRATEGY: Path = (*_ROUTING, "strategy")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z", re.ASCII)  # proxies drop headers with underscores
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
    if wanted.name == "session":
        for kind in ("header", "cookie"):
            if (name := getattr(wanted.parameters, kind)) is not None and not _TOKEN.match(name):
                message = f'"{name}" is no name of a {kind}'
                yield Problem("AC107", (*_STRATEGY, "session", kind), message, "use letters, digits and -")
    if wanted.name == "custom":
        yield from _custom(wanted.parameters)
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


def _custom(wanted: Custom) -> Iterator[Problem]:
    """The function's name is one, and its module, where the project has it, is Python with such a function."""
    import ast  # of this alone; a build without a custom strategy need not load it

    path: Path = (*_STRATEGY, "custom")
    module, _, function = wanted.function.partition(":")
    if not _FUNCTION.match(wanted.function):
        message = f'"{wanted.function}" names no Python function'
        yield Problem("AC107", (*path, "function"), message, "write package.module:function")
    elif wanted.source is not None and "." in module:
        message = f"source is the file of a module, and {module} is one inside of a package"
        yield Problem("AC107", (*path, "function"), message, f"write {module.rpartition('.')[2]}:{function}")
    elif wanted.source is not None:
        try:
            tree = ast.parse(wanted.source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
            yield Problem("AC125", (*path, "source"), f"the file is no Python{line}", "the picker could not load it")
            return
        names = [one.name for one in tree.body if isinstance(one, ast.FunctionDef)]
        if function not in names:
            hint = f"its functions are {', '.join(names) or 'none'}"
            yield Problem("AC125", (*path, "source"), f"the file has no function {function}", hint)


def plan(draft: Draft) -> RoutingPlan:
    """What Envoy and the picker are told, and the simulator."""
    routing = draft.spec.routing
    given = routing.strategy.parameters
    parameters = dict(given) if isinstance(given, dict) else {k: v for k, v in vars(given).items() if v is not None}
    source = str(parameters.pop("source", ""))
    picker = picker_reason(draft)
    if draft.site.environment.gateway is not None:
        decided = f"by a picker: {picker}" if picker else "by Envoy alone"
        draft.decide(_STRATEGY, f"{routing.strategy.name}, {decided}")
    hold, canary = _hold(draft), routing.canary
    return RoutingPlan(
        strategy=routing.strategy.name,
        parameters=parameters,
        source=source,
        fallback=routing.fallback,
        timeout_seconds=routing.timeout / 1000,
        idle_seconds=routing.idleTimeout / 1000,
        attempts=routing.retries.attempts,
        retry_on=tuple(routing.retries.when),
        hold=HoldPlan(hold.maxWait / 1000, hold.maxRequests, hold.maxBytes) if hold else None,
        when_picker_down=routing.whenPickerDown,
        canary=CanaryPlan(canary.service, canary.weight) if canary else None,
        spill_to=routing.spillTo or "",
        priority=tuple(routing.priority),
        picker=picker,
    )


def _hold(draft: Draft) -> Hold | None:
    """An adapter that requests wait for is a wait like any other: it has the bounds of `hold`."""
    hold, adapters = draft.spec.routing.hold, draft.spec.adapters
    if hold is None and adapters is not None and adapters.whenMissing == "hold":
        hold = Hold.model_construct()
        value = f"{hold.maxWait / 1000:g} s, {hold.maxRequests} requests, {hold.maxBytes} bytes"
        draft.decide((*_ROUTING, "hold"), value, "adapters.whenMissing is hold, and its bounds are not written")
    return hold


SIGNALS = {
    **{role: ROLES[role] for role in ("running", "waiting", "kv_usage")},
    "cache_config": "vllm:cache_config_info",
}
ENVOY_ALONE = ("least-request", "random", "session")
"""Strategies for which Envoy's own load balancing knows enough."""


def picker_reason(draft: Draft) -> str:
    """Why requests of the service pass a picker; empty: they do not."""
    routing, adapters, gateway = draft.spec.routing, draft.spec.adapters, draft.site.environment.gateway
    budgets = [tenant.name for tenant in gateway.tenants if tenant.tokensPerMinute] if gateway else []
    reasons = (
        (routing.strategy.name not in ENVOY_ALONE, f"strategy {routing.strategy.name}"),
        (routing.hold is not None, "requests are held"),
        (bool(routing.priority), "priority classes"),
        (bool(adapters and adapters.items), "adapters are not on every replica at all times"),
        (bool(budgets), f"a token budget of {', '.join(budgets)}"),
    )
    return ", ".join(reason for wanted, reason in reasons if wanted)


def policy(draft: Draft) -> Iterator[Problem]:
    """An environment may forbid that requests pass while no picker answers."""
    routing = draft.spec.routing
    forbidden = "fail-open" in draft.site.environment.policy.forbid
    if forbidden and draft.spec.access and routing.whenPickerDown == "serve" and picker_reason(draft):
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
