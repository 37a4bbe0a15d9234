"""The gate: a table of model names, and the Lua that looks a request's model up in it, inside Envoy.

Why Lua: a route or a rule for each of 10,000 adapters is megabytes, and one regular expression of their names is refused as
too large; a table in the filter costs a line for each name and one lookup a request. It also reads the model out of the body:
Envoy's own readers refuse JSON deeper than 16 levels, which schemas of tools are, or take ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aibrix_compile.plan import ServicePlan

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""What is open: requests whose body names a model."""


class Route(NamedTuple):
    """A way to one service. `placed`: of adapters that are not on every replica, which no replica may be guessed for.
    `canary`: a share goes to the other service."""

    name: str
    service: ServicePlan
    placed: bool = False
    canary: bool = False


EVERYBODY = "-"


def routes(services: Iterable[ServicePlan], targets: frozenset[str]) -> list[Route]:
    """Of all services but `targets`, which only stand in for others and answer to their names."""
    found = []
    for service in services:
        if service.name in targets:
            continue
        found.append(Route(service.name, service, canary=service.routing.canary is not None))
        if service.routing.canary is not None and service.adapters:
            found.append(Route(f"{service.name}.adapters", service))
        if service.adapters and any(not one.everywhere for one in service.adapters.items):
            found.append(Route(f"{service.name}.placed", service, placed=True))
    return found


def code(chosen: Iterable[Route], services: Mapping[str, ServicePlan]) -> str:
    """The filter's source, table included."""
    table = "\n".join(_lines(list(chosen), services))
    paths = ", ".join(f'["{path}"] = true' for path in PATHS)
    return f"local PATHS = {{ {paths} }}\nlocal TABLE = [==[\n{table}\n]==]\n{lua()}"


def _lines(chosen: list[Route], services: Mapping[str, ServicePlan]) -> Iterator[str]:
    classes: dict[str, str] = {}
    names: list[str] = []
    for route in chosen:
        service = route.service
        yield f"/{route.name} {_reason(route)}"
        if not route.placed and not route.name.endswith(".adapters"):
            names.append(f"{service.served_name} {route.name} {_class(classes, service.tenants, '')}")
        for item in service.adapters.items if service.adapters else ():
            if _way(service, services, item.name, item.everywhere) == route.name:
                names.append(f"{item.name} {route.name} {_class(classes, service.tenants, item.name)}")
    yield from (f"@{name} {tenants}" for tenants, name in classes.items())
    yield from names


def _way(service: ServicePlan, services: Mapping[str, ServicePlan], adapter: str, everywhere: bool) -> str:
    """The route of an adapter: with the canary only where the canary has it everywhere too."""
    if not everywhere:
        return f"{service.name}.placed"
    canary = service.routing.canary
    if canary is None:
        return service.name
    other = services[canary.service].adapters
    has = other is not None and any(one.name == adapter and one.everywhere for one in other.items)
    return service.name if has else f"{service.name}.adapters"


def _class(classes: dict[str, str], tenants: Mapping[str, tuple[str, ...] | None] | None, adapter: str) -> str:
    if tenants is None:
        return EVERYBODY
    allowed = [name for name, adapters in tenants.items() if not adapter or adapters is None or adapter in adapters]
    return classes.setdefault(f",{','.join(allowed)},", str(len(classes)))


def _reason(route: Route) -> str:
    routing = route.service.routing
    return f"{routing.fallback} fallback: no picker answered" if routing.picker else f"{routing.strategy} Envoy alone"


@cache
def lua() -> str:
    """The filter's code without its table."""
    return Path(__file__).with_name("gate.lua").read_text("utf-8")
