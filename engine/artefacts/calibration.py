"""Calibration texts for static quantisation."""

from __future__ import annotations

from engine.suite.spec import Suite, Workload

CALIBRATION = "calibration.json"


def same_data(suite: Suite, first: Workload, second: Workload) -> bool:
    """Whether two workloads read the same rows: a file has no splits."""
    path = suite.locate(first.dataset)
    if path is not None:
        return path == suite.locate(second.dataset)
    return (first.dataset, first.config, first.split) == (second.dataset, second.config, second.split)
