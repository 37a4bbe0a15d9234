"""Who answers a request: a replica, nobody yet, or an error. A function of what is known, the request, the time and a random
number; it changes nothing, so a test, the picker and `explain` can all call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aibrix_compile.policy import routing, shedding
from aibrix_compile.policy.routing import Ask, Choice
from aibrix_controllers.picker import custom
from aibrix_controllers.picker.config import CUSTOM
from aibrix_controllers.picker.prompt import Prompt, blocks
from aibrix_controllers.picker.state import BLOCK_BYTES, Candidates, Fleet, Replica, State

RETRY_SECONDS = 5
"""Retry-After of a 503: about as long as a replica takes to come back into use."""
SHED_SECONDS = 2
"""Retry-After of a shed request: seats become free as answers end, each few hundred milliseconds."""


class Request(NamedTuple):
    """`subset`: the only endpoints that may be named, where Envoy says so; `prompt` with its text."""

    id: str
    cluster: str
    tenant: str
    priority: str
    session: str
    prompt: Prompt
    subset: frozenset[str] | None = None


class Pick(NamedTuple):
    """`endpoints`: the chosen one, and those for retries. `model`: which one answers, where it is another than was asked for.
    `lesser`: in which lesser ways it was decided, each as a metric's label and in words."""

    fleet: Fleet
    replica: Replica
    endpoints: tuple[str, ...]
    ask: Ask
    blocks: Sequence[int]
    among: Candidates
    hits: Sequence[int]
    choice: Choice
    model: str = ""
    lesser: Sequence[tuple[str, str]] = ()
    failed: str = ""
    """What a custom function did wrong."""

    @property
    def degraded(self) -> str:
        return "; ".join([words for _, words in self.lesser]) if self.lesser else ""

    @property
    def reason(self) -> str:
        return f"{self.choice._replace(degraded='').reason} ({self.degraded})" if self.lesser else self.choice.reason


class Refuse(NamedTuple):
    """`code`: a short name for logs, details and metrics."""

    status: int
    code: str
    message: str
    service: str = ""
    retry_seconds: int = 0
    shed: str = ""
    """The class that was turned away."""


class Pass(NamedTuple):
    """Envoy is ahead: it has a cluster that this config has not. Its own balancing decides."""

    why: str


class Wait(NamedTuple):
    """There is nobody yet."""

    fleet: Fleet
    why: Refuse
    """What is said when nobody comes."""


Functions = Mapping[str, custom.Function]


class Case(NamedTuple):
    """All that a decision depends on. `functions`: custom strategies by service; `chance` in [0, 1); `admitted`: the request
    was held before, so it is not shed now."""

    state: State
    functions: Functions
    request: Request
    now: int
    chance: float
    admitted: bool = False


def decide(case: Case) -> Pick | Refuse | Pass | Wait:
    request, config = case.request, case.state.config
    model, cluster = request.prompt.model, request.cluster
    fleets = _fleets(case.state, request)
    if not fleets and cluster and cluster not in config.clusters:
        return Pass(f"the picker does not know cluster {cluster}")
    if not fleets:
        owner = next(
            (case.state.fleets[name] for name in config.clusters.get(cluster, ()) if name in case.state.fleets), None
        )
        return _news(owner, model) if owner else Refuse(404, "model_not_found", f"no model {model} here")
    first = fleets[0]
    service = first.config
    if not service.permits(request.tenant, model):
        return Refuse(403, "not_permitted", f"tenant {request.tenant} may not use {model}", service.name)
    if request.subset is not None and not request.subset:
        return Refuse(503, "no_endpoint", "the gateway named no endpoint", service.name, RETRY_SECONDS)
    for fleet in fleets:
        adapter = "" if model == fleet.config.model else model
        if among := _among(case, fleet, adapter):
            return _shed(case, fleet, among) or _pick(case, fleet, first, adapter, among)
    return _absent(case, first)


def _news(owner: Fleet, model: str) -> Refuse | Wait:
    """Envoy has let the name through, so its file is newer than ours: two volumes never change in the same moment."""
    message = f"{model} is new, and this picker has not read of it yet"
    why = Refuse(503, "model_unknown_yet", message, owner.config.name, RETRY_SECONDS)
    return Wait(owner, why) if owner.config.hold else why


def _fleets(state: State, request: Request) -> list[Fleet]:
    """Of the services that know the model, in the order in which Envoy's cluster prefers them."""
    config, model = state.config, request.prompt.model
    names: Sequence[str] | None = config.clusters.get(request.cluster)
    if names is None:
        names = [one.name for one in config.permitted(request.tenant, model)] or config.models.get(model, ())
    return [fleet for name in names if (fleet := state.fleets.get(name)) and fleet.config.has(model)]


def _among(case: Case, fleet: Fleet, adapter: str) -> Candidates | None:
    found, subset, name = fleet.candidates(adapter), case.request.subset, fleet.config.name
    held = (name, case.request.prompt.model) in case.state.awaited
    if subset is None and not held:
        return found if found.replicas else None
    kept = [
        place
        for place, one in enumerate(found.replicas)
        if (subset is None or one.address in subset or one.address.rpartition(":")[0] in subset)
        and (not held or case.state.known(name, one, case.now))
    ]
    if not kept:
        return None
    return found._replace(
        replicas=[found.replicas[place] for place in kept],
        endpoints=[found.endpoints[place] for place in kept],
        numbers=[found.numbers[place] for place in kept],
    )


def _absent(case: Case, fleet: Fleet) -> Pick | Refuse | Wait:
    """No replica has it: the service's own replicas may, if its base model may answer for an adapter; else wait or refuse."""
    service, model = fleet.config, case.request.prompt.model
    why = Refuse(503, "no_replica", f"no replica of {service.name} is ready", service.name, RETRY_SECONDS)
    if case.request.subset is not None:
        return why._replace(code="no_endpoint", message=f"none of the gateway's endpoints serves {model}")
    if model != service.model:
        if service.when_missing == "base" and (among := _among(case, fleet, "")):
            return _shed(case, fleet, among) or _pick(case, fleet, fleet, "", among)
        if fleet.candidates("").replicas:
            why = why._replace(code="adapter_missing", message=f"adapter {model} is on no replica that is ready")
            if service.when_missing != "hold":
                return why
    return Wait(fleet, why) if service.hold else why


def _shed(case: Case, fleet: Fleet, among: Candidates) -> Refuse | None:
    classes = fleet.config.priority
    if not classes or case.admitted:
        return None
    rank = shedding.rank(classes, case.request.priority)
    seats = [
        (one.endpoint.load, one.endpoint.running, one.limits.max_num_seqs if one.limits else 1, one.full)
        for one in among.replicas
    ]
    if not shedding.sheds(len(classes), rank, shedding.fill(seats)):
        return None
    message = f"{fleet.config.name} is saturated and sheds priority {classes[rank]}"
    return Refuse(429, "shed", message, fleet.config.name, SHED_SECONDS, classes[rank])


def _pick(case: Case, fleet: Fleet, first: Fleet, adapter: str, among: Candidates) -> Pick:
    request, service = case.request, fleet.config
    prompt = request.prompt
    ask = Ask(fleet.tokens(prompt.size), adapter, request.session)
    chain: Sequence[int] = ()
    hits: Sequence[int] = [0] * len(among.endpoints)
    if fleet.prefixes:
        chain = blocks(prompt.text, f"{adapter}\0{prompt.salt}")
        if chain:
            each, most = BLOCK_BYTES / fleet.bytes_per_token, ask.tokens - 1
            hits = [min(most, int(depth * each)) for depth in fleet.index.match(chain, among.numbers)]
    choice, failed = _choice(case, fleet, ask, among, hits)
    model = "" if prompt.model in (adapter, service.model) else service.model
    lesser: list[tuple[str, str]] = []
    if model:
        lesser.append(("base", f"adapter {prompt.model} is missing: {model} answers"))
    if fleet is not first:
        lesser.append(("spill", f"no replica of {first.config.name} is ready"))
    if choice.degraded:
        lesser.append((_KINDS.get(choice.degraded.partition(" of ")[0], "function"), choice.degraded))
    if among.kind:
        lesser.append((among.kind, among.degraded))
    names = _order(among, choice.place, case.chance)
    replica = among.replicas[choice.place]
    return Pick(fleet, replica, names, ask, chain, among, hits, choice, model, lesser, failed)


_KINDS = {"no report": "reports", "no profile": "profile"}


def _choice(case: Case, fleet: Fleet, ask: Ask, among: Candidates, hits: Sequence[int]) -> tuple[Choice, str]:
    """And what a custom function did wrong."""
    service, endpoints = fleet.config, among.endpoints
    if service.strategy != CUSTOM:
        return routing.choose(fleet.rule, ask, endpoints, hits, case.now, case.chance), ""
    scores: list[float] | str = "it was not loaded"
    if function := case.functions.get(service.name):
        request = case.request
        who = (request.prompt.model, ask.adapter, ask.session, request.priority, request.tenant)
        scores = custom.score(function, custom.Request(ask.tokens, *who, hits), endpoints, case.now)
    if isinstance(scores, str):
        choice = routing.choose(fleet.rule, ask, endpoints, hits, case.now, case.chance)
        return choice._replace(degraded=f"{service.function} failed"), scores
    best = min(scores)
    equal = [place for place, one in enumerate(scores) if one == best]
    place = equal[int(case.chance * len(equal))]
    return Choice(place, best, CUSTOM, "", endpoints[place].name, hits[place]), ""


def _order(among: Candidates, place: int, chance: float) -> tuple[str, ...]:
    """The chosen one, then two others for retries, the less loaded first: drawn and not searched, as one in thousands is used."""
    endpoints, count = among.endpoints, len(among.endpoints)
    chosen = endpoints[place]
    if count == 1:
        return (chosen.name,)
    step = 1 + int(chance * (count - 1))
    second = endpoints[(place + step) % count]
    if count == 2:
        return (chosen.name, second.name)
    third = endpoints[(place + (step % (count - 1)) + 1) % count]
    if third.load < second.load:
        second, third = third, second
    return (chosen.name, second.name, third.name)
