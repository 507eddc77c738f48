"""Examples and a file in Classify in a real browser: filter, share, click through to Classify, upload, take away."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from test_dashboard import FULL, settled


def _dashboard() -> Any:
    """`dashboard` of the conftest.py beside this file; by its path, as other folders have modules of that name."""
    found = importlib.util.spec_from_file_location("browser_conftest", Path(__file__).with_name("conftest.py"))
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.dashboard


def test_from_a_flip_to_classify_and_back(site: str, open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page(f"{site}/examples?run={FULL}&flip_of=Student+FP32")
    texts = page.get_by_role("table", name="Texts and answers")
    texts.wait_for()
    page.locator(".st-key-flip").get_by_text("wrong to right").click()
    page.wait_for_url("**flip=gained**")
    settled(page)
    shown = texts.locator("tbody tr").count()
    assert shown and texts.get_by_text("≠ ✓").count() == shown
    page.reload()
    texts.wait_for()
    settled(page)
    assert texts.get_by_text("≠ ✓").count() == texts.locator("tbody tr").count() == shown

    with page.expect_download() as caught:
        page.get_by_role("button", name="as CSV").click()
    caught.value.save_as(tmp_path / "flips.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "flips.csv").read_text("utf-8-sig"))))
    assert len(rows) == shown and all(row["Student FP32: answer"] == row["label"] for row in rows)

    text = texts.locator("tbody td.ib-text").first.inner_text()
    # By the keyboard, as a click would.
    texts.get_by_role("link", name="Classify the text of row").first.press("Enter")
    box = page.get_by_label("Text", exact=True)
    box.wait_for()
    settled(page)
    assert box.input_value() == text and parse_qs(urlsplit(page.url).query)["text"] == [text]
    page.go_back()
    texts.wait_for()
    assert "flip=gained" in page.url

    # Back within the page: to the second page of all texts, and to the kind before.
    page.locator(".st-key-flip").get_by_text("all texts").click()
    page.get_by_text("Texts 1 to 20 of").wait_for()
    page.get_by_role("button", name="Page 2").click()
    page.get_by_text("Texts 21 to 40 of").wait_for()
    page.locator(".st-key-flip").get_by_text("wrong to right").click()
    page.get_by_text(f"of {shown}, in the run's order").wait_for()
    page.go_back()
    page.get_by_text("Texts 21 to 40 of").wait_for()
    page.go_back()
    page.get_by_text("Texts 1 to 20 of").wait_for()
    page.go_back()
    page.get_by_text(f"of {shown}, in the run's order").wait_for()

    matrix = page.get_by_role("table", name="Student FP32 against the labels")
    cell = matrix.get_by_role("link").first
    count = int(cell.inner_text())
    cell.click()
    page.wait_for_url("**flip_said**")
    page.get_by_text(f"of {count}, in the run's order").wait_for()
    abroad = {urlsplit(a).hostname for a in page.requested if urlsplit(a).scheme not in ("data", "blob")}
    assert abroad == {"127.0.0.1"}


@pytest.mark.second_tier
def test_a_file_is_uploaded_and_its_answers_are_taken_away(
    tiny_models: dict[str, Path],
    write_suite: Callable[..., Path],
    open_page: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    variants = [
        {"name": "fp32", "title": "Plain", "model": str(tiny_models["distilbert"]), "backend": "onnxruntime"},
        {"name": "moved", "title": "=Moved", "model": str(tiny_models["permuted"]), "backend": "onnxruntime"},
    ]
    suite = write_suite(tmp_path, variants, protocol={"threads": 1})
    lines = "".join(f'"<b>Shares</b> rose, by {i} percent",Business\n' for i in range(40))
    (tmp_path / "in.csv").write_text("headline,label\n" + lines)
    with _dashboard()(f"sqlite:///{tmp_path / 'data' / 'bench.sqlite'}", tmp_path / "server.log") as site:
        page = open_page(f"{site}/classify?suite={quote('a file …')}&suite_file={quote(str(suite))}")
        page.get_by_text("Many texts from a CSV file").click()
        page.locator("input[type=file]").set_input_files(tmp_path / "in.csv")
        page.get_by_role("button", name="Classify 40 texts").click()
        page.get_by_text("2 batches of up to 32 texts").wait_for(timeout=180_000)
        rows = page.get_by_role("table", name="Answers by text").locator("tbody tr")
        # What is above the table may be drawn before it.
        rows.nth(39).wait_for()
        assert rows.count() == 40
        assert page.get_by_role("table", name="Answers by text").locator("b").count() == 0
        assert "= same on all 40" in page.get_by_role("table", name="Variants").inner_text()
        with page.expect_download() as caught:
            page.get_by_role("button", name="with every answer as CSV").click()
        caught.value.save_as(tmp_path / "out.csv")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8-sig"))))
        assert len(rows) == 40 and {row["Plain: batch texts"] for row in rows} == {"32", "8"}
        assert {row["'=Moved: same as baseline"] for row in rows} == {"yes"}
        page.reload()
        page.get_by_role("button", name="Classify 40 texts").wait_for()
