"""The two kinds that the cluster learns from us, as data: what the API server checks, and how Argo CD judges their health.

Git writes `spec`, a controller writes `status`. Every list, map and text is bounded, so that the API server can price the CEL
rules before it accepts the definition. Each rule's message says what to write instead.
"""

from __future__ import annotations

from pathlib import Path

from aibrix_compile.artifact import Object

GROUP = "serving.aibrix.ai"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_ADAPTERS = 1000
"""Adapters of one AdapterSet; a service with more has several sets."""

_MONEY = r"^[0-9]+(\.[0-9]+)?( [A-Z]{3})?$"
_POSITIVE = r"^(0\.0*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?)$"
_DECIMAL = r"^[0-9]+(\.[0-9]+)?(e-[0-9]+)?$"
_RATIO = r"^(0(\.[0-9]+)?|1(\.0+)?)$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def definitions() -> dict[str, Object]:
    """Both CustomResourceDefinitions by their names."""
    found = (_adapter_set(), _scaling_policy())
    return {one["metadata"]["name"]: one for one in found}


def health(kind: str) -> str:
    """Argo CD's health check of `kind`, in Lua; Argo CD opens neither its `string` nor its `math` library."""
    return (Path(__file__).parent / "health" / f"{kind.lower()}.lua").read_text("utf-8")


def health_checks() -> dict[str, str]:
    """The entries of ConfigMap argocd-cm: key -> script."""
    kinds = [one["spec"]["names"]["kind"] for one in definitions().values()]
    return {f"resource.customizations.health.{GROUP}_{kind}": health(kind) for kind in kinds}


def _adapter_set() -> Object:
    name = _text("What clients send as `model`.", 100, "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    credentials = _object(
        "The Secret that reads it.",
        {"secret": _text("Name of the Secret.", 253, _NAME), "key": _text("Its key.", 253)},
        "secret",
        "key",
    )
    replicas = _rule(
        _object(
            "Where it is kept loaded: on all replicas, or on at least min.",
            {"all": {"type": "boolean", "enum": [True]}, "min": _integer("At least so many.", 0)},
        )
        | {"default": {"min": 0}},
        "has(self.all) != has(self.min)",
        "replicas is {all: true} or {min: n}, exactly one of them",
    )
    item = _object(
        "",
        {
            "name": name,
            "uri": _text("Where it is, in PEFT format.", 2048, "^[a-z0-9]+://.+$"),
            "digest": _text("Hash of its files; a changed digest is rolled out.", 71, "^sha256:[0-9a-f]{64}$"),
            "rank": _integer("Its rank, where it is known.", 1),
            "replicas": replicas,
            "priority": _integer("Placed first when room is short; higher is first.", 0),
            "credentials": credentials,
        },
        "name",
        "uri",
    )
    limits = _rule(
        _object(
            "Room for adapters on one replica.",
            {
                "maxLoaded": _integer("GPU slots.", 1),
                "maxCached": _integer("Host-memory slots.", 1),
                "maxRank": _integer("Largest rank that the engine takes.", 1),
            },
            "maxLoaded",
            "maxCached",
            "maxRank",
        ),
        "self.maxCached >= self.maxLoaded",
        "limits.maxCached must be at least limits.maxLoaded: a loaded adapter has a place in host memory too",
    )
    labels = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    }
    spec = _rule(
        _object(
            "Adapters of one service and where they are kept loaded.",
            {
                "service": _service(),
                "selector": _object("The service's replicas.", {"matchLabels": labels}, "matchLabels"),
                "limits": limits,
                "whenMissing": {
                    "type": "string",
                    "description": "A request for an adapter that no replica has yet waits, is refused, or gets the base model.",
                    "enum": ["hold", "reject", "base"],
                    "default": "reject",
                },
                # server-side apply drops a keyed list with its last item; the default brings it back, empty
                "items": _named("The adapters.", item, MAX_ADAPTERS) | {"default": []},
            },
            "service",
            "selector",
            "limits",
            "items",
        ),
        "self.items.all(i, !has(i.rank) || i.rank <= self.limits.maxRank)",
        "an adapter's rank is above limits.maxRank: raise the limit, or leave the adapter out",
    )
    exception = _object(
        "",
        {
            "name": {"type": "string", "maxLength": 100},
            "replica": _text("The pod; empty when no replica has room.", 253),
            **_reason(),
        },
        "name",
        "reason",
    )
    status = _status(
        {
            "counts": _object(
                "Adapters, each counted once.",
                {
                    "desired": _integer("Of all sets' items.", 0),
                    "loaded": _integer("Where they should be.", 0),
                    "failed": _integer("With a failure.", 0),
                },
            ),
            "exceptions": _list("Only what is not as it should be, most important first.", exception, 100),
        }
    )
    columns = [
        _column("Service", "string", ".spec.service"),
        _column("Desired", "integer", ".status.counts.desired"),
        _column("Loaded", "integer", ".status.counts.loaded"),
        _column("Failed", "integer", ".status.counts.failed"),
        *_CONDITION_COLUMNS,
    ]
    return _definition("AdapterSet", "adapterset", ["aset"], spec, status, columns)


def _scaling_policy() -> Object:
    spec = _object(
        "How many replicas a service has, who decides, and within which bounds.",
        {
            "service": _service(),
            "targets": _named("Workloads that are scaled, the preferred first.", _target(), 32, least=1),
            "strategy": _strategy(),
            "schedules": _list("Bounds of the whole service by time of day.", _schedule(), 32),
            "budget": _object(
                "Limits of the whole service.",
                {
                    "maxGPUs": _integer("Most GPUs.", 1),
                    "maxCostPerHour": _text("Most money per hour: 20 USD.", 32, _MONEY),
                },
            ),
            "objectives": _list("What strategy slo holds.", _objective(), 16)
            | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric", "percentile"]},
            "scaleToZeroAfterSeconds": _integer("Idle time after which the last replica goes.", 1),
            "warmPool": _integer("Loaded replicas kept idle for bursts.", 0),
            "seasonal": {"type": "boolean", "description": "Yesterday's and last week's need at this time is a floor."},
        },
        "service",
        "targets",
        "strategy",
    )
    _rule(
        spec,
        "!has(self.strategy.slo) || (has(self.objectives) && self.objectives.size() > 0)",
        "strategy slo has nothing to hold: give at least one objective",
    )
    _rule(
        spec,
        "!has(self.scaleToZeroAfterSeconds) || self.targets.exists(t, t.min == 0)",
        "scaleToZeroAfterSeconds needs a target with min 0; every target here keeps a replica",
    )
    number = {"type": "integer"}
    target = _object("", {"name": {"type": "string", "maxLength": 253}, "desired": number, "ready": number}, "name")
    decision = _object(
        "",
        {
            "time": {"type": "string", "format": "date-time"},
            "target": {"type": "string", "maxLength": 253},
            "from": number,
            "to": number,
            "reason": {"type": "string", "maxLength": 1024},
        },
    )
    status = _status(
        {
            "desired": number,  # the sums of `targets`: a printer column shows the first of several values only
            "ready": number,
            "targets": _named("Replicas that were decided, and that serve.", target, 32),
            "decisions": _list("The last changes of a number, newest first.", decision, 20),
            "history": _object(
                "Arrivals a second in slots of 300 s since 1970: half floats in base64, which seasonal asks.",
                {"firstSlot": number, "rates": {"type": "string", "maxLength": 8192}},
            ),
        }
    )
    columns = [
        _column("Service", "string", ".spec.service"),
        _column("Desired", "integer", ".status.desired"),
        _column("Serving", "integer", ".status.ready"),
        *_CONDITION_COLUMNS,
    ]
    return _definition("ScalingPolicy", "scalingpolicy", ["scp"], spec, status, columns)


def _target() -> Object:
    return _rule(
        _object(
            "",
            {
                "kind": {"type": "string", "enum": ["Deployment", "LeaderWorkerSet"]},
                "name": _text("Its name.", 253, _NAME),
                "min": _integer("Fewest replicas.", 0),
                "max": _integer("Most replicas.", 0),
                "gpusPerReplica": _integer("GPUs of one replica.", 0),
                "costPerHour": _text("Price of one replica for an hour.", 32, _MONEY),
                "coldStartSeconds": _integer("From a decision to a serving replica.", 0),
                "profile": _profile(),
            },
            "kind",
            "name",
            "min",
            "max",
            "gpusPerReplica",
            "coldStartSeconds",
        ),
        "self.min <= self.max",
        "min must not be above max",
    )


def _profile() -> Object:
    """Times are text: a number of JSON would be rounded by whoever writes it again."""
    time = _text("", 24, _DECIMAL)
    names = ("weightsMs", "tokenMs", "contextMs", "attentionMs", "stepMs", "sequenceMs", "syncMs", "syncTokenMs")
    fields = dict.fromkeys(names, time) | {"kvTokens": _integer("Tokens that the KV cache holds.", 1)}
    return _object("How fast one replica is, which strategy slo reckons with; milliseconds.", fields, *fields)


def _strategy() -> Object:
    value = {
        "x-kubernetes-int-or-string": True,
        "minimum": 1,
        "maxLength": 32,
        "pattern": _POSITIVE,
    }
    aim = _object(
        "What the metric shall be; a decimal value is quoted.",
        {"value": value, "unit": {"type": "string", "enum": ["perReplica", "ratio", "milliseconds"]}},
        "value",
        "unit",
    )
    metric = _text("", 128, "^[a-zA-Z_:][a-zA-Z0-9_:.-]*$")
    kpa = _rule(
        _object(
            "Stable and panic windows, as Knative has them.",
            {
                "metric": metric,
                "target": aim,
                "stableWindowSeconds": _integer("Window of ordinary decisions.", 1, 60),
                "panicWindowSeconds": _integer("Window that notices a burst.", 1, 6),
            },
            "metric",
            "target",
        ),
        "self.panicWindowSeconds < self.stableWindowSeconds",
        "panicWindowSeconds must be shorter than stableWindowSeconds",
    )
    down = _integer("How long a lower need lasts before replicas go.", 0, 300)
    apa = _object(
        "Follows a mean per replica with a tolerance.",
        {
            "metric": metric,
            "target": aim,
            "tolerance": _text("Band in which nothing changes, 0 to 1.", 12, _RATIO) | {"default": "0.1"},
            "downWindowSeconds": down,
        },
        "metric",
        "target",
    )
    slo = _object(
        "Sizes the targets so that the objectives hold.",
        {
            "utilization": _text("How full replicas may be, 0 to 1.", 12, _RATIO) | {"default": "0.7"},
            "downWindowSeconds": down,
        },
    )
    return _rule(
        _object("Who chooses the number: exactly one.", {"kpa": kpa, "apa": apa, "slo": slo}),
        "[has(self.kpa), has(self.apa), has(self.slo)].exists_one(x, x)",
        "strategy is exactly one of kpa, apa and slo",
    )


def _schedule() -> Object:
    time = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
    day = {"type": "string", "maxLength": 3, "pattern": "^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)$"}
    return _rule(
        _object(
            "",
            {
                "days": _list("Days on which it begins.", day, 7, least=1) | {"x-kubernetes-list-type": "set"},
                "start": _text("HH:MM, local time.", 5, time),
                "end": _text("HH:MM; before start it is on the next day.", 5, time),
                "timezone": _text("Name in the tz database.", 64, "^[A-Z][A-Za-z0-9_+/-]*$"),
                "min": _integer("Fewest replicas meanwhile.", 0),
                "max": _integer("Most replicas meanwhile.", 0),
            },
            "days",
            "start",
            "end",
            "timezone",
        ),
        "!has(self.min) || !has(self.max) || self.min <= self.max",
        "a schedule's min must not be above its max",
    )


def _objective() -> Object:
    return _object(
        "",
        {
            "metric": {"type": "string", "enum": ["ttft", "itl", "e2e"]},
            "percentile": _text("", 5, r"^p(50|90|95|99|99\.9)$"),
            "milliseconds": _integer("Its limit.", 1),
        },
        "metric",
        "percentile",
        "milliseconds",
    )


# --- what both kinds are made of


def _definition(
    kind: str, singular: str, short: list[str], spec: Object, status: Object, columns: list[Object]
) -> Object:
    plural = f"{singular.removesuffix('y')}ies" if singular.endswith("y") else f"{singular}s"
    schema = {
        "type": "object",
        "description": spec.pop("description"),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "aibrix", "app.kubernetes.io/managed-by": "aibrix-compile"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": short,
                "categories": ["aibrix"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _said(description: str) -> Object:
    return {"description": description} if description else {}


def _object(description: str, properties: Object, *required: str) -> Object:
    wanted = {"required": list(required)} if required else {}
    return {"type": "object", **_said(description), **wanted, "properties": properties}


def _text(description: str, longest: int, pattern: str = "") -> Object:
    shape = {"pattern": pattern} if pattern else {}
    return {"type": "string", **_said(description), "maxLength": longest, **shape}


def _integer(description: str, least: int, default: int | None = None) -> Object:
    chosen = {} if default is None else {"default": default}
    return {"type": "integer", **_said(description), "minimum": least, **chosen}


def _list(description: str, items: Object, most: int, least: int = 0) -> Object:
    floor = {"minItems": least} if least else {}
    return {
        "type": "array",
        **_said(description),
        **floor,
        "maxItems": most,
        "items": items,
    }


def _named(description: str, items: Object, most: int, least: int = 0) -> Object:
    return _list(description, items, most, least) | {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }


def _rule(schema: Object, rule: str, message: str) -> Object:
    """`schema` with a CEL rule more. No messageExpression: the API server finds every useful one too expensive."""
    schema.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message})
    return schema


def _service() -> Object:
    name = _text("Name of the ModelService.", 63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    return _rule(name, "self == oldSelf", "service can not be changed: delete this object and make another")


def _reason() -> Object:
    return {"reason": {"type": "string", "maxLength": 128}, "message": {"type": "string", "maxLength": 1024}}


def _status(properties: Object) -> Object:
    condition = _object(
        "",
        {
            "type": {"type": "string", "maxLength": 64},
            "status": {"type": "string", "maxLength": 8},
            "observedGeneration": {"type": "integer"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            **_reason(),
        },
        "type",
        "status",
    )
    conditions = _list("", condition, 8) | {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    return _object(
        "Written by the controller.",
        {"observedGeneration": {"type": "integer"}, "conditions": conditions, **properties},
    )


def _column(name: str, kind: str, path: str) -> Object:
    return {"name": name, "type": kind, "jsonPath": path}


_CONDITION_COLUMNS = [
    _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    _column("Age", "date", ".metadata.creationTimestamp"),
]
