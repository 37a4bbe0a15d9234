"""What Envoy does alone: strategies, canary and spill."""

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.gateway import projects
from tests.gateway.echo import MERGED, Echo, echoes, echoing
from tests.gateway.running import Gateway, wait


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    services = [
        projects.service("least"),
        projects.service("drawn", routing={"strategy": "random"}),
        projects.service("kept", routing={"strategy": {"session": {"header": "x-session-id"}}}),
        projects.service("baked", routing={"strategy": {"session": {"cookie": "session"}}}),
    ]
    plan = projects.plan(tmp_path_factory.mktemp("strategies"), services)
    with echoing(plan, {"least": 2, "drawn": 3, "kept": 3, "baked": 2}) as gateway:
        yield gateway


def calls(gateway: Gateway, model: str, count: int = 1, **headers: str) -> list[str]:
    """Which replicas answered, or answered with an error."""
    where = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    body = json.dumps({"model": model, "messages": []})
    found = []
    for _ in range(count):
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        found.append(answer.headers["x-gateway-endpoint"] or f"status {answer.status}")
    connection.close()
    return found


def test_least_request_prefers_who_is_idle(gateway: Gateway) -> None:
    busy, _ = engines = echoes(gateway, "least")
    busy.delay = 8.0
    with ThreadPoolExecutor(8) as pool:
        long = [pool.submit(calls, gateway, "least") for _ in range(8)]
        wait(lambda: len(busy.seen) >= 2 and sum(len(one.seen) for one in engines) == 8, 10)
        busy.delay = 0.0
        answered = Counter(calls(gateway, "least", 120))
        assert not all(one.done() for one in long)
    # Envoy draws two, with replacement, and takes the better one: 30 of 120, not 60
    assert answered[busy.address] <= 45


def test_random_spreads(gateway: Gateway) -> None:
    answered = Counter(calls(gateway, "drawn", 150))
    assert set(answered) == {engine.address for engine in echoes(gateway, "drawn")}
    assert max(answered.values()) < 80  # 50 each; beyond 80 is less than one in a million


def places(gateway: Gateway, sessions: list[str]) -> dict[str, str]:
    return {name: calls(gateway, "kept", 1, **{"x-session-id": name})[0] for name in sessions}


def test_a_session_stays_and_moves_only_when_its_replica_goes(gateway: Gateway) -> None:
    sessions = [f"session-{number}" for number in range(120)]
    first = places(gateway, sessions)
    assert set(first.values()) == {engine.address for engine in echoes(gateway, "kept")}
    assert places(gateway, sessions) == first
    gone = echoes(gateway, "kept")[0]
    try:
        hide(gateway, gone)
        second = places(gateway, sessions)
        assert gone.address not in second.values()
        moved = {name for name in sessions if second[name] != first[name]}
        homeless = {name for name in sessions if first[name] == gone.address}
        assert homeless <= moved
        # Envoy's ring has more points a replica when there are fewer of them, so that a few others move as well
        assert len(moved - homeless) < (len(sessions) - len(homeless)) / 3
    finally:
        hide(gateway)
    assert places(gateway, sessions) == first


def test_a_session_in_a_cookie(gateway: Gateway) -> None:
    found = [set(calls(gateway, "baked", 3, cookie=f"a=b; session=s{number}")) for number in range(8)]
    assert all(len(one) == 1 for one in found) and len(set.union(*found)) == 2


def hide(gateway: Gateway, *engines: Echo) -> None:
    """These have no name any more, all others have one."""
    gateway.announce(*engines)  # type: ignore[arg-type]
    gateway.settled(*engines)  # type: ignore[arg-type]
    time.sleep(MERGED)


# --- canary and spill


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`chat` gives a tenth to `chat-next`, which has one of its two adapters; `main` spills to `spare`."""
    services = [
        projects.service(
            "chat",
            routing={"strategy": "least-request", "canary": {"service": "chat-next", "weight": "10%"}},
            adapters=projects.adapters("both", "old"),
        ),
        projects.service("chat-next", served="chat", adapters=projects.adapters("both")),
        projects.service("main", routing={"strategy": "least-request", "spillTo": "spare"}),
        projects.service("spare", served="main"),
    ]
    plan = projects.plan(tmp_path_factory.mktemp("shares"), services)
    with echoing(plan, {"chat": 2, "chat-next": 1, "main": 2, "spare": 1}, pickers=0) as gateway:
        yield gateway


def services(gateway: Gateway, model: str, count: int) -> Counter[str]:
    named = {engine.address: engine.service for engine in gateway.engines}
    return Counter(named[address] for address in calls(gateway, model, count))


def test_a_canary_gets_its_share(shares: Gateway) -> None:
    answered = services(shares, "chat", 3000)
    share = answered["chat-next"] / answered.total()
    print(f"\n10 % for the canary: {share:.1%} of {answered.total()}")
    assert abs(share - 0.1) < 0.02  # 3.7 standard deviations


def test_an_adapter_that_a_canary_lacks_never_goes_there(shares: Gateway) -> None:
    assert services(shares, "old", 200) == {"chat": 200}
    assert services(shares, "both", 200)["chat-next"] > 10


def test_the_stand_in_is_used_when_nothing_else_answers(shares: Gateway) -> None:
    assert services(shares, "main", 20) == {"main": 20}
    try:
        for engine in echoes(shares, "main"):
            engine.status = 503  # its health stays good
        assert services(shares, "main", 20) == {"spare": 20}
    finally:
        echoes(shares)
    wait(lambda: services(shares, "main", 1) == {"main": 1}, 15)


def test_and_when_there_is_nothing_else(shares: Gateway) -> None:
    wait(lambda: services(shares, "main", 20) == {"main": 20}, 15)
    try:
        hide(shares, *echoes(shares, "main"))
        assert services(shares, "main", 20) == {"spare": 20}
    finally:
        hide(shares)
    wait(lambda: services(shares, "main", 20) == {"main": 20}, 15)
