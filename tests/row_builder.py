"""Rows of measurements for tests of what is above the store."""

from __future__ import annotations

from typing import Any

from dashboard import run_rows
from engine.store import rows

MEASURED: dict[str, Any] = {
    "variant": "other",
    "title": "Other",
    "model": "model",
    "backend": "pytorch",
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 8,
    "status": "measured",
    "validity": "valid",
    "padding": "longest",
    "order": "given",
    "max_length": 128,
    "options": {},
    "baseline": False,
}


def stored_row(**changes: Any) -> rows.Row:
    """A row as the store gives it."""
    return rows.Row(**MEASURED | changes)


def shown_row(**changes: Any) -> run_rows.Row:
    """A row as pages show it; its name is its title where none is given."""
    given = MEASURED | {"memory_kind": "ram"} | changes
    named = {"name": given["title"], "plain": given["variant"], "own_baseline": given["baseline"]}
    return run_rows.Row(**named | given)
