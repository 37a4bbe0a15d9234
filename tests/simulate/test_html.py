"""The report as a document: what it says, that it is whole HTML, that nothing in a spec or a trace becomes part of it."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate import charts, html
from aibrix_compile.simulate.charts import Chart, Line
from tests.cli import EXAMPLES, run
from tests.simulate.samples import document, objective, score, variant

FOLDER = Path(html.__file__).parent
VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&amp;{{7*7}}<!--\u2028"
BROKEN, LUCKY = objective(used=4), objective("itl", 1.2)


class Page(HTMLParser):
    """Elements in their order, with their attributes, their path and the text directly in them. Fails on bad nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = tuple(self.elements[one][0] for one in self._open)
        self.elements.append((tag, dict(attrs), path, []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), (), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][3].append(data)

    def texts(self, *tags: str) -> list[str]:
        return [" ".join("".join(text).split()) for tag, _, _, text in self.elements if tag in tags]

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _, _ in self.elements if tag in tags]


@pytest.fixture(scope="module", params=["one", "several", "bare"])
def text(request: pytest.FixtureRequest) -> str:
    bare = variant(
        "chat", score(cost=None, cost_per_month=None, tokens_per_currency_unit=None), decisions=[], balance=[]
    )
    del bare["series"]["cost_per_hour"]
    return html.page(
        {
            "one": document(variant(low=score(objective()), high=score(BROKEN))),
            "several": document(variant("a.b=1"), variant("a.b=2", score(BROKEN)), variant("a.b=3", score())),
            "bare": document(bare, scaling="none", budget_per_hour=0),
        }[request.param]
    )


def test_the_document_is_whole(text: str) -> None:
    page = Page(text)
    names = Counter(tag for tag, *_ in page.elements)
    assert names["h1"] == names["main"] == names["header"] == names["title"] == 1
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(two <= one + 1 for one, two in pairwise(levels))
    ids = [one["id"] for _, one, *_ in page.elements if "id" in one]
    assert len(ids) == len(set(ids))
    assert page.all("a") == [{"class": "skip", "href": "#content"}] and "content" in ids
    assert {one["for"] for one in page.all("label")} <= set(ids)


def test_tables_have_captions_and_headers(text: str) -> None:
    page = Page(text)
    names = Counter(tag for tag, *_ in page.elements)
    assert names["table"] == names["caption"] == names["thead"] and all(page.texts("caption"))
    assert {one.get("scope") for one in page.all("th")} == {"col", "row"}
    for tag, attributes, path, _ in page.elements:
        if tag == "table":
            assert path[-1] == "div"
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0" and attributes["aria-label"]


def test_every_chart_has_a_sentence_and_its_values(text: str) -> None:
    page = Page(text)
    figures = page.all("figure")
    charted = json.loads(page.texts("script")[0])
    assert [one["data-chart"] for one in page.all("div") if "data-chart" in one] == list(
        {one["id"]: 0 for one in figures}
    )
    assert set(charted) == {one["id"] for one in figures} and len(figures) >= 7
    sentences = ["".join(words) for tag, _, path, words in page.elements if tag == "p" and path[-1] == "figcaption"]
    assert len(sentences) == len(figures) and all(re.search(r"\d.*\.$", one) for one in sentences)
    assert sum(tag == "table" and "details" in path and "figure" in path for tag, _, path, _ in page.elements) == len(
        figures
    )


def test_nothing_is_fetched(text: str) -> None:
    page = Page(text)
    assert not {tag for tag, *_ in page.elements} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "audio",
        "video",
    }
    for tag, attributes, *_ in page.elements:
        assert not attributes.keys() & {"src", "srcset", "action", "background", "ping"}, tag
        assert not [name for name in attributes if name.startswith("on")]
    style = page.texts("style")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def hostile() -> dict[str, Any]:
    one = variant(HOSTILE, skipped={HOSTILE: 3}, balance=[{"replica": HOSTILE, "requests": 1, "hit_tokens": 0}])
    one["score"]["currency"] = HOSTILE
    one["score"]["pools"] = [{**one["score"]["pools"][0], "name": HOSTILE, "profile": HOSTILE}]
    one["series"]["replicas"] = {HOSTILE: one["series"]["replicas"]["l4"]}
    one["decisions"] = [{"second": 404.0, "pool": HOSTILE, "from": 0, "to": 1, "reason": HOSTILE}]
    names = dict.fromkeys(("service", "environment", "routing", "scaling"), HOSTILE)
    return document(one, {**one, "name": HOSTILE + "=2"}, notes=[HOSTILE], trace={"name": HOSTILE}, **names)


def test_what_is_from_elsewhere_stays_text() -> None:
    made = html.page(hostile())
    page = Page(made)
    assert len(page.all("script")) == 3 and not page.all("img")
    ours = made.replace(html.vega(), "")
    assert "<img" not in ours and "&amp;amp;{{7*7}}" in ours and HOSTILE not in ours
    said = json.loads(next("".join(words) for tag, one, _, words in page.elements if one.get("id") == "data"))
    assert said["v0-replicas"]["marks"][0]["text"] == f"{HOSTILE} 0 → 1: {HOSTILE}"
    assert any(HOSTILE in "".join(words) for tag, _, _, words in page.elements if tag == "h1")
    for tag in ("title", "option", "td", "th", "li", "small", "h3", "dd"):
        there = ["".join(words) for name, _, _, words in page.elements if name == tag]
        assert any(HOSTILE in one for one in there), tag


def test_equal_documents_give_equal_bytes() -> None:
    here = html.page(document(variant("a=1"), variant("a=2")))
    code = (
        "import sys; from aibrix_compile.simulate import html; from tests.simulate.samples import document, variant;"
        "sys.stdout.buffer.write(html.page(document(variant('a=1'), variant('a=2'))).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "LC_ALL": "C"}
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment, cwd=folder)
    assert done.stdout.decode() == here


@pytest.mark.parametrize(
    ("of", "more", "state", "words", "reasons"),
    [
        (score(objective()), {}, "kept", "Objectives kept", 0),
        (score(objective()), {"low": score(objective()), "high": score(objective())}, "kept", "slower", 0),
        (
            score(objective()),
            {"low": score(objective()), "high": score(BROKEN)},
            "risk",
            "not if engines are slower",
            1,
        ),
        (score(BROKEN, LUCKY), {"low": score(BROKEN), "high": score(BROKEN)}, "broken", "Objectives broken", 2),
        (score(BROKEN), {"low": score(objective()), "high": score(BROKEN)}, "broken", "kept if engines are faster", 1),
        (score(objective(), refused=5), {}, "kept", "Objectives kept", 1),
        (score(objective(), unserved=5), {}, "broken", "Objectives broken", 1),
        (score(objective(), cost=9.0, seconds=1800.0), {}, "broken", "Objectives broken", 1),
    ],
)
def test_verdicts(of: dict[str, Any], more: dict[str, Any], state: str, words: str, reasons: int) -> None:
    found = html.verdict(document(), variant("chat", of, **more))
    assert found.state == state and words in found.words and len(found.reasons) == reasons


def test_without_anything_to_keep_there_is_no_verdict() -> None:
    assert html.verdict(document(budget_per_hour=0), variant("chat", score())).state == "none"


@pytest.mark.parametrize(
    ("scores", "symbol", "words"),
    [
        ([score(objective()), score(objective(), cost_per_month=900.0)], "✓", "2 of 2 variants keep everything"),
        ([score(objective()), score(BROKEN)], "!", "1 of 2 variants keep everything"),
        ([score(BROKEN), score(objective(used=3))], "✗", "None of 2 variants keeps everything"),
    ],
)
def test_the_verdict_on_several(scores: list[dict[str, Any]], symbol: str, words: str) -> None:
    page = Page(html.page(document(*(variant(f"p.q={n}", one) for n, one in enumerate(scores)))))
    assert page.texts("strong")[0] == words and page.texts("span")[7] == symbol
    hint = page.texts("li")[0]
    assert hint in (
        "cheapest of them: p.q=1, 900 USD a month",
        "cheapest of them: p.q=0, 2,630 USD a month",
        "nearest: p.q=1",
    )


def test_the_comparison_tells_differences_to_the_first() -> None:
    second = score(objective(), cost_per_month=3156.0, ttft={**score()["ttft"], "p99": 1.5})
    table = html.comparison(document(variant("p.q=low"), variant("p.q=high", second)))
    assert table.head[0] == "p.q" and table.rows[0][0].text == "low"
    assert table.rows[1][2] == html.Cell("1.5 s", "-50%", "good")
    assert table.rows[1][6] == html.Cell("3,156", "+20%", "bad")
    assert table.rows[0][2].note == table.rows[1][3].note == ""


def test_objectives_tell_their_error_budgets() -> None:
    row = html.objectives(variant("chat", score(BROKEN), low=score(objective()), high=score(BROKEN))).rows[0]
    assert [cell.text for cell in row] == ["TTFT p99", "✗ broken", "400%", "3 s", "2 s", "96.00%"]
    assert row[2].note == "50% to 400%" and row[2].bar == 1 and row[3].note == "1.5 s to 3 s"


def test_a_missing_library_is_the_machine_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    html.vega.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=re.escape("pip install aibrix-compile[report]")):
        html.page(document())


@pytest.mark.parametrize("metric", ["ttft", "tpot", "e2e", "queue", "load", "kv", "replicas", "cost", "adapters"])
def test_sentences(metric: str) -> None:
    found = {one.key: one.sentence for one in charts.of(variant(), 12)}
    assert (
        found[metric]
        == {
            "ttft": "TTFT p99 is at most 9 s (at 6 min 56 s), its median over time 1 s; above 2 s in 3% of the time.",
            "tpot": "TPOT p99 is at most 9 s (at 6 min 56 s), its median over time 1 s.",
            "e2e": "e2e p99 is at most 9 s (at 6 min 56 s), its median over time 1 s.",
            "queue": "10 requests run on average; waiting: at most 40 (at 6 min 40 s).",
            "load": "0.873 requests/s arrive on average, at most 3 (at 6 min 40 s); none failed.",
            "kv": "The KV cache is 27% full on average, at most 90% (at 6 min 40 s), on one replica 97%; "
            "25% of prompt tokens come from the prefix cache.",
            "replicas": "2.5 replicas on average; ready: at most 3 (at 7 min). The scaler decided 2 times.",
            "cost": "1.92 USD an hour on average, at most 2.16 (at 6 min 44 s); the budget is 12.",
            "adapters": "2 adapters are in use on average, at most 2 (at 0 s); 4 loads.",
        }[metric]
    )


def test_a_spike_has_its_reasons() -> None:
    (found,) = charts.spikes(variant())
    assert found == {
        "from": "6 min 40 s",
        "until": "7 min 20 s",
        "peak": "9 s",
        "at": "6 min 56 s",
        "facts": [
            "replicas: 2 ready, 1 starting",
            "requests: 40 waiting",
            "KV cache 90% full",
            "arrivals: 3/s in this stretch, 0.873/s in the whole run",
        ],
        "decisions": ["6 min 44 s: l4 2 → 3: 12 in flight, 8 each wanted"],
    }


def test_spikes_are_the_three_worst_in_their_order() -> None:
    one = variant()
    one["series"]["ttft_p99"] = [1.0] * 300
    for row, value in ((20, 9.0), (21, 3.0), (80, 8.0), (140, 7.0), (200, 8.5)):
        one["series"]["ttft_p99"][row] = value
    assert [(spike["from"], spike["peak"]) for spike in charts.spikes(one)] == [
        ("1 min 20 s", "9 s"),
        ("5 min 20 s", "8 s"),
        ("13 min 20 s", "8.5 s"),
    ]
    one["score"]["objectives"] = []
    one["series"]["ttft_p99"] = [3.9, 1.0, 1.0]
    assert charts.spikes(one) == []
    one["series"]["ttft_p99"] = [None, None]
    assert charts.spikes(one) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (2.5, "2.5 s"),
        (59, "59 s"),
        (60, "1 min"),
        (750, "12 min 30 s"),
        (3660, "1 h 1 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_clock(seconds: float, words: str) -> None:
    assert charts.clock(seconds) == words


@given(
    st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=9),
    st.integers(1, 200),
    st.sampled_from([1.0, 4.0, 30.0]),
)
def test_folding_keeps_what_is_highest_and_is_bounded(part: list[float | None], times: int, step: float) -> None:
    values = part * times
    chart = Chart("k", "", "", "count", (Line("", values, step), Line("", values, step, "mean")))
    assert 1 <= len(charts.rows(chart)) <= charts.ROWS
    drawn = charts.data(chart)["lines"]
    assert all(len(line["values"]) <= charts.POINTS for line in drawn)
    there = [value for value in values if value is not None]
    tops = [max((value for value in line["values"] if value is not None), default=None) for line in drawn]
    assert tops[0] == (float(f"{max(there):.6g}") if there else None)
    assert not there or tops[1] <= tops[0]


def test_every_colour_can_be_read() -> None:
    """WCAG's contrast of text, 4.5, against all papers that it stands on."""
    style = (FOLDER / "report.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style.split("prefers-color-scheme: dark", 1)
    )
    assert len(light) == len(dark) == 20
    for mode in (light, dark):
        inks = ["ink", "dim", "focus", *(name for name in mode if name.startswith("line-"))]
        pairs = [(ink, paper) for ink in (*inks, "good", "risk", "bad") for paper in ("paper", "raised")]
        pairs += [(tone, f"{tone}-paper") for tone in ("good", "risk", "bad")]
        pairs += [("ink", f"{tone}-paper") for tone in ("good", "risk", "bad")]
        for ink, paper in pairs:
            assert contrast(mode[ink], mode[paper]) >= 4.5, (ink, paper)


def contrast(one: str, two: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((luminance(one), luminance(two)))
    return (bright + 0.05) / (dark + 0.05)


def test_the_command_writes_it(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    rows = [f"{second}.5,{900 + second},{100}" for second in range(60)]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    done = run(
        "simulate",
        ".",
        "--service",
        "chat",
        "--trace",
        trace,
        "--html",
        tmp_path / "r.html",
        cwd=EXAMPLES / "04-scaling",
    )
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert page.texts("h1") == ["chat"] and len(page.all("figure")) == 8
