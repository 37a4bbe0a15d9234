"""Images: from the project's mirror, with the digest of the lock, and as the environment's policy wants them."""

from __future__ import annotations

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.lock import Lock
from aibrix_compile.spec.project import Images, Policy


def resolved(reference: str, mirror: str, lock: Lock) -> tuple[str, list[str]]:
    """The image behind a public reference, and why; `mirror` is empty for one that was written as it shall be."""
    image, because = reference, []
    if mirror:
        image = f"{mirror.rstrip('/')}/{reference.partition('/')[2]}"
        because.append(f"images.mirror of the project is {mirror}")
    locked = lock.images.get(reference)
    if locked and "@" not in image:
        image += f"@{locked.value}"
        because.append(f"digest from {locked.where}")
    return image, because


def project(policy_of: Policy, written: Images, lock: Lock) -> Iterator[Problem]:
    """Our own images, by the policy of an environment."""
    for name in ("controllers", "runtime"):
        if image := getattr(written, name):
            yield from policy(policy_of, resolved(image, "", lock)[0], ("spec", "images", name))


def policy(policy: Policy, reference: str, path: Path) -> Iterator[Problem]:
    """What the environment forbids of an image."""
    name, _, digest = reference.partition("@")
    last = name.rpartition("/")[2]
    tag = last.partition(":")[2]
    registry = name.partition("/")[0] if "." in name.partition("/")[0] or ":" in name.partition("/")[0] else "docker.io"
    if policy.registries and not any(
        _within(reference if registry != "docker.io" else _full(name), allowed) for allowed in policy.registries
    ):
        hint = f"use an image from {' or '.join(policy.registries)}, or images.mirror of the project"
        yield Problem("AC401", path, f"{reference} comes from {registry}, which the environment does not allow", hint)
    if "latest-tag" in policy.forbid and not digest and tag in ("", "latest"):
        yield Problem(
            "AC402",
            path,
            f"{reference} means whatever is latest; the environment forbids it",
            "name the version's tag, best with its digest",
        )
    if "unpinned-image" in policy.forbid and not digest:
        yield Problem(
            "AC403",
            path,
            f"{reference} has no digest, which the environment demands",
            "append @sha256:..., or lock it in aibrix.lock",
        )


def _full(name: str) -> str:
    return name if name.startswith("docker.io/") else f"docker.io/{name}"


def _within(reference: str, allowed: str) -> bool:
    allowed = allowed.rstrip("/")
    return reference.startswith((allowed + "/", allowed + ":", allowed + "@")) or reference == allowed
