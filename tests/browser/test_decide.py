"""Decide in a real browser: limits live in the URL, and the answer leads on to its folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_dashboard import FULL, is_local, settled, until
from test_every_page import CUT_OFF

pytestmark = pytest.mark.second_tier


def heading(page: Any) -> str:
    return page.locator("[data-testid=stHeading]").first.inner_text()


def test_a_limit_changes_the_answer_stays_over_a_reload_and_leads_to_the_folder(
    site: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{site}/decide?run={FULL}")
    settled(page)
    assert heading(page).startswith("Without a limit Student FP32 is the fastest")
    field = page.get_by_role("spinbutton", name="Peak RAM, at most (MB)")
    field.fill("100")
    field.press("Enter")
    page.get_by_role("button", name="Peak RAM 160 MB: ONNX INT8 remains").click()
    page.wait_for_url("**max_memory_mb=160**")
    settled(page)
    page.reload()
    settled(page)
    assert heading(page).startswith("Only ONNX INT8 keeps your limits")
    page.get_by_role("link", name="Ship ONNX INT8").click()
    page.wait_for_url("**/ship?**")
    page.get_by_text("It cannot be shipped from here").wait_for()
    assert f"run={FULL}" in page.url and "variant=int8" in page.url and heading(page).startswith("Ship ONNX INT8")
    assert page.locator("[data-testid=stException]").count() == 0
    assert [url for url in page.requested if not is_local(url)] == []


def test_limits_fit_every_width(site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/decide?run={FULL}&max_memory_mb=300&max_p95_ms=20&max_lost_points=1", color_scheme="dark")
    settled(page)
    for width in (2560, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, f"document.documentElement.scrollWidth <= {width} && !{CUT_OFF}")
