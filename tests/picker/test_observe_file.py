"""Replicas from a file, and addresses from DNS."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from observed import clock, configured, fleet, running, status, until

from aibrix_controllers.picker.observe import dns, file


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PERIOD_S", 0.02)
    monkeypatch.setattr(dns, "PERIOD_S", 0.02)


def rows(*addresses: str, pool: str = "l4") -> list[dict[str, str]]:
    return [{"address": address, "pool": pool} for address in addresses]


def test_the_file_is_followed(tmp_path: Path) -> None:
    path, configs = tmp_path / "endpoints.json", [configured("chat")]
    seen, state, notes = fleet(configs[0], probed=True)

    async def scene() -> None:
        path.write_text(json.dumps({"chat": rows("127.0.0.1:1", "127.0.0.1:2"), "code": rows("[::1]:3")}))
        async with running(file.follow(lambda: configs[-1], seen, path)):
            await until(lambda: status(state) == {"127.0.0.1:1": "not ready", "127.0.0.1:2": "not ready"})
            assert seen.begun.is_set()
            seen.heard(("chat", "127.0.0.1:2"), listening=True)
            path.write_text(json.dumps({"chat": rows("127.0.0.1:2")}))
            await until(lambda: status(state) == {"127.0.0.1:2": "ready"})  # what is known of it stays
            path.write_text(json.dumps({"chat": rows("127.0.0.1:2", pool="h100")}))
            await until(lambda: status(state) == {"127.0.0.1:2": "not ready"})
            assert state.fleets["chat"].replicas["127.0.0.1:2"].pool == "h100"
            path.write_text(json.dumps({"code": rows("[::1]:3")}))
            await until(lambda: not status(state))
            configs.append(configured("code"))
            state.configure(configs[-1], clock())
            await until(lambda: status(state, "code") == {"[::1]:3": "not ready"})  # the file came first
            configs.append(configured("chat"))
            await until(lambda: not seen.replicas)

    asyncio.run(scene())
    assert not notes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "unexpected end of data"),
        ("[]", "a table of services is wanted"),
        ('{"chat": {}}', "chat: a list of replicas is wanted"),
        ('{"chat": [5]}', 'chat[0]: {"address": "HOST:PORT", "pool": NAME} is wanted'),
        (
            '{"chat": [{"address": "127.0.0.1:1"}, {"address": 5}]}',
            'chat[1]: {"address": "HOST:PORT", "pool": NAME} is',
        ),
        ('{"chat": [{"address": "127.0.0.1"}]}', "chat[0]: 127.0.0.1 is not HOST:PORT"),
        ('{"chat": [{"address": "127.0.0.1:70000"}]}', "chat[0]: 127.0.0.1:70000 is not HOST:PORT"),
        ('{"chat": [{"address": "a:1"}, {"address": "a:1"}]}', "chat[1]: a:1 stands there twice"),
    ],
)
def test_a_broken_file_changes_nothing_and_is_said_once(tmp_path: Path, text: str, why: str) -> None:
    path, config = tmp_path / "endpoints.json", configured()
    seen, state, notes = fleet(config, probed=True)

    async def scene() -> None:
        path.write_text(json.dumps({"chat": rows("127.0.0.1:1")}))
        async with running(file.follow(lambda: config, seen, path)):
            await until(lambda: status(state))
            path.write_text(text)
            await until(lambda: notes)
            await asyncio.sleep(0.1)
            path.unlink()
            await until(lambda: len(notes) == 2)
            await asyncio.sleep(0.1)
            assert list(status(state)) == ["127.0.0.1:1"]

    asyncio.run(scene())
    assert [event for event, _ in notes] == ["endpoints_file_rejected", "endpoints_file_away"]
    assert why in str(notes[0][1]["why"])


def test_dns_is_asked_only_while_a_service_holds_requests() -> None:
    config = configured("chat", "code")
    seen, state, notes = fleet(config)
    asked: list[str] = []
    answers: Iterator[frozenset[str] | OSError] = iter(
        (frozenset(), socket.gaierror(socket.EAI_AGAIN, "try again"), frozenset({"10.0.0.1", "fd00::1"}))
    )

    async def ask(host: str) -> frozenset[str]:
        asked.append(host)
        found = next(answers, frozenset({"10.0.0.2"}))
        if isinstance(found, OSError):
            raise found
        return found

    async def scene() -> None:
        async with running(dns.follow(lambda: config, seen, ask)):
            await asyncio.sleep(0.1)
            assert not asked
            state.held["chat"] = 2
            await until(lambda: set(state.fleets["chat"].seen) == {"10.0.0.1", "fd00::1"})
            await until(lambda: set(state.fleets["chat"].seen) == {"10.0.0.2"})
            state.held["chat"] = 0
            await asyncio.sleep(0.1)
            before = len(asked)
            await asyncio.sleep(0.1)
            assert len(asked) == before

    asyncio.run(scene())
    assert set(asked) == {"chat"}
    assert notes == [("dns_failed", {"service": "chat", "host": "chat", "why": "[Errno -3] try again"})]


def test_a_slow_answer_of_dns_delays_no_other_service() -> None:
    config = configured("slow", "chat")
    seen, state, _ = fleet(config)
    asked: list[str] = []

    async def ask(host: str) -> frozenset[str]:
        asked.append(host)
        await asyncio.sleep(100 if host == "slow" else 0)
        return frozenset({"10.0.0.1"})

    async def scene() -> None:
        state.held.update(slow=1, chat=1)
        async with running(dns.follow(lambda: config, seen, ask)):
            await until(lambda: asked.count("chat") > 3)
            assert asked.count("slow") == 1

    asyncio.run(scene())


def test_names_are_resolved() -> None:
    assert "127.0.0.1" in asyncio.run(dns.resolve("localhost"))
    assert asyncio.run(dns.resolve("127.0.0.1")) == {"127.0.0.1"}
