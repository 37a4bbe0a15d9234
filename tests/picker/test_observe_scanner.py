"""The scanner: what it reads, and that it says what it can not read. prometheus_client's parser is the judge."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from observed import NAMES, PAGE
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aibrix_controllers.picker.observe.scanner import Report, Scanner

SCANNER = Scanner(NAMES)


def test_the_four_numbers() -> None:
    assert SCANNER.scan(PAGE) == Report(running=3, waiting=2, kv_share=0.25, kv_tokens=16_000)


def test_ranks_of_a_data_parallel_engine_are_one() -> None:
    second = PAGE.replace(b'engine="0"', b'engine="1"').replace(b"0.25", b"0.75").replace(b'="16"', b'="32"')
    second = second.replace(b" 3.0", b" 30.0")
    assert SCANNER.scan(PAGE + second) == Report(running=33, waiting=4, kv_share=0.5, kv_tokens=48_000)


def test_an_engine_without_a_metric_of_its_cache() -> None:
    scanner = Scanner({"running": "sglang:num_running_reqs", "waiting": "sglang:num_queue_reqs"})
    page = b"sglang:num_running_reqs 4\nsglang:num_queue_reqs 1e1 1700000000000\n"
    assert scanner.scan(page) == Report(running=4, waiting=10, kv_share=0.0, kv_tokens=0)


@pytest.mark.parametrize(
    "labels", [b'block_size="16",num_gpu_blocks="None"', b'hash_block_size="16",num_gpu_blocks="5"']
)
def test_a_capacity_that_is_not_told_is_unknown(labels: bytes) -> None:
    page = PAGE[: PAGE.index(b"vllm:cache_config_info")] + b"vllm:cache_config_info{%s} 1.0\n" % labels
    found = SCANNER.scan(page)
    assert isinstance(found, Report) and found.kv_tokens == 0


RUNNING, KV = b"vllm:num_requests_running", b"vllm:kv_cache_usage_perc"
RUNNING_LINE = next(line for line in PAGE.splitlines() if line.startswith(RUNNING))
KV_LINE = next(line for line in PAGE.splitlines() if line.startswith(KV))


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        (RUNNING_LINE, b"", "no vllm:num_requests_running"),
        (KV_LINE, b"", "no vllm:kv_cache_usage_perc"),
        (RUNNING_LINE, RUNNING_LINE + b"\n" + RUNNING_LINE, "vllm:num_requests_running stands there twice"),
        (RUNNING_LINE, RUNNING + b" 1.5", "vllm:num_requests_running is no number of requests"),
        (RUNNING_LINE, RUNNING + b" 1e300", "vllm:num_requests_running is no number of requests"),
        (RUNNING_LINE, RUNNING + b" -1", "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING + b" NaN", "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING + b" 1_0", "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING + b" 1e999", "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING + b'{a="}" 5} 3', "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING_LINE + b' # {trace="x"} 9', "vllm:num_requests_running has no number"),
        (RUNNING_LINE, RUNNING_LINE + b"\r", "vllm:num_requests_running has no number"),
        (KV_LINE, KV + b" 1.5", "vllm:kv_cache_usage_perc is no share"),
    ],
)
def test_a_number_in_doubt_is_a_reason(line: bytes, instead: bytes, why: str) -> None:
    assert SCANNER.scan(PAGE.replace(line, instead)) == why


def test_a_page_that_was_cut_off() -> None:
    """`33` cut after its first digit would be a wrong number."""
    assert SCANNER.scan(PAGE[: PAGE.index(b"3.0") + 1]) == "the page ends within a line"


@given(st.binary(max_size=300), st.sampled_from([b"", RUNNING + b"{", RUNNING + b" ", b"\n" + KV]))
@example(b'{a="' + b"\\" * 200, RUNNING)
def test_any_bytes_are_a_reason_or_a_report(noise: bytes, start: bytes) -> None:
    for page in (noise, start + noise + b"\n", PAGE + start + noise + b"\n", start + noise + b"\n" + PAGE):
        assert isinstance(SCANNER.scan(page), Report | str)


@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.integers(0, 999), st.integers(0, 99), st.floats(0, 1)),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row[0],
    )
)
def test_what_prometheus_client_writes_is_read(rows: list[tuple[str, int, int, float]]) -> None:
    """With any label values: quotes, braces, line ends."""
    registry = CollectorRegistry()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    gauges = [Gauge(name, "Text.", ["engine", "model_name"], registry=registry) for name in names]
    for label, *values in rows:
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(label, "}").set(value)
    found = SCANNER.scan(generate_latest(registry))
    assert isinstance(found, Report)
    assert (found.running, found.waiting) == (sum(row[1] for row in rows), sum(row[2] for row in rows))
    assert found.kv_share == pytest.approx(sum(row[3] for row in rows) / len(rows))


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_page_is_never_read_otherwise_than_the_judge_reads_it(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PAGE) - 1))
    page = PAGE[:at] + data.draw(st.binary(max_size=3)) + PAGE[at + data.draw(st.integers(0, 3)) :]
    found = SCANNER.scan(page)
    if isinstance(found, str):
        return
    counts = re.compile("(vllm:num_requests_(?:running|waiting))(?![a-z_:])")
    lines = [line for line in page.decode("latin-1").split("\n") if counts.match(line)]
    samples = [one for family in text_string_to_metric_families("\n".join(lines) + "\n") for one in family.samples]
    for name, value in (("running", found.running), ("waiting", found.waiting)):
        assert value == sum(one.value for one in samples if one.name == NAMES[name])
