"""The history in a real browser: a row, a page of it and an older run are chosen; a run travels as one file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.store import models, open_store

REPOSITORY = Path(__file__).resolve().parents[2]
FULL, SIZES = "01J0000000000000000000000A", "01J0000000000000000000000B"
ROW_PIXELS = 35


def _dashboard() -> Any:
    """`dashboard` of the conftest.py beside this file; by its path, as other folders have modules of that name."""
    found = importlib.util.spec_from_file_location("browser_conftest", Path(__file__).with_name("conftest.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.dashboard


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a dashboard over a history of three pages, which tests may change."""
    folder = tmp_path_factory.mktemp("history")
    url = f"sqlite:///{folder / 'bench.sqlite'}"
    program = REPOSITORY / "tests" / "dashboard" / "dashboard_fill.py"
    around = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(program), url], check=True, env=around, timeout=120)
    with open_store(url) as store, store.session() as session:
        like = session.get_one(models.Run, FULL)
        names = [column.name for column in models.Run.__table__.columns if column.name not in ("id", "created_at")]
        for number in range(53):
            older = {"id": f"01H{number:023}", "created_at": like.created_at - timedelta(days=1, minutes=number)}
            session.add(models.Run(**older | {name: getattr(like, name) for name in names}))
    with _dashboard()(url, folder / "server.log") as site:
        yield site


def settled(page: Any) -> None:
    page.wait_for_selector("[data-testid=stDataFrame]")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(500)


def chosen(page: Any, timeout_s: float = 15.0) -> str:
    """The end of the chosen run's id, once the choice of a run and the URL say the same: a click moves one before
    the other."""
    deadline = time.monotonic() + timeout_s
    while True:
        shown: str = page.locator("[data-testid=stSelectbox] input").first.input_value().rsplit("…", 1)[-1]
        said = parse_qs(urlsplit(page.url).query)["run"][0]
        if said.endswith(shown):
            return shown
        assert time.monotonic() < deadline, (said, shown)
        page.wait_for_timeout(100)


@pytest.mark.second_tier
def test_a_note_is_written(history: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{history}/runs?run={SIZES}")
    settled(page)
    page.get_by_text("Note and tags").click()
    page.get_by_role("textbox", name="Note").fill("Measured at night")
    page.get_by_role("button", name="Save").click()
    page.get_by_test_id("stText").get_by_text("Measured at night").wait_for()
    # The form stays open.
    page.get_by_role("textbox", name="Note").wait_for()


@pytest.mark.second_tier
def test_another_tab_leaves_its_reader_where_he_is(history: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{history}/runs?run={FULL}")
    settled(page)
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 400")
    page.get_by_role("tab", name="Environment").click()
    page.get_by_text("Asked for").first.wait_for()
    settled(page)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 400


@pytest.mark.second_tier
def test_a_row_a_page_and_an_older_run_are_chosen(history: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{history}/?run={SIZES}")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    # From any page to the search: the choice of a run holds the newest ones alone.
    box = page.locator("[data-testid=stSelectbox] input").first
    box.click()
    box.fill("search")
    page.get_by_role("option", name="All 60 runs").click()
    page.wait_for_url("**/runs*")
    settled(page)
    assert chosen(page) == SIZES[-6:]
    page.get_by_role("button", name="Page 3").click()
    settled(page)
    assert "page=3" in page.url and "60 runs" in page.locator("body").inner_text()
    table = page.locator("[data-testid=stDataFrame]").first
    table.wait_for()
    place = table.bounding_box()
    page.mouse.click(place["x"] + 16, place["y"] + ROW_PIXELS * 2.5)
    settled(page)
    assert chosen(page) == "000044"
    page.reload()
    settled(page)
    assert chosen(page) == "000044" and "page=3" in page.url


def test_a_run_leaves_as_a_file_is_deleted_and_comes_back(
    history: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(f"{history}/runs?run={FULL}")
    settled(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Run file", exact=True).click()
    file = tmp_path / caught.value.suggested_filename
    caught.value.save_as(file)
    assert file.name == f"fixture-{FULL[-6:].lower()}.run.zip"
    page.get_by_role("button", name="Delete …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("9 measurements and 1,400 answers go with it, for good.").wait_for()
    dialog.get_by_role("button", name="Delete run").click()
    page.get_by_text(f"Run …{FULL[-6:]} is deleted.").wait_for()
    assert page.get_by_role("dialog").count() == 0
    settled(page)
    assert "59 runs" in page.locator("body").inner_text() and FULL not in page.url
    page.get_by_role("button", name="Import a run file").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_text(f"Run …{FULL[-6:]} is imported.").wait_for()
    settled(page)
    assert chosen(page) == FULL[-6:] and "60 runs" in page.locator("body").inner_text()
    assert page.locator("[data-testid=stException]").count() == 0
