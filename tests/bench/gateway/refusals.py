"""Probes of requests that a router must not pass on as they are, before engines that count their calls."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.gateway.engine import ADAPTER, MODEL, REASON
from tests.bench.gateway.engines import Counting
from tests.bench.gateway.routers import Running
from tests.bench.gateway.row import Row
from tests.bench.gateway.wire import Answer, head, once, post
from tests.bench.mock import memory

MESSAGES = [{"role": "user", "content": "hello"}]
_LARGE = 40_000_000  # bytes
_PIECE = 1 << 16
_ASKED = ("x-gateway-destination-endpoint", "x-smg-target-worker", "target-pod", "x-envoy-original-dst-host")
"""Headers in which a client of some gateway may name where its request goes."""
_random = random.Random(7)


def body(model: str | None, text: str = "hello") -> bytes:
    fields: dict[str, object] = {} if model is None else {"model": model}
    return json.dumps({**fields, "messages": [{"role": "user", "content": text}], "max_tokens": 4}).encode()


async def names(router: Running, engines: Counting) -> list[Row]:
    """What no engine should see."""
    requests = {
        "unknown model": (body("no-such-model"), "/v1/chat/completions", 404),
        "no model": (body(None), "/v1/chat/completions", 400),
        "broken JSON": (b'{"model": "' + MODEL.encode() + b'", "messages": [', "/v1/chat/completions", 400),
        "another tenant's adapter": (body(ADAPTER), "/v1/chat/completions", 403),
        "loading an adapter from outside": (b'{"lora_name":"x","lora_path":"/x"}', "/v1/load_lora_adapter", 404),
    }
    rows = []
    for what, (data, path, wanted) in requests.items():
        before = sum((await engines.calls(path)).values())
        answer = await once(router.address, [post(router.headers, data, path)])
        calls = sum((await engines.calls(path)).values()) - before
        forwarded = f", engines called {calls} x" if calls else ", no engine called"
        rows.append(Row(what, answer.status == wanted and not calls, f"{answer.status}{forwarded}"))
    return rows


async def errors(router: Running, engines: Counting) -> list[Row]:
    """Every engine answers 500, as to a request that it can not stand; after 25 of them they are well again."""
    for address in engines.addresses:
        await engines.set(address, status=500)
    called, answers = [sum((await engines.calls()).values())], []
    for number in range(25):
        answers.append(await once(router.address, [post(router.headers, body(MODEL, f"{number}"))]))
        called.append(sum((await engines.calls()).values()))
    calls = called[1] - called[0]
    first = answers[0]
    kept = REASON.encode() in first.body
    for address in engines.addresses:
        await engines.set(address, status=0)
    start = time.perf_counter()
    while (last := await once(router.address, [post(router.headers, body(MODEL, _some_text()))])).status != 200:
        await asyncio.sleep(0.25)
        if last.ended > start + 8:
            break
    waited = last.ended - start
    message = "message kept" if kept else "message lost"
    later = f"200 after {waited:.1f} s" if last.status == 200 else f"still {last.status} after {waited:.0f} s"
    found = f"{first.status}, {message}, engines called {calls} x"
    return [
        Row("engine answers 500", first.status == 500 and kept and calls == 1, found),
        Row("after 25 such requests, well again", last.status == 200 and waited <= 1, later),
    ]


async def large(router: Running, engines: Counting) -> list[Row]:
    """40 MB, declared and in chunks."""
    rows = []
    for what, pieces in (("40 MB body", _declared()), ("40 MB body in chunks", _chunked())):
        _forget_peaks(router)
        before = sum(memory(process.pid) for process in router.processes.values())
        calls = sum((await engines.calls()).values())
        answer = await once(router.address, [_head(router, what.endswith("chunks")), *pieces], 60)
        grown = _peak(router) - before
        called = sum((await engines.calls()).values()) - calls
        passed = ", passed on" if called else ""
        found = f"{answer.status} after {answer.seconds:.1f} s, memory +{max(0, grown):.0f} MB{passed}"
        bound = 40 if what.endswith("chunks") else 8  # in chunks its size shows only when the limit has been read
        rows.append(Row(what, answer.status == 413 and not called and grown < bound, found))
    return rows


def _head(router: Running, chunked: bool) -> bytes:
    if not chunked:
        return head("POST", "/v1/chat/completions", router.headers, _LARGE)
    kind = {"content-type": "application/json", "transfer-encoding": "chunked"}
    return head("POST", "/v1/chat/completions", {**router.headers, **kind})


def _declared() -> Sequence[bytes]:
    begin = b'{"model":"' + MODEL.encode() + b'","messages":[{"role":"user","content":"'
    end = b'"}]}'
    return begin, b"x" * (_LARGE - len(begin) - len(end)), end


def _chunked() -> Sequence[bytes]:
    data = b"".join(_declared())
    parts = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
    return [*(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def _forget_peaks(router: Running) -> None:
    for process in router.processes.values():
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # VmHWM begins anew


def _peak(router: Running) -> float:
    """MB, the sum of the peaks of its processes."""
    return sum(
        int(row.split()[1]) / 1000
        for process in router.processes.values()
        for row in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if row.startswith("VmHWM")
    )


async def destinations(router: Running, engines: Counting) -> list[Row]:
    """A client names an engine, or an address that is none; `engines` has one more than the router knows of."""
    trap = engines.addresses[-1]
    followed, escaped = set[str](), set[str]()
    for name in _ASKED:
        named = engines.addresses[0]
        before = await engines.calls()
        for _ in range(12):
            value = "0" if name == "x-smg-target-worker" else named
            await _send(router, {name: value}, "POST")
        gained = {address: calls - before[address] for address, calls in (await engines.calls()).items()}
        if any(count == 12 for count in gained.values()) and not await _drawn_alone(router, engines):
            followed.add(name)
        for method in ("POST", "GET", "PUT", "DELETE", "OPTIONS"):
            seen = await engines.calls("/v1/models", method)
            chat = await engines.calls()
            for address in (trap, f"http://{trap}"):
                await _send(router, {name: address}, method)
            if (await engines.calls("/v1/models", method))[trap] > seen[trap] or (await engines.calls())[trap] > chat[
                trap
            ]:
                escaped.add(f"{method} by {name}")  # fmt: skip
    found = [f"obeys {', '.join(sorted(followed))}"] if followed else []
    found += [f"goes to any address: {', '.join(sorted(escaped))}"] if escaped else []
    rows = [Row("destination headers from a client", not found, "; ".join(found) or "no effect")]
    before = await engines.calls()
    answers = [
        await once(router.address, [post(router.headers, json.dumps({"url": f"http://{trap}"}).encode(), path)])
        for path in ("/workers", f"/add_worker?url=http://{trap}")
    ]
    await asyncio.sleep(3)
    await asyncio.gather(*(_send(router, {}, "POST") for _ in range(40)))
    taken = (await engines.calls())[trap] - before[trap]
    text = f"{' and '.join(str(answer.status) for answer in answers)}; it then gets {taken} of 40 requests"
    return [*rows, Row("a client adds an engine of its own", not taken, text)]


async def _drawn_alone(router: Running, engines: Counting) -> bool:
    """Whether twelve different prompts go to one engine without any header, too."""
    before = await engines.calls()
    for _ in range(12):
        await _send(router, {}, "POST")
    return max(count - before[address] for address, count in (await engines.calls()).items()) == 12


async def _send(router: Running, headers: Mapping[str, str], method: str) -> Answer:
    if method == "POST":
        return await once(router.address, [post({**router.headers, **headers}, body(MODEL, _some_text()))])
    return await once(router.address, [head(method, "/v1/models", {**router.headers, **headers})], 3.0)


def _some_text() -> str:
    """Of which no beginning has been seen before."""
    return "".join(_random.choices("abcdefghijklmnopqrstuvwxyz ", k=400))


async def dead(router: Running, engines: Counting) -> list[Row]:
    """No engine is left; asked at once, and again when the router has had time to notice."""
    engines.process.kill()
    answers = []
    for pause in (0.0, 3.0):
        await asyncio.sleep(pause)
        answers.append(await once(router.address, [post(router.headers, body(MODEL))], 15))
    return [
        Row(
            f"all engines dead, {when}",
            answer.status == 503 and "retry-after" in answer.headers and answer.seconds < 1,
            f"{answer.status or 'nothing'} after {answer.seconds:.2f} s, "
            + (f"Retry-After {value}" if (value := answer.headers.get("retry-after")) else "no Retry-After"),
        )
        for when, answer in zip(("at once", "3 s later"), answers, strict=True)
    ]
