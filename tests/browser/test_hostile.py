"""Markup in what users, models, data sets and run files bring: every page shows it as the text that it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dashboard"))
from dashboard_fill import FAILED, FULL, RUNNING, SIZES
from hostile_fill import TEXT, fill_hostile

from dashboard.server import preload

pytestmark = pytest.mark.second_tier

WATCH = """
window.hurt = () => { window.wasHurt = true }
window.refused = []
document.addEventListener('securitypolicyviolation', event =>
  window.refused.push([event.violatedDirective, event.blockedURI, event.sample]))
"""
MADE = ".hurt, img[src=x], a[href^='javascript:'], a[href^='https://example.org'], .katex, del, script:not([src], [id])"
"""Elements that only what was brought can have made; but for one script of Streamlit's own, and ours beside charts."""
PAGES = [
    f"?run={FULL}",
    f"?run={FAILED}",
    f"?run={RUNNING}",
    f"compare?run={FULL}",
    f"compare?run={SIZES}&with={FULL}",
    f"examples?run={FULL}",
    f"decide?run={FULL}&max_memory_mb=1",
    f"roofline?run={FULL}",
    f"load?run={FULL}",
    f"ship?run={FULL}",
    f"run?run={RUNNING}",
    *(f"runs?run={FULL}&tab={tab}" for tab in ("Variants", "Environment", "Suite", "Log")),
]


@pytest.fixture(scope="module")
def hostile_site(dashboard_over: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hostile")
    url = f"sqlite:///{folder / 'bench.sqlite'}"
    fill_hostile(url)
    with dashboard_over(url, folder / "server.log") as site:
        yield site


@pytest.mark.parametrize("path", PAGES)
def test_a_page_shows_markup_as_text(path: str, hostile_site: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{hostile_site}/_stcore/health")
    page.add_init_script(WATCH)
    page.goto(f"{hostile_site}/{path}")
    page.wait_for_selector("[data-testid=stHeading], [data-testid=stHtml], [data-testid=stAlert]")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(1500)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("window.wasHurt") is None
    assert page.evaluate("window.refused") == [], "nothing tried, nothing of Streamlit's own was refused"
    made = page.eval_on_selector_all(MADE, "found => found.map(one => one.outerHTML)")
    streamlits, *others = [one for one in made if one != f"<script>{preload.LATER}</script>"]
    assert "prerenderReady" in streamlits and others == [], made
    shown = page.evaluate("document.body.innerText").replace("\u2060", "")
    assert TEXT in " ".join(shown.split())
