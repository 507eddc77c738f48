"""Where runs stand while they go on: read from the store at every look, never cached."""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select

from dashboard import data, scorecard
from dashboard.style import Mark, Theme, marks
from engine import slurm
from engine.errors import RequestError
from engine.store import models, queries
from engine.units import NOTHING, milliseconds, significant

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

    def row(self) -> dict[str, Any]:
        """As `dashboard.style` and the scorecard's marks read it; nothing is judged before the end."""
        return {
            "variant": self.variant,
            "model": self.model,
            "backend": self.backend,
            "precision": self.precision,
            "baseline": self.baseline,
            "status": "measured" if self.status in ("measured", "pending") else self.status,
            "validity": None,
        }


def current() -> list[dict[str, Any]]:
    """The runs that are under way or queued: those that work before those that wait, then the oldest first."""
    try:
        opened = data.store()
    except RequestError:
        return []
    slurm.catch_up(opened)
    with opened.session() as session:
        summaries = [queries.run_summary(run) for run in queries.live_runs(session)]
    here = socket.gethostname()
    return sorted(summaries, key=lambda s: (s["host"] != here, s["status"] == "queued"))


def lanes(run_id: str) -> list[Lane]:
    """Every measurement of a run with what it has so far, in the suite's order."""
    with data.store().session() as session:
        rows = queries.measurements(session, run_id)
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


def series(found: list[Lane], look: Theme) -> tuple[pd.DataFrame, list[Any]]:
    """Samples/s by round of the experiment that is under way: a column a variant; and its colours."""
    size = timed_batch(found)
    chosen = [lane for lane in found if len(lane.rates) and (lane.batch_size == size)]
    if not chosen:
        return pd.DataFrame(), []
    shades = marks([lane.row() for lane in found], look)
    length = max(len(lane.rates) for lane in chosen)
    columns = {lane.title: np.concatenate([lane.rates, np.full(length - len(lane.rates), np.nan)]) for lane in chosen}
    table = pd.DataFrame(columns, index=pd.RangeIndex(1, length + 1, name="round"))
    return table, [shades[lane.variant].color for lane in chosen if lane.title in columns][: len(columns)]


def strip(summary: dict[str, Any]) -> str:
    """The phases in a row as HTML, the present one marked."""
    now = phase(summary)
    load = summary["spec"].get("scenarios") is not None
    at = PHASES.index(now) if now in PHASES else -1
    parts = []
    for index, name in enumerate(PHASES):
        if name == "serving" and not load:
            continue
        sign = "✓" if index < at else "▶" if index == at else "·"
        css = "ib-now" if index == at else "ib-past" if index < at else "ib-next"
        current = ' aria-current="step"' if index == at else ""
        parts.append(f'<span class="{css}"{current}>{sign} {name}</span>')
    return f"<style>{CSS}</style><div class=ib-phases>{''.join(parts)}</div>"


def table(summary: dict[str, Any], found: list[Lane], look: Theme) -> str:
    """Variant by variant, what is done and what it gave so far, as HTML."""
    shades = marks([lane.row() for lane in found], look)
    several = len({lane.batch_size for lane in found}) > 1
    wanted = rounds(summary)
    heads = ["Variant", *(["Batch"] if several else []), "State", "Rounds", "Calls", "Latency", "Samples/s"]
    units = {"Latency": "ms, median so far", "Samples/s": "median so far"}
    left = {"State"}
    head = "".join(
        f'<th scope="col"{" class=ib-left" if name in left else ""}>{name}'
        f"{f'<span class=ib-sub>{units[name]}</span>' if name in units else ''}</th>"
        for name in heads
    )
    body = "".join(_line(summary, lane, shades[lane.variant], several, wanted) for lane in found)
    return f"<style>{scorecard.CSS}{CSS}</style>" + (
        f'<div class="ib-card ib-live"><table aria-label="Progress by variant"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(summary: dict[str, Any], lane: Lane, mark: Mark, several: bool, wanted: int) -> str:
    glyph = scorecard.glyph(mark, lane.row())
    about = f"{'baseline · ' if lane.baseline else ''}{lane.backend} {lane.precision}"
    name = f'<th scope="row">{glyph}{escape(lane.title)}<span class=ib-sub>{escape(about)}</span></th>'
    batch = f"<td>{lane.batch_size}</td>" if several else ""
    done = len(lane.rates)
    share = min(1.0, done / wanted) if wanted else 0.0
    bar = f'<span class=ib-bar><i style="width:{share * 100:.0f}%;background:{mark.color}"></i></span>'
    typical = float(np.median(lane.latencies_s)) if len(lane.latencies_s) else None
    rate = float(np.median(lane.rates)) if done else None
    reason = f"<span class=ib-sub>{escape(lane.status_reason)}</span>" if lane.status_reason else ""
    return (
        f"<tr{' class=ib-base' if lane.baseline else ''}>{name}{batch}"
        f'<td class="ib-left ib-why">{escape(state(summary, lane))}{reason}</td>'
        f"<td>{done or NOTHING}{f' of {wanted}' if done < wanted else ''}{bar}</td>"
        f"<td>{len(lane.latencies_s) or NOTHING}</td>"
        f"<td>{milliseconds(typical)}</td><td>{significant(rate)}</td></tr>"
    )


def state(summary: dict[str, Any], lane: Lane) -> str:
    """What one measurement is doing, with a sign."""
    progress = summary["progress"] or {}
    doing = progress.get("phase")
    if doing == "serving" and progress.get("variant") == lane.variant and lane.status == "measured":
        return "▶ under load"
    if lane.status != "pending":
        return {"measured": "✓ measured"}.get(lane.status) or scorecard.STATES.get(lane.status, lane.status)
    if progress.get("variant") == lane.variant and doing in ("preparing", "loading", "answering"):
        share = progress.get("done")
        shown = f" {share * 100:.0f}%" if doing == "answering" and share is not None and math.isfinite(share) else ""
        return f"▶ {doing}{shown}"
    if len(lane.rates):
        return "▶ timing"
    if lane.warm:
        return "▶ warmed up"
    return "· answered" if lane.answered else "· waiting"


CSS = """
.ib-phases{display:flex;flex-wrap:wrap;gap:0 1.4rem;font-size:.94rem}
.ib-phases span{padding:.1rem 0;white-space:nowrap}
.ib-phases .ib-now{font-weight:600;border-bottom:2px solid currentColor}
.ib-phases .ib-past{opacity:.72}
.ib-phases .ib-next{opacity:.66}
.ib-live td{min-width:4.5rem}
.ib-bar{display:block;height:3px;margin-top:.3rem;background:color-mix(in srgb,currentColor 12%,transparent)}
.ib-bar i{display:block;height:3px}
"""
