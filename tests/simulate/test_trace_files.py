"""Files in disorder, broken, huge or hostile; times to the microsecond; a round trip through our own two formats."""

import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import CompileError, UsageError
from aibrix_compile.simulate import formats, lines, trace
from aibrix_compile.simulate.formats import read, write
from aibrix_compile.simulate.tables import TABLES
from aibrix_compile.simulate.trace import Request, Trace
from tests.simulate.files import AZURE, BURST_3, HEADER, LOGGED, MOONCAKE, OURS, common, faults, said, saved, walk


def test_findings_stop_at_twenty_and_nothing_follows_the_first(tmp_path: Path) -> None:
    path = saved(tmp_path, OURS + "0,1,1\n5,2,2\n" + "x,y,1\n" * 30 + "9,1,1\n")
    found = faults(path)
    assert len(found) == 20 and found[-1].span.line == 13
    assert found[-1].hint.endswith("after 20 findings the rest of the file was not read")
    before: list[Request] = []
    with pytest.raises(CompileError):
        for one in read(path):
            before.append(one)
    assert before == [Request(0, 1, 1)], "the request of 5 s still waited for earlier ones"
    assert list(trace.first(read(path), 1)) == before
    after: list[Request] = []
    with pytest.raises(CompileError):
        for one in read(saved(tmp_path, OURS + "0,1,1\nx,1,1\n5,1,1\n9,1,1\n")):
            after.append(one)
    assert after == []


@pytest.mark.parametrize(
    ("ats", "expected"),
    [
        ([0, 1, 0.5, 2], [0, 0.5, 1, 2]),
        ([5, 4, 3.999999], None),
        ([5, 4.000001, 4], [4, 4.000001, 5]),
        ([2, 2, 2], [2, 2, 2]),
        ([0, 100, 99.5, 98.9, 97, 101], None),
    ],
)
def test_a_second_of_disorder_is_put_right(ats: list[float], expected: list[float] | None, tmp_path: Path) -> None:
    path = saved(tmp_path, OURS + "".join(f"{at},{number},1\n" for number, at in enumerate(ats, 1)))
    if expected is None:
        (one,) = faults(path)
        assert one.code == "AC605"
        return
    found = walk(path)
    assert [one.at / 1e6 for one in found] == expected
    equal = [one.input for one in found if one.at == found[0].at]
    assert equal == sorted(equal), "equal times keep the order of the file"


def test_disorder_is_reported_once_with_both_lines(tmp_path: Path) -> None:
    (one,) = faults(saved(tmp_path, OURS + "0,1,1\n90,1,1\n2,1,1\n3,1,1\n"))
    assert (one.span.line, one.related[0].span.line) == (4, 3)
    assert one.message == "the request comes 88.000000 s before that of line 3"


def test_a_log_is_in_the_order_of_ends(tmp_path: Path) -> None:
    """The first of three requests ends nine minutes after the others."""
    rows = [("12:09:00Z", 1), ("12:09:30Z", 2), ("12:00:01Z", 3)]
    path = saved(tmp_path, "".join(LOGGED % (time, 200, "chat", "null", number, 1) for time, number in rows))
    assert [(one.at, one.input) for one in walk(path)] == [(0, 3), (539_000_000, 1), (569_000_000, 2)]


def test_rows_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million requests at one moment are not a million rows in memory."""
    monkeypatch.setattr(formats, "MOST_HELD", 10)
    path = saved(tmp_path, OURS + "".join(f"0,{number},1\n" for number in range(1, 100)) + "0.5,100,1\n")
    walked = iter(read(path))
    assert [one.input for one in walked] == list(range(1, 101))
    rows = "".join(f"{number / 1000},{number},1\n" for number in (*range(100, 150), 120))
    (one,) = faults(saved(tmp_path, OURS + rows))
    assert one.code == "AC605", "what waits less long can be less far out of order"


@pytest.mark.parametrize("place", [0, 1, 2, 40, 1000, 30_000, -9, -1])
def test_broken_gzip(place: int, tmp_path: Path) -> None:
    numbers = random.Random(3)
    rows = "".join(f"{at},{int(1 + numbers.random() * 9000)},1\n" for at in range(20_000))
    packed = gzip.compress((OURS + rows).encode())
    assert len(walk(saved(tmp_path, packed))) == 20_000
    for broken in (packed[:place], packed[:place] + bytes([packed[place] ^ 255]) + packed[place:][1:]):
        found = faults(saved(tmp_path, broken))
        assert found[-1].code in ("AC601", "AC602", "AC603", "AC604", "AC606")
    if place > 40:
        assert "the gzip file is broken: it ends too early" in faults(saved(tmp_path, packed[:place]))[-1].message


def test_lines_that_are_no_utf8(tmp_path: Path) -> None:
    content = OURS.encode() + b"0,1,1\n1,\xff,1\r\n\xc3\xa9\xff,1,1\n" + "2,1,1,é\n".encode()
    assert said(faults(saved(tmp_path, content)))[:2] == [
        (3, 3, "AC602", "the line is not UTF-8 text"),
        (4, 2, "AC602", "the line is not UTF-8 text"),
    ]
    assert faults(saved(tmp_path, OURS.encode("utf-16")))[0].code == "AC602"
    assert faults(saved(tmp_path, OURS.encode("utf-16-le")))[0].code == "AC601"


def peak(walk_: Iterator[Request]) -> tuple[int, int]:
    """(requests, bytes of Python's memory at the most)"""
    tracemalloc.start()
    try:
        count = sum(1 for _ in walk_)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return count, most


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """40,000 requests would be 8 MB; a block of lines is less than one."""
    path = tmp_path / "long.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(OURS)
        file.writelines(f"{at / 10},{at + 1},{at + 2}\n" for at in range(40_000))
    count, most = peak(iter(trace.resized(trace.faster(read(path), 2), 2)))
    assert count == 40_000
    assert most < 2_000_000


@pytest.mark.parametrize("start", ["", OURS, '{"timestamp":0,"input_length":1,"output_length":1}\n'])
def test_a_line_without_an_end(start: str, tmp_path: Path) -> None:
    """200 MB of one line, in a file of 0.2 MB."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start.encode())
        for _ in range(200):
            file.write(b"1" * 1_000_000)
    tracemalloc.start()
    (one,) = faults(path)
    assert (one.code, one.message, one.span.line) == ("AC602", "the line is longer than 2 MiB", 1 + start.count("\n"))
    assert tracemalloc.get_traced_memory()[1] < 16_000_000
    tracemalloc.stop()


def test_the_longest_line_that_is_allowed(tmp_path: Path) -> None:
    ids = list(range(100_000, 350_000))
    row = json.dumps({"timestamp": 0, "input_length": 250_000 * 512, "output_length": 1, "hash_ids": ids})
    assert faults(saved(tmp_path, row))[0].code == "AC604", "the line is read, and 128 million tokens are refused"
    assert len(row) < lines.MAX_LINE
    quoted = OURS.replace("\n", ",adapter\n") + '0,1,1,"' + "a" * 1_000_000 + '"\n'
    assert walk(saved(tmp_path, quoted))[0].input == 1


@common
@given(st.integers(0, 315_360_000 * 10**6), st.sampled_from(["{:.6f}", "{:.1f}", "{:e}"]))
def test_seconds_are_exact_to_the_microsecond(at: int, form: str) -> None:
    text = form.format(Decimal(at) / 10**6)
    if "e" in form:
        text = f"{Decimal(at) / 10**6:.14e}"
    exact = int((Decimal(text) * 10**6).to_integral_value(ROUND_HALF_EVEN))
    if exact <= 315_360_000 * 10**6:
        assert TABLES["csv"].clock()(text) == exact


@common
@given(st.integers(0, 59), st.integers(0, 9_999_999))
def test_instants_are_rounded_to_the_nearest_microsecond(second: int, tick: int) -> None:
    clock = TABLES["azure"].clock()
    start = clock("2023-11-16 18:15:00")
    seen = clock(f"2023-11-16 18:15:{second:02}.{tick:07}") - start
    assert abs(seen * 10 - (second * 10**7 + tick)) <= 5


names = st.text(st.characters(exclude_characters=',"\r\n', exclude_categories=["Cs"]), max_size=6)
requests = st.lists(
    st.builds(
        Request,
        at=st.integers(0, 10**14),
        input=st.integers(1, 10**7),
        output=st.integers(1, 10**7),
        blocks=st.just(()),
        adapter=names,
        session=st.integers(-1, 2**63 - 1),
    ),
    min_size=1,
    max_size=20,
).map(lambda made: sorted(made, key=lambda one: one.at))


def blocked(one: Request) -> Request:
    size = -(-one.input // 4096)
    return one._replace(blocks=tuple(range(one.at, one.at + size)) if one.at % 3 else ())


@common
@given(made=requests, name=names, ending=st.sampled_from([".csv", ".csv.gz", ".jsonl", ".jsonl.gz"]))
def test_what_is_written_is_read(made: list[Request], name: str, ending: str, tmp_path: Path) -> None:
    unit = 4096 if ".jsonl" in ending else 0
    whole = [blocked(one) for one in made] if unit else made
    path = tmp_path / f"saved{ending}"
    assert write(Trace(name, lambda: iter(whole), unit), path) == len(whole)
    found = read(path)
    assert list(found) == whole
    assert found.block_tokens == unit and found.name == (name if unit else path.name)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_equal_traces_are_equal_files(tmp_path: Path) -> None:
    made = Trace("one", lambda: iter([Request(1, 2, 3)]))
    write(made, tmp_path / "a.jsonl.gz")
    write(made, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert (tmp_path / "a.jsonl.gz").read_bytes()[3:8] == bytes(5), "neither a name nor a time"
    write(made, tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text() == (
        "arrival_s,input_tokens,output_tokens,adapter,session\n0.000001,2,3,,\n"
    )


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = saved(tmp_path, "precious", "a.csv")
    broken = read(saved(tmp_path, OURS + "0,1,1\nx,1,1\n", "broken.csv"))
    with pytest.raises(CompileError):
        write(broken, path)
    for made, what in (
        (Trace("", lambda: iter([Request(0, 5, 1, (1,))]), 16), "CSV has no place for blocks"),
        (Trace("", lambda: iter([Request(0, 5, 1, (), "a,b")])), 'the adapter\'s name "a,b"'),
    ):
        with pytest.raises(UsageError) as caught:
            write(made, path)
        assert what in str(caught.value)
    assert path.read_text() == "precious"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv", "broken.csv"]


SEEDS = [
    OURS + "0.5,374,44\n1.25,396,109\n2,879,55\n",
    'arrival_s,input_tokens,output_tokens,adapter,session\n0,1,1,"a",1\n1,2,3,b,2\n',
    AZURE + "2023-11-16 18:15:46.6805900,374,44\n2024-05-10 00:00:00.009930+00:00,2162,5\n",
    BURST_3 + "0,b2-f,1.5,ChatGPT,10,5,15,Conversation log\n1,,2.5,GPT-4,10,5,15,API log\n",
    MOONCAKE % (0, 1100, 500, "[0,1,2]") + MOONCAKE % (3, 512, 490, "[0]"),
    LOGGED % ("12:00:00.250Z", 200, "chat", "null", 374, 44) + LOGGED % ("12:00:01.000Z", 429, "chat", "null", "null", "null"),
    HEADER + '{"at":5,"input":100,"output":7,"blocks":[3,9],"adapter":"a","session":2}\n',
]  # fmt: skip
NASTY = [
    *("\x00", "\t", "\r", "\n\n", '"', "'", "{", "}", "[", "]", ",", ",,", ":", "-", "+", "_", " ", "nan", "1e999", "-1", "0"),
    *("9" * 60, "9" * 5000, "a" * 400, "\u2028", "\ufeff", "漢字", "null", "true", "1.5", "[" * 2000, '"' * 50, "٣", "\x1f\x8b"),
]  # fmt: skip


def judge(path: Path) -> None:
    for form in ("", "csv", "gateway"):
        try:
            found = walk(path, form)
        except CompileError as error:
            for one in error.diagnostics:
                assert (
                    one.span.line >= 1 and one.span.column >= 1 and one.message and one.hint and len(one.message) < 700
                )
        else:
            assert found and all(one.at <= two.at for one, two in pairwise(found))
            assert all(one.at >= 0 and 0 < one.input <= 10**7 and 0 < one.output <= 10**7 for one in found)


@pytest.mark.parametrize("seed", range(60))
def test_mutated_traces(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed).random
    for _ in range(20):
        text = SEEDS[int(chance() * len(SEEDS))]
        for _ in range(1 + int(chance() * 3)):
            at = int(chance() * len(text))
            text = text[:at] + NASTY[int(chance() * len(NASTY))] + text[at + int(chance() * 6) :]
        judge(saved(tmp_path, text))


@common
@given(data=st.binary(max_size=200), seed=st.sampled_from(["", *SEEDS]))
def test_any_bytes(data: bytes, seed: str, tmp_path: Path) -> None:
    judge(saved(tmp_path, seed.encode() + data))
