"""Watching, leading and telling, against an API server of a page of code that fails when it is told to. tests/cluster has the real
one; here time jumps, so that every back-off and every expiry is seen."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from aibrix_controllers.kube.api import Away, Refused
from aibrix_controllers.kube.events import Recorder
from aibrix_controllers.kube.lease import DURATION_S, GIVE_UP_S, RENEW_S, Leader
from aibrix_controllers.kube.watch import Collection
from tests.controllers.virtual import run

Object = dict[str, Any]


class Server:
    """Objects by path. `fail` is raised by each request; `slow` seconds pass before each."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 100
        self.fail: Exception | None = None
        self.asked: list[str] = []
        self.news: asyncio.Queue[Object | None] = asyncio.Queue()

    def put_object(self, name: str, kind: str = "MODIFIED") -> None:
        self.version += 1
        one = {"metadata": {"name": name, "resourceVersion": str(self.version)}}
        if kind == "DELETED":
            self.objects.pop(name)
        else:
            self.objects[name] = one
        self.news.put_nowait({"type": kind, "object": one})

    def _asked(self, text: str) -> None:
        self.asked.append(text)
        if self.fail:
            raise self.fail

    async def get(self, path: str, **query: str) -> Object:
        self._asked(f"GET {path}")
        if "limit" in query:  # pages of one
            names = sorted(self.objects)
            after = int(query.get("continue", 0))
            more = {"continue": str(after + 1)} if after + 1 < len(names) else {}
            rows = [self.objects[name] for name in names[after : after + 1]]
            return {"items": rows, "metadata": {"resourceVersion": str(self.version), **more}}
        if path not in self.objects:
            raise Refused(404, "not found")
        return self.objects[path]

    async def lines(self, path: str, query: Mapping[str, str], seconds: float) -> AsyncGenerator[bytes, None]:
        self._asked(f"WATCH {query['resourceVersion']}")
        while (one := await self.news.get()) is not None:
            yield json.dumps(one).encode()

    async def post(self, path: str, body: Object) -> Object:
        self._asked(f"POST {path}")
        return self._keep(f"{path}/{body['metadata']['name']}", body)

    async def put(self, path: str, body: Object) -> Object:
        self._asked(f"PUT {path}")
        if body["metadata"]["resourceVersion"] != self.objects[path]["metadata"]["resourceVersion"]:
            raise Refused(409, "it was changed meanwhile")
        return self._keep(path, body)

    async def patch(self, path: str, body: Object, manager: str) -> Object:
        self._asked(f"PATCH {path}")
        return self._keep(path, self.objects[path] | body)

    def _keep(self, path: str, body: Object) -> Object:
        self.version += 1
        self.objects[path] = body | {"metadata": body["metadata"] | {"resourceVersion": str(self.version)}}
        return self.objects[path]


class Notes(list[str]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append(event)


# --- collections


def watched(act: Any) -> tuple[Server, Collection, Notes, int]:
    async def main() -> tuple[Server, Collection, Notes, int]:
        server, notes, changes = Server(), Notes(), []
        for name in "abc":
            server.put_object(name)
        server.news = asyncio.Queue()
        found = Collection(server, "/things", "x=y", lambda: changes.append(1), notes)  # type: ignore[arg-type]
        task = asyncio.create_task(found.follow(lambda: 0.5))
        await found.synced.wait()
        await act(server, found)
        task.cancel()
        return server, found, notes, len(changes)

    result: tuple[Server, Collection, Notes, int] = run(main())
    return result


def test_all_pages_are_listed_and_changes_follow() -> None:
    async def act(server: Server, found: Collection) -> None:
        assert sorted(found.objects) == ["a", "b", "c"]
        server.put_object("d", "ADDED")
        server.put_object("a", "DELETED")
        await asyncio.sleep(1)
        assert sorted(found.objects) == ["b", "c", "d"]

    server, _, notes, changes = watched(act)
    assert changes == 3 and not notes
    assert server.asked[3:] == ["WATCH 103"]


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    async def act(server: Server, found: Collection) -> None:
        server.put_object("d")
        server.news.put_nowait(None)
        await asyncio.sleep(2)
        server.put_object("e")
        await asyncio.sleep(2)
        assert "e" in found.objects

    server, _, notes, _ = watched(act)
    assert server.asked[3:] == ["WATCH 103", "WATCH 104"] and not notes


def test_a_forgotten_version_lists_again_in_silence() -> None:
    async def act(server: Server, found: Collection) -> None:
        server.objects.pop("a")
        server.news.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await asyncio.sleep(2)
        assert sorted(found.objects) == ["b", "c"], "what was deleted unseen is gone"

    assert not watched(act)[2]


def test_what_is_known_stays_known_while_the_server_is_away() -> None:
    async def act(server: Server, found: Collection) -> None:
        server.fail = Away("no route to host")
        server.news.put_nowait(None)
        await asyncio.sleep(300)
        assert sorted(found.objects) == ["a", "b", "c"] and found.age() >= 300
        asked = len(server.asked)
        await asyncio.sleep(300)
        assert len(server.asked) - asked < 45, "it backs off"
        server.fail = None
        await asyncio.sleep(30)
        assert found.age() < 30

    assert watched(act)[2] == ["kubernetes_away", "kubernetes_back"], "said once"


@pytest.mark.parametrize("event", [{}, {"type": "ADDED"}, {"type": "ADDED", "object": {"metadata": {}}}, []])
def test_nonsense_of_the_server_is_survived(event: Any) -> None:
    async def act(server: Server, found: Collection) -> None:
        server.news.put_nowait(event)
        await asyncio.sleep(10)
        server.put_object("z")
        await asyncio.sleep(10)
        assert sorted(found.objects) == ["a", "b", "c", "z"]

    assert watched(act)[2] == ["kubernetes_away", "kubernetes_back"]


# --- leading


class Copies:
    """Controllers that share a server, or do not reach it."""

    def __init__(self, server: Server) -> None:
        self.server, self.leaders, self.tasks = server, {}, {}
        self.leaders: dict[str, Leader]
        self.tasks: dict[str, asyncio.Task[None]]

    def begin(self, name: str, api: Any = None) -> Leader:
        loop = asyncio.get_running_loop()
        found = Leader(api or self.server, "ns", "adapters", name, Notes(), lambda: None, loop.time)
        self.leaders[name] = found
        self.tasks[name] = asyncio.create_task(found.run())
        return found

    @property
    def leading(self) -> list[str]:
        return sorted(name for name, one in self.leaders.items() if one.leads and not self.tasks[name].done())

    async def at_most_one(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            assert len(self.leading) < 2, self.leading


class Cut:
    """A server that one copy does not reach any more."""

    def __init__(self, server: Server) -> None:
        self._server, self.away = server, False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise Away("no route to host")
        return getattr(self._server, name)


def test_one_of_several_leads_and_a_killed_one_is_followed_in_time() -> None:
    async def main() -> None:
        copies = Copies(Server())
        copies.begin("a")
        await copies.at_most_one(3)
        copies.begin("b")
        copies.begin("c")
        await copies.at_most_one(60)
        assert copies.leading == ["a"]
        copies.leaders["a"]._give_back = lambda: asyncio.sleep(0)  # type: ignore[method-assign] # killed: nothing is given back
        copies.tasks["a"].cancel()
        await copies.at_most_one(DURATION_S - RENEW_S)
        assert copies.leading == []
        await copies.at_most_one(3 * RENEW_S)
        assert len(copies.leading) == 1

    run(main())


def test_who_stops_gives_the_lease_back() -> None:
    async def main() -> None:
        copies = Copies(Server())
        copies.begin("a")
        await asyncio.sleep(3)
        copies.begin("b")
        await asyncio.sleep(3)
        copies.tasks["a"].cancel()
        await copies.at_most_one(RENEW_S + 0.5)
        assert copies.leading == ["b"]

    run(main())


def test_who_is_cut_off_stops_before_another_begins() -> None:
    async def main() -> None:
        server = Server()
        cut = Cut(server)
        copies = Copies(server)
        copies.begin("a", cut)
        await asyncio.sleep(3)
        copies.begin("b")
        await asyncio.sleep(10)
        cut.away = True
        await copies.at_most_one(GIVE_UP_S + 2 * RENEW_S)
        assert copies.leading in ([], ["b"])
        await copies.at_most_one(DURATION_S)
        assert copies.leading == ["b"]
        cut.away = False
        await copies.at_most_one(30)
        assert copies.leading == ["b"]

    run(main())


# --- events


def test_the_same_event_counts_up_and_not_more_often_than_once_a_minute() -> None:
    async def main() -> list[str]:
        server = Server()
        now = [1000.0]
        recorder = Recorder(server, "aibrix-adapters", "me", lambda: now[0])  # type: ignore[arg-type]
        about = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "namespace": "ns", "uid": "u"}}
        for step in (0, 10, 70, 700):
            now[0] = 1000.0 + step
            await recorder.tell(about, "Warning", "Failed", "Load", "why")
        await recorder.tell(about, "Warning", "Failed", "Load", "another reason")
        server.fail = Away("gone")
        await recorder.tell(about, "Warning", "Other", "Load", "lost")
        return [one.partition(" ")[0] for one in server.asked]

    assert run(main()) == ["POST", "PATCH", "POST", "POST", "POST"]
