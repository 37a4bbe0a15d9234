"""Every format as its publisher writes it, and what is said of files that are none of them."""

import gzip
from pathlib import Path

import pytest

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate import formats, lines
from aibrix_compile.simulate.formats import read, write
from aibrix_compile.simulate.tables import TABLES
from aibrix_compile.simulate.trace import Request
from tests.simulate.files import AZURE, BURST, BURST_3, HEADER, LOGGED, MOONCAKE, OURS, faults, said, saved, walk


@pytest.mark.parametrize(
    ("content", "requests", "skipped"),
    [
        (
            OURS + "6.011,178,8\n6.917,258,40\n7.2,210,0\n7.5,1,1\n",
            [Request(6_011_000, 178, 8), Request(6_917_000, 258, 40), Request(7_500_000, 1, 1)],
            1,
        ),
        (
            "arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n0.0000,2358,531,0.1695,15.7134\n1e-05,5,5,,\n",
            [Request(0, 2358, 531), Request(10, 5, 5)],
            0,
        ),
        (
            'output_tokens,session,adapter,input_tokens,arrival_s\r\n7,,,5,0\r\n8,12,"a,b",6,0.5\r\n9, 3 ,c_d, 7 , 1.0\r\n',
            [Request(0, 5, 7), Request(500_000, 6, 8, (), "a,b", 12), Request(1_000_000, 7, 9, (), "c_d", 3)],
            0,
        ),
        (
            AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 23:59:59,2,3\n"
            "2023-11-17 00:00:00.0000000,879,55",
            [Request(0, 374, 44), Request(4_314_579, 396, 109), Request(20_652_319_410, 2, 3), Request(20_653_319_410, 879, 55)],
            0,
        ),
        (
            AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n"
            "2024-05-10 02:00:02.5+02:00,76,15\n2024-05-09T19:00:03Z,1,1\n".replace("19:00:03Z", "19:00:03-05:00"),
            [Request(0, 2162, 5), Request(990_070, 2399, 6), Request(2_490_070, 76, 15), Request(2_990_070, 1, 1)],
            0,
        ),
        (
            BURST + "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n"
            "46,ChatGPT,100,0,100,API log\n46.0,GPT-4,0,0,0,API log\n118,GPT-4,417,276,693,Conversation log\n",
            [Request(0, 472, 18), Request(40_000_000, 1087, 230), Request(113_000_000, 417, 276)],
            2,
        ),
        (
            MOONCAKE % (0, 1100, 500, "[0,1,2]") + MOONCAKE % (0, 512, 490, "[0]") + MOONCAKE % (277.5, 13, 1, "[]"),
            [Request(0, 1100, 500, (0, 1, 2)), Request(0, 512, 490, (0,)), Request(277_500, 13, 1)],
            0,
        ),
        (
            "[2026-03-01 12:00:00.000][1][info][main] starting\n"
            + LOGGED % ("12:00:00.250Z", 200, "chat", "null", 374, 44)
            + LOGGED % ("12:00:01.000Z", 429, "chat", "null", "null", "null")
            + LOGGED % ("12:00:01.000Z", 200, "chat", "null", '"-"', '"-"')
            + LOGGED % ("12:00:02.000Z", 200, "chat", '"sql"', '"100"', "7.0"),
            [Request(0, 374, 44), Request(1_750_000, 100, 7, (), "sql")],
            3,
        ),
        (
            HEADER + '{"at":5,"input":100,"output":7,"blocks":[3,9],"adapter":"a","session":2}\n\n{"output":1,"at":5,"input":64}\n',
            [Request(5, 100, 7, (3, 9), "a", 2), Request(5, 64, 1)],
            0,
        ),
    ],
    ids=["csv", "measured", "optional", "azure-2023", "azure-2024", "burstgpt", "mooncake", "gateway", "jsonl"],
)  # fmt: skip
def test_formats(content: str, requests: list[Request], skipped: int, tmp_path: Path) -> None:
    found = read(saved(tmp_path, content))
    for _ in range(2):
        assert list(found) == requests
        assert found.skipped.total() == skipped
    assert found.block_tokens == (512 if "hash_ids" in content else 64 if content.startswith(HEADER) else 0)
    assert found.name == ("mine" if content.startswith(HEADER) else "trace")
    assert list(read(saved(tmp_path, "\ufeff" + content.removesuffix("\n"), "bom"))) == requests
    assert list(read(saved(tmp_path, gzip.compress(content.encode()), "packed"))) == requests


@pytest.mark.parametrize("size", range(1, 40))
def test_blocks_of_the_file_end_anywhere(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\ufeffarrival_s,input_tokens,output_tokens,adapter\r\n0,1,2,é\r\n\r\n0.25,3,4,漢\r\n1,x,6,b\r\n2,7,8,"
    path = saved(tmp_path, content)
    monkeypatch.setattr(lines, "_BLOCK", size)
    assert said(faults(path)) == [(5, 3, "AC604", 'input_tokens is "x"')]
    assert walk(saved(tmp_path, content.replace("x", "5"))) == [
        *(
            Request(0, 1, 2, (), "é"),
            Request(250_000, 3, 4, (), "漢"),
            Request(1_000_000, 5, 6, (), "b"),
            Request(2_000_000, 7, 8),
        ),
    ]


def test_burstgpt_with_sessions(tmp_path: Path) -> None:
    rows = "0,b2-f,1.5,ChatGPT,10,5,15,Conversation log\n1,,2.5,GPT-4,10,5,15,API log\n2,b2-f,0.5,GPT-4,20,5,25,Conversation log\n"
    path = saved(tmp_path, BURST_3 + rows)
    first, second, third = walk(path)
    assert first.session == third.session >= 0 and second.session == -1
    assert [one.at for one in walk(path, model="GPT-4")] == [0, 1_000_000]
    found = read(path, model="GPT-4")
    assert len(list(found)) == 2 and found.skipped.total() == 1


def test_the_log_of_one_service_among_several(tmp_path: Path) -> None:
    names = ["chat", "code", "chat", "code"]
    path = saved(
        tmp_path, "".join(LOGGED % (f"12:00:0{n}Z", 200, name, "null", 10 + n, 5) for n, name in enumerate(names))
    )
    assert [one.input for one in walk(path, model="code")] == [11, 13]
    (one,) = faults(path)
    assert (one.code, one.span.line) == ("AC607", 2)
    assert one.related[0].span.line == 1
    (one,) = faults(path, model="other")
    assert one.code == "AC606" and "4 x a request to another model" in one.message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", [(1, 1, "AC606", "the file is empty")]),
        ("\n \n", [(1, 1, "AC606", "the file is empty")]),
        (OURS, [(1, 1, "AC606", "there is no request in the file")]),
        (HEADER, [(1, 1, "AC606", "there is no request in the file")]),
        ("hello\n", [(1, 1, "AC601", 'the columns "hello" are those of no known trace')]),
        ("\n0.0,374,44\n", [(2, 1, "AC601", 'the columns "0.0", "374", "44" are those of no known trace')]),
        (
            "arrival_s,input_tokens,output_tokens,output_tokens\n",
            [(1, 1, "AC601", 'the columns "arrival_s", "input_tokens", "output_tokens", "output_tokens" are those of no known trace')],
        ),
        ('{"prompt":"hi"}\n', [(1, 1, "AC601", 'the keys "prompt" are those of no known trace')]),
        ("{not json\n", [(1, 1, "AC603", "no JSON: expecting property name enclosed in double quotes at column 2")]),
        (
            OURS + "0,1\n1,2,3,4\n\n2,,5\nx\n",
            [
                (2, 1, "AC603", "the line has 2 values, the header 3"),
                (3, 1, "AC603", "the line has more than 3 values, the header 3"),
                (5, 3, "AC604", 'input_tokens is ""'),
                (6, 1, "AC603", "the line has 1 values, the header 3"),
            ],
        ),
        (
            OURS + "-1,1,1\nnan,1,1\ninf,1,1\n1e99,1,1\n1_0,1,1\nx,y,1\n,1,1\n315360001,1,1\n",
            [
                (2, 1, "AC604", 'arrival_s is "-1"'),
                (3, 1, "AC604", 'arrival_s is "nan"'),
                (4, 1, "AC604", 'arrival_s is "inf"'),
                (5, 1, "AC604", 'arrival_s is "1e99"'),
                (6, 1, "AC604", 'arrival_s is "1_0"'),
                (7, 1, "AC604", 'arrival_s is "x"'),
                (7, 3, "AC604", 'input_tokens is "y"'),
                (8, 1, "AC604", 'arrival_s is ""'),
                (9, 1, "AC604", 'arrival_s is "315360001"'),
            ],
        ),
        (
            OURS + f"0,-5,1\n0,1.0,1\n0,1,10000001\n0,1_0,1\n0,\u00b2,1\n0,1,{'9' * 5000}\n0,10000000,1\n",
            [
                (2, 3, "AC604", 'input_tokens is "-5"'),
                (3, 3, "AC604", 'input_tokens is "1.0"'),
                (4, 5, "AC604", 'output_tokens is "10000001"'),
                (5, 3, "AC604", 'input_tokens is "1_0"'),
                (6, 3, "AC604", 'input_tokens is "\u00b2"'),
                (7, 5, "AC604", f'output_tokens is "{"9" * 40}..."'),
            ],
        ),
        (
            "arrival_s,input_tokens,output_tokens,session\n0,1,1,x\n0,1,1,-1\n",
            [(2, 7, "AC604", 'session is "x"'), (3, 7, "AC604", 'session is "-1"')],
        ),
        (
            AZURE + "2023-13-16 18:15:46,1,1\n2023-11-16 24:15:46,1,1\n2023-11-16 18:15:61,1,1\n1699999999,1,1\n2023-11-16 18:15:46 CET,1,1\n0001-01-01 00:00:00,1,1\n",
            [(number, 1, "AC604") for number in range(2, 8)],
        ),
        (
            MOONCAKE % (0, 1100, 5, "[0,1]") + MOONCAKE % (-1, 1, 5, "[]") + MOONCAKE % (0, "1.5", 5, "[]")
            + MOONCAKE % (0, "true", 5, "[]") + MOONCAKE % ("NaN", 1, 5, "[]") + MOONCAKE % (0, 1, 5, '["a"]')
            + MOONCAKE % (0, 1, 5, "7") + '{"timestamp":0,"input_length":1}\n[1]\n' + '{"timestamp":0,"input_length":1,"output_length":1,"hash_id":[1]}\n',
            [
                (1, 65, "AC608", "a prompt of 1100 tokens has 3 blocks of 512, not 2"),
                (2, 14, "AC604", 'timestamp is -1'),
                (3, 31, "AC604", 'input_length is 1.5'),
                (4, 31, "AC604", 'input_length is true'),
                (5, 14, "AC604", 'timestamp is NaN'),
                (6, 62, "AC604", "hash_ids is no list of whole numbers"),
                (7, 62, "AC604", "hash_ids is no list of whole numbers"),
                (8, 1, "AC603", "the record has other keys: output_length missing"),
                (9, 1, "AC603", '"[1]" is no JSON object'),
                (10, 61, "AC603", 'the record has other keys: "hash_id" unknown'),
            ],
        ),
        (
            HEADER + '{"at":0.5,"input":1,"output":1}\n{"at":0,"input":1,"output":1,"adapter":7}\n'
            '{"at":0,"input":1,"output":1,"session":-2}\n{"at":0,"input":65,"output":1,"blocks":[1]}\n' + HEADER + "[" * 100_000 + "\n",
            [
                (2, 7, "AC604", 'at is 0.5'),
                (3, 40, "AC604", 'adapter is 7'),
                (4, 40, "AC604", 'session is -2'),
                (5, 40, "AC608", "a prompt of 65 tokens has 2 blocks of 64, not 1"),
                (6, 32, "AC603", 'the record has other keys: at, input, output missing; "block_tokens", "trace" unknown'),
                (7, 1, "AC603", "no JSON that can be read"),
            ],
        ),
        (
            '{"trace":"x","block_tokens":0}\n{"at":0,"input":65,"output":1,"blocks":[1]}\n',
            [(2, 40, "AC608", "blocks in a trace that gives them no size")],
        ),
        ('{"trace":"x","block_tokens":-1}\n', [(1, 1, "AC604", 'block_tokens is -1')]),
        (
            LOGGED % ("12:00:00Z", 200, "chat", "null", 1, 1) + LOGGED % ("12:00", 200, "chat", "null", 1, 1)
            + LOGGED % ("12:00:00Z", 200, "chat", "null", "1e99", '"x"'),
            [(2, 9, "AC604", 'time is "2026-03-01T12:00"'), (3, 122, "AC604", 'tokens_in is 1e+99')],
        ),
    ],
    ids=[
        *("empty", "blank", "header", "own-header", "text", "no-header", "twice", "keys", "no-json", "shape", "times", "tokens"),
        *("session", "instants", "mooncake", "jsonl", "unsized", "bad-header", "gateway"),
    ],
)  # fmt: skip
def test_mistakes(content: str, expected: list[tuple[object, ...]], tmp_path: Path) -> None:
    found = said(faults(saved(tmp_path, content)))
    assert [one[: len(expected[0])] for one in found] == expected


def test_hints_name_what_is_missing_and_what_is_known(tmp_path: Path) -> None:
    (one,) = faults(saved(tmp_path, "arrival_s,input_tokens,output,sesion\n"))
    assert one.hint == (
        'the nearest is csv: output_tokens is missing, "output" is unknown, "sesion" is unknown;'
        " formats: csv, azure, burstgpt, mooncake, gateway, jsonl"
    )
    (one,) = faults(saved(tmp_path, '{"timestamp":0,"input_length":1,"output_len":2}\n'))
    assert one.hint.startswith('the nearest is mooncake: output_length is missing, "output_len" is unknown;')
    (one,) = faults(saved(tmp_path, OURS), form="azure")
    assert one.message.endswith("are those of no azure trace") and one.hint.startswith("ContextTokens is missing,")
    (one,) = faults(saved(tmp_path, OURS), form="mooncake")
    assert one.hint.startswith("a mooncake trace has no columns;")


def test_named_formats_are_the_recognised_ones(tmp_path: Path) -> None:
    path = saved(tmp_path, AZURE + "2023-11-16 18:15:46,1,1\n")
    assert walk(path, "azure") == walk(path)
    assert set(TABLES) < set(formats.FORMATS)


def test_misuse(tmp_path: Path) -> None:
    ours = saved(tmp_path, OURS + "0,1,1\n")
    for call, what in (
        (lambda: read(tmp_path / "none.csv"), "none.csv: no such file"),
        (lambda: read(tmp_path), "is no regular file"),
        (lambda: read(ours, "parquet"), "there is no trace format parquet; formats: csv, azure"),
        (lambda: read(ours, model="chat"), "is a trace of format csv, which does not know models"),
        (lambda: write(read(ours), tmp_path / "a.txt"), "says no form"),
        (lambda: write(read(ours), tmp_path / "none" / "a.csv"), "can not write"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert what in str(caught.value)
