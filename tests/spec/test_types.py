"""Every typed scalar: what it takes, what it refuses, and that each offered replacement is right."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from aibrix_compile.spec import free, types
from aibrix_compile.yamlio import Map, Plain, Seq, parse
from aibrix_compile.yamlio import decode as text_of

GOOD: list[tuple[Any, list[tuple[str, Any]]]] = [
    (types.text, [("a", "a"), ("0.10", "0.10"), ("NO", "NO"), ("'8'", "8"), ("0777", "0777"), ("'  x'", "  x"), ("'~'", "~")]),
    (types.whole, [("0", 0), ("-3", -3), ("131072", 131072), ("-0", 0)]),
    (types.between(1, 5), [("1", 1), ("5", 5)]),
    (types.number, [("0", 0.0), ("2", 2.0), ("0.9", 0.9), ("12.250", 12.25)]),
    (types.boolean, [("true", True), ("false", False)]),
    (types.duration, [("80ms", 80), ("2s", 2000), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0), ("'2s'", 2000)]),
    (types.size, [("1Ki", 1024), ("64Mi", 64 * 2**20), ("24Gi", 24 * 2**30), ("2Ti", 2 * 2**40), ("'24Gi'", 24 * 2**30)]),
    (types.money, [("20 USD", types.Money(20, "USD")), ("0.71 EUR", types.Money(0.71, "EUR"))]),
    (types.percent, [("0%", 0.0), ("70%", 0.7), ("100%", 1.0), ("12.5%", 0.125)]),
    (types.count_or_percent, [("0", 0), ("3", 3), ("25%", "25%"), ("'25%'", "25%")]),
    (types.target, [
        ("12 per replica", types.Target(12, "per replica")), ("0.5 per replica", types.Target(0.5, "per replica")),
        ("70%", types.Target(0.7, "ratio")), ("2s", types.Target(2000, "ms")),
    ]),
    (types.dns_label, [("a", "a"), ("l4-2", "l4-2"), ("7b", "7b"), ("a" * 63, "a" * 63)]),
    (types.dns_name, [("a", "a"), ("a.b-c.d", "a.b-c.d"), (("a" * 60 + ".") * 4 + "a", ("a" * 60 + ".") * 4 + "a")]),
    (types.served_name, [("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"), ("a", "a"), ("X:y@z+1", "X:y@z+1")]),
    (types.adapter_name, [("refunds-v3", "refunds-v3"), ("A_b.c", "A_b.c")]),
    (types.http_url, [("https://minio.example.com", "https://minio.example.com"), ("http://a:9000/x", "http://a:9000/x")]),
    (types.uri, [(u, u) for u in ("hf://a/b", "s3://b/p/q", "gs://b/p", "https://h/p", "pvc://claim", "pvc://claim/p", "file:///m")]),
    (types.image, [(i, i) for i in ("vllm", "docker.io/vllm/vllm-openai:v0.32.0", "r:5000/a/b@sha256:" + "0" * 64)]),
    (types.cpu, [("8", 8000), ("0.5", 500), ("500m", 500), ("1.25", 1250), ("'8'", 8000)]),
    (types.version, [("0.32.0", "0.32.0"), ("0.10", "0.10"), ("1.0.0rc1+cu128", "1.0.0rc1+cu128")]),
    (types.lora_rank, [("8", 8), ("512", 512)]),
    (types.all_or_count, [("all", "all"), ("1", 1), ("3", 3)]),
    (types.time_of_day, [("08:00", 480), ('"19:30"', 1170), ("00:00", 0), ("23:59", 1439)]),
    (types.timezone, [(z, z) for z in ("UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1")]),
    (free.raw, [("0.9", "0.9"), ("[a]", ["a"])]),
]  # fmt: skip

BAD: list[tuple[Any, list[tuple[str, str, str]]]] = [  # written, code, replacement ("" = none can be right)
    (types.text, [("''", "AC109", ""), ("'  '", "AC109", ""), ("~", "AC109", ""), ("[a]", "AC103", ""), ("{a: b}", "AC103", "")]),
    (types.whole, [
        ("010", "AC104", ""), ("1_000", "AC104", "1000"), ("'1,000'", "AC104", "1000"), ("0x8", "AC104", ""), ("0o7", "AC104", ""),
        ("0b1", "AC104", ""), ("'8'", "AC104", "8"), ("1.0", "AC104", ""), ("1e3", "AC104", ""), ("+1", "AC104", ""),
        ("8k", "AC104", ""), ("many", "AC104", ""), ("true", "AC104", ""), ("~", "AC109", ""), ("[1]", "AC103", ""),
        ("٣", "AC104", ""), ("9" * 30, "AC104", ""),
    ]),
    (types.between(1, 5), [("0", "AC107", ""), ("6", "AC107", ""), ("-1", "AC107", ""), ("x", "AC104", "")]),
    (types.number, [("-1", "AC107", ""), (".5", "AC104", ""), ("1e3", "AC104", ""), (".inf", "AC104", ""), ("'0.9'", "AC104", "0.9"), ("1_0.5", "AC104", "10.5")]),
    (types.boolean, [
        ("yes", "AC104", "true"), ("NO", "AC104", "false"), ("on", "AC104", "true"), ("Off", "AC104", "false"), ("True", "AC104", "true"),
        ("y", "AC104", "true"), ("n", "AC104", "false"), ("'true'", "AC104", "true"), ("1", "AC104", ""), ("maybe", "AC104", ""), ("{}", "AC103", ""),
    ]),
    (types.duration, [("300", "AC105", ""), ("-5", "AC105", ""), ("5 minutes", "AC105", ""), ("1h30m", "AC105", ""), ("2S", "AC105", ""), ("1d", "AC105", ""), ("-2s", "AC105", "")]),
    (types.size, [("24", "AC105", ""), ("24GB", "AC105", "24Gi"), ("64M", "AC105", "64Mi"), ("24 GiB", "AC105", "24Gi"), ("1.5Gi", "AC105", ""), ("0Gi", "AC105", ""), ("big", "AC105", ""), ("-1", "AC105", "")]),
    (types.money, [("20", "AC105", "20 USD"), ("$20", "AC105", ""), ("20USD", "AC105", ""), ("20 usd", "AC105", ""), ("-20", "AC105", ""), ("0.123456", "AC105", "")]),
    (types.percent, [("0.7", "AC105", "70%"), ("70", "AC105", "70%"), ("1", "AC105", "100%"), ("150", "AC105", ""), ("-5", "AC105", ""), ("101%", "AC105", ""), ("100.5%", "AC105", ""), ("half", "AC105", "")]),
    (types.count_or_percent, [("-1", "AC105", ""), ("'1'", "AC105", ""), ("12.5%", "AC105", ""), ("some", "AC105", ""), ("[1]", "AC103", "")]),
    (types.target, [("12", "AC105", "12 per replica"), ("-12", "AC105", ""), ("12 per pod", "AC105", ""), ("fast", "AC105", "")]),
    (types.dns_label, [("Support Chat", "AC107", "support-chat"), ("a_b", "AC107", "a-b"), ("-a-", "AC107", "a"), ("a.b", "AC107", "a-b"), ("ß", "AC107", ""), ("a" * 64, "AC107", "a" * 63), ('"a\\n"', "AC107", "a")]),
    (types.dns_name, [("A", "AC107", ""), ("a..b", "AC107", ""), ("a.", "AC107", ""), ("a" * 254, "AC107", "")]),
    (types.served_name, [("-a", "AC107", ""), ("a b", "AC107", ""), ("a" * 201, "AC107", ""), ('"a\\n"', "AC107", "")]),
    (types.adapter_name, [("a/b", "AC107", ""), ("_a", "AC107", ""), ("a" * 101, "AC107", "")]),
    (types.http_url, [("minio", "AC111", ""), ("s3://a", "AC111", ""), ("https://u:p@h", "AC111", ""), ("https://h?x", "AC111", "")]),
    (types.uri, [
        ("meta-llama/Llama", "AC111", "hf://meta-llama/Llama"), ("é/b", "AC111", ""), ("llama", "AC111", ""), ("ftp://a/b", "AC111", ""),
        ("hf://llama", "AC111", ""), ("hf://a/b/c", "AC111", ""), ("hf://a/b@main", "AC111", ""), ("s3://bucket", "AC111", ""), ("s3:///p", "AC111", ""),
        ("s3://b/../c", "AC111", ""), ("file://m", "AC111", ""), ("https://host", "AC111", ""), ("s3://b/ c", "AC111", ""),
    ]),
    (types.image, [("Vllm", "AC107", ""), ("a b", "AC107", ""), ("a@sha256:00", "AC107", ""), ("'a:'", "AC107", "")]),
    (types.cpu, [("0", "AC105", ""), ("8 cores", "AC105", ""), ("-1", "AC105", ""), ("0.0001", "AC105", ""), ("x", "AC105", "")]),
    (types.version, [("v0.32.0", "AC107", "0.32.0"), ("latest", "AC107", ""), ("vv1", "AC107", "")]),
    (types.lora_rank, [("33", "AC107", "64"), ("0", "AC107", "1"), ("1000", "AC107", "512"), ("big", "AC104", "")]),
    (types.all_or_count, [("most", "AC105", ""), ("0", "AC107", ""), ("'2'", "AC104", "2"), ("All", "AC105", "")]),
    (types.time_of_day, [("8am", "AC105", ""), ("8:00", "AC105", ""), ("24:00", "AC105", ""), ("08:60", "AC105", "")]),
    (types.timezone, [("CET+1", "AC107", ""), ("berlin", "AC107", ""), ("+01:00", "AC107", "")]),
    (types.mapping, [("x", "AC103", ""), ("~", "AC109", "")]),
    (free.raw, [("~", "AC109", "")]),
]  # fmt: skip


def value(text: str) -> Any:
    (document,), found = parse(text_of(f"v: {text}\n".encode(), "f.yaml"))
    assert found == []
    return document.value["v"]


def name(decoder: Any) -> str:
    return str(decoder.__qualname__).partition(".")[0]


@pytest.mark.parametrize(
    ("decoder", "text", "expected"),
    [(decoder, *case) for decoder, cases in GOOD for case in cases],
    ids=[f"{name(decoder)}-{text[:40]}" for decoder, cases in GOOD for text, _ in cases],
)
def test_good(decoder: Any, text: str, expected: Any) -> None:
    found = decoder(value(text))
    assert found == expected and type(found) in (type(expected), Plain, Seq)


@pytest.mark.parametrize(
    ("decoder", "text", "code", "fix"),
    [(decoder, *case) for decoder, cases in BAD for case in cases],
    ids=[f"{name(decoder)}-{case[0][:40]}" for decoder, cases in BAD for case in cases],
)
def test_bad(decoder: Any, text: str, code: str, fix: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        decoder(value(text))
    context = caught.value.context or {}
    assert (caught.value.type, context["fix"]) == (code, fix)
    assert context["message"]
    if fix:
        decoder(value(fix))
        assert fix in context["hint"]


def test_every_decoder_of_the_language_is_in_the_tables() -> None:
    from aibrix_compile.spec.schema import _TYPES  # the words of the reference: one entry a decoder

    tested = {name(decoder) for decoder, _ in GOOD} & {name(decoder) for decoder, _ in BAD}
    assert {name(decoder) for decoder in _TYPES} - tested == {"free_map", "free_list"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a: true, b: 10, c: 0.5, d: x, e: '10', f: 'yes', g: -3}", {"a": True, "b": 10, "c": 0.5, "d": "x", "e": "10", "f": "yes", "g": -3}),
        ("{a: [1, {b: false}]}", {"a": [1, {"b": False}]}),
        ("{a: 10Gi, b: 500m, c: '', d: v1, e: 1.2.3}", {"a": "10Gi", "b": "500m", "c": "", "d": "v1", "e": "1.2.3"}),
    ],
)  # fmt: skip
def test_free_maps(text: str, expected: Any) -> None:
    found = free.free_map(value(text))
    assert found == expected
    assert json_types(found) == json_types(expected)


def json_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: json_types(item) for key, item in node.items()}
    return [json_types(item) for item in node] if isinstance(node, list) else type(node)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "NO",
        "on",
        "Off",
        "y",
        "True",
        "010",
        "0x1F",
        "0o7",
        "1_000",
        "12:30",
        "1e3",
        "+5",
        ".inf",
        "-.Inf",
        ".NaN",
        "2024-01-01",
        "1.",
        "00",
        "0b1",
    ],
)
def test_what_readers_of_yaml_take_for_different_things(text: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        free.free_map(value(f"{{a: {{b: [x, {text}]}}}}"))
    (found,) = (caught.value.context or {})["findings"]
    assert (found["code"], found["at"], found["fix"]) == ("AC104", ("a", "b", 1), f'"{text}"')


def test_all_findings_of_a_free_part_at_their_places() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        free.free_list(value("[{a: yes, b: {c: 010}}, x, {d: [~]}]"))
    found = (caught.value.context or {})["findings"]
    assert sorted((one["code"], one["at"]) for one in found) == [
        ("AC103", (1,)), ("AC104", (0, "a")), ("AC104", (0, "b", "c")), ("AC109", (2, "d", 0)),
    ]  # fmt: skip


NASTY = st.one_of(
    st.text(max_size=40).map(Plain),
    st.text(max_size=40),
    st.from_regex(r"\A[-+0-9._,eExX%a-zA-Z :/]{0,24}\Z").map(Plain),
    st.sampled_from(
        [
            None,
            Map(),
            Seq(),
            Plain("9" * 400),
            Plain("1." + "0" * 400),
            "a" * 10_000,
            Plain("-" * 10_000),
            Plain("a." * 5000),
        ]
    ),
)


@pytest.mark.parametrize("decoder", [decoder for decoder, _ in GOOD], ids=name)
@given(NASTY)
def test_any_value_is_decoded_or_refused_with_a_code(decoder: Any, given: Any) -> None:
    try:
        found = decoder(given)
    except PydanticCustomError as error:
        context = error.context or {}
        assert error.type.startswith("AC1") and context["message"] and len(context["message"]) < 300
        if context["fix"]:
            try:
                decoder(value(context["fix"]))
            except PydanticCustomError as second:
                assert second.type == "AC107", "a right spelling may still be out of range, nothing else"
    else:
        assert found is not None
