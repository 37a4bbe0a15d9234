"""Argo CD's health scripts, run by Lua 5.1 as Argo CD runs them: with `obj`, and without the libraries that it does not open."""

from typing import Any

from lupa.lua51 import LuaRuntime

from aibrix_compile import crds


def judged(value: dict[str, Any], kind: str = "") -> tuple[str, str]:
    """Status and message of a custom resource."""
    lua = LuaRuntime(register_eval=False)
    lua.execute("string, math, io, os, debug, coroutine, python = nil, nil, nil, nil, nil, nil, nil")
    lua.globals().obj = _table(lua, value)
    answer = dict(lua.execute(crds.health(kind or value["kind"])))
    assert answer.keys() == {"status", "message"}
    return answer["status"], answer["message"]


def _table(lua: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return lua.table_from({key: _table(lua, item) for key, item in value.items()})
    return lua.table_from([_table(lua, item) for item in value]) if isinstance(value, list) else value
