"""The dashboard in a real browser: pages render, nothing leaves the machine, charts and decks can be taken away."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FULL = "01J0000000000000000000000A"
RUNNING = "01J0000000000000000000000D"


def settled(page: Any) -> None:
    """Waits until Streamlit has run the page and all of it can be drawn."""
    page.wait_for_selector("[data-testid=stHeading], [data-testid=stHtml], [data-testid=stAlert], textarea")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    until(page, "!document.querySelector('[data-testid=stSkeleton]')", 60)
    page.wait_for_timeout(300)


def until(page: Any, condition: str, timeout_s: float = 5.0) -> None:
    """Waits for an expression of JavaScript. Not by wait_for_function: the dashboard's pages let no string be run."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def tradeoff(page: Any) -> Any:
    return page.locator(".st-key-chart_tradeoff")


def is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.hostname == "127.0.0.1"


@pytest.mark.second_tier
def test_table_and_chart_stand_beside_each_other_where_there_is_room(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/?run={FULL}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    card = page.locator(".ib-card").first
    for width in (1440, 2560, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        right = [found["x"] + found["width"] for found in (card.bounding_box(), tradeoff(page).bounding_box())]
        aligned = abs(right[0] - right[1]) < 2
        assert aligned == (width == 1024), "else both as wide as the page"


@pytest.mark.second_tier
def test_the_first_screen_answers(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/?run={FULL}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    for selector in ("[data-testid=stHeading]", ".ib-card table", ".js-plotly-plot"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900, selector
    assert page.get_by_text("Deploy", exact=True).count() == 0


@pytest.mark.second_tier
def test_charts_are_drawn_in_the_readers_theme(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/?run={FULL}", color_scheme="dark")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    assert page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor") == "#12161b"


@pytest.mark.second_tier
@pytest.mark.parametrize(("kind", "begin"), [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
def test_a_chart_leaves_as_an_image_of_slide_size(
    kind: str, begin: bytes, site: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(f"{site}/?run={FULL}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    if kind == "SVG":
        page.get_by_role("button", name="Download").first.click()
        page.get_by_role("radio", name="SVG").or_(page.get_by_role("button", name="SVG")).first.click()
        page.keyboard.press("Escape")
        settled(page)
    chart = page.locator(".js-plotly-plot").first
    chart.hover()
    with page.expect_download() as caught:
        chart.locator(".modebar-btn").first.click()
    name = caught.value.suggested_filename
    assert name == f"fixture-00000a-tradeoff.{kind.lower()}"
    caught.value.save_as(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(begin)
    if kind == "PNG":
        assert struct.unpack(">II", content[16:24]) == (2240, 1260)


@pytest.mark.second_tier
def test_the_deck_and_the_tables_are_downloads(site: str, open_page: Callable[..., Any], tmp_path: Path) -> None:
    from pptx import Presentation

    page = open_page(f"{site}/?run={FULL}")
    settled(page)
    headline = page.locator("[data-testid=stHeading]").first.inner_text()
    page.get_by_role("button", name="Download").first.click()
    with page.expect_download() as caught:
        page.get_by_role("button", name="PowerPoint").click()
    caught.value.save_as(tmp_path / "run.pptx")
    slides = Presentation(io.BytesIO((tmp_path / "run.pptx").read_bytes())).slides
    titles = [slide.shapes.title.text for slide in slides]
    assert titles[0] == headline, "the run that the page shows"
    for finding in ("comes nearest to what this device", "holds 962 texts/s", "published speed-ups lie outside"):
        assert len([title for title in titles if finding in title]) == 1, "also what other pages show of it"
    with page.expect_download() as caught:
        page.get_by_role("button", name="(.json)").click()
    caught.value.save_as(tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text())["run"]["id"] == FULL


def test_a_link_opens_its_run_and_the_choice_is_in_the_url(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/?run={FULL}")
    settled(page)
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/runs*")
    settled(page)
    assert f"run={FULL}" in page.url
    page.reload()
    settled(page)
    assert FULL[-6:] in page.locator("[data-testid=stSelectbox] input").first.input_value()


@pytest.mark.second_tier
def test_a_run_under_way_is_followed(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/?run={RUNNING}")
    settled(page)
    assert "round 3" in page.locator("[data-testid=stProgress]").inner_text()


@pytest.mark.second_tier
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "compare"])
def test_tab_reaches_everything_and_shows_where_it_is(
    scheme: str, path: str, site: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{site}/{path}?run={FULL}", color_scheme=scheme)
    settled(page)
    page.wait_for_timeout(1500)
    where = """() => {
      const at = document.activeElement
      const shown = (e) => {
        const css = getComputedStyle(e)
        return css.outlineStyle !== "none" && parseFloat(css.outlineWidth) > 0 || css.boxShadow !== "none"
      }
      const around = [at, at.parentElement ?? at, at.parentElement?.parentElement ?? at]
      return [at.tagName, at.getAttribute("aria-label") ?? at.innerText.slice(0, 40), around.some(shown)]
    }"""
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(where)
        if found[0] == "BODY" or found in reached[:1]:
            break
        reached.append(found)
    assert {"A", "BUTTON", "MAIN", "INPUT"} <= {tag for tag, *_ in reached} and len(reached) > 20
    # An input's border takes the accent instead.
    assert not [one for one in reached if one[0] in ("A", "BUTTON", "SUMMARY", "MAIN") and not one[2]]
