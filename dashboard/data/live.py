"""A run in progress, as its page reads it: phase, rounds, clock and the state of each variant."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import select

from dashboard.data import reads
from engine.errors import RequestError
from engine.jobs import slurm
from engine.store import measurements, models, runs

PHASES = ("queued", "preparing", "loading", "answering", "timing", "serving", "finished")


@dataclass(frozen=True)
class Lane:
    """One measurement on its way."""

    variant: str
    title: str
    model: str
    backend: str
    precision: str
    baseline: bool
    batch_size: int
    status: str
    status_reason: str | None
    answered: bool
    """Every example's logits are stored."""
    warm: bool
    """It was warmed up, so its rounds have begun."""
    latencies_s: np.ndarray
    """float64 [timed calls]."""
    rates: np.ndarray
    """Samples/s: float64 [rounds over all processes]."""


def current() -> list[dict[str, Any]]:
    """The runs that are under way or queued: those that work before those that wait, then the oldest first."""
    try:
        opened = reads.store()
    except RequestError:
        return []
    slurm.catch_up(opened)
    with opened.session() as session:
        summaries = [runs.run_summary(run) for run in runs.live_runs(session)]
    here = socket.gethostname()
    return sorted(summaries, key=lambda s: (s["host"] != here, s["status"] == "queued"))


def lanes(run_id: str) -> list[Lane]:
    """Every measurement of a run with what it has so far, in the suite's order."""
    with reads.store().session() as session:
        rows = measurements.measurements(session, run_id)
        ids = [row.id for row in rows]
        answered = set(
            session.scalars(select(models.Prediction.measurement_id).where(models.Prediction.measurement_id.in_(ids)))
        )
        blocks = session.execute(
            select(models.Block.measurement_id, models.Block.kind, models.Block.samples, models.Block.latencies_s)
            .where(models.Block.measurement_id.in_(ids))
            .order_by(models.Block.id)
        ).all()
    made = []
    for row in rows:
        mine = [block for block in blocks if block.measurement_id == row.id]
        timed = [(b.samples, np.frombuffer(b.latencies_s, "<f8")) for b in mine if b.kind == "timed"]
        made.append(
            Lane(
                row.variant,
                row.title,
                row.model,
                row.backend,
                row.precision,
                row.baseline,
                row.batch_size,
                row.status,
                row.status_reason,
                row.id in answered,
                bool(mine),
                np.concatenate([calls for _, calls in timed]) if timed else np.empty(0),
                np.array([samples / calls.sum() for samples, calls in timed]),
            )
        )
    return made


def phase(summary: dict[str, Any]) -> str:
    """The phase that a live run is in, one of PHASES."""
    told = (summary["progress"] or {}).get("phase")
    return told if told in PHASES else {"running": "loading"}.get(summary["status"], summary["status"])


def rounds(summary: dict[str, Any]) -> int:
    """How many rounds each experiment has at least."""
    return int(summary["spec"].get("protocol", {}).get("rounds", 1))


def elapsed(summary: dict[str, Any]) -> float:
    """Seconds since a run began, or was queued."""
    since = datetime.fromisoformat(summary["started_at"] or summary["created_at"])
    until = datetime.fromisoformat(summary["finished_at"]) if summary["finished_at"] else datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def clock(seconds: float) -> str:
    """ "1:05" or "2:03:04"."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def timed_batch(found: list[Lane]) -> int | None:
    """The batch size whose rounds are under way, or were last."""
    begun = [lane.batch_size for lane in found if len(lane.rates)]
    return max(begun) if begun else None
