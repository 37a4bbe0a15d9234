"""picker.json as frozen values. Why it exists: the compiler writes that file and the picker trusts none of it - a bad file is
one clear line, and the old one stays in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import orjson

from aibrix_compile.policy.profile import Profile
from aibrix_compile.policy.routing import STRATEGIES

CUSTOM = "custom"
"""The strategy of a function that the user wrote."""
MISSING = ("hold", "reject", "base")
_METRICS = ("running", "waiting", "kv_usage", "cache_config")
T = TypeVar("T")


class Mistake(ValueError):
    """What is wrong with a file, in one line, with the place: `services.chat.hold.requests: a whole number, not "many"`."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas that are alike."""

    profile: Profile | None
    max_num_seqs: int
    """Sequences that the engine has in one batch; what comes beyond waits in it."""
    slots: int
    """Adapters in one batch."""
    block_tokens: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Bounds of what waits for a replica, of one service in one picker."""

    wait_seconds: float
    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    namespace: str
    host: str
    """DNS name of its headless Service."""
    port: int
    model: str
    """The base model's served name."""
    pools: Mapping[str, Pool]
    metrics: Mapping[str, str] = field(default_factory=dict)
    """running, waiting, kv_usage, cache_config -> the engine's names of them."""
    strategy: str = "cost"
    weights: Mapping[str, float] = field(default_factory=dict)
    function: str = ""
    """`package.module:name` where `strategy` is custom."""
    session_header: str = ""
    session_cookie: str = ""
    fallback: str = "least-request"
    hold: Hold | None = None
    priority: tuple[str, ...] = ()
    """Classes of x-priority, the highest first."""
    runtime: int = 0
    """Port of the sidecar beside each engine; 0 without one."""
    when_missing: str = "reject"
    everywhere: frozenset[str] = frozenset()
    """Adapters that each replica has from its start."""
    placed: frozenset[str] = frozenset()
    """Adapters that some replicas have."""
    tenants: Mapping[str, frozenset[str] | None] | None = None
    """Who may use it, and which adapters; None in place of names: all; None in place of the table: everybody."""

    @property
    def adapters(self) -> bool:
        return bool(self.everywhere or self.placed)

    def has(self, model: str) -> bool:
        """Whether it serves a name at all, on whatever replica."""
        return model == self.model or model in self.everywhere or model in self.placed

    def permits(self, tenant: str, model: str) -> bool:
        if self.tenants is None:
            return True
        if tenant not in self.tenants:
            return False
        names = self.tenants[tenant]
        return names is None or model == self.model or model in names


@dataclass(frozen=True, slots=True)
class Config:
    version: str
    services: Mapping[str, Service]
    clusters: Mapping[str, tuple[str, ...]]
    """Envoy's cluster -> services, the preferred first."""
    tenants: frozenset[str] = frozenset()
    budgets: Mapping[str, int] = field(default_factory=dict)
    """Tenant -> tokens per minute, of those that have a limit."""
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Served name, of a model or an adapter -> the services that have it; several where one stands in for another."""

    def permitted(self, tenant: str, model: str) -> list[Service]:
        """Those of them that the tenant may use."""
        found = [self.services[name] for name in self.models.get(model, ())]
        return [service for service in found if service.permits(tenant, model)]


def load(path: Path) -> Config:
    """Mistake: unreadable, not JSON, or not what `parse` takes."""
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise Mistake(f"{path}: not JSON: {error}") from None
    try:
        return parse(data)
    except Mistake as error:
        raise Mistake(f"{path}: {error}") from None


def parse(data: object) -> Config:
    """Mistake: the first thing that is wrong, with its place."""
    top = _Table(data, "")
    services = {name: _service(name, table) for name, table in top.tables("services")}
    clusters: dict[str, tuple[str, ...]] = {}
    given: dict[str, Any] = top.take("clusters", dict, {})
    for cluster, names in given.items():
        clusters[cluster] = _names(names, f"clusters.{cluster}")
        for name in clusters[cluster]:
            if name not in services:
                raise Mistake(f"clusters.{cluster}: no service {name}")
    tenants = {
        name: table.number("tokens_per_minute", 0, low=0) for name, table in top.tables("tenants", optional=True)
    }
    found = Config(
        version=top.take("version", str),
        services=services,
        clusters=clusters,
        tenants=frozenset(tenants),
        budgets={name: int(tokens) for name, tokens in tenants.items() if tokens},
        models=by_name(services.values()),
    )
    top.close()
    return found


def by_name(services: Collection[Service]) -> dict[str, tuple[str, ...]]:
    """`Config.models`: base models first, then adapters."""
    found: dict[str, tuple[str, ...]] = {}
    named = [(service.model, service.name) for service in services]
    for service in services:
        named += [(name, service.name) for name in sorted(service.everywhere | service.placed)]
    for model, name in named:
        found[model] = (*found.get(model, ()), name)
    return found


def _service(name: str, table: _Table) -> Service:
    session = table.table("session", optional=True)
    adapters = table.table("adapters", optional=True)
    held = table.table("hold", optional=True)
    metrics = table.table("metrics", optional=True)
    runtime = table.table("runtime", optional=True)
    strategy = table.choice("strategy", (*STRATEGIES, CUSTOM), "cost")
    weights = _weights(table)
    if strategy == "weighted" and not weights:
        raise Mistake(f"{table.at}weights: none")
    function = table.take("function", str, "")
    if strategy == CUSTOM and function.count(":") != 1:
        raise Mistake(f'{table.at}function: "package.module:name", not "{function}"')
    found = Service(
        name=name,
        namespace=table.take("namespace", str, ""),
        host=table.take("host", str, ""),
        port=int(table.number("port", low=1, high=65535)),
        model=table.take("model", str),
        pools={pool: _pool(inner) for pool, inner in table.tables("pools")},
        metrics={key: metrics.take(key, str, "") for key in _METRICS} if metrics else {},
        strategy=strategy,
        weights=weights,
        function=function,
        session_header=session.take("header", str, "").lower() if session else "",
        session_cookie=session.take("cookie", str, "") if session else "",
        fallback=table.choice("fallback", ("least-request", "random"), "least-request"),
        hold=Hold(held.number("wait_seconds"), int(held.number("requests")), int(held.number("bytes")))
        if held
        else None,
        priority=_names(table.take("priority", list, []), f"{table.at}priority"),
        runtime=int(runtime.number("port", low=1, high=65535)) if runtime else 0,
        when_missing=table.choice("when_missing", MISSING, "reject"),
        everywhere=frozenset(adapters.names("everywhere")) if adapters else frozenset(),
        placed=frozenset(adapters.names("placed")) if adapters else frozenset(),
        tenants=_tenants(table),
    )
    for each in (session, adapters, held, metrics, runtime, table):
        if each:
            each.close()
    return found


def _weights(table: _Table) -> dict[str, float]:
    inner = table.table("weights", optional=True)
    if inner is None:
        return {}
    for name in inner.data:
        if name not in STRATEGIES or name == "weighted":
            raise Mistake(f"{inner.at}{name}: no such strategy")
    return {name: float(inner.number(name)) for name in inner.data}


def _pool(table: _Table) -> Pool:
    profile = table.table("profile", optional=True)
    found = Pool(
        profile=_profile(profile) if profile else None,
        max_num_seqs=int(table.number("max_num_seqs", low=1)),
        slots=int(table.number("slots", 1, low=1)),
        block_tokens=int(table.number("block_tokens", 16, low=1)),
    )
    table.close()
    return found


def _profile(table: _Table) -> Profile:
    names = {one.name for one in fields(Profile)}
    if unknown := sorted(table.data.keys() - names):
        raise Mistake(f"{table.at}{unknown[0]}: unknown")
    for name, value in table.data.items():
        if name not in ("name", "source", "error") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Mistake(f"{table.at}{name}: a number, not {_shown(value)}")
    try:
        return Profile(**table.data)
    except TypeError as error:
        raise Mistake(f"{table.at[:-1]}: {str(error).partition(') ')[2] or error}") from None


def _tenants(table: _Table) -> Mapping[str, frozenset[str] | None] | None:
    inner = table.table("tenants", optional=True)
    if inner is None:
        return None
    return {
        tenant: None if names is None else frozenset(_names(names, f"{table.at}tenants.{tenant}"))
        for tenant, names in inner.data.items()
    }


def _names(value: object, at: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Mistake(f"{at}: a list of names, not {_shown(value)}")
    return tuple(value)


def _shown(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else text[:40] + "..."


_MISSING: Any = object()
_WORDS: Mapping[type, str] = {str: "text", bool: "true or false", dict: "a table", list: "a list"}


class _Table:
    """A JSON object whose keys are taken one by one; what is left at the end is unknown."""

    def __init__(self, data: object, at: str) -> None:
        if not isinstance(data, dict):
            raise Mistake(f"{at[:-1] or 'the file'}: a table, not {_shown(data)}")
        self.data, self.at = data, at
        self._left = set(data)

    def take(self, key: str, kind: type[T], default: Any = _MISSING) -> T:
        self._left.discard(key)
        value = self.data.get(key, _MISSING)
        if value is _MISSING or (value is None and default is not _MISSING):
            if default is _MISSING:
                raise Mistake(f"{self.at}{key}: missing")
            return cast(T, default)
        if type(value) is not kind:
            raise Mistake(f"{self.at}{key}: {_WORDS[kind]}, not {_shown(value)}")
        return value

    def number(self, key: str, default: float = _MISSING, low: float = 0, high: float = 2**53) -> float:
        self._left.discard(key)
        value = self.data.get(key, default)
        if value is _MISSING:
            raise Mistake(f"{self.at}{key}: missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Mistake(f"{self.at}{key}: a number from {low:g} to {high:g}, not {_shown(value)}")
        return value

    def choice(self, key: str, among: tuple[str, ...], default: str) -> str:
        value = self.take(key, str, default)
        if value not in among:
            raise Mistake(f"{self.at}{key}: one of {', '.join(among)}, not {_shown(value)}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        return _names(self.take(key, list, []), f"{self.at}{key}")

    def table(self, key: str, optional: bool = False) -> _Table | None:
        self._left.discard(key)
        if optional and self.data.get(key) is None:
            return None
        return _Table(self.data.get(key), f"{self.at}{key}.")

    def tables(self, key: str, optional: bool = False) -> list[tuple[str, _Table]]:
        inner = self.table(key, optional)
        return [(name, _Table(value, f"{inner.at}{name}.")) for name, value in inner.data.items()] if inner else []

    def close(self) -> None:
        if self._left:
            raise Mistake(f"{self.at}{min(self._left)}: unknown")
