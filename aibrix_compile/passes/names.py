"""Names: what things are called, that they fit into Kubernetes' limits, and that no two things share one."""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft, PoolDraft

LONGEST = 63  # a label value, a Service's name and a pod's host name
_HEADLESS = "-headless"
RESERVED_LABELS = ("serving.aibrix.ai/", "app.kubernetes.io/", "kubernetes.io/", "k8s.io/", "argocd.argoproj.io/")
_FOLDERS = ("argocd", "gateway", "platform")
_NAME: Path = ("metadata", "name")


def service_names(draft: Draft) -> Iterator[Problem]:
    """The service's name and the objects that are named after it."""
    name = draft.metadata.name
    if name in _FOLDERS:
        message = f'"{name}" is a folder of every environment\'s output, so no service can have this name'
        yield Problem("AC107", _NAME, message, f"call it {name}-service")
    application = f"{draft.site.environment.name}-{name}" if draft.site.environment.argocd else ""
    for derived, what in ((name + _HEADLESS, "Service"), (application, "Argo CD Application")):
        if len(derived) > LONGEST:
            yield Problem(
                "AC204",
                _NAME,
                f'the {what} would be called "{derived}", {len(derived)} characters; {LONGEST} are allowed',
                f"shorten the name by {len(derived) - LONGEST}",
            )
            return


def labels(draft: Draft) -> Iterator[Problem]:
    """Labels of the model owner must not be those that selectors and tools rely on."""
    for key, value in draft.metadata.labels.items():
        path: Path = ("metadata", "labels", key)
        prefix, _, tail = key.rpartition("/")
        if f"{prefix}/".endswith(RESERVED_LABELS) and prefix:
            yield Problem(
                "AC220", path, f'the label "{key}" is not free', "use a prefix of your own, or none", at_key=True
            )
        elif not _label(tail, 63) or (prefix and not _label(prefix, 253)) or not tail:
            yield Problem(
                "AC220",
                path,
                f'"{key}" is no label that Kubernetes takes',
                "use letters, digits, - _ and .",
                at_key=True,
            )
        elif not _label(value, 63):
            yield Problem(
                "AC220",
                path,
                f'"{value}" is no label value that Kubernetes takes',
                "use at most 63 letters, digits, - _ and .",
            )


def served_name(draft: Draft) -> Iterator[Problem]:
    """What clients send as `model`."""
    model = draft.spec.model
    draft.served_name = model.servedName or model.uri.rstrip("/").rpartition("/")[2]
    if model.servedName is None:
        draft.decide(("spec", "model", "servedName"), draft.served_name, f"the last part of {model.uri}")
    yield from ()


def pool_names(draft: Draft) -> Iterator[Problem]:
    """Each pool's workload; two pools of one name would be one workload."""
    if not draft.spec.pools:
        yield Problem(
            "AC102",
            ("spec", "pools"),
            "a service without a pool serves nothing",
            "add pools: [{accelerator: nvidia-l4, replicas: 2}]",
        )
    first: dict[str, PoolDraft] = {}
    for pool in draft.pools:
        path = (*pool.path, "name" if pool.spec.name else "accelerator")
        if pool.name in first:
            yield Problem(
                "AC203",
                path,
                f'two pools are named "{pool.name}"',
                "give one of them another name",
                related=(((*first[pool.name].path, "name"), "the other one"),),
            )
            continue
        first[pool.name] = pool
        pool.workload = f"{draft.metadata.name}-{pool.name}"
        if pool.spec.name is None:
            draft.decide((*pool.path, "name"), pool.name, "the accelerator's")
        if len(pool.workload) > LONGEST:
            over = len(pool.workload) - LONGEST
            yield Problem(
                "AC204",
                path,
                f'the workload would be called "{pool.workload}", {len(pool.workload)} characters; {LONGEST} are allowed',
                f"shorten the name of the pool or of the service by {over}",
            )


def _label(text: str, longest: int) -> bool:
    inner = text.replace("-", "a").replace("_", "a").replace(".", "a")
    return len(text) <= longest and inner.isalnum() and inner.isascii() and text[0].isalnum() and text[-1].isalnum()
