"""The Examples page by AppTest, its tables as HTML."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, INTERRUPTED, RUNNING, SIZES, UNLABELLED
from row_builder import shown_row
from streamlit.testing.v1 import AppTest

from dashboard.data import reads
from dashboard.data.answers import Answers
from dashboard.export import sheets
from dashboard.findings import disagreements
from dashboard.style import Mark
from dashboard.tables import examples
from dashboard.tables.examples import Column, Text

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
HOSTILE = '<img src=x onerror=alert(1)> "quoted" & =cmd()'


def page(run: str, **parameters: str) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in {"run": run, **parameters}.items():
        test.query_params[name] = value
    test.switch_page("app_pages/examples.py").run()
    assert not test.exception, test.exception
    return test


def html(test: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in test.get("html"))


def listed(test: AppTest) -> str:
    """The table of texts."""
    return next((body for body in html(test).split("<style>") if 'aria-label="Texts and answers"' in body), "")


def kinds(test: AppTest) -> dict[str, int]:
    control = next(group for group in test.get("button_group") if group.key == "flip")
    found = (option.rsplit(" · ", 1) for option in control.options)
    return {name: int(count.replace(",", "")) for name, count in found}


def choose(test: AppTest, key: str, value: Any) -> AppTest:
    next(element for element in (*test.get("button_group"), *test.selectbox) if element.key == key).set_value(value)
    test.run()
    assert not test.exception, test.exception
    return test


@pytest.mark.parametrize("run", [FULL, SIZES, UNLABELLED, CANCELLED])
def test_runs_with_answers(run: str, database: str) -> None:
    test = page(run)
    assert listed(test) or "No text matches" in "\n".join(str(c.value) for c in test.caption)


@pytest.mark.parametrize(
    ("run", "word"), [(RUNNING, "No answers yet"), (INTERRUPTED, "holds no answers"), (FAILED, "holds no answers")]
)
def test_runs_without_answers(run: str, word: str, database: str) -> None:
    assert word in page(run).header[0].value


def test_the_headline_counts_what_the_store_counts(database: str) -> None:
    test = page(FULL)
    rows = {row.title: row for row in reads.measurements(reads.run(FULL))}
    said = test.header[0].value.replace("\\", "")
    for title in ("Student FP32", "DistilBERT 4-bit", "ONNX FP32"):
        flips = rows[title].flips
        assert (f"{flips} by {title}" if flips else "none by the other") in said
    test = choose(test, "flip_of", ["ONNX INT8"])
    lost, gained = rows["ONNX INT8"].accuracy_lost, rows["ONNX INT8"].accuracy_gained
    said = test.header[0].value.replace("\\", "")
    assert said.startswith(f"ONNX INT8 answers {rows['ONNX INT8'].flips} of 200 texts otherwise than Distil")
    assert f": {lost} right to wrong, {gained} wrong to right" in said


def test_invalid_variants_are_not_compared_unasked(database: str) -> None:
    test = page(FULL)
    assert "BF16 that is not" not in html(test)
    assert "✗ invalid" in html(choose(test, "flip_of", ["BF16 that is not"]))


def test_kinds_filter_the_texts(database: str) -> None:
    test = choose(page(FULL), "flip_of", ["Student FP32"])
    counts = kinds(test)
    assert sum(counts[name] for name in list(counts)[1:4]) == counts["≠ other answer"]
    assert counts["= all the same"] + counts["≠ other answer"] == counts["all texts"] == 200
    test = choose(test, "flip", "gained")
    assert test.query_params["flip"] == "gained"
    table = listed(test)
    assert table.count("<tr>") - 1 == min(20, counts["✗→✓ wrong to right"])
    assert "≠ ✓" in table and "≠ ✗" not in table and "= " not in table.split("<tbody>")[1]


def test_choices_come_from_the_url(database: str) -> None:
    address = {"flip": "all", "flip_of": "Student FP32", "flip_label": "Sports", "flip_words": "example 1"}
    test = page(FULL, **address)
    texts = listed(test).split("<tbody>")[1]
    assert texts.count('<td class="ib-left">Sports</td>') == texts.count("<tr>") > 0
    assert "example 2<" not in texts
    assert "ONNX INT8" not in listed(test)


def test_back_restores_kind_and_page(database: str) -> None:
    test = page(FULL, flip="all", flip_page="3")
    test = choose(test, "flip", "other")
    assert test.query_params["flip"] == "other" and test.query_params["flip_page"] == "1"
    # The address that the browser goes back to.
    test.query_params["flip"], test.query_params["flip_page"] = "all", "2"
    test.run()
    assert "Texts 21 to 40 of 200" in "\n".join(str(c.value) for c in test.caption)
    del test.query_params["flip"], test.query_params["flip_page"]
    test.run()
    assert test.session_state["flip"] == "other"


def test_unknown_choices_in_the_url_are_left_out(database: str) -> None:
    unknown = dict.fromkeys(("flip", "flip_of", "flip_from", "flip_label", "flip_page", "batch"), "<b>nothing</b>")
    assert page(FULL, **unknown).header[0].value == page(FULL).header[0].value
    assert page(UNLABELLED, flip="lost", flip_label="World").header


@pytest.mark.parametrize("words", ["' OR 1=1 --", "%", "_", "\\", "\x00", "a " * 60, "<b>"])
def test_strange_words_find_nothing_or_something(words: str, database: str) -> None:
    assert page(FULL, flip="all", flip_words=words).header


def test_pages_and_their_return_to_the_first(database: str) -> None:
    test = page(FULL, flip="all", flip_page="3")
    assert "Texts 41 to 60 of 200" in "\n".join(str(c.value) for c in test.caption)
    test = choose(test, "flip_label", 1)
    assert "Texts 1 to 20 of" in "\n".join(str(c.value) for c in test.caption)
    assert "flip_page" not in test.query_params
    for unknown in ("99", "0", "-1", "x", "²", "9" * 5000):
        test = page(FULL, flip="all", flip_page=unknown)
        assert "Texts 1 to 20 of 200" in "\n".join(str(c.value) for c in test.caption)


def test_another_reference(database: str) -> None:
    test = choose(page(FULL), "flip_from", "Student FP32")
    assert "otherwise than Student FP32" in test.header[0].value
    assert "Student FP32 answers" in [box.label for box in test.selectbox]


def test_unlabelled_texts_have_flips_against_the_baseline_alone(database: str) -> None:
    test = page(UNLABELLED)
    assert list(kinds(test)) == ["≠ other answer", "≠ among themselves", "= all the same", "all texts"]
    assert "✓" not in listed(test) and "≠ " in listed(test)
    assert 'aria-label="Student FP32 against DistilBERT FP32"' in html(test) and "against the labels" not in html(test)


def test_a_batch_size_can_be_chosen(database: str) -> None:
    test = choose(page(SIZES), "batch", 8)
    assert "batch 8 ·" in "\n".join(str(c.value) for c in test.caption)


def test_confusion_matrices_are_the_stored_ones(database: str) -> None:
    test = page(FULL)
    row = next(r for r in reads.measurements(reads.run(FULL)) if r.title == "Student FP32")
    table = next(b for b in html(test).split("<style>") if 'aria-label="Student FP32 against the labels"' in b)
    body = table.split("<tbody>")[1].split("<tr>")[1:]
    shown = [[int(unescape(cell).split(">")[-1]) for cell in _cells(line)] for line in body]
    assert shown == row.quality["confusion"]


def _cells(line: str) -> list[str]:
    return [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line)]


def test_a_click_takes_a_text_to_classify(database: str) -> None:
    first = unescape(re.findall(r'href="([^"]+)"', listed(page(FULL)))[0])
    parts = urlsplit(first)
    assert parts.path == "classify" and parse_qs(parts.query)["text"][0].startswith("example ")


def test_a_view_reads_the_texts_that_it_shows_and_no_more(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = reads.examples_at
    monkeypatch.setattr(reads, "examples_at", lambda set_id, at: read.extend(at) or original(set_id, at))
    page(FULL, flip="all")
    assert len(read) == 20


# Plain functions


MARK = Mark("#1f5f8b", "circle", "baseline", "pytorch")


def column(at: int, name: str) -> Column:
    return Column(at, name, shown_row(backend="b", precision="p"), MARK)


@pytest.fixture
def found() -> Answers:
    answers, shares = np.array([[0, 1], [1, 1]], np.int16), np.full((2, 2), 0.5, np.float32)
    return Answers([HOSTILE, "World"], np.array([0, 1], np.int16), [1, 2], answers, shares, [])


def test_texts_and_labels_are_no_markup(found: Answers) -> None:
    shown = [Text(0, 7, HOSTILE, 'classify?text="><script>'), Text(1, 8, "word " * 500, "classify?example=x")]
    table = examples.texts(shown, found, column(0, HOSTILE), [column(1, "INT8")])
    assert "<img" not in table and "<script" not in table and "&lt;img src=x" in table
    assert table.count("<details>") == 1
    counts = disagreements.confusion(found, 1, None)
    for many in (found.names, [f"label {i}" for i in range(20)]):
        grown = np.zeros((len(many), len(many)), np.int64)
        grown[:2, :2] = counts
        made = examples.matrix(HOSTILE, [HOSTILE, *many[1:]], grown, MARK, HOSTILE, lambda i, j: '">' + HOSTILE)
        assert "<img" not in made and ("the commonest of 20 labels" in made) == (len(many) == 20)


def test_of_many_variants_each_answer_names_its_own(found: Answers) -> None:
    shown = [Text(0, 7, "a text", "classify?example=x")]
    few = examples.texts(shown, found, column(0, "FP32"), [column(1, "INT8")])
    many = examples.texts(shown, found, column(0, "FP32"), [column(1, f"INT8 {i}") for i in range(9)])
    assert "ib-many" not in few.partition("</style>")[2] and 'class="ib-card ib-ex ib-many"' in many
    assert 'data-of="FP32"' in many and 'data-of="INT8 8"' in many


def test_the_file_holds_every_answer_and_no_formula(found: Answers) -> None:
    columns = [column(0, "=FP32"), column(1, "INT8")]
    shown = [{"position": 0, "source_index": 7, "text": "=1+1"}, {"position": 1, "source_index": 3, "text": "a,b"}]
    content = sheets.written(*examples.sheet(shown, found, columns))
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    assert rows[0][:4] == ["row", "text", "label", "'=FP32: answer"]
    assert rows[1] == ["7", "'=1+1", HOSTILE, HOSTILE, "0.5", "World", "0.5"]
    assert rows[2][1] == "a,b"
