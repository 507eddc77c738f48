"""What older versions of the bench stored in another form, read as today's columns hold it."""

from __future__ import annotations

from typing import Any


def planned_columns(spec: dict[str, Any], variant: str, batch_size: int) -> dict[str, int | None]:
    """The `experiment` and `max_batch_tokens` of a measurement that was stored before these were columns.

    `spec`: the run's suite as stored. Databases before revision 0006 and run files before version 3 need this.
    """
    workload: dict[str, Any] = spec.get("workload") or {}
    own: dict[str, Any] = next((item for item in spec.get("variant") or [] if item.get("name") == variant), {})
    sizes = workload.get("batch_size") or [batch_size]
    largest: int = max(sizes if isinstance(sizes, list) else [sizes])
    return {
        "experiment": largest if own.get("batch_size") else batch_size,
        "max_batch_tokens": own.get("max_batch_tokens") or workload.get("max_batch_tokens"),
    }
