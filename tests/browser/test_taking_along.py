"""What leaves the dashboard, in a real browser: charts from the page, and files that work without a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_dashboard import FULL, settled

SOURCE = "run 00000A"


def shown(page: Any) -> list[str]:
    """The annotations of all charts that the page shows."""
    return page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot .annotation')]"
        ".filter(box => box.getClientRects().length).map(box => box.textContent)"
    )


def test_a_chart_is_saved_from_the_page_and_works_alone(
    site: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(f"{site}/?run={FULL}", color_scheme="dark")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    settled(page)
    assert shown(page) and not [text for text in shown(page) if SOURCE in text], "the page names its run above"
    page.get_by_role("button", name="Save charts").click()
    with page.expect_download() as caught:
        page.locator(".st-key-save_charts button").click()
    file = tmp_path / caught.value.suggested_filename
    assert file.name == "fixture-00000a-tradeoff.html"
    caught.value.save_as(file)
    alone = open_page(file.as_uri())
    alone.wait_for_selector(".js-plotly-plot .main-svg")
    assert [text for text in shown(alone) if SOURCE in text]
    assert alone.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor") == "#12161b"
    assert alone.requested == [file.as_uri()]


@pytest.fixture
def report_file(site: str, open_page: Callable[..., Any], tmp_path: Path) -> Path:
    page = open_page(f"{site}/?run={FULL}")
    settled(page)
    page.get_by_role("button", name="Download").first.click()
    with page.expect_download() as caught:
        page.get_by_role("button", name="Report").click()
    file = tmp_path / caught.value.suggested_filename
    caught.value.save_as(file)
    return file


@pytest.mark.second_tier
@pytest.mark.parametrize("width", [1024, 2560])
def test_the_report_works_alone_in_both_appearances_and_on_paper(
    width: int, report_file: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(report_file.as_uri(), viewport={"width": width, "height": 900}, color_scheme="dark")
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def grounds() -> dict[str, str | None]:
        """The page's colour, and that of each chart it has a place for; none where nothing is drawn there."""
        return page.evaluate(
            "Object.fromEntries([['page', getComputedStyle(document.body).backgroundColor], "
            "...[...document.querySelectorAll('figure > div')].map(p => [p.id, p._fullLayout?.paper_bgcolor ?? null])])"
        )

    page.wait_for_selector("#chart-published .main-svg")
    light = grounds()
    charts = light.keys() - {"page"}
    assert {"chart-tradeoff", "chart-roofline", "chart-load", "chart-published"} < charts
    assert light == {"page": "rgb(255, 255, 255)"} | dict.fromkeys(charts, "#ffffff"), "as the page was that it is from"
    page.get_by_role("button", name="Dark").click()
    assert grounds() == {"page": "rgb(18, 22, 27)"} | dict.fromkeys(charts, "#12161b")
    assert page.locator(".on-dark table").first.is_visible() and not page.locator(".on-light table").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert grounds() == light, "paper is light"
    printed = page.pdf(prefer_css_page_size=True)
    assert re.findall(rb"/Type\s*/Page\b", printed)
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert grounds()["page"] == "rgb(18, 22, 27)"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.requested == [report_file.as_uri()] and not problems
    (tmp := report_file.with_suffix(".pdf")).write_bytes(printed)
    assert tmp.stat().st_size > 20_000


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.second_tier)])
def test_axe_finds_nothing_in_the_report(scheme: str, report_file: Path, open_page: Callable[..., Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    text = report_file.read_text(encoding="utf-8").replace(' data-theme="light"', "", 1)
    report_file.write_text(text, encoding="utf-8")
    page = open_page(report_file.as_uri(), color_scheme=scheme, bypass_csp=True)
    page.wait_for_selector("#chart-published .main-svg")
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"][:200]) for violation in found] == []
