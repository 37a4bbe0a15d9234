"""The report as its readers meet it: drawn, on a phone, in the dark, by keyboard, without a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile.simulate import charts, html
from tests.simulate.chromium import Chromium, chromium
from tests.simulate.samples import document, objective, score, variant
from tests.simulate.test_html import HOSTILE, hostile

VISIBLE = "[...document.querySelectorAll('.plot')].filter((plot) => plot.clientWidth)"
DRAWN = f"{VISIBLE}.length > 0 && {VISIBLE}.every((plot) => plot.querySelector('svg'))"
PHONE = {"width": 360, "height": 800}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ranged = variant(low=score(objective()), high=score(objective(used=4), objective("itl", 1.2)))
    long = "pools.a-very-long-name-of-a-pool-that-goes-on.replicas.minimum"
    made = {
        "one": document(ranged),
        "several": document(*(variant(f"{long}={n}", score(objective(used=n))) for n in range(3))),
        "hostile": hostile(),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, one in made.items():
        (folder / f"{name}.html").write_text(html.page(one), "utf-8")
    return {name: folder / f"{name}.html" for name in made}


def opened(browser: Chromium, path: Path, **options: Any) -> Chromium:
    browser.open(path, **options)
    browser.until(DRAWN)
    return browser


@pytest.mark.parametrize("name", ["one", "several", "hostile"])
def test_charts_are_drawn_without_a_word_or_a_request(browser: Chromium, pages: dict[str, Path], name: str) -> None:
    opened(browser, pages[name])
    paths = (
        "[...document.querySelectorAll('.plot svg .mark-line path')].map((path) => path.getBoundingClientRect().width)"
    )
    lines = browser.run(f"{VISIBLE}.flatMap((plot) => [...plot.querySelectorAll('.mark-line path')]).length")
    assert lines >= 12 and all(width > 200 for width in browser.run(paths))
    said = [
        one for one in browser.told if one["method"].startswith(("Log.entry", "Runtime.console", "Runtime.exception"))
    ]
    assert said == []
    asked = [one["params"]["request"]["url"] for one in browser.told if one["method"] == "Network.requestWillBeSent"]
    assert asked == [pages[name].as_uri()]
    assert browser.run("window.hacked") is None


def test_the_page_may_fetch_nothing(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"])
    assert browser.run("fetch('data:text/plain,x').then(() => 'open', () => 'shut')") == "shut"


@pytest.mark.parametrize("name", ["one", "several", "hostile"])
@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_is_wider_than_a_small_window(browser: Chromium, pages: dict[str, Path], name: str, width: int) -> None:
    opened(browser, pages[name], width=width, height=800)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    wide = f"{VISIBLE}.filter((plot) => plot.querySelector('svg').getBoundingClientRect().right > innerWidth).length"
    assert browser.run(wide) == 0


def test_dark_mode_changes_page_and_charts(browser: Chromium, pages: dict[str, Path]) -> None:
    look = """(() => {
      const style = (selector) => getComputedStyle(document.querySelector(selector));
      return [style("body").backgroundColor, style("body").color, style(".plot .mark-line path").stroke, style(".plot text").fill];
    })()"""
    found = {}
    for mode in ("light", "dark"):
        opened(browser, pages["one"], prefers_color_scheme=mode)
        found[mode] = browser.run(look)
    assert found["light"][0] == "rgb(255, 255, 255)" and found["dark"][0] == "rgb(20, 23, 26)"
    assert all(light != dark for light, dark in zip(*found.values(), strict=True))


def test_motion_is_only_for_those_who_like_it(browser: Chromium, pages: dict[str, Path]) -> None:
    for preference, behaviour in (("no-preference", "smooth"), ("reduce", "auto")):
        opened(browser, pages["one"], prefers_reduced_motion=preference)
        assert browser.run("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_tab_reaches_everything_in_its_order(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["several"], **PHONE)
    wanted = browser.run("""(() => {
      const can = "a, select, summary, .plot, [role=region]";
      window.order = [...document.querySelectorAll(can)].filter((one) => one.checkVisibility({ contentVisibilityAuto: true }));
      return window.order.map((one) => one.id || one.className || one.localName);
    })()""")
    assert {"skip", "variant", "summary", "plot", "scroll"} <= set(wanted)
    found = []
    for _ in wanted:
        browser.press("Tab")
        found.append(browser.run("window.order.indexOf(document.activeElement)"))
    assert found == list(range(len(wanted)))
    assert browser.run("document.querySelector('.skip').getBoundingClientRect().right") < 0


def test_the_skip_link_shows_itself_and_skips(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"])
    browser.press("Tab")
    assert browser.run("document.querySelector('.skip').getBoundingClientRect().left") >= 0
    browser.press("Enter")
    browser.until("document.activeElement.id === 'content'")


def test_values_open_by_keyboard(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"])
    browser.run("document.querySelector('#v0-ttft summary').focus()")
    browser.press("Enter")
    browser.until("document.querySelector('#v0-ttft details').open")
    rows = browser.run("document.querySelectorAll('#v0-ttft tbody tr').length")
    assert rows == 60 and browser.run("document.querySelector('#v0-ttft tbody tr').checkVisibility()")


def test_a_variant_is_chosen_by_keyboard(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["several"])
    shown = "[...document.querySelectorAll('.variant')].filter((one) => one.clientHeight).map((one) => one.id).join()"
    assert browser.run(shown) == "v0"
    browser.run("document.getElementById('variant').focus()")
    browser.press("ArrowDown", 2)
    browser.until(f"{shown} === 'v2'")
    browser.until(DRAWN)


def test_a_decision_under_the_pointer_tells_its_reason(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"])
    place = """(() => {
      const plot = document.querySelector("#v0-replicas .plot");
      plot.scrollIntoView({ block: "center", behavior: "instant" });
      const { left, top, width, height } = plot.querySelector(".mark-symbol path").getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    })()"""
    x, y = browser.run(place)
    browser.point(x + 4, y)
    browser.until("document.querySelector('#v0-replicas .reason')")
    reason = browser.run("document.querySelector('#v0-replicas .reason').textContent")
    assert reason == "6 min 44 s: l4 2 → 3: 12 in flight, 8 each wanted"
    cursors = browser.run(f"{VISIBLE}.map((plot) => plot.querySelectorAll('.cursor').length)")
    assert set(cursors) == {1}
    browser.point(1, 1)
    browser.until("!document.querySelector('.reason, .cursor')")


def test_keys_move_the_cursor_and_find_decisions(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"])
    browser.run("document.querySelector('#v0-replicas .plot').focus()")
    said = "document.activeElement.getAttribute('aria-valuetext')"
    browser.press("End")
    assert browser.run(said) == "19 min 56 s; pool l4 3, ready, all pools 3"
    for key, second in (
        ("PageUp", "18 min 20 s"),
        ("PageUp", "6 min 44 s"),
        ("PageUp", "6 min 44 s"),
        ("PageDown", "18 min 20 s"),
    ):
        browser.press(key)
        assert browser.run(said).startswith(f"{second}; ")
    assert browser.run(said).endswith("; 18 min 20 s: l4 3 → 2: quiet for 5 min")
    browser.press("Home")
    browser.press("ArrowRight", 2)
    browser.press("ArrowRight", shift=True)
    browser.press("ArrowLeft")
    assert browser.run(said).startswith("44 s; ")
    browser.press("Escape")
    browser.until("!document.querySelector('.reason, .cursor')")
    assert browser.run("document.querySelector('#v0-replicas .when').textContent") == "highest"


def test_script_and_tables_write_numbers_alike(browser: Chromium, tmp_path: Path) -> None:
    """What the cursor says all along the charts is what charts.py makes of the same data, of any size."""
    one = variant()
    series, count = one["series"], range(150)
    one["seconds"] = [7.5 * index for index in count]
    for name, column in series.items():
        if name != "replicas":
            series[name] = [column[index] and 1.13 ** (index - 75) * 0.593 for index in count]
    series["replicas"] = {"l4": series["ready"]}
    series["kv_share"] = [index / 149 for index in count]
    path = tmp_path / "numbers.html"
    path.write_text(html.page(document(one)), "utf-8")
    opened(browser, path)
    for chart in charts.of(one, 12):
        drawn = charts.data(chart)["lines"]
        browser.run(f"document.querySelector('#v0-{chart.key} .plot').focus()")
        browser.press("Home")
        for index in range(0, 150, 10):
            said = browser.run("document.activeElement.getAttribute('aria-valuetext')").split("; ")
            values = ", ".join(f"{line['name']} {charts.shown(chart.unit, line['values'][index])}" for line in drawn)
            assert said[:2] == [charts.clock(index * 7.5), values]
            browser.press("ArrowRight", shift=True)


def test_what_is_from_elsewhere_is_shown_as_it_is(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["hostile"])
    browser.run("document.querySelector('#v0-replicas .plot').focus()")
    browser.press("PageDown")
    assert browser.run("document.querySelector('#v0-replicas .reason').textContent") == (
        f"6 min 44 s: {HOSTILE} 0 → 1: {HOSTILE}"
    )
    assert browser.run("window.hacked") is None


def test_without_scripts_values_remain(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["several"], scripts=False)
    there = "[...document.querySelectorAll('.variant')].every((one) => one.clientHeight)"
    assert browser.run(f"{there} && document.querySelector('noscript p').clientHeight > 0")
    assert browser.run("document.querySelector('.plot, .choice').clientHeight") == 0


def test_print_is_light_and_keeps_charts(browser: Chromium, pages: dict[str, Path]) -> None:
    opened(browser, pages["one"], prefers_color_scheme="dark")
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    try:
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.run(DRAWN) and browser.run("document.querySelector('details').clientHeight") == 0
    finally:
        browser.call("Emulation.setEmulatedMedia", media="screen")
