"""The first line: what happens, to whom, for how much, and whether to read on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal

from aibrix_compile.diff.difference import Difference, Kind, Quote, Restart, ServiceDifference
from aibrix_compile.diff.prices import Size, total
from aibrix_compile.diff.restarts import minutes

_DEFAULT = "default"  # the environment of services without a project, which nobody named


def verdict(found: Difference, quote: Quote, risks: int) -> str:
    """`risks` is how many there are when each is said once."""
    if not found.services:
        return _quiet(found)
    services = weighty(found)
    names = list(dict.fromkeys(one.name for one in services))
    rolling = [one for one in found.services if one.restarts]
    said = [_rolls(names, rolling, quote)] if rolling else ["no restart"] if _kinds(found)[Kind.CHANGED] else []
    said += _deltas(total(one.before for one in found.services), total(one.after for one in found.services))
    place = where((one.environment for one in services), quote)
    return f"{_subject(names, found, quote)}{place}: {', '.join(said)}; {count(risks, 'risk') if risks else 'no risk seen'}"


def weighty(found: Difference) -> Sequence[ServiceDifference]:
    """The services that the change is about; all of them where all are minor."""
    return [one for one in found.services if not one.minor] or found.services


def _quiet(found: Difference) -> str:
    objects = found.objects
    if changed := len(objects.added) + len(objects.removed) + len(objects.changed):
        return f"no service changes; {count(changed, 'other object')} {'do' if changed > 1 else 'does'}"
    if found.project:
        return "no service changes; aibrix.yaml does"
    if noted := len(objects.noted):
        return f"no service changes; the source that {count(noted, 'object')} name{'s' * (noted == 1)} does"
    return "nothing changes"


def _kinds(found: Difference) -> dict[Kind, set[str]]:
    return {kind: {one.name for one in found.services if one.kind is kind} for kind in Kind}


def _subject(names: Sequence[str], found: Difference, quote: Quote) -> str:
    kinds = _kinds(found)
    if len(names) == 1:
        (only, *more) = [kind for kind in Kind if kinds[kind]]
        return f"{quote(names[0])} {'changes' if more or only is Kind.CHANGED else f'is {only.value}'}"
    some = [f"{len(kinds[kind])} {kind.value}" for kind in (Kind.NEW, Kind.GONE) if kinds[kind]]
    if minor := len({one.name for one in found.services} - {*names}):
        some.append(f"{minor:,} more only around their pods")
    return f"{len(names):,} services change" + (f" ({', '.join(some)})" if some else "")


def _rolls(names: Sequence[str], rolling: Sequence[ServiceDifference], quote: Quote) -> str:
    time = longest(restart for one in rolling for restart in one.restarts)
    rolls = list(dict.fromkeys(one.name for one in rolling))
    who = (
        "restarts"
        if len(names) == 1
        else f"{quote(rolls[0])} restarts"
        if len(rolls) == 1
        else f"{len(rolls):,} restart"
    )
    return f"{who} (rolling, {time})"


def where(environments: Iterable[str], quote: Quote) -> str:
    names = list(dict.fromkeys(environments))
    return "" if names == [_DEFAULT] else f" in {listed(names, quote)}"


def listed(names: Sequence[str], quote: Quote, most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(quote, names[:most])) + more


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def longest(restarts: Iterable[Restart]) -> str:
    """Pools restart side by side: the slowest counts."""
    found = list(restarts)
    return minutes(max(one.seconds[0] for one in found), max(one.seconds[1] for one in found))


def _deltas(before: Size, after: Size) -> Iterator[str]:
    """GPUs and money, as far as they are others; the sum of all services and environments."""
    low, high = (new - old for old, new in zip(before.gpus, after.gpus, strict=True))
    old = {price.currency: price for price in before.prices}
    new = {price.currency: price for price in after.prices}
    money = []
    for currency in sorted({*old, *new}):
        one, other = old.get(currency), new.get(currency)
        cheapest = (other.low if other else Decimal()) - (one.low if one else Decimal())
        dearest = (other.high if other else Decimal()) - (one.high if one else Decimal())
        money.append(_delta(whole(cheapest), whole(dearest), f" {currency}/month"))
    unit = " GPU" if {abs(low), abs(high)} <= {0, 1} else " GPUs"
    yield _delta(low, high, unit) or ("same GPUs" if any(money) or not money else "same GPUs and price")
    yield from filter(None, money)
    if unpriced := max(before.unpriced, after.unpriced):
        yield f"no price for {count(unpriced, 'GPU')}"


def _delta(low: int, high: int, unit: str) -> str:
    if low == high:
        return f"{low:+,}{unit}" if low else ""
    parts = [f"{low:+,}{unit} at minimum" if low else "", f"{high:+,}{unit} at maximum" if high else ""]
    return ", ".join(filter(None, parts))


def whole(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))
