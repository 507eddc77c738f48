"""Charts in a real browser: what the window shows is drawn first, all of it before it is seen or printed, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_dashboard import FULL, settled, until

from dashboard.server import preload

pytestmark = pytest.mark.second_tier

BUSY = "window.requestIdleCallback = () => 0"
"""A browser that never has nothing else to do."""
CHARTS = "[...document.querySelectorAll('[class*=st-key-chart_]')]"
DRAWN = f"{CHARTS}.filter(chart => chart.querySelector('.main-svg')).length"


def busy(page: Any) -> Any:
    page.add_init_script(BUSY)
    page.reload()
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    return page


def test_a_chart_below_the_window_is_drawn_when_it_comes_near(site: str, open_page: Callable[..., Any]) -> None:
    page = busy(open_page(f"{site}/?run={FULL}"))
    assert page.evaluate(DRAWN) < page.evaluate(f"{CHARTS}.length") == 6
    heights = page.evaluate(f"{CHARTS}.map(chart => chart.getBoundingClientRect().height)")
    last = page.locator(".st-key-chart_published")
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    assert page.evaluate(f"{CHARTS}.map(chart => chart.getBoundingClientRect().height)") == heights


def test_what_is_printed_is_drawn(site: str, open_page: Callable[..., Any]) -> None:
    page = busy(open_page(f"{site}/?run={FULL}"))
    assert page.evaluate(DRAWN) < 6
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate(DRAWN) == 6


def test_all_are_drawn_once_there_is_time(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/compare?run={FULL}")
    settled(page)
    until(page, f"{DRAWN} === {CHARTS}.length && {DRAWN} > 4", 20)


def test_a_figure_changes_in_its_place(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/decide?run={FULL}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    title = "document.querySelector('.js-plotly-plot .gtitle').textContent"
    before = page.evaluate(f"document.querySelector('.js-plotly-plot').first = {title}")
    box = page.locator(".st-key-max_memory_mb input").first
    box.fill("200")
    box.press("Enter")
    until(page, f"{title} !== {before!r}", 20)
    assert page.evaluate("document.querySelector('.js-plotly-plot').first") == before, "the same element"


def test_a_narrower_window_has_narrower_charts(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/roofline?run={FULL}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    page.set_viewport_size({"width": 1024, "height": 900})
    wide = "document.querySelector('.js-plotly-plot').clientWidth"
    until(page, f"document.querySelector('.js-plotly-plot .main-svg').clientWidth === {wide} && {wide} < 1024")


def test_the_third_visit_takes_up_what_was_compiled(site: str, regular: Any) -> None:
    events: list[Any] = []
    for visit in range(3):
        page = regular.new_page()
        session = regular.new_cdp_session(page)
        session.on("Tracing.dataCollected", lambda message: events.extend(message["value"]))
        if visit == 2:
            session.send("Tracing.start", {"traceConfig": {"includedCategories": ["v8", "devtools.timeline"]}})
        page.goto(f"{site}/?run={FULL}")
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.wait_for_timeout(2000)
        if visit == 2:
            session.send("Tracing.end")
            page.wait_for_timeout(2000)
        page.close()
    compiled = [
        event["args"].get("data", {}) for event in events if event["name"] in ("v8.compile", "v8.compileModule")
    ]
    found = {urlsplit(about["url"]).path for about in compiled if about.get("consumedCacheSize")}
    assert preload.LIBRARY_URL in found
    assert {"index", "protobuf"} <= {path.rpartition("/")[2].partition(".")[0] for path in found}
