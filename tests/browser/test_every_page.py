"""What holds on every page: it is whole, nothing in it jumps, nobody is shut out, and its address can be passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_dashboard import FULL, RUNNING, is_local, settled, until

pytestmark = pytest.mark.second_tier

PAGES = ["", "compare", "decide", "roofline", "load", "ship", "examples", "run", "classify", "runs", "method"]
FOLLOWING = ["", "compare", "decide", "roofline", "load", "examples", "run", "runs"]
"""Pages on which a run that goes on is read again every two seconds."""
STREAMLITS = [("scrollable-region-focusable", "<pre")]
"""axe-core's rule and the beginning of the HTML, where the finding is in Streamlit's own elements."""
STEADY = 0.02
"""Of Web Vitals' cumulative layout shift, which is good below 0.1."""
CUT_OFF = "[...document.querySelectorAll('.ib-card')].some(card => card.scrollWidth - card.clientWidth > 1)"


def assert_steady(page: Any) -> None:
    found = page.evaluate("window.shifts")
    assert sum(value for value, *_ in found) < STEADY, sorted(found, key=lambda shift: -shift[0])[:5]


def serious(page: Any) -> list[str]:
    """What axe-core finds on a page, and is not Streamlit's own."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in Axe().run(page).response["violations"]
        for node in violation["nodes"]
        if node["impact"] in ("serious", "critical")
        and not any(violation["id"] == rule and node["html"].startswith(begin) for rule, begin in STREAMLITS)
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_first_visit(path: str, scheme: str, site: str, open_page: Callable[..., Any]) -> None:
    # A context of its own: nothing is in its cache.
    page = open_page(f"{site}/{path}?run={FULL}", color_scheme=scheme)
    settled(page)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.get_by_text("Page not found").count() == 0
    page.wait_for_timeout(500)
    assert_steady(page)
    assert serious(page) == []
    for width in (1440, 2560, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, f"document.documentElement.scrollWidth <= {width} && !{CUT_OFF}")
    assert [url for url in page.requested if not is_local(url)] == []


@pytest.mark.parametrize("path", FOLLOWING)
def test_nothing_jumps_while_a_run_is_followed(path: str, site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/{path}?run={RUNNING}")
    settled(page)
    assert_steady(page)
    page.wait_for_timeout(4500)
    assert_steady(page)


@pytest.mark.parametrize("path", ["", "runs"])
def test_copy_link_gives_the_address_with_its_choices(path: str, site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/{path}?run={FULL}", permissions=["clipboard-read", "clipboard-write"])
    settled(page)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="✓ Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert f"run={FULL}" in page.url
    page.get_by_role("button", name="Copy link").wait_for()
