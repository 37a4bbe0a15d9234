"""Weights: how large the model is, where its files are and how they reach the engine."""

import difflib
import re
from collections.abc import Iterator

from aibrix_compile.catalog import models
from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes.draft import Draft, size_text
from aibrix_compile.spec.decode import sound

_URI: Path = ("spec", "model", "uri")
_REVISION: Path = ("spec", "model", "revision")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
MODEL_FOLDER = "/models"

# scheme -> method -> why not ("" = it works)
_METHODS = {
    "hf": {"engine": "", "download": ""},
    "s3": {"engine": "", "download": "the engine streams s3:// itself; use method: engine"},
    "gs": {"engine": "", "download": "the engine streams gs:// itself; use method: engine"},
    "pvc": {"engine": "", "download": "the files are on a volume already; use method: engine"},
    "file": {"engine": "", "download": "the files are in the image already; use method: engine"},
    "https": {"engine": "engines read no model over https", "download": "no downloader for https:// is built yet"},
}


def shape(draft: Draft) -> Iterator[Problem]:
    """The model's sizes: from the spec, else the catalog by repository or served name."""
    model = draft.spec.model
    path: Path = ("spec", "model", "shape")
    if (own := model.shape) is not None:
        draft.shape = models.computed(
            layers=own.layers,
            hidden=own.hidden,
            heads=own.heads,
            vocab=own.vocab,
            max_model_len=own.maxModelLen,
            parameters=own.parameters,
            kv_heads=own.kvHeads,
            head_dim=own.headDim,
            intermediate=own.intermediate,
            dtype=own.dtype,
            experts=own.experts,
            experts_per_token=own.expertsPerToken,
            kv_lora_rank=own.kvLoraRank,
            rope_head_dim=own.ropeHeadDim,
        )
        draft.decide(
            path,
            f"{draft.shape.parameters / 1e9:.2f} B parameters",
            f"{size_text(draft.shape.weight_bytes)} of {own.dtype} weights, by the sizes given",
        )
    else:
        names = [model.uri.partition("://")[2], *([model.servedName] if model.servedName else [])]
        found = next((s for s in map(models.find, names) if s is not None), None)
        if found is None:
            near = difflib.get_close_matches(names[0], models.ids(), 1, 0.8)
            hint = (
                f"did you mean hf://{near[0]}? Else set model.shape"
                if near
                else "set model.shape to its sizes, or to the path of its config.json"
            )
            yield Problem("AC205", _URI, f'the catalog does not know the sizes of "{names[0]}"', hint)
            return
        draft.shape = found
        known = f"the catalog knows {found.ids[0]}: {found.parameters / 1e9:.2f} B parameters, {found.layers} layers, {found.kv_heads} KV heads of {found.head_dim}"
        draft.decide(
            path, f"{size_text(found.weight_bytes)} of {found.dtype} weights", known, f"source: {found.source}"
        )
    draft.weight_bytes = draft.shape.weight_bytes


def source(draft: Draft) -> Iterator[Problem]:
    """Whether the method can read the uri, and what the engine is told."""
    model = draft.spec.model
    scheme, _, rest = model.uri.partition("://")
    method = model.loading.method
    if method != "stream" and (reason := _METHODS[scheme][method]):
        yield Problem(
            "AC218",
            ("spec", "model", "loading", "method") if scheme != "https" else _URI,
            f"{scheme}:// with method {method}: {reason}",
            _instead(scheme),
        )
    if model.credentials is not None and (scheme in ("pvc", "file") or (scheme == "gs")):
        hint = (
            "use serviceAccount.annotations of the pool for a cloud identity"
            if scheme == "gs"
            else "remove credentials"
        )
        yield Problem(
            "AC218", ("spec", "model", "credentials"), f"{scheme}:// takes no credentials from a Secret", hint
        )
    if scheme == "hf" and method == "engine":
        draft.model_argument = rest
    elif scheme == "hf":
        kept = model.loading.cache
        folder = re.sub(r"[^A-Za-z0-9._-]", "-", model.revision).lstrip(".")
        draft.model_argument = f"{MODEL_FOLDER}{kept.path.rstrip('/')}/{rest}/{folder}" if kept else MODEL_FOLDER
    elif scheme == "pvc":
        draft.model_argument = f"{MODEL_FOLDER}/{rest.partition('/')[2]}".rstrip("/")
    else:
        draft.model_argument = rest if scheme == "file" else model.uri


def revision(draft: Draft) -> Iterator[Problem]:
    """A branch moves; the lock says which commit is meant. In a project, what is not locked is said."""
    model = draft.spec.model
    if not model.uri.startswith("hf://"):
        if "revision" in model.model_fields_set:
            yield Problem(
                "AC218",
                _REVISION,
                f"{model.uri.partition('://')[0]}:// has no revisions",
                "put the version into the path and remove revision",
            )
        return
    locked = draft.site.lock.models.get(f"{model.uri}@{model.revision}")
    draft.revision = locked.value if locked else model.revision
    if locked:
        draft.decide(_REVISION, locked.value, f'"{model.revision}" is locked to it by {locked.where}')
    elif not _COMMIT.match(model.revision):
        if "unlocked-revision" in draft.site.environment.policy.forbid:
            hint = "write the commit, or lock it in aibrix.lock"
            yield Problem(
                "AC405", _REVISION, f'the policy of the environment forbids "{model.revision}", which may move', hint
            )
        elif draft.site.in_project:
            yield Problem(
                "AC217",
                _REVISION,
                f'revision "{model.revision}" may move: replicas that start later would load other weights',
                "write the commit, or lock it in aibrix.lock",
                severity=Severity.WARNING,
            )


def cache(draft: Draft) -> Iterator[Problem]:
    """A volume for weights is one claim, and one that all replicas can mount at once."""
    wanted, path = draft.spec.model.loading.cache, ("spec", "model", "loading", "cache")
    if wanted is None:
        return
    if not draft.spec.model.uri.startswith("hf://"):
        scheme = draft.spec.model.uri.partition("://")[0]
        yield Problem(
            "AC218",
            path,
            f"weights of {scheme}:// are not kept in a volume",
            "remove cache; it is for hf://",
            at_key=True,
        )
    elif (wanted.claim is None) == (wanted.create is None):
        yield Problem(
            "AC224", path, "a cache is an existing claim or one to create", "give claim: name, or create: {size: 200Gi}"
        )
    elif wanted.path.partition("/")[0] or ".." in wanted.path.split("/"):
        yield Problem(
            "AC124",
            (*path, "path"),
            f'"{wanted.path}" is no folder inside a volume',
            "write an absolute path without ..",
        )
    elif wanted.create is not None and wanted.create.access == "ReadOnlyMany":
        message = "nobody could write weights into a new volume that is only read"
        yield Problem("AC224", (*path, "create", "access"), message, "write ReadWriteMany")
    elif wanted.create is not None and wanted.create.access == "ReadWriteOnce":
        replicas = sum(pool.replicas for pool in draft.pools if sound(draft.invalid, (*pool.path, "replicas")))
        if replicas > 1:
            message = f"{replicas} replicas can not share a volume that one node mounts at a time"
            yield Problem(
                "AC224", (*path, "create", "access"), message, "write ReadWriteMany; the storage class must offer it"
            )


def _instead(scheme: str) -> str:
    return "copy the model to hf://, s3:// or a claim" if scheme == "https" else "remove loading.method"
