"""Access: which tenants may use a service, and which of its adapters each may use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft

_TENANTS: Path = ("spec", "access", "tenants")


def adapters(draft: Draft) -> Iterator[Problem]:
    """Tenants are named once; the adapters that they are given exist."""
    wanted = draft.spec.access
    if wanted is None:
        return
    if not wanted.tenants:
        hint = "name a tenant, or remove access to let every tenant of the environment in"
        yield Problem("AC102", _TENANTS, "access without a tenant lets nobody in", hint)
    known = {item.name for item in draft.spec.adapters.items} if draft.spec.adapters else set()
    first: dict[str, int] = {}
    for index, tenant in enumerate(wanted.tenants):
        if (other := first.setdefault(tenant.name, index)) != index:
            message = f'tenant "{tenant.name}" stands here twice'
            related = (((*_TENANTS, other, "name"), "the other one"),)
            yield Problem("AC203", (*_TENANTS, index, "name"), message, "remove one", related=related)
        for place, name in enumerate(tenant.adapters or ()):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.6)
                hint = f"did you mean {near[0]}?" if near else "adapters.items and its includes say which there are"
                path = (*_TENANTS, index, "adapters", place)
                fix = near[0] if near else None
                yield Problem("AC225", path, f'the service has no adapter "{name}"', hint, fix=fix)


def plan(draft: Draft) -> Mapping[str, tuple[str, ...] | None] | None:
    """Tenant -> its adapters (None: all of them); None: everybody may."""
    wanted = draft.spec.access
    if wanted is None:
        return None
    return {one.name: None if one.adapters is None else tuple(one.adapters) for one in wanted.tenants}
