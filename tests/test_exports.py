"""What leaves the store as text."""

from __future__ import annotations

import csv
import io

import pytest

from engine.report import exports

FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", '=HYPERLINK("x")', "＝1"]


@pytest.mark.parametrize("title", FORMULAS)
def test_no_cell_of_text_is_a_formula(title: str) -> None:
    (read,) = csv.DictReader(io.StringIO(exports._csv([{"title": title, "difference": -0.25, "none": None}])))
    assert read == {"title": "'" + title.replace("\r", "\n"), "difference": "-0.25", "none": ""}


def test_other_text_stays_as_it_is() -> None:
    assert [exports.safe(value) for value in ("a=b", "–", "", None, -1, [-1])] == ["a=b", "–", "", None, -1, [-1]]
