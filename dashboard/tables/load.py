"""HTML tables of the page Load: every variant under load, and the trials of one variant. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dashboard.run_rows import Row, usable
from dashboard.style import Mark, Theme, marks
from dashboard.tables.html import KINDS, glyph, table
from engine.report import load
from engine.report.load import JoinedLoad
from engine.units import NOTHING, between, milliseconds, percent, significant

LEFT = " class=ib-left"


def _head(heads: Sequence[tuple[str, str, bool]]) -> str:
    return "".join(
        f'<th scope="col"{LEFT if left else ""}>{label}{f"<span class=ib-sub>{below}</span>" if below else ""}</th>'
        for label, below, left in heads
    )


def variants(measured: Sequence[Row], loads: Sequence[JoinedLoad], look: Theme) -> str:
    """One line per variant: single stream, offline, the rates between which it leaves the limit, the ratio of rates.

    The ratio compares the variant's rate with the baseline's.
    """
    heads = (
        ("Variant", "", True),
        ("Single stream", "p90, ms", False),
        ("Offline", "texts/s", False),
        ("Holds", "texts/s", False),
        ("Does not hold", "texts/s, failed twice", False),
        ("Of offline", "%", False),
        ("To the baseline's", "ratio, its bounds below", False),
        ("Verdict", "", True),
    )
    shades = marks(measured, look)
    body = "".join(_variant(row, shades[row.variant]) for row in loads)
    return table("Every variant under a service's load", _head(heads), body)


def _variant(row: JoinedLoad, mark: Mark) -> str:
    done = row.status == "measured"
    held, offline = row.server_texts_per_s, row.offline_texts_per_s
    bounds = between(row.ratio_low, row.ratio_high)
    ratio = "1" if row.baseline and done else significant(row.ratio)
    cells = (
        milliseconds(row.single_p90_s),
        significant(offline),
        (significant(held) if held else "none") if done else NOTHING,
        significant(row.beyond_texts_per_s),
        percent(held / offline, 0) if held and offline else NOTHING,
        f"{ratio}<span class=ib-sub>{'baseline' if row.baseline and done else bounds}</span>",
    )
    verdict = "" if row.baseline or not done else load.VERDICTS.get(row.comparison or "", NOTHING)
    state = KINDS.get((row.validity or "") if done else row.status, "")
    why = row.status_reason if not done else row.validity_reason
    doubt = f"<span class=ib-sub>{escape(f'{state}: {why}' if why else state)}</span>" if state else ""
    about = f"batches of at most {row.max_batch}, padding {row.padding}"
    return (
        f'<tr{" class=ib-base" if row.baseline else ""}><th scope="row">{glyph(mark, usable(row))}{escape(row.name)}'
        f"<span class=ib-sub>{escape(about)}</span></th>{''.join(f'<td>{cell}</td>' for cell in cells)}"
        f'<td class="ib-left ib-why">{verdict}{doubt}</td></tr>'
    )


def trials(row: JoinedLoad) -> str:
    """One line per rate that was tried with one variant, the lowest first."""
    heads = (
        ("Rate offered", "texts/s", False),
        ("Verdict", "99% confidence", True),
        ("p99", "ms", False),
        ("Later than the limit", "texts", False),
        ("Answered", "of the texts planned", False),
        ("Batch", "texts, on average", False),
    )
    body = "".join(_trial(trial) for trial in sorted(row.trials, key=lambda trial: trial["rate_per_s"]))
    return table("The rates that were tried", _head(heads), body)


def _trial(trial: Mapping[str, Any]) -> str:
    return (
        f'<tr><th scope="row">{significant(trial["rate_per_s"])}</th>'
        f'<td class="ib-left">{"● held" if trial["holds"] else "✕ did not hold"}</td>'
        f"<td>{milliseconds(trial['p99_s'])}</td><td>{trial['late']:,}</td>"
        f"<td>{trial['answered']:,} of {trial['texts']:,}</td><td>{significant(trial['mean_batch'])}</td></tr>"
    )
