"""runtime.json as frozen values. Why it exists: the compiler writes that file and the sidecar trusts none of it - a bad file is
one clear line, and the old one stays in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from aibrix_compile.policy.lora import Base

RIGHTS = ("read", "load")
T = TypeVar("T")


class Mistake(ValueError):
    """What is wrong with a file, in one line, with the place: `adapters.max_rank: a whole number, not "many"`."""


@dataclass(frozen=True, slots=True)
class Engine:
    """`model` is the base model's served name."""

    kind: str
    url: str
    model: str


@dataclass(frozen=True, slots=True)
class Adapters:
    """`disk_bytes` bounds what lies in `folder`, `max_bytes` one adapter. `allow`: prefixes of uris, each ends with a slash."""

    max_loaded: int
    max_cached: int
    max_rank: int
    folder: Path
    disk_bytes: int
    max_bytes: int
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class S3:
    endpoint: str
    region: str


@dataclass(frozen=True, slots=True)
class Config:
    engine: Engine
    base: Base
    adapters: Adapters | None
    metrics: Mapping[str, str]
    """Role -> the engine's series."""
    s3: S3 | None
    claims: Mapping[str, Path]
    """Where PersistentVolumeClaims are mounted."""
    models: Path
    models_allow: tuple[str, ...]
    audience: str
    subjects: Mapping[str, frozenset[str]]
    """Who may call -> their rights."""


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
    top = _Table(data, "")
    engine, base, storage = top.table("engine"), top.table("base"), top.table("storage")
    models, access, claims = top.table("models"), top.table("access"), top.table("claims")
    adapters, s3 = top.maybe("adapters"), storage.maybe("s3")
    found = Config(
        engine=Engine(
            engine.choice("kind", ("vllm", "mock")), engine.take("url", str).rstrip("/"), engine.take("model", str)
        ),
        base=_base(base),
        adapters=_adapters(adapters) if adapters else None,
        metrics=top.table("metrics").texts(),
        s3=S3(s3.take("endpoint", str), s3.take("region", str)) if s3 else None,
        claims={name: Path(where) for name, where in claims.texts().items()},
        models=Path(models.take("folder", str)),
        models_allow=models.names("allow"),
        audience=access.take("audience", str),
        subjects=_subjects(access.table("subjects")),
    )
    for one in (engine, base, storage, models, access, s3, top):
        if one:
            one.close()
    for prefix in (*found.models_allow, *(found.adapters.allow if found.adapters else ())):
        if not prefix.endswith("/"):
            raise Mistake(f'allow: "{prefix}" does not end with a slash')
    return found


def _base(table: _Table) -> Base:
    sizes = (
        table.count(name) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab")
    )
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocab = sizes
    experts, mla = table.count("experts", 0), table.take("mla", bool)
    return Base(layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, experts, mla)


def _adapters(table: _Table) -> Adapters:
    found = Adapters(
        max_loaded=table.count("max_loaded"),
        max_cached=table.count("max_cached"),
        max_rank=table.count("max_rank"),
        folder=Path(table.take("folder", str)),
        disk_bytes=table.count("disk_bytes"),
        max_bytes=table.count("max_bytes"),
        allow=table.names("allow"),
    )
    table.close()
    return found


def _subjects(table: _Table) -> dict[str, frozenset[str]]:
    found = {}
    for name in table.data:
        rights = table.names(name)
        if unknown := set(rights) - set(RIGHTS):
            raise Mistake(f"access.subjects.{name}: {min(unknown)} is no right; there are {', '.join(RIGHTS)}")
        found[name] = frozenset(rights)
    return found


_WORDS: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    dict: "a table",
    list: "a list",
    int: "a whole number",
}


class _Table:
    """A JSON object whose keys are taken one by one; what is left at the end is unknown."""

    def __init__(self, data: object, at: str) -> None:
        if not isinstance(data, dict):
            raise Mistake(f"{at[:-1] or 'the file'}: a table, not {_shown(data)}")
        self.data, self.at, self._left = data, at, set(data)

    def take(self, key: str, kind: type[T]) -> T:
        self._left.discard(key)
        if key not in self.data:
            raise Mistake(f"{self.at}{key}: missing")
        value = self.data[key]
        if type(value) is not kind:
            raise Mistake(f"{self.at}{key}: {_WORDS[kind]}, not {_shown(value)}")
        return value

    def maybe(self, key: str) -> _Table | None:
        """A table, or null."""
        if key in self.data and self.data[key] is None:
            self._left.discard(key)
            return None
        return self.table(key)

    def count(self, key: str, low: int = 1) -> int:
        value = self.take(key, int)
        if value < low:
            raise Mistake(f"{self.at}{key}: at least {low}, not {value}")
        return value

    def choice(self, key: str, among: tuple[str, ...]) -> str:
        value = self.take(key, str)
        if value not in among:
            raise Mistake(f"{self.at}{key}: one of {', '.join(among)}, not {_shown(value)}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        rows: list[Any] = self.take(key, list)
        for row in rows:
            if not isinstance(row, str):
                raise Mistake(f"{self.at}{key}: a list of texts, not of {_shown(row)}")
        return tuple(rows)

    def texts(self) -> dict[str, str]:
        return {key: self.take(key, str) for key in self.data}

    def table(self, key: str) -> _Table:
        return _Table(self.take(key, dict), f"{self.at}{key}.")

    def close(self) -> None:
        if self._left:
            raise Mistake(f"{self.at}{min(self._left)}: unknown")


def _shown(value: object) -> str:
    return orjson.dumps(value, default=str).decode()[:60]
