"""From a whole request to an answer: decide, charge, count, hold, remember. Why it exists: it is the one place where a decision has
consequences; `decide` has none, and the protocol knows nothing of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aibrix_controllers.picker import custom
from aibrix_controllers.picker.config import CUSTOM, Config
from aibrix_controllers.picker.decide import Case, Functions, Pass, Pick, Refuse, Request, Wait, decide
from aibrix_controllers.picker.explain import Ring
from aibrix_controllers.picker.hold import Held, Room
from aibrix_controllers.picker.metrics import Metrics
from aibrix_controllers.picker.prompt import Prompt
from aibrix_controllers.picker.state import Fleet, Sent, State, Ticket

Log = Callable[..., None]
"""(event, **fields): one line for people."""
_MINUTE = 60_000_000  # microseconds


class Clock:
    """Time and chance, from outside."""

    def __init__(self, now: Callable[[], int], wall: Callable[[], float], chance: Callable[[], float]) -> None:
        """Microseconds that never go back; seconds since 1970; uniform in [0, 1)."""
        self.now, self.wall, self.chance = now, wall, chance


Answer = Callable[["Pick | Refuse | Pass", "Asking"], None]
_ANSWERED = Request("", "", "", "", "", Prompt("", b"", 0, 0, "", ""))


class Asking:
    """One request and what it has taken; `answer` is called once, at once or later, unless `close` comes first."""

    __slots__ = ("_answer", "began", "estimate", "held", "request", "size", "ticket")

    def __init__(self, request: Request, size: int, began: int, answer: Answer) -> None:
        """`size`: bytes that it keeps in memory while it waits."""
        self.request, self.size, self.began, self._answer = request, size, began, answer
        self.estimate = 0
        """Tokens that its tenant was charged."""
        self.ticket: Ticket | None = None
        self.held: Held | None = None

    def answer(self, result: Pick | Refuse | Pass) -> None:
        self._answer(result, self)
        self.request = _ANSWERED  # its prompt would stay as long as the engine's answer takes


class Picker:
    def __init__(self, config: Config, state: State, metrics: Metrics, clock: Clock, log: Log) -> None:
        self.state, self.metrics, self.clock, self.log = state, metrics, clock, log
        self.ring, self.room = Ring(), Room(state)
        self._said: dict[str, int] = {}
        self._functions: Functions = {}
        state.changed = self.room.release
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """From the start, and whenever the file changes."""
        self.config = config
        found: dict[str, custom.Function] = {}
        for service in config.services.values():
            if service.strategy == CUSTOM:
                function, why = custom.load(service.function)
                if function:
                    found[service.name] = function
                else:
                    self.log("function_missing", service=service.name, why=why)
        self._functions = found
        self.tenants = {*config.tenants, *(name for one in config.services.values() for name in one.tenants or ())}
        """That the config names; others are no label of a metric."""
        self.state.configure(config, self.clock.now())

    def ask(self, asking: Asking) -> float | None:
        """Answers it, or lets it wait: the seconds then that it may take."""
        clock, request = self.clock, asking.request
        result = decide(Case(self.state, self._functions, request, asking.began, clock.chance()))
        self._count(request.prompt.model, result)
        if isinstance(result, Refuse):
            self._refuse(asking, result)
            return None
        if isinstance(result, Pass):
            self._pass(asking, result)
            return None
        estimate = self._estimate(result.fleet, request)
        if wait := self.state.budget_wait(request.tenant, estimate, asking.began):
            self.metrics.counts["picker_budget_refused_total"][(request.tenant,)] += 1
            message = f"tenant {request.tenant} has used its tokens of this minute"
            self._refuse(asking, Refuse(429, "budget", message, result.fleet.config.name, wait))
            return None
        asking.estimate = estimate
        self.state.spend(request.tenant, estimate, asking.began)
        if isinstance(result, Pick):
            self._send(asking, result)
            return None
        return self._hold(asking, result)

    def _count(self, model: str, result: Pick | Refuse | Pass | Wait) -> None:
        """Adapters that are asked for, also where nobody has them: that is how they come to be loaded."""
        if isinstance(result, Pass) or (isinstance(result, Refuse) and result.status in (403, 404)):
            return
        for name in self.config.models.get(model, ())[:1]:
            if model != self.config.services[name].model:
                self.state.asked[name, model] += 1

    def close(self, asking: Asking) -> None:
        """The request is over, however. Call it once."""
        if asking.ticket:
            self.state.ended(asking.ticket)
        elif asking.held:
            held, asking.held = asking.held, None
            self.room.leave(held)
            self._refund(asking)
            self.metrics.counts["picker_held_total"][(held.service, "left")] += 1

    def tick(self) -> None:
        """Several times a second."""
        self.room.expire(self.clock.now())

    def _estimate(self, fleet: Fleet, request: Request) -> int:
        prompt, mean = request.prompt, int(fleet.answer_tokens)
        return fleet.tokens(prompt.size) + (min(prompt.most, mean) if prompt.most else mean)

    def _hold(self, asking: Asking, wait: Wait) -> float | None:
        config, now = wait.fleet.config, asking.began
        assert config.hold
        until = now + int(config.hold.wait_seconds * 1e6)
        held = Held(
            *(config.name, asking.request.prompt.model, asking.size, until, wait.why),
            again=lambda now: self._again(asking, now),
            expired=lambda why: self._expired(asking, why),
            since=now,
        )
        if not self.room.enter(held):
            self._refund(asking)
            message = f"{wait.why.message}, and too many requests wait already"
            self.metrics.counts["picker_held_total"][(config.name, "full")] += 1
            self._refuse(asking, wait.why._replace(code="hold_full", message=message))
            return None
        asking.held = held
        return config.hold.wait_seconds

    def _again(self, asking: Asking, now: int) -> bool:
        """A held request once more; whether it has been answered."""
        result = decide(Case(self.state, self._functions, asking.request, now, self.clock.chance(), admitted=True))
        if isinstance(result, Wait) or asking.held is None:
            return False
        if isinstance(result, Refuse) and result.status == 503:
            return False  # it may be better in a moment; its time is bounded
        held, asking.held = asking.held, None
        waited = (now - held.since) / 1e6
        self.metrics.counts["picker_held_total"][(held.service, "released")] += 1
        if isinstance(result, Pick):
            self._send(asking, result, waited)
        elif isinstance(result, Refuse):
            self._refund(asking)
            self._refuse(asking, result, waited)
        else:
            self._refund(asking)
            self._pass(asking, result)
        return True

    def _expired(self, asking: Asking, why: Refuse) -> None:
        assert asking.held
        waited = (asking.held.until - asking.held.since) / 1e6
        self.metrics.counts["picker_held_total"][(asking.held.service, "expired")] += 1
        asking.held = None
        self._refund(asking)
        self._refuse(asking, why._replace(message=f"{why.message}; it waited {waited:.0f} s"), waited)

    def _refund(self, asking: Asking) -> None:
        if asking.estimate:
            self.state.spend(asking.request.tenant, -asking.estimate, self.clock.now())
            asking.estimate = 0

    def _send(self, asking: Asking, pick: Pick, waited: float = 0.0) -> None:
        request, fleet, counts = asking.request, pick.fleet, self.metrics.counts
        now = self.clock.now() if waited else asking.began
        name, hit = fleet.config.name, pick.hits[pick.choice.place]
        self.ring.picked(request, pick, self.clock.wall(), now, waited)
        event = Sent(name, pick.replica.address, pick.ask.tokens, pick.ask.adapter, pick.blocks)
        asking.ticket = self.state.sent(fleet, pick.replica, pick.ask.tokens, hit, event, now)
        counts["picker_requests_total"][(name, "picked")] += 1
        counts["picker_picks_total"][(name, pick.choice.strategy)] += 1
        counts["picker_prompt_tokens_total"][(name,)] += pick.ask.tokens
        if hit:
            counts["picker_prefix_hit_tokens_total"][(name,)] += hit
        for kind, _ in pick.lesser:
            counts["picker_degraded_total"][(name, kind)] += 1
        if pick.failed:
            self._say("function_failed", now, service=name, why=pick.failed)
        asking.answer(pick)

    def _refuse(self, asking: Asking, refuse: Refuse, waited: float = 0.0) -> None:
        self.ring.refused(asking.request, refuse, self.clock.wall(), asking.began, waited)
        self.metrics.counts["picker_requests_total"][(refuse.service, str(refuse.status))] += 1
        if refuse.shed:
            self.metrics.counts["picker_shed_total"][(refuse.service, refuse.shed)] += 1
        asking.answer(refuse)

    def _pass(self, asking: Asking, result: Pass) -> None:
        self.metrics.counts["picker_degraded_total"][("", "config")] += 1
        self._say("cluster_unknown", asking.began, why=result.why)
        asking.answer(result)

    def _say(self, event: str, now: int, **fields: Any) -> None:
        """At most once a minute."""
        if now - self._said.get(event, -_MINUTE) >= _MINUTE:
            self._said[event] = now
            self.log(event, **fields)
