"""Compare in a real browser: a link opens the same comparison, a choice changes it and the link, nothing sticks out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from test_dashboard import FULL, is_local, settled, until
from test_every_page import CUT_OFF

pytestmark = pytest.mark.second_tier

SIZES = "01J0000000000000000000000B"
BESIDE = "fixture · 2026-03-01 08:00 UTC · 00000B"


def chart(page: Any, name: str) -> Any:
    return page.locator(f".st-key-chart_compare_{name} .js-plotly-plot .main-svg").first


def test_a_choice_is_in_the_link_and_the_link_opens_it(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/compare?run={FULL}")
    settled(page)
    assert page.get_by_role("table", name="Each row against DistilBERT FP32").count() == 1
    page.get_by_role("combobox", name="Baseline").click()
    page.get_by_role("option", name="ONNX INT8").click()
    page.get_by_role("table", name="Each row against ONNX INT8").wait_for()
    page.get_by_role("combobox", name="Beside").click()
    page.get_by_role("option", name=BESIDE).click()
    page.keyboard.press("Escape")
    page.get_by_role("table", name="Each row against ONNX INT8 (A)").wait_for()
    settled(page)
    link = page.url
    asked = parse_qs(urlsplit(link).query)
    assert asked == {"run": [FULL], "against": ["ONNX INT8"], "beside": [BESIDE]}
    again = open_page(link)
    settled(again)
    assert again.get_by_role("table", name="Each row against ONNX INT8 (A)").count() == 1
    assert again.get_by_text("their rounds are not paired").count() == 1
    for name in ("ecdf", "speedup", "accuracy", "memory", "published"):
        chart(again, name).wait_for()
    assert [url for url in again.requested if not is_local(url)] == []


def test_two_runs_fit_every_width(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/compare?run={FULL}&beside={BESIDE}")
    settled(page)
    chart(page, "ecdf").wait_for()
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.locator(".ib-card").count() >= 3
    for width in (2560, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, f"document.documentElement.scrollWidth <= {width} && !{CUT_OFF}")


def test_only_the_charts_that_stand_there_are_offered_as_files(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/compare?run={FULL}")
    settled(page)

    def offered() -> list[str]:
        page.get_by_role("button", name="Save charts").click()
        page.get_by_role("combobox", name="Chart").click()
        page.get_by_role("option", name="all charts").wait_for()
        return [option.inner_text() for option in page.get_by_role("option").all()]

    before = offered()
    page = open_page(f"{site}/compare?run={FULL}")
    settled(page)
    page.get_by_role("combobox", name="Variants").click()
    page.get_by_role("option", name="DistilBERT FP32").click()
    page.keyboard.press("Escape")
    page.wait_for_url("**shown=**")
    until(page, "document.querySelector('[class*=st-key-chart_compare_accuracy]') === null")
    settled(page)
    after = offered()
    assert len(before) > len(after) == 1 + page.locator("[class*=st-key-chart_]").count()
