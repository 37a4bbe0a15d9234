"""What services take and cost: replicas, GPUs and money between their bounds.

A month has 730 hours. The least is every pool at its fewest replicas, the most what bounds and scaling.budget allow
together; schedules are not counted. A GPU without a price makes a sum a lower bound, never a smaller price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from aibrix_compile.plan import PoolPlan, ServicePlan

HOURS = 730

Expected = Callable[[str], float | None]
"""The replicas that a simulation expects of a pool; None if there was none."""


@dataclass(frozen=True, slots=True)
class Price:
    """For a month, in one currency. `expected` is None where no simulation says how many replicas there will be."""

    currency: str
    low: Decimal
    expected: Decimal | None
    high: Decimal


@dataclass(frozen=True, slots=True)
class Size:
    """Fewest and most. `unpriced` counts those of the GPUs, at most, that have no price."""

    replicas: tuple[int, int] = (0, 0)
    gpus: tuple[int, int] = (0, 0)
    prices: tuple[Price, ...] = ()
    unpriced: int = 0


def bounds(pool: PoolPlan) -> tuple[int, int]:
    """Fewest and most replicas of a pool."""
    return (pool.bounds.low, pool.bounds.high) if pool.bounds else (pool.replicas, pool.replicas)


def gpus(pool: PoolPlan) -> int:
    """Of one replica."""
    return pool.gpus * pool.nodes


def size(service: ServicePlan, expected: Expected) -> Size:
    """Of one service in one environment."""
    limits = [bounds(pool) for pool in service.pools]
    most = _most(service)
    lows = [low for low, _ in limits]
    currencies = sorted({_cost(pool)[1] for pool in service.pools} - {""})
    return Size(
        (sum(lows), sum(high for _, high in limits)),
        (_gpus(service.pools, lows), _gpus(service.pools, most)),
        tuple(_price(service, currency, lows, most, expected) for currency in currencies),
        sum(gpus(pool) * high for pool, high in zip(service.pools, most, strict=True) if not _cost(pool)[1]),
    )


def total(sizes: Iterable[Size]) -> Size:
    found = list(sizes)
    by_currency: dict[str, list[Price]] = {}
    for one in found:
        for price in one.prices:
            by_currency.setdefault(price.currency, []).append(price)
    return Size(
        _pairs(one.replicas for one in found),
        _pairs(one.gpus for one in found),
        tuple(_sum(currency, prices) for currency, prices in sorted(by_currency.items())),
        sum(one.unpriced for one in found),
    )


def _sum(currency: str, prices: list[Price]) -> Price:
    known = [price.expected for price in prices if price.expected is not None]
    expected = sum(known, Decimal()) if len(known) == len(prices) else None
    return Price(
        currency,
        sum((price.low for price in prices), Decimal()),
        expected,
        sum((price.high for price in prices), Decimal()),
    )


def _pairs(found: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(found)
    return sum(low for low, _ in pairs), sum(high for _, high in pairs)


def _gpus(pools: Iterable[PoolPlan], replicas: Iterable[int]) -> int:
    return sum(gpus(pool) * count for pool, count in zip(pools, replicas, strict=True))


def _cost(pool: PoolPlan) -> tuple[Decimal, str]:
    """Of one replica for an hour; no currency where there is no price."""
    amount, _, currency = pool.cost_per_replica_hour.partition(" ")
    return (Decimal(amount), currency) if currency else (Decimal(), "")


def _price(service: ServicePlan, currency: str, lows: list[int], most: list[int], expected: Expected) -> Price:
    low = high = Decimal()
    open_, mean = False, Decimal()
    for pool, fewest, highest in zip(service.pools, lows, most, strict=True):
        amount, unit = _cost(pool)
        if unit != currency:
            continue
        low, high = low + amount * fewest, high + amount * highest
        count = expected(pool.name) if pool.bounds else float(pool.replicas)
        open_ = open_ or count is None
        mean += amount * Decimal(repr(count or 0.0))
    limit, _, unit = service.scaling.max_cost_per_hour.partition(" ") if service.scaling else ("", "", "")
    if unit == currency:
        high = max(low, min(high, Decimal(limit)))
    return Price(currency, low * HOURS, None if open_ else mean * HOURS, high * HOURS)


def _most(service: ServicePlan) -> list[int]:
    """The most replicas of each pool at once; where budget.maxGPUs does not allow all, the dearest GPUs count first."""
    limits = [bounds(pool) for pool in service.pools]
    if service.scaling is None or not service.scaling.max_gpus:
        return [high for _, high in limits]
    counts = [low for low, _ in limits]
    left = service.scaling.max_gpus - _gpus(service.pools, counts)

    def dearest(index: int) -> tuple[Decimal, int]:
        pool = service.pools[index]
        return (-_cost(pool)[0] / max(1, gpus(pool)), index)

    for index in sorted(range(len(counts)), key=dearest):
        each, (low, high) = gpus(service.pools[index]), limits[index]
        counts[index] = min(high, low + max(0, left) // each) if each else high
        left -= each * (counts[index] - low)
    return counts
