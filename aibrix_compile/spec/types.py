"""Typed scalars: each decodes from the text that stands in the file, and names the spelling that would be right.

A decoder gets what yamlio made: `Plain` (unquoted text), `str` (quoted), None (null), Map or Seq. It returns the value or
raises through `bad()`, so that every error carries a code and a fix. Nothing is guessed: `8` is no text list, `10` is no
duration, `"8"` is no number.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from aibrix_compile.diagnostics import Path
from aibrix_compile.yamlio import Plain


def finding(
    code: str, message: str, hint: str = "", fix: str = "", at: Path = (), at_key: bool = False
) -> dict[str, Any]:
    """What decode.py turns into a Problem; `fix` is replacement text, `at` leads on from the value's own path."""
    return {"code": code, "message": message, "hint": hint, "fix": fix, "at": at, "at_key": at_key}


def bad(code: str, message: str, hint: str = "", fix: str = "", at: Path = (), at_key: bool = False) -> NoReturn:
    raise PydanticCustomError(code, "{message}", finding(code, message, hint, fix, at, at_key))


def _unit_missing(message: str, right: str, decode: Callable[[Any], Any], more: str = "") -> NoReturn:
    """Refuse a bare number; `right` is offered when it is right indeed (-5 has no right spelling)."""
    try:
        decode(Plain(right))
    except PydanticCustomError:
        bad("AC105", message)
    bad("AC105", message, f"write {right}{more}", "" if more else right)


def shown(value: Any) -> str:
    """The value as an error message names it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value)
    return f'"{text[:60]}…"' if len(text) > 60 else f'"{text}"'


def scalar(value: Any, wanted: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        bad("AC109", f"is empty; {wanted} is expected", "give a value, or remove the key to use the default")
    bad("AC103", f"{wanted} is expected, not {shown(value)}")


def text(value: Any) -> str:
    found = str(scalar(value, "text"))
    if not found.strip():
        bad("AC109", "is empty; text is expected", "give a value, or remove the key to use the default")
    return found


INT = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?\Z")


def _number(value: Any, pattern: re.Pattern[str], wanted: str) -> str:
    found = scalar(value, wanted)
    if not isinstance(found, Plain) and pattern.match(found):
        bad("AC104", f'{wanted} is written without quotes: {found}, not "{found}"', f"write {found}", found)
    if pattern.match(found):
        return found
    digits = found.replace("_", "").replace(",", "")
    if re.fullmatch(r"0x[0-9a-fA-F]{1,15}|0o?[0-7]{1,18}|0b[01]{1,60}", digits):
        bad(
            "AC104",
            f"{shown(found)} has several readings; {wanted} has one spelling",
            "write it in decimal, without leading zeros",
        )
    if pattern.match(digits) and digits != found:
        bad("AC104", f"{shown(found)} is not {wanted}", f"write {digits}", digits)
    bad(
        "AC104",
        f"{wanted} is expected, not {shown(found)}",
        "write digits only, without a unit" if found[:1].isdigit() else "",
    )


def whole(value: Any) -> int:
    return int(_number(value, INT, "a whole number"))


def between(low: int, high: int) -> Callable[[Any], int]:
    """A decoder for whole numbers from `low` to `high`."""

    def decode(value: Any) -> int:
        found = whole(value)
        if not low <= found <= high:
            bad("AC107", f"{found} is out of range", f"write a whole number from {low} to {high}")
        return found

    return decode


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max_lora_rank takes


def lora_rank(value: Any) -> int:
    found = whole(value)
    if found not in LORA_RANKS:
        right = next((rank for rank in LORA_RANKS if rank > found), LORA_RANKS[-1])
        bad(
            "AC107",
            f"engines take no rank limit of {found}",
            f"write one of {', '.join(map(str, LORA_RANKS))}",
            str(right),
        )
    return found


def number(value: Any) -> float:
    found = float(_number(value, _FLOAT, "a number"))
    if found < 0:
        bad("AC107", f"{found:g} is out of range", "write a number of at least 0")
    return found


def boolean(value: Any) -> bool:
    found = scalar(value, "true or false")
    if found in ("true", "false") and isinstance(found, Plain):
        return found == "true"
    lowered = found.lower()
    if lowered in ("true", "yes", "on", "y", "false", "no", "off", "n"):
        right = "true" if lowered in ("true", "yes", "on", "y") else "false"
        bad("AC104", f"true or false is expected, not {shown(found)}", f"write {right}", right)
    bad("AC104", f"true or false is expected, not {shown(found)}")


_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,3})?(ms|s|m|h)\Z")


def duration(value: Any) -> int:
    """Milliseconds."""
    found = scalar(value, "a duration")
    if (match := _DURATION.match(found)) is not None:
        return round(float(match[1] + (match[2] or "")) * _MILLISECONDS[match[3]])
    if _FLOAT.match(found):
        _unit_missing(f"a duration needs its unit, {shown(found)} has none", f"{found}s", duration, " (or ms, m, h)")
    bad("AC105", f"{shown(found)} is no duration", "write a number and one unit: 80ms, 2s, 5m, 1h")


_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"([1-9][0-9]{0,8})(Ki|Mi|Gi|Ti)\Z")


def size(value: Any) -> int:
    """Bytes."""
    found = scalar(value, "a size")
    if (match := _SIZE.match(found)) is not None:
        return int(match[1]) * _BYTES[match[2]]
    if near := re.fullmatch(r"([1-9][0-9]{0,8}) ?([kKmMgGtT])i?[bB]?", found):
        right = f"{near[1]}{near[2].upper()}i"
        bad("AC105", f"{shown(found)} is no size: units are Ki, Mi, Gi, Ti", f"write {right}", right)
    if _FLOAT.match(found):
        _unit_missing(f"a size needs its unit, {shown(found)} has none", f"{found}Gi", size, " (or Ki, Mi, Ti)")
    bad("AC105", f"{shown(found)} is no size", "write a whole number and Ki, Mi, Gi or Ti: 24Gi")


@dataclass(frozen=True, slots=True)
class Money:
    amount: float
    currency: str

    def __str__(self) -> str:
        return f"{self.amount:g} {self.currency}"


_MONEY = re.compile(r"((?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,4})?) ([A-Z]{3})\Z")


def money(value: Any) -> Money:
    found = scalar(value, "an amount of money")
    if (match := _MONEY.match(found)) is not None:
        return Money(float(match[1]), match[2])
    if _FLOAT.match(found):
        _unit_missing(f"an amount needs its currency, {shown(found)} has none", f"{found} USD", money)
    bad("AC105", f"{shown(found)} is no amount of money", "write a number, a space and the currency: 20 USD")


_PERCENT = re.compile(r"(0|[1-9][0-9]?|100)(\.[0-9]{1,3})?%\Z")


def percent(value: Any) -> float:
    """A ratio between 0 and 1."""
    found = scalar(value, "a percentage")
    if _PERCENT.match(found) and float(found[:-1]) <= 100:
        return float(found[:-1]) / 100
    if _FLOAT.match(found):
        right = f"{float(found) * 100:g}%" if float(found) <= 1 else f"{found}%"
        _unit_missing(f"a percentage needs its sign, {shown(found)} has none", right, percent)
    bad("AC105", f"{shown(found)} is no percentage", "write a number from 0 to 100 and %: 70%")


def count_or_percent(value: Any) -> int | str:
    """Kubernetes' IntOrString for rollouts and disruption budgets: 1 or 25%."""
    found = scalar(value, "a number of replicas or a percentage")
    if _PERCENT.match(found) and "." not in found:
        return str(found)
    if INT.match(found) and isinstance(found, Plain) and int(found) >= 0:
        return int(found)
    bad("AC105", f"{shown(found)} is neither a number of replicas nor a percentage", "write 1 or 25%")


@dataclass(frozen=True, slots=True)
class Target:
    """What a scaler aims at. `unit`: "per replica" (a mean), "ratio" (0 to 1) or "ms"."""

    value: float
    unit: str

    def __str__(self) -> str:
        if self.unit == "ratio":
            return f"{self.value * 100:g}%"
        return f"{self.value:g}ms" if self.unit == "ms" else f"{self.value:g} per replica"


_PER_REPLICA = re.compile(r"((?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,3})?) per replica\Z")


def target(value: Any) -> Target:
    found = scalar(value, "a target")
    if (match := _PER_REPLICA.match(found)) is not None:
        return Target(float(match[1]), "per replica")
    if _PERCENT.match(found):
        return Target(percent(found), "ratio")
    if _DURATION.match(found):
        return Target(float(duration(found)), "ms")
    if _FLOAT.match(found):
        message = f"a target says what it is per: {shown(found)} may be a mean or a total"
        _unit_missing(message, f"{found} per replica", target)
    bad("AC105", f"{shown(found)} is no target", "write 12 per replica, 70% or 2s")


_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def dns_label(value: Any) -> str:
    found = text(value)
    if _DNS_LABEL.match(found):
        return found
    right = re.sub(r"[^a-z0-9]+", "-", found.lower()).strip("-")[:63].strip("-")
    hint = "use lower-case letters, digits and -, at most 63, beginning and ending with a letter or digit"
    bad(
        "AC107",
        f"{shown(found)} is no name that Kubernetes takes",
        f"{hint}; for example {right}" if right else hint,
        right,
    )


def dns_name(value: Any) -> str:
    found = text(value)
    if len(found) <= 253 and _DNS_NAME.match(found):
        return found
    bad(
        "AC107",
        f"{shown(found)} is no name that Kubernetes takes",
        "use lower-case letters, digits, - and ., at most 253",
    )


_SERVED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}\Z")


def served_name(value: Any) -> str:
    found = text(value)
    if _SERVED.match(found):
        return found
    bad(
        "AC107",
        f"{shown(found)} is no model name",
        "use letters, digits and . _ - / : @ +, at most 200, beginning with a letter or digit",
    )


_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def adapter_name(value: Any) -> str:
    found = text(value)
    if _ADAPTER.match(found):
        return found
    bad(
        "AC107",
        f"{shown(found)} is no adapter name",
        "use letters, digits and . _ -, at most 100, beginning with a letter or digit",
    )


_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?\Z")


def http_url(value: Any) -> str:
    found = text(value)
    if _URL.match(found):
        return found
    bad("AC111", f"{shown(found)} is no address", "write https://host or https://host:port")


SCHEMES = ("hf", "s3", "gs", "https", "pvc", "file")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+\Z")
_URI = re.compile(r"([a-z0-9]+)://([A-Za-z0-9._~%/@+=-]+)\Z")


def uri(value: Any) -> str:
    found = text(value)
    match = _URI.match(found)
    schemes = ", ".join(f"{s}://" for s in SCHEMES)
    if match is None:
        hint = f"write hf://{found}" if _REPOSITORY.match(found) else f"write one of {schemes} and a path"
        bad("AC111", f"{shown(found)} is no uri", hint, f"hf://{found}" if hint.startswith("write hf://") else "")
    if match[1] not in SCHEMES:
        bad("AC111", f'scheme "{match[1]}://" is not supported', f"use one of {schemes}")
    rest = match[2]
    if ".." in rest.split("/"):
        bad("AC111", f'{shown(found)} leaves its folder with ".."', "write the path without ..")
    if match[1] == "hf" and not _REPOSITORY.match(rest):
        bad(
            "AC111",
            f"{shown(found)} names no repository",
            "write hf://organisation/repository; the revision has its own field",
        )
    if match[1] == "file" and not rest.startswith("/"):
        bad("AC111", f"{shown(found)} is no absolute path", f"write file:///{rest}")
    if match[1] in ("s3", "gs", "https", "pvc") and (
        rest.startswith("/") or (match[1] != "pvc" and "/" not in rest.rstrip("/"))
    ):
        bad(
            "AC111",
            f"{shown(found)} names no path",
            f"write {match[1]}://{'claim' if match[1] == 'pvc' else 'bucket-or-host'}/path/to/model",
        )
    return found


_IMAGE = re.compile(
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?\Z"
)


def image(value: Any) -> str:
    found = text(value)
    if len(found) <= 500 and _IMAGE.match(found):
        return found
    bad("AC107", f"{shown(found)} is no image reference", "write registry/repository:tag@sha256:...")


_CPU = re.compile(r"(([1-9][0-9]{0,3})(\.[0-9]{1,3})?|[1-9][0-9]{0,6}m|0\.[0-9]{0,2}[1-9])\Z")


def cpu(value: Any) -> int:
    """Millicores."""
    found = scalar(value, "a number of CPUs")
    if _CPU.match(found):
        return int(found[:-1]) if found.endswith("m") else round(float(found) * 1000)
    bad("AC105", f"{shown(found)} is no number of CPUs", "write 8, 0.5 or 500m")


_VERSION = re.compile(r"[0-9][A-Za-z0-9.+-]{0,63}\Z")


def version(value: Any) -> str:
    found = text(value)
    if _VERSION.match(found):
        return found
    if found[:1] == "v" and _VERSION.match(found[1:]):
        bad("AC107", f"{shown(found)} is no version", f"write {found[1:]}", found[1:])
    bad("AC107", f"{shown(found)} is no version", "write 0.32.0")


_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z")


def time_of_day(value: Any) -> int:
    """Minutes after midnight."""
    found = scalar(value, "a time of day")
    if _TIME.match(found):
        return int(found[:2]) * 60 + int(found[3:])
    bad("AC105", f"{shown(found)} is no time of day", 'write "08:00", from 00:00 to 23:59')


_ZONE = re.compile(r"(UTC|[A-Z][A-Za-z]+(/[A-Z][A-Za-z0-9_+-]+){1,2})\Z")


def timezone(value: Any) -> str:
    found = text(value)
    if _ZONE.match(found):
        return found
    bad("AC107", f"{shown(found)} is no time zone", "write UTC or a name of the tz database: Europe/Berlin")


def all_or_count(value: Any) -> int | str:
    """Replicas that hold an adapter: `all` of them, or a number."""
    found = scalar(value, "all or a number of replicas")
    if found == "all":
        return "all"
    if INT.match(found):
        return between(1, LARGEST)(value)
    bad("AC105", f"{shown(found)} is neither all nor a number of replicas", "write all or 1")


AMBIGUOUS = re.compile(
    r"(?i:yes|no|on|off|y|n|true|false|[-+]?\.(inf|nan))\Z|[-+]?[0-9][0-9_]*(:[0-9_]+)+\Z|[-+]?0[0-9xob_]|[-+]?[0-9][0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?\Z|[0-9]{4}-[0-9]+-[0-9]+"
)


def mapping(value: Any, wanted: str = "a mapping") -> Any:
    if value is None:
        bad("AC109", f"is empty; {wanted} is expected", "give a value, or remove the key to use the default")
    if not isinstance(value, dict):
        bad("AC103", f"{wanted} is expected, not {shown(value)}")
    return value


LARGEST = 10**15  # counts beyond it are mistakes
_SCALAR = ["string", "number", "boolean"]  # what an editor's YAML reader may make of unquoted text


def _text_schema(pattern: re.Pattern[str] | None = None, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": _SCALAR, **(_pattern(pattern) if pattern else {}), **more})


def _string_schema(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **_pattern(pattern)})


def _pattern(pattern: re.Pattern[str]) -> dict[str, str]:
    return {"pattern": "^(" + pattern.pattern.removesuffix(r"\Z") + ")$"}


Text = Annotated[str, PlainValidator(text), _text_schema()]
Version = Annotated[str, PlainValidator(version), _text_schema(_VERSION)]
DnsLabel = Annotated[str, PlainValidator(dns_label), _text_schema(_DNS_LABEL, maxLength=63)]
DnsName = Annotated[str, PlainValidator(dns_name), _text_schema(_DNS_NAME, maxLength=253)]
ServedName = Annotated[str, PlainValidator(served_name), _string_schema(_SERVED)]
AdapterName = Annotated[str, PlainValidator(adapter_name), _text_schema(_ADAPTER, maxLength=100)]
Uri = Annotated[
    str, PlainValidator(uri), WithJsonSchema({"type": "string", "pattern": "^(" + "|".join(SCHEMES) + ")://.+"})
]
HttpUrl = Annotated[str, PlainValidator(http_url), _string_schema(_URL)]
Image = Annotated[str, PlainValidator(image), _string_schema(_IMAGE)]
Bool = Annotated[bool, PlainValidator(boolean), WithJsonSchema({"type": "boolean"})]
Number = Annotated[float, PlainValidator(number), WithJsonSchema({"type": "number", "minimum": 0})]
Count = Annotated[int, PlainValidator(between(0, LARGEST)), WithJsonSchema({"type": "integer", "minimum": 0})]
Positive = Annotated[int, PlainValidator(between(1, LARGEST)), WithJsonSchema({"type": "integer", "minimum": 1})]
Integer = Annotated[int, PlainValidator(whole), WithJsonSchema({"type": "integer"})]
Percentage = Annotated[
    int, PlainValidator(between(0, 100)), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 100})
]
DurationMs = Annotated[int, PlainValidator(duration), _string_schema(_DURATION)]
Bytes = Annotated[int, PlainValidator(size), _string_schema(_SIZE)]
Cost = Annotated[Money, PlainValidator(money), _string_schema(_MONEY)]
Ratio = Annotated[float, PlainValidator(percent), _string_schema(_PERCENT)]
CountOrPercent = Annotated[
    int | str,
    PlainValidator(count_or_percent),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]}),
]
ScaleTarget = Annotated[
    Target, PlainValidator(target), WithJsonSchema({"type": "string", "pattern": "^[0-9.]+( per replica|%|ms|s|m|h)$"})
]
AllOrCount = Annotated[
    int | str,
    PlainValidator(all_or_count),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]}),
]
LoraRank = Annotated[int, PlainValidator(lora_rank), WithJsonSchema({"type": "integer", "enum": list(LORA_RANKS)})]
TimeOfDay = Annotated[int, PlainValidator(time_of_day), _string_schema(_TIME)]
Timezone = Annotated[str, PlainValidator(timezone), _string_schema(_ZONE)]
Millicores = Annotated[int, PlainValidator(cpu), WithJsonSchema({"type": ["string", "number"]})]
