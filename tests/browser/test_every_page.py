"""What holds on every page: nobody is shut out by it, and its address can be passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

FULL, RUNNING = "01J0000000000000000000000A", "01J0000000000000000000000D"
PAGES = ["", "compare", "decide", "ship", "examples", "run", "classify", "runs", "method"]
STREAMLITS = [("scrollable-region-focusable", "<pre")]
"""axe-core's rule and the beginning of the HTML, where the finding is in Streamlit's own elements."""


def settled(page: Any) -> None:
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(800)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(path: str, scheme: str, site: str, open_page: Callable[..., Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(f"{site}/{path}?run={FULL}", color_scheme=scheme)
    settled(page)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.get_by_text("Page not found").count() == 0
    found = [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in Axe().run(page).response["violations"]
        for node in violation["nodes"]
        if node["impact"] in ("serious", "critical")
        and not any(violation["id"] == rule and node["html"].startswith(begin) for rule, begin in STREAMLITS)
    ]
    assert found == []


@pytest.mark.parametrize("path", ["", "runs"])
def test_copy_link_gives_the_address_with_its_choices(path: str, site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{site}/{path}?run={FULL}", permissions=["clipboard-read", "clipboard-write"])
    settled(page)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="✓ Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert f"run={FULL}" in page.url
    page.get_by_role("button", name="Copy link").wait_for()


SHIFTS = """window.shifts = []; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.shifts.push([entry.value, ...entry.sources.map(s => s.node?.className)])
}).observe({type: 'layout-shift', buffered: true})"""
STEADY = 0.02
"""Of Web Vitals' layout shift, which is good below 0.1."""


@pytest.mark.parametrize("run", [FULL, RUNNING])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_jumps_once_a_page_is_there_or_while_a_run_is_followed(
    path: str, run: str, site: str, open_page: Callable[..., Any]
) -> None:
    page = open_page("about:blank")
    page.add_init_script(SHIFTS)
    page.goto(f"{site}/{path}?run={run}")
    settled(page)
    page.evaluate("window.shifts = []")
    # A live run is read again every two seconds.
    page.wait_for_timeout(4500 if run == RUNNING else 1000)
    found = page.evaluate("window.shifts")
    assert sum(value for value, *_ in found) < STEADY, sorted(found, key=lambda shift: -shift[0])[:5]
