"""A service of numbers: what its replicas and pickers would show, second by second, and a scaler that answers."""

from collections.abc import Callable
from dataclasses import replace

from aibrix_compile.policy.apa import Apa
from aibrix_compile.policy.autoscaling import Config, Decision, Strategy, decide
from aibrix_compile.policy.hpa import Hpa
from aibrix_compile.policy.kpa import Kpa
from aibrix_compile.policy.observation import Load, Memory, Observation, PoolState, Reading, Tokens, Traffic
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.profile import TABLE
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.signals import Signals
from aibrix_compile.policy.slo import Objectives, Slo
from aibrix_compile.policy.windows import SECOND

H100, A100 = TABLE["h100/8b"], TABLE["a100/8b"]
FLIGHT = PerReplica(10)
HPA, KPA = Hpa("requests_in_flight", FLIGHT), Kpa("requests_in_flight", FLIGHT)
APA, SLO = Apa("requests_in_flight", FLIGHT), Slo()
GOALS = Objectives(ttft_ms=2000, itl_ms=80)
DAY = 24 * 3600 * SECOND
NOW = 20_000 * DAY  # midnight, a Friday
OLD = Memory(since=0, last=NOW - SECOND)
TRAFFIC = Traffic(rate=10.0, slope=0.0, burst=10.0, long_rate=10.0, long_count=9000, idle=0, trend=10.0)
TOKENS = Tokens(1200, 0, 250)


def pool(low: int = 0, high: int = 20, **changes: object) -> Pool:
    return replace(Pool("a", low, high, gpus=2, cost_per_hour=3.0, cold_start_seconds=120, profile=H100), **changes)  # type: ignore[arg-type]


def config(strategy: Strategy = KPA, *pools: Pool, **changes: object) -> Config:
    return replace(Config(pools or (pool(),), strategy, objectives=GOALS), **changes)  # type: ignore[arg-type]


def load(total: float, silent: float = 0.0, burst: float | None = None) -> Load:
    one = Reading(Total(total), silent)
    return Load(one, one, one if burst is None else Reading(Total(burst), silent), one)


def seen(total: float, *sizes: int, **changes: object) -> Observation:
    found = Observation(tuple(PoolState(n, n) for n in sizes), load(total), TRAFFIC, Total(total), tokens=TOKENS)
    return replace(found, **changes)  # type: ignore[arg-type]


class Plant:
    """A service whose load spreads evenly over what serves; a replica takes the cold start to serve."""

    def __init__(self, setup: Config, size: int, cold: int = 120) -> None:
        self.setup, self.cold, self.now, self.memory = setup, cold, NOW, Memory()
        self.born = [NOW - DAY] * size
        self.signals = Signals(NOW)
        self.sizes: list[int] = []

    def tick(self, total: float, rate: int = 0, silent: bool = False) -> Decision:
        """A second with so many requests in flight and so many arrivals."""
        self.now += SECOND
        ready = sum(self.now - one >= self.cold * SECOND for one in self.born)
        ages = tuple(self.now - one for one in self.born if self.now - one < self.cold * SECOND)
        one = Reading(Total(0.0), ready) if silent else Reading(Total(total))
        self.signals.gauges(self.now, one)
        self.signals.arrived(self.now, rate, 1200 * rate)
        self.signals.answered(self.now, rate, 250 * rate)
        state = PoolState(len(self.born), ready, ages)
        look = self.signals.observe(self.now, (state,), Total(total))
        found = decide(self.setup, look, self.now, self.memory)
        self.memory = found.memory
        self.born = self.born[: found.value] + [self.now] * (found.value - len(self.born))
        self.sizes.append(found.value)
        return found

    def run(
        self, seconds: int, load: Callable[[int], float], rate: Callable[[int], int] = lambda second: 0
    ) -> list[int]:
        for second in range(seconds):
            self.tick(load(second), rate(second))
        return self.sizes
