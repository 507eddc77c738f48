"""HTML of the progress of running runs. The page reads the store at every refresh; nothing is cached."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from dashboard.data.live import PHASES, Lane, phase, rounds, timed_batch
from dashboard.style import Mark, Theme, marks
from dashboard.tables import html, scorecard
from engine.units import NOTHING, milliseconds, significant


def series(found: list[Lane], look: Theme) -> tuple[pd.DataFrame, list[Any]]:
    """Samples/s by round of the running experiment, one column per variant, and the colours of the columns."""
    size = timed_batch(found)
    chosen = [lane for lane in found if len(lane.rates) and (lane.batch_size == size)]
    if not chosen:
        return pd.DataFrame(), []
    shades = marks(found, look)
    length = max(len(lane.rates) for lane in chosen)
    columns = {lane.title: np.concatenate([lane.rates, np.full(length - len(lane.rates), np.nan)]) for lane in chosen}
    table = pd.DataFrame(columns, index=pd.RangeIndex(1, length + 1, name="round"))
    return table, [shades[lane.variant].color for lane in chosen if lane.title in columns][: len(columns)]


def strip(summary: dict[str, Any]) -> str:
    """The phases in a row as HTML, the current phase marked."""
    now = phase(summary)
    load = (summary["spec"].get("load") or summary["spec"].get("scenarios")) is not None
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
    """The progress of each variant and its figures so far, as HTML."""
    shades = marks(found, look)
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
    return f"<style>{html.CSS}{CSS}</style>" + (
        f'<div class="ib-card ib-live"><table aria-label="Progress by variant"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(summary: dict[str, Any], lane: Lane, mark: Mark, several: bool, wanted: int) -> str:
    glyph = html.glyph(mark, lane.status in ("measured", "pending"))
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
    """The current state of one measurement, with a sign."""
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
