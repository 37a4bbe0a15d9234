"""What every part of the language shares: frozen, closed models whose fields document themselves."""

from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aibrix_compile.spec.types import bad, mapping, shown


class Model(BaseModel):
    """A mapping of the language. Attribute names are the YAML keys, so a path in the file is a path in the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())

    short: ClassVar[str] = ""
    """The field that a bare scalar stands for: `replicas: 2` is `replicas: {count: 2}`."""
    short_schema: ClassVar[dict[str, Any]] = {}
    """What an editor accepts in place of the mapping."""


class Short(Model):
    """A mapping that may be written as one scalar."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return {cls.short: value} if isinstance(value, str) else value


class Choice(Model):
    """A strategy: its name, or a map of one key - the name - with its parameters. Nothing else configures it."""

    what: ClassVar[str] = "strategy"

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, value: Any) -> Any:
        names = cls.names()
        if isinstance(value, str):
            return {str(value): {}} if value in names else unknown(value, names, cls.what)
        mapping(value, f"a {cls.what} or a map of one key")
        if len(value) != 1:
            bad(
                "AC110",
                f"a {cls.what} is one name with its parameters, {len(value)} are given",
                f"keep one of {', '.join(names)}",
            )
        (name,) = value
        if name not in names:
            unknown(name, names, cls.what, at_key=True)
        return value

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(info.alias or name for name, info in cls.model_fields.items())

    @property
    def name(self) -> str:
        (name,) = self.model_fields_set
        return type(self).model_fields[name].alias or name

    @property
    def parameters(self) -> Any:
        (name,) = self.model_fields_set
        return getattr(self, name)


class Nothing(Model):
    """A strategy without parameters."""


def field(doc: str, example: Any, default: Any = ..., alias: str | None = None) -> Any:
    """A documented field: `doc` is the hover text and the reference, `example` is valid data in YAML.

    A callable default is called for each document, so that importing the language builds nothing.
    """
    if callable(default):
        return Field(default_factory=default, description=doc, examples=[example], alias=alias)
    return Field(default, description=doc, examples=[example], alias=alias)


def nearest(word: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """The name that `word` was meant to be; empty when none is near."""
    import difflib

    lowered = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word[:64].lower(), lowered, 1, cutoff)
    return lowered[found[0]] if found else ""


def unknown(value: str, names: tuple[str, ...], what: str, at_key: bool = False) -> Any:
    """Refuse `value`, which is none of `names`, with the nearest of them. `at_key`: it is the key of a one-key map."""
    near = nearest(value, names)
    hint = (f"did you mean {near}? " if near else "") + "known: " + ", ".join(names)
    bad("AC106", f"{shown(value)} is no {what}", hint, near, (str(value),) if at_key else (), at_key)
