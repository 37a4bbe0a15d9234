"""What is told of an engine: states, streams, sums of several cores, figures read from a page."""

import asyncio
import json
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aibrix_runtime import metrics
from aibrix_runtime.load import Announced, Board, Figures
from aibrix_runtime.observe import Plugin
from tests.runtime.sidecar import METRICS


def board() -> Board:
    return Board(100, "boot")


def test_an_engine_that_has_not_begun_is_starting_and_not_gone() -> None:
    one = board()
    one.engine("gone", "refused")
    assert (one.state, one.incarnation) == ("starting", "boot-0")
    one.engine("ready")
    assert one.ready == ""
    one.engine("gone", "refused")
    one.engine("gone", "refused again")
    assert one.ready == "the engine is gone: refused again" and one.incarnation == "boot-1", "one end is one end"
    one.engine("ready")
    one.drain(True)
    assert one.ready == "draining"


def test_a_stream_tells_changes_at_once_and_life_each_second() -> None:
    async def run() -> list[dict[str, Any]]:
        one = board()
        lines = one.lines()
        found = [json.loads(await anext(lines))]
        one.announce([Announced("a", "sha256:x", 8, "s3://b/a")])
        found.append(json.loads(await asyncio.wait_for(anext(lines), 0.5)))
        one.load("plugin", Figures(running=3))
        found.append(json.loads(await asyncio.wait_for(anext(lines), 0.5)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task := asyncio.ensure_future(anext(lines))), 0.5)
        found.append(json.loads(await asyncio.wait_for(task, 1.0)))
        await lines.aclose()  # type: ignore[attr-defined]
        assert not one._watching, "who has gone is forgotten"
        return found

    first, second, third, beat = asyncio.run(run())
    assert first["adapters"] == [] and first["revision"] == 100
    assert [one["name"] for one in second["adapters"]] == ["a"] and second["revision"] == 101
    assert third["running"] == 3 and "adapters" not in third
    assert beat == third


def datagram(core: int = 0, boot: str = "b", **more: Any) -> bytes:
    data = {
        "engine": core,
        "boot": boot,
        "running": 2,
        "waiting": 1,
        "kv_used": 0.5,
        "kv_tokens": 1000,
        "in_use": ["a"],
    }
    return orjson.dumps(data | {"totals": {"requests": 7}} | more)


def test_cores_are_summed_and_a_new_process_begins_anew() -> None:
    one = board()
    plugin = Plugin(one)
    plugin.heard(datagram())
    plugin.heard(datagram(core=1, kv_used=1.0, kv_tokens=3000, in_use=["b"]))
    found = one.figures
    assert (found.running, found.waiting, found.kv_tokens, found.kv_used) == (4, 2, 4000, 0.875)
    assert found.in_use == {"a", "b"} and found.totals["requests"] == 14
    assert one.source == "plugin"
    plugin.heard(datagram(boot="c"))
    assert one.figures.running == 2


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"\xff", datagram(running="x"), datagram(totals=None), datagram(in_use=3)]
)
def test_what_is_no_datagram_is_left(text: bytes) -> None:
    one = board()
    Plugin(one).heard(text)
    assert one.source == "page" and one.figures == Figures()


PAGE = b"""# HELP vllm:num_requests_running x
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0"} 70.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 4.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 5.0
vllm:time_to_first_token_seconds_sum 1.5
vllm:time_to_first_token_seconds_count 5.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters="c"} 20.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 10.0
vllm:num_requests_running{engine="0",model_name="m"} 99.0
"""


def test_figures_of_a_page() -> None:
    found = metrics.figures(PAGE.replace(b'model_name="m"} 99', b'model_name="n"} 1'), METRICS)
    assert (found.running, found.waiting, found.kv_used, found.kv_tokens) == (4, 2, 0.25, 16000)
    assert found.in_use == {"a", "b", "c"}, "the newest of the rows counts"
    assert found.totals == {"prompt_tokens": 70, "ttft_s": 1.5, "ttft_n": 5}


@pytest.mark.parametrize("page", [b"", b"\xff\n", b"vllm:num_requests_running x\n", b"vllm:num_requests_running NaN\n"])
def test_a_page_that_says_nothing(page: bytes) -> None:
    assert metrics.figures(page, METRICS).running == 0
    assert metrics.neutral(b"# TYPE x\n" + page, {}) == b""


def test_neutral_names_stand_beside_the_originals_once_each() -> None:
    found = list(text_string_to_metric_families(metrics.neutral(PAGE, METRICS).decode()))
    rows = {one.name: one for one in found}
    assert rows["aibrix_engine_running"].type == "gauge"
    assert [row.value for row in rows["aibrix_engine_running"].samples] == [3.0], "the first of two equal series"
    assert [row.name for row in rows["aibrix_engine_ttft"].samples] == [
        *["aibrix_engine_ttft_bucket"] * 2,
        *("aibrix_engine_ttft_sum", "aibrix_engine_ttft_count"),
    ]


def test_own_figures_are_a_page_too() -> None:
    own = metrics.Own()
    own.count("runtime_loads_total", result='a"b\\c\nd')
    own.count("runtime_loads_total", result="done", by=2)
    text = own.text([("runtime_adapters", {"listed": 2.0}), ("runtime_up", {"": 1.0})]).decode()
    rows = {
        (row.name, *row.labels.values()): row.value
        for one in text_string_to_metric_families(text)
        for row in one.samples
    }
    assert rows == {
        ("runtime_loads_total", 'a"b\\c\nd'): 1,
        ("runtime_loads_total", "done"): 2,
        ("runtime_adapters", "listed"): 2,
        ("runtime_up",): 1,
    }
