"""Why a request went where it went. The last decisions are kept with what was known then; asking recomputes their arithmetic with the
same functions, so nothing is worked out for requests that nobody asks about."""

from __future__ import annotations

import http.client
import socket
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple
from urllib.parse import quote

from aibrix_compile.policy import routing
from aibrix_compile.policy.routing import Ask, Endpoint
from aibrix_controllers.picker.decide import Pick, Refuse, Request
from aibrix_controllers.picker.state import Replica

KEPT = 4096
SHOWN = 16
"""Replicas of one decision: with 8 of them an entry is 3 KB."""
_FIELDS = (
    *("in_flight", "prompt_tokens", "work_ms", "clear_us", "others", "kv_used", "reported_us", "answer_tokens"),
    *("running", "waiting", "behind"),
)
_snapshot = attrgetter(*_FIELDS)


class Entry(NamedTuple):
    """One decision. `wall`: seconds since 1970; `now`: microseconds, as the decision saw it."""

    id: str
    wall: float
    now: int
    model: str
    tenant: str
    priority: str
    held_seconds: float
    service: str
    answer: str
    why: str
    rule: routing.Config | None = None
    ask: Ask | None = None
    places: Sequence[Replica] = ()
    known: Sequence[tuple[Any, ...]] = ()
    adapters: Sequence[tuple[dict[str, int], dict[str, None]]] = ()
    hits: Sequence[int] = ()
    among: int = 0
    strategy: str = ""


class Ring:
    """By request id; the oldest makes room."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._order: deque[Entry] = deque()

    def picked(self, request: Request, pick: Pick, wall: float, now: int, held_seconds: float) -> None:
        """Call it before the replica hears of the request."""
        among, hits, place = pick.among, pick.hits, pick.choice.place
        count = len(hits)
        # of many, the chosen one and those after it: which they are is chance
        shown = range(count) if count <= SHOWN else [(place + step) % count for step in range(SHOWN)]
        endpoints = [among.endpoints[one] for one in shown]
        adapters: Sequence[tuple[dict[str, int], dict[str, None]]] = ()
        if pick.fleet.rule.strategy == "lora-affinity":
            adapters = [(dict(one.adapters), dict(one.recent)) for one in endpoints]
        self._add(
            Entry(
                *(request.id, wall, now, request.prompt.model, request.tenant, request.priority, held_seconds),
                *(pick.fleet.config.name, ", then ".join(pick.endpoints), pick.reason),
                rule=pick.fleet.rule,
                ask=pick.ask,
                places=[among.replicas[one] for one in shown],
                known=list(map(_snapshot, endpoints)),
                adapters=adapters,
                hits=[hits[one] for one in shown],
                among=count,
                strategy=pick.choice.strategy,
            )
        )

    def refused(self, request: Request, refuse: Refuse, wall: float, now: int, held_seconds: float) -> None:
        who = (request.id, wall, now, request.prompt.model, request.tenant, request.priority, held_seconds)
        self._add(Entry(*who, refuse.service, f"{refuse.status} {refuse.code}", refuse.message))

    def _add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._order.append(entry)
        if len(self._order) > KEPT:
            oldest = self._order.popleft()
            if self._entries.get(oldest.id) is oldest:  # an id may come twice
                del self._entries[oldest.id]

    def text(self, request: str, wall: float) -> str | None:
        entry = self._entries.get(request)
        return None if entry is None else _text(entry, wall)


def _text(entry: Entry, wall: float) -> str:
    at = datetime.fromtimestamp(entry.wall, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    rows = [
        ("request", f"{entry.id}   {at} UTC, {max(0.0, wall - entry.wall):.0f} s ago"),
        ("asked for", entry.model + f", tenant {entry.tenant}" * bool(entry.tenant)),
        ("priority", entry.priority or "none"),
        ("service", entry.service or "none"),
        ("answer", entry.answer),
        ("why", entry.why),
    ]
    if entry.held_seconds:
        rows.append(("held", f"{entry.held_seconds:.1f} s"))
    if entry.ask:
        rows.insert(3, ("prompt", f"{entry.ask.tokens} tokens by its bytes"))
    lines = [f"{name:<10} {value}" for name, value in rows]
    if entry.ask and entry.rule:
        lines += ["", *_table(entry, entry.ask, entry.rule)]
    return "\n".join(lines) + "\n"


def _table(entry: Entry, ask: Ask, rule: routing.Config) -> list[str]:
    endpoints = [_endpoint(entry, place) for place in range(len(entry.places))]
    terms = routing.terms(rule, ask, endpoints, entry.hits, entry.now)
    heads = ["replica", *(name.replace("_", " ") for name in terms[0]), "report s old"]
    table = [heads]
    for one, row in zip(endpoints, terms, strict=True):
        age = f"{(entry.now - one.reported_us) / 1e6:.1f}" if one.reported_us >= 0 else "never"
        table.append([one.name, *(f"{value:.6g}" for value in row.values()), age])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first, lines = entry.answer.partition(",")[0], []
    for cells in table:
        mark = ">" if cells[0] == first else " "
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{mark} {cells[0].ljust(widths[0])}", *numbers]))
    if entry.strategy != rule.strategy:
        lines.append(f"the table is {rule.strategy}'s; {entry.strategy} decided")
    if entry.among > len(endpoints):
        lines.append(f"{len(endpoints)} of {entry.among} replicas; what depends on all of them is of these alone")
    return lines


def _endpoint(entry: Entry, place: int) -> Endpoint:
    """As it was."""
    replica = entry.places[place]
    limits = replica.limits
    kept = replica.endpoint.kv_tokens
    found = Endpoint(replica.address, limits.profile if limits else None, kept, limits.slots if limits else 1)
    for name, value in zip(_FIELDS, entry.known[place], strict=True):
        setattr(found, name, value)
    if entry.adapters:
        found.adapters, found.recent = entry.adapters[place]
    return found


def ask(request: str, address: str) -> tuple[int, str]:
    """Asks the pickers at HOST:PORT, each address of the name in turn; an exit status and words."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        return 2, f"{address}: {error}"
    hosts = sorted({str(one[4][0]) for one in found})
    silent = []
    for one in hosts:
        connection = http.client.HTTPConnection(one, int(port), timeout=5)
        try:
            connection.request("GET", f"/explain/{quote(request, safe='')}")
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            silent.append(f"{one} did not answer: {error}")
            continue
        finally:
            connection.close()
        if answer.status == 200:
            return 0, body.rstrip()
    asked = f"{len(hosts)} picker" + "s" * (len(hosts) > 1)
    words = [
        f"no decision about {request} at {asked}: each keeps its last {KEPT}, and none of what Envoy decided alone"
    ]
    return 1, "\n".join(words + silent)
