"""The method as written says of each figure what it is, and where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboard.metrics import METRICS
from engine.measurement import stats
from engine.measurement.quality import BINS, LEVEL, POWER

METHOD = " ".join((Path(__file__).resolve().parents[1] / "docs" / "method.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("key", METRICS)
def test_every_figure_is_explained(key):
    assert f"`{key}`" in METHOD


@pytest.mark.parametrize(
    "source",
    [
        "Wilson 1927", "McNemar (1947)", "Holm (1979)", "Efron and Tibshirani 1993", "Bonett and Price (2012)",
        "Clopper and Pearson 1934", "Cohen 1960", "Naeini et al. 2015", "Guo et al. 2017", "Student 1908",
        "Mann-Whitney (1947)",
    ],
)  # fmt: skip
def test_every_test_and_interval_has_its_source(source):
    assert source in METHOD


def test_its_numbers_are_those_of_the_code():
    assert f"expected calibration error over {BINS} bins" in METHOD
    assert f"where it is below {LEVEL:.0%}" in METHOD and f"= {POWER:.0%}`" in METHOD
    assert f"with P + {stats.BETWEEN_PROCESS_WEIGHT - 1} degrees of freedom" in METHOD
    assert f"beside the {stats.BETWEEN_PROCESS_WEIGHT} of that figure" in METHOD
