"""The engine: its version, its image and its command line. Every flag is one that this version knows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from aibrix_compile.catalog import engines
from aibrix_compile.catalog.engines import Engine, Flag
from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes import images
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.plan import Argument

PORT = 8000
SHUTDOWN = 10  # seconds that the engine gives running requests after SIGTERM; less than what the grace period has left
_ARGS: Path = ("spec", "engine", "args")

OWNED = {  # flag -> the field that sets it
    "model": "model.uri",
    "served-model-name": "model.servedName",
    "revision": "model.revision",
    "load-format": "model.loading.method",
    "model-loader-extra-config": "model.loading.method",
    "download-dir": "model.loading",
    "max-model-len": "engine.maxModelLen",
    "shutdown-timeout": "routing.timeout",
    "tensor-parallel-size": "pools[].parallelism.tensor",
    "pipeline-parallel-size": "pools[].parallelism.pipeline",
    "data-parallel-size": "pools[].parallelism.data",
    "nnodes": "pools[].parallelism",
    "node-rank": "pools[].parallelism",
    "master-addr": "pools[].parallelism",
    "master-port": "pools[].parallelism",
    "headless": "pools[].parallelism",
    "enable-lora": "adapters",
    "lora-modules": "adapters.items",
    "max-loras": "adapters.limits.maxLoaded",
    "max-cpu-loras": "adapters.limits.maxCached",
    "max-lora-rank": "adapters.limits.maxRank",
    "host": "",
    "port": "",
    "uds": "",
    "root-path": "",
    "config": "engine.args",
    "api-key": "access",
    "hf-token": "model.credentials",
    "ssl-keyfile": "",
    "ssl-certfile": "",
    "ssl-ca-certs": "",
}


def version(draft: Draft) -> Iterator[Problem]:
    """The engine of the catalog."""
    wanted = draft.spec.engine
    draft.engine = engines.find(wanted.name, wanted.version)
    if draft.engine is None:
        known = engines.versions(wanted.name)
        right = known[-1] if len(known) == 1 else None
        message = f"{wanted.name} {wanted.version} is not in the catalog, so its flags and metrics can not be checked"
        yield Problem("AC207", ("spec", "engine", "version"), message, f"use one of {', '.join(known)}", fix=right)


def image(draft: Draft) -> Iterator[Problem]:
    """The engine's image, from the project's mirror if there is one, with the digest of the lock."""
    assert draft.engine is not None
    path: Path = ("spec", "engine", "image")
    wanted = draft.spec.engine.image
    reference = wanted or draft.engine.image
    if not reference:
        return
    draft.image, found = images.resolved(reference, draft.site.mirror if wanted is None else "", draft.site.lock)
    because = [] if wanted else [f"the image of {draft.engine.name} {draft.engine.version} is {reference}"]
    if because or found:
        draft.decide(path, draft.image, *because, *found)
    yield from images.policy(draft.site.environment.policy, draft.image, path)


def flags(draft: Draft) -> Iterator[Problem]:
    """engine.args as words, each checked against the flags of this version."""
    assert draft.engine is not None
    settings: dict[str, str] = {}
    words: list[Argument] = []
    for key, value in sorted(draft.spec.engine.args.items()):
        path = (*_ARGS, key)
        flag = draft.engine.flags.get(key)
        if flag is None:
            yield _unknown(draft.engine, key, path)
            continue
        if (owner := OWNED.get(flag.name)) is not None:
            yield _owned(flag.name, owner, path)
            continue
        texts = _texts(flag, value)
        reason = next((reason for text in texts if (reason := flag.check(text))), "")
        if len(texts) > 1 and not (flag.repeatable or flag.nargs == "+"):
            reason = "takes one value, not a list"
        if reason:
            yield Problem("AC210", path, f"--{flag.name}: {reason}", "give a value that the flag takes")
            continue
        if flag.deprecated:
            message = f"--{flag.name} is deprecated in {draft.engine.name} {draft.engine.version}"
            yield Problem(
                "AC211", path, message, "the next version may refuse it", severity=Severity.WARNING, at_key=True
            )
        settings[flag.name] = texts[0]
        words += [Argument(word, path) for word in _words(flag, texts)]
    draft.settings, draft.arguments = settings, tuple(words)


def _owned(flag: str, owner: str, path: Path) -> Problem:
    hint = f"remove it; {owner} sets it" if owner else "remove it; probes, Services and the gateway rely on it"
    return Problem("AC209", path, f"--{flag} belongs to the compiler", hint, at_key=True)


def _unknown(engine: Engine, key: str, path: Path) -> Problem:
    plain, fix = key.lstrip("-").replace("_", "-"), None
    if renamed := engine.renamed.get(plain):
        hint = f"it is now {renamed}"
        fix = renamed if renamed in engine.flags else None
    elif removed := engine.removed.get(plain):
        hint = f"remove it: {removed}"
    elif plain in engine.flags:
        hint, fix = f"write {plain}", plain
    elif plain.startswith("no-") and plain[3:] in engine.flags:
        hint = f"write {plain[3:]}: false"
    elif near := difflib.get_close_matches(plain, list(engine.flags), 1, 0.7):
        hint, fix = f"did you mean {near[0]}?", near[0]
    else:
        hint = "flags are written without the dashes; see the engine's own --help"
    return Problem("AC208", path, f"{engine.name} {engine.version} has no flag --{plain}", hint, fix=fix, at_key=True)


def _texts(flag: Flag, value: Any) -> list[str]:
    """A value of engine.args as text; a list is several values, unless the flag takes JSON."""
    if isinstance(value, dict) or (isinstance(value, list) and flag.kind in ("json", "str-or-json") and not flag.nargs):
        return [json.dumps(_json(value), separators=(",", ":"))]
    if isinstance(value, list):
        return [text for item in value for text in _texts(flag, item)] or [""]
    return [str(value)]


def _words(flag: Flag, texts: list[str]) -> list[str]:
    if flag.kind == "bool":
        if texts[0] == "true":
            return [f"--{flag.name}"]
        return [f"--no-{flag.name}"] if flag.negatable else []
    if flag.nargs == "+" and len(texts) > 1:
        return [f"--{flag.name}", *texts]
    return [f"--{flag.name}={text}" for text in texts]


def _json(value: Any) -> Any:
    """Free text of a JSON flag: what reads as JSON is JSON, the rest is text."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if type(value) is str:  # written in quotes
        return value
    try:
        return json.loads(value)
    except ValueError:
        return str(value)


def command_line(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The arguments of one pool, in a fixed order: ours, then the model owner's by name."""
    assert draft.engine is not None and draft.shape is not None
    spec = draft.spec
    model: Path = ("spec", "model", "uri")
    words = [
        Argument(f"--model={draft.model_argument}", model),
        Argument(f"--served-model-name={draft.served_name}", ("spec", "model", "servedName")),
        Argument(f"--port={PORT}", ("spec", "engine", "name")),
    ]
    if draft.revision and draft.model_argument and not draft.model_argument.startswith("/"):
        words.append(Argument(f"--revision={draft.revision}", ("spec", "model", "revision")))
    if spec.model.uri.startswith(("s3://", "gs://")):
        words.append(Argument("--load-format=runai_streamer", model))
    length = spec.engine.maxModelLen or draft.shape.max_model_len
    words.append(Argument(f"--max-model-len={length}", ("spec", "engine", "maxModelLen")))
    if "shutdown-timeout" in draft.engine.flags:  # for the request that came after the drain script's last look
        words.append(Argument(f"--shutdown-timeout={SHUTDOWN}", ("spec", "routing", "timeout")))
    if (adapters := spec.adapters) is not None:
        path: Path = ("spec", "adapters", "limits")
        words += [
            Argument("--enable-lora", ("spec", "adapters")),
            Argument(f"--max-loras={adapters.limits.maxLoaded}", (*path, "maxLoaded")),
            Argument(f"--max-cpu-loras={adapters.limits.maxCached}", (*path, "maxCached")),
            Argument(f"--max-lora-rank={adapters.limits.maxRank}", (*path, "maxRank")),
        ]
    parallel = pool.spec.parallelism
    for flag, count in (("tensor", parallel.tensor), ("pipeline", parallel.pipeline), ("data", parallel.data)):
        if count > 1:
            words.append(Argument(f"--{flag}-parallel-size={count}", (*pool.path, "parallelism", flag)))
    pool.arguments = (*words, *draft.arguments)
    if pool.nodes > 1:  # LeaderWorkerSet puts these two variables into every container of the group
        group = (f"--nnodes={pool.nodes}", "--master-addr=$(LWS_LEADER_ADDRESS)", "--node-rank=$(LWS_WORKER_INDEX)")
        pool.arguments += tuple(Argument(word, (*pool.path, "parallelism")) for word in group)
        pool.worker_arguments = (*pool.arguments, Argument("--headless", (*pool.path, "parallelism")))
    yield from ()
