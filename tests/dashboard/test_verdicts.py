"""The verdicts of the scorecard: each comparison in its own words, with its own sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
from row_builder import shown_row

from dashboard.tables import scorecard

ROW = shown_row(speedup=1.5)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        ("better", "▲ faster"),
        ("worse", "▼ slower"),
        ("no_difference", "= speed: no difference shown"),
    ],
)
def test_speed(comparison: str, words: str) -> None:
    shown = scorecard._verdicts(replace(ROW, comparison=comparison))
    assert words in shown
    assert not [other for other in ("▲", "▼", "=") if other != words[0] and f">{other}" in shown]


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        ("better", "▲ more accurate"),
        ("worse", "▼ less accurate"),
        ("no_difference", "= accuracy: no difference shown"),
    ],
)
def test_accuracy(comparison: str, words: str) -> None:
    row = replace(ROW, comparison="better", accuracy_comparison=comparison)
    assert f">{words}<" in scorecard._verdicts(row)


@pytest.mark.parametrize(("validity", "words"), [("unstable", "~ unstable"), ("invalid", "✗ invalid")])
def test_a_doubt_stands_beside_the_verdict(validity: str, words: str) -> None:
    row = replace(ROW, comparison="better", validity=validity, validity_reason="a <reason>")
    shown = scorecard._verdicts(row)
    assert words in shown and "a &lt;reason&gt;" in shown and "▲ faster" in shown
