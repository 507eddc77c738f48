"""Peak memory, split into its known parts: imports, weights, the rest."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.run_rows import Row, baseline_of
from dashboard.style import Theme, fade, marks
from engine.store.rows import present
from engine.units import megabytes, times

PARTS = {"imports": 0.22, "weights": 1.0, "rest": 0.5}
"""Part -> opacity of its bar."""


def parts(row: Row) -> dict[str, float]:
    """Bytes of each part of a row's peak. Their sum is the peak."""
    peak = present(row.memory_bytes)
    imports = 0
    if row.memory_kind == "ram":
        imports = min(((row.memory or {}).get("ram_after_imports") or {}).get("bytes") or 0, peak)
    weights = min(row.weights_bytes or 0, peak - imports)
    return {"imports": imports, "weights": weights, "rest": peak - imports - weights}


@kept
def memory(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One bar per measurement from zero, in MB."""
    known = [row for row in rows if row.memory_bytes is not None]
    kind = "VRAM" if known and known[0].memory_kind == "vram" else "RAM"
    split = "solid: weights; lighter: the rest" + ("; lightest: libraries alone" if kind == "RAM" else "")
    figure = base.titled(
        look,
        headlines.memory_title(rows),
        f"Bar: peak of one process a variant, {split}. One reading, so no interval. Dotted: baseline.",
        base.ROW_HEIGHT * len(rows),
    )
    shades = marks(rows, look)
    reference = baseline_of(rows)
    bars: list[go.Bar] = []
    notes = []
    for position, row in enumerate(rows):
        if row.memory_bytes is None:
            notes.append(base.note_at_row(look, position, base.missing(row)))
            continue
        start = 0.0
        color = shades[row.variant].color
        for part, size in parts(row).items():
            if not size:
                continue
            bars.append(
                go.Bar(
                    x=[size / 1e6],
                    y=[position],
                    base=[start],
                    orientation="h",
                    width=0.5,
                    name=f"{row.name}, {part}",
                    marker={"color": fade(color, PARTS[part]), "line": {"width": 0}},
                    hovertemplate=(
                        f"<b>{base.escape(row.name)}</b><br>{part}: {megabytes(round(size))} MB of "
                        f"{megabytes(row.memory_bytes)} MB<extra></extra>"
                    ),
                )
            )
            start += size / 1e6
        ratio = row.memory_ratio
        beside = "" if ratio is None or row.baseline else times(ratio)
        notes.append(base.value_column(look, position, megabytes(row.memory_bytes), beside))
    if reference is not None and reference.memory_bytes is not None:
        line = {"color": look.line, "width": 1, "dash": "dot"}
        figure.add_vline(x=reference.memory_bytes / 1e6, line=line)
    figure.add_traces(bars)
    figure.update_layout(barmode="overlay", margin={"r": 110}, annotations=notes)
    base.name_rows(figure, [row.name for row in rows])
    figure.update_xaxes(title_text=f"Peak {kind} (MB)", rangemode="tozero", nticks=6)
    return figure
