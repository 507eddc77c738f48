"""Converts data that older versions of the bench stored in another form to today's columns."""

from __future__ import annotations

import re
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


def executor(host: str) -> str | None:
    """The `executor` of a run whose result is awaited, from the host that databases before revision 0006 hold."""
    return "slurm" if re.fullmatch(r"Slurm( job .*)?", host) else None


SLOWER = re.compile(r"the machine was slower than it has been: calls took (\d+\.\d+) times as long [^;]*")
RANDOM_WEIGHTS = "its head or all its weights are random: made for speed and memory alone"


def fact_columns(validity: str | None, validity_reason: str | None, accuracy_reason: str | None) -> dict[str, Any]:
    """The `doubts` and `random_weights` of a measurement that was stored before these were columns.

    Older versions stored sentences alone. This is the only place that reads them.
    """
    doubts: list[dict[str, Any]] = []
    if validity == "unstable" and validity_reason:
        doubts.append({"code": "stored_words", "text": validity_reason})
        if match := SLOWER.search(validity_reason):
            rest = "; ".join(filter(None, (part.strip("; ") for part in SLOWER.split(validity_reason)[::2])))
            doubts = [{"code": "slower_machine", "factor": float(match[1])}]
            doubts += [{"code": "stored_words", "text": rest}] if rest else []
    return {"doubts": doubts or None, "random_weights": True if accuracy_reason == RANDOM_WEIGHTS else None}
