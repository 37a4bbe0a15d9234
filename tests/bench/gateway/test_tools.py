"""The bench's own parts tell the truth: what they count, what they call broken, whom they call good."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.bench.gateway import failures, load, refusals
from tests.bench.gateway.engine import MODEL
from tests.bench.gateway.engines import Counting, counting
from tests.bench.gateway.routers import Running, free_port
from tests.bench.gateway.row import Signs
from tests.bench.gateway.wire import Answer, head, once, post


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def before(engines: Counting, tmp_path: Path) -> Running:
    """As bad a router as there can be: one engine, asked directly."""
    log = tmp_path / "log"
    log.touch()
    return Running(engines.addresses[0], {}, [log])


def test_conversations_share_their_beginning_and_no_two_prompts_are_equal() -> None:
    prompts = load.Prompts(1_000, {"x-key": "1"}, conversations=2)
    requests = [b"".join(prompts()) for _ in range(20)]
    assert len(set(requests)) == 20
    assert len({request[:900] for request in requests}) == 2
    begin, _, body = requests[0].partition(b"\r\n\r\n")
    assert b"x-key: 1" in begin and f"content-length: {len(body)}".encode() in begin
    assert len(json.loads(body)["messages"][0]["content"]) == 1_000


def test_every_answer_counts_and_every_failure() -> None:
    async def work(engines: Counting) -> tuple[load.Sample, load.Sample, load.Sample, int]:
        good = await load.closed(engines.addresses, load.Prompts(1_000, {}), 4, 0.2)
        paced = await load.paced(engines.addresses, load.Prompts(1_000, {}), 200, 0.3)
        calls = sum((await engines.calls()).values())
        await engines.set(engines.addresses[0], status=500)
        return good, paced, await load.closed(engines.addresses[:1], load.Prompts(1_000, {}), 2, 0.1), calls

    with counting(2) as engines:
        good, paced, bad, calls = run(work(engines))
    assert len(good.latencies) + len(paced.latencies) == calls and not good.failed + paced.failed
    assert 30 < len(paced.latencies) < 90
    assert bad.failed and not bad.latencies


def test_nobody_there_is_a_failure_and_no_error() -> None:
    address = f"127.0.0.1:{free_port()}"
    sample = run(load.closed([address], load.Prompts(1_000, {}), 3, 0.1))
    assert sample.failed == 3
    assert run(once(address, [post({}, b"{}")])).status == 0


@pytest.mark.parametrize(
    ("rest", "whole"), [(b"5\r\nhello\r\n0\r\n\r\n", True), (b"5\r\nhello\r\n", False), (b"", False)]
)
def test_a_cut_answer_is_not_whole(rest: bytes, whole: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + rest)
        await writer.drain()
        writer.close()

    async def work() -> Answer:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            return await once(f"{host}:{port}", [post({}, b"{}")])

    answer = run(work())
    assert (answer.status, answer.whole, bool(answer.headed)) == (200, whole, True)
    assert failures.outcome([answer]) == (1, 0, 1, int(whole))


def test_streams_that_end_with_done_but_without_their_tokens_are_broken() -> None:
    cut = Answer(status=200, whole=True, body=b'data: {"choices":[]}\n\ndata: [DONE]\n\n')
    full = Answer(status=200, whole=True, body=b'data: {"choices":[{"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')
    assert failures.outcome([cut, full, Answer(status=503)]) == (3, 1, 1, 1)


def test_a_router_that_passes_everything_on_is_good_at_nothing(tmp_path: Path) -> None:
    with counting(2) as engines:
        rows = run(refusals.names(before(engines, tmp_path), engines))
        assert len(rows) == 5 and not any(row.good for row in rows)
        assert all("called 1 x" in row.found for row in rows)


def test_calls_of_one_request_are_counted_and_a_kept_message_is_seen(tmp_path: Path) -> None:
    with counting(2) as engines:
        first, after = run(refusals.errors(before(engines, tmp_path), engines))
    assert first.good and "message kept, engines called 1 x" in first.found
    assert after.good


def test_what_a_router_always_says_is_no_sign(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("stale: before anybody looked\n")
    signs = Signs(Running("", {}, [log]))
    usual = Answer(headers={"x-mode": "no fallback here"})
    assert signs.new([usual]) == []
    log.write_text(log.read_text() + "metrics gone on 1 of 4\n")
    assert signs.new([usual, Answer(headers={"x-gateway-reason": "stale report"})]) == [
        "header x-gateway-reason",
        "log",
    ]


def test_the_engine_reads_the_model_and_renders_prompts_that_begin_differently() -> None:
    async def work(address: str) -> list[Answer]:
        bodies = [refusals.body(MODEL, "a" * 900), refusals.body(MODEL, "b" * 900)]
        rendered = [await once(address, [post({}, body, "/v1/chat/completions/render")]) for body in bodies]
        return [*rendered, await once(address, [post({}, refusals.body("other"))])]

    with counting(1) as engines:
        one, other, refused = run(work(engines.addresses[0]))
    tokens, others = json.loads(one.body)["token_ids"], json.loads(other.body)["token_ids"]
    assert 200 < len(tokens) < 300 and tokens[0] != others[0] and tokens[1:] == others[1:]
    assert refused.status == 404


def test_the_engine_reports_what_it_was_told_to() -> None:
    async def work(engines: Counting) -> list[str]:
        await engines.set(engines.addresses[0], waiting=200, kv=0.95)
        pages = [await once(address, [head("GET", "/metrics", {})]) for address in engines.addresses]
        await engines.set(engines.addresses[0], metrics=False)
        assert (await once(engines.addresses[0], [head("GET", "/metrics", {})])).status == 404
        return [page.body.decode() for page in pages]

    with counting(2) as engines:
        full, idle = run(work(engines))
    label = '{engine="0",model_name="' + MODEL + '"}'
    assert f"vllm:num_requests_waiting{label} 200.0\n" in full and f"vllm:kv_cache_usage_perc{label} 0.95\n" in full
    assert f"vllm:num_requests_waiting{label} 0.0\n" in idle and f"vllm:kv_cache_usage_perc{label} 0.1\n" in idle
