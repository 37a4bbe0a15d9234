"""A Difference in words, the same for a terminal and for a pull request: table, risks, and a section for each service.

What several environments have in common is said once. Every text that comes from a spec goes through the output's `quote`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aibrix_compile.diff.difference import Change, Difference, Kind, Line, Quote, Restart, ServiceDifference
from aibrix_compile.diff.prices import Size
from aibrix_compile.diff.restarts import minutes
from aibrix_compile.diff.risks import KINDS
from aibrix_compile.diff.verdict import count, listed, longest, weighty, where, whole

HEADER = ("service", "in", "replicas", "GPUs", "a month: min / expected / max", "pods")
_NAMED = 20  # adapters, or fields of a pod, that are named one by one


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    lines: tuple[str, ...]


# --- the table


def rows(found: Difference, quote: Quote) -> list[tuple[str, ...]]:
    """A row for each service and outcome, environments of the same outcome together; cells as HEADER names them."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in weighty(found):
        grouped.setdefault((one.name, tuple(_cells(one))), []).append(one.environment)
    return [(quote(name), listed(environments, quote), *cells) for (name, cells), environments in grouped.items()]


def _cells(one: ServiceDifference) -> Iterator[str]:
    yield _moved(_range(one.before.replicas), _range(one.after.replicas))
    yield _moved(_range(one.before.gpus), _range(one.after.gpus))
    yield _moved(_price(one.before), _price(one.after))
    yield _pods(one)


def _time(seconds: int) -> str:
    return minutes(seconds, seconds)


def _moved(before: str, after: str) -> str:
    return after if before == after else f"{before} -> {after}"


def _range(pair: tuple[int, int]) -> str:
    low, high = pair
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _price(size: Size) -> str:
    texts = []
    for price in size.prices:
        expected = "-" if price.expected is None else f"{whole(price.expected):,}"
        amounts = (f"{whole(price.low):,}", expected, f"{whole(price.high):,}")
        texts.append(f"{amounts[0] if price.low == price.high else ' / '.join(amounts)} {price.currency}")
    texts += ["unknown"] if size.unpriced else []
    return " + ".join(texts) or "0"


def _pods(one: ServiceDifference) -> str:
    starts = [pool.seconds for pool in one.pools if pool.kind is not Kind.GONE]
    if one.kind is Kind.GONE:
        return "removed"
    if one.kind is Kind.NEW:
        return f"new, {_time(max(starts, default=0))} to start"
    parts = [f"restart, rolling, {longest(one.restarts)}"] if one.restarts else []
    parts += [f"new pool, {_time(max(starts))} to start"] if starts else []
    return "; ".join(parts) or "no restart"


# --- risks and sections


def risks(found: Difference, quote: Quote) -> list[str]:
    """Each once, with its service and environments; the worst first."""
    said: dict[tuple[int, str, str], list[str]] = {}
    everything = [(one.environment, "", one.risk) for one in found.risks]
    everything += [(one.environment, one.name, risk) for one in found.services for risk in one.risks]
    for environment, name, risk in everything:
        said.setdefault((KINDS.index(risk.kind), name, risk.line.show(quote)), []).append(environment)
    return [
        f"{quote(name)}{where(environments, quote)}: {text}" if name else f"{listed(environments, quote)}: {text}"
        for (_, name, text), environments in sorted(said.items(), key=lambda one: one[0][0])
    ]


def sections(found: Difference, quote: Quote, title: Quote, files: int) -> Iterator[Section]:
    """The services in order, then aibrix.yaml, then the files, `files` of a kind by name. `title` quotes in titles."""
    by_name: dict[str, list[ServiceDifference]] = {}
    services = weighty(found)
    for one in services:
        by_name.setdefault(one.name, []).append(one)
    for name, some in by_name.items():
        place = where([one.environment for one in some], title)
        yield Section(f"{title(name)}{place}: {_summary(some)}", tuple(_common(some, quote)))
    if minor := [one for one in found.services if one.minor and one not in services]:
        yield Section(
            f"{count(len({one.name for one in minor}), 'service')} without restart", tuple(_minor(minor, quote))
        )
    if found.project:
        yield Section("aibrix.yaml", tuple(_change(one).show(quote) for one in found.project[:_NAMED]))
    objects = found.objects
    kinds = {
        "added": objects.added,
        "removed": objects.removed,
        "changed": objects.changed,
        "another source": objects.noted,
    }
    if objects:
        heading = ", ".join(f"{len(paths):,} {what}" for what, paths in kinds.items() if paths)
        lines = (f"{what}: {listed(paths, quote, files)}" for what, paths in kinds.items() if paths)
        yield Section(f"files: {heading}", tuple(lines))


def _summary(some: Sequence[ServiceDifference]) -> str:
    rolling = [
        (max(r.seconds[0] for r in one.restarts), max(r.seconds[1] for r in one.restarts))
        for one in some
        if one.restarts
    ]
    pods = "; ".join(dict.fromkeys(map(_pods, some)))
    if rolling:
        pods = f"restart, rolling, {minutes(min(low for low, _ in rolling), max(high for _, high in rolling))}"
    risks_here = len({risk.line for one in some for risk in one.risks})
    return pods + (f"; {count(risks_here, 'risk')}" if risks_here else "")


def _common(some: Sequence[ServiceDifference], quote: Quote) -> Iterator[str]:
    """The lines of one service; one that is not true everywhere says where it is."""
    for topic in (_pod_lines, _other_lines, _adapter_lines, lambda one: one.notes):
        yield from _once(some, topic, quote)
    orders: dict[tuple[Line, ...], list[str]] = {}
    for one in some:
        orders.setdefault(one.order, []).append(one.environment)
    for order, environments in orders.items():
        only = f" - only{where(environments, quote)}" if len(orders) > 1 else ""
        yield from (f"{line.show(quote)}{only}" for line in order)


def _minor(some: Sequence[ServiceDifference], quote: Quote) -> Iterator[str]:
    """Each line with the services that it is true of."""
    said: dict[str, dict[str, list[str]]] = {}
    for one in some:
        for line in one.notes or one.order:
            said.setdefault(line.show(quote), {}).setdefault(one.name, []).append(one.environment)
    for text, services in said.items():
        places = [where(environments, quote) for environments in services.values()]
        names = [f"{quote(name)}{place}" for name, place in zip(services, places, strict=True)]
        together = f"{', '.join(map(quote, services))}{places[0]}" if len({*places}) == 1 else ", ".join(names)
        yield f"{together}: {text}"


def _once(
    some: Sequence[ServiceDifference], topic: Callable[[ServiceDifference], Iterable[Line]], quote: Quote
) -> Iterator[str]:
    said: dict[str, list[str]] = {}
    for one in some:
        for line in topic(one):
            said.setdefault(line.show(quote), []).append(one.environment)
    for text, environments in said.items():
        yield text if len(environments) == len(some) else f"{text} - only{where(environments, quote)}"


def _pod_lines(one: ServiceDifference) -> Iterator[Line]:
    caused = {pool for change in one.changes for pool in change.restarts}
    for change in one.changes:
        if change.restarts:
            line, pools = _change(change), ", ".join("{}" for _ in change.restarts)
            yield Line(f"{line.text} restarts {pools}", (*line.names, *change.restarts))
    for restart in one.restarts:
        for field in restart.fields[:_NAMED]:
            verb = "also gets" if restart.pool in caused else "restarts for"
            text, names = f"pool {{}} {verb} {{}} {{}} -> {{}}", (restart.pool, field.path, field.before, field.after)
            yield Line(f"{text}: {{}}", (*names, field.because)) if field.because else Line(text, names)
        yield _rolls(restart)
    for pool in one.pools if one.kind is not Kind.GONE else ():
        if pool.kind is Kind.GONE:
            yield Line("pool {} is removed with {}", (pool.pool, pool.workload))
        elif pool.kind is Kind.NEW:
            yield Line(f"pool {{}} is new: {{}}, {_time(pool.seconds)} to start a replica", (pool.pool, pool.workload))
        else:
            yield Line("pool {} gets another workload, {}; the old one is deleted first", (pool.pool, pool.workload))


def _rolls(one: Restart) -> Line:
    if one.seconds == (0, 0):
        return Line("pool {} has no replica to restart", (one.pool,))
    unit, pods = ("group", f" of {one.nodes} pods") if one.nodes > 1 else ("replica", "")
    step = f"{count(one.surge or one.unavailable, unit)}{pods} at a time, {'new before old' if one.surge else 'old before new'}"
    if one.surge and one.unavailable:
        step = f"with up to {count(one.surge, unit)}{pods} more and {one.unavailable} fewer"
    return Line(f"pool {{}} rolls {step}: {minutes(*one.seconds)}", (one.pool,))


def _other_lines(one: ServiceDifference) -> Iterator[Line]:
    for change in one.changes:
        if not change.restarts:
            line = _change(change)
            yield Line(f"{line.text}, no restart", line.names)


def _change(change: Change) -> Line:
    return Line("{} {} -> {} ({})", (change.path, change.before, change.after, change.place))


def _adapter_lines(one: ServiceDifference) -> Iterator[Line]:
    for what, names in (("added", one.adapters.added), ("removed", one.adapters.removed)):
        if names:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            places = ", ".join("{}" for _ in names[:_NAMED])
            yield Line(f"{count(len(names), 'adapter')} {what}: {places}{more}", names[:_NAMED])
    for changed in one.adapters.changed[:_NAMED]:
        yield Line("adapter {}: {}", (changed.name, changed.what))
    if len(one.adapters.changed) > _NAMED:
        yield Line(f"{len(one.adapters.changed) - _NAMED:,} more adapters change")
