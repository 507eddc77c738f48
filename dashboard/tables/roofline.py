"""HTML tables of the page Roofline: shares of the limit and what binds, and the operators of a profile. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dashboard.figures.kernel_names import readable
from dashboard.run_rows import Row, usable
from dashboard.style import Theme, marks
from dashboard.tables.html import glyph, table
from engine.measurement import operators
from engine.measurement.bounds import operation_rate
from engine.measurement.operators import KINDS
from engine.units import NOTHING, milliseconds, percent, share_percent


def shares(rows: Sequence[Row], look: Theme) -> str:
    """Each measured row's share of its ceiling, what binds it, and why in words."""
    heads = (
        ("Variant", "", True),
        ("Of the limit", "%", False),
        ("Reached", "operations of the products", False),
        ("Ceiling", "in its own dtype", False),
        ("Reading weights", "% of a call, at least", False),
        ("Bound by", "", True),
    )
    head = "".join(
        f'<th scope="col"{" class=ib-left" if left else ""}>{label}'
        f"{f'<span class=ib-sub>{below}</span>' if below else ''}</th>"
        for label, below, left in heads
    )
    shades = marks(list(rows), look)
    body = "".join(_share(row, shades[row.variant]) for row in rows if row.status == "measured")
    return table("How near each variant comes to its device's limit", head, body)


def _share(row: Row, mark: Any) -> str:
    found = row.limits or {}
    dtype = str(found.get("compute_dtype") or "")
    ceiling, read = found.get("ceiling_operations_per_s"), found.get("bandwidth_share")
    cells = (
        share_percent(row.limit_share),
        operation_rate(found.get("operations_per_s"), dtype),
        NOTHING if ceiling is None else f"{dtype.upper()} {operation_rate(ceiling, dtype)}",
        share_percent(read),
    )
    why = found.get("sentence") or "No limits were computed for this row."
    css = ' class="ib-base"' if row.baseline else ""
    return (
        f'<tr{css}><th scope="row" class="ib-open">{glyph(mark, usable(row))}{escape(row.name)}</th>'
        f"{''.join(f'<td class=ib-open>{escape(cell)}</td>' for cell in cells)}"
        f'<td class="ib-left ib-open">{escape(row.binds or "not known")}</td></tr>'
        # The sentence is below the figures, as a column for it would be too narrow.
        f'<tr{css}><td class="ib-left ib-why ib-told" colspan="{len(cells) + 2}">{escape(why)}</td></tr>'
    )


def profile(found: Mapping[str, Any]) -> str:
    """One line per operator, the longest first: kind, calls, time and share of a call."""
    heads = (operators.HEADS[found["by"]], "Kind", "Calls", "ms", "% of a call")
    head = "".join(f'<th scope="col"{" class=ib-left" if text in heads[:2] else ""}>{text}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row" class="ib-why ib-name" title="{escape(line.name)}">{escape(readable(line.name))}</th>'
        f'<td class="ib-left">{KINDS[line.kind][0] if line.kind else ""}</td>'
        f"<td>{line.counted}</td>"
        f"<td>{milliseconds(line.seconds)}</td><td>{percent(line.share)}</td></tr>"
        for line in operators.lines(found)
    )
    return table(f"{found['by'].capitalize()} of a call by time", head, body)
