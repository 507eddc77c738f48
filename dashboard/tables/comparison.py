"""The scorecard of several runs, variants or baselines side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from dashboard.findings.settings import Setting
from dashboard.run_rows import Row, baseline_of, usable
from dashboard.style import TECHNIQUES, Theme, marks
from dashboard.tables.html import cell, glyph, sub_line, table
from dashboard.tables.scorecard import answers_and_memory, row_html
from engine.report.takeaways import p_figure
from engine.units import (
    NOTHING,
    between,
    milliseconds,
    percent,
    price_per_million,
    share_percent,
    significant,
)

FEW = 8
"""The most names in a cell. The tooltip has all of them."""
LONGEST_VALUE = 240
"""The most characters of a setting's value in a cell. The tooltip has the whole value."""


def comparison(rows: Sequence[Row], look: Theme) -> str:
    """The table of `comparing.against`: value, ratio and verdict of each row against the baseline, the first row."""
    shades = marks(rows, look)
    kind = "VRAM" if any(row.memory_kind == "vram" for row in rows) else "RAM"
    labelled = any(row.accuracy is not None for row in rows)
    heads = [
        ("Variant", ""),
        ("Latency p50", "ms (95%)"),
        ("p95", "ms, p99"),
        ("Throughput", "samples/s (95%)"),
        ("Speed-up", "× (95%)"),
        ("Accuracy" if labelled else "Same answer", "% (95%)"),
        *([("Difference", "points (95%)")] if labelled else []),
        (f"Peak {kind}", "MB, ratio"),
        ("Verdict", "against the baseline"),
    ]
    head = "".join(
        f'<th scope="col"{" class=ib-left" if label == "Verdict" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit in heads
    )
    baseline = baseline_of(rows)
    body = ""
    for row in rows:
        mark = shades[row.variant]
        about = TECHNIQUES[mark.technique]
        if baseline is not None and mark.technique == "options" and row.run != baseline.run:
            about = "the same in another run"
        body += row_html(row, row.name, mark, about, len(heads), _compared(row, labelled))
    label = f"Each row against {baseline.title}" if baseline else "Each row"
    return table(label, head, body)


def _compared(row: Row, labelled: bool) -> list[str]:
    p95, p99 = (
        NOTHING if row.figure(key) is None else milliseconds(row.figure(key))
        for key in ("latency_p95_s", "latency_p99_s")
    )
    cells = [
        cell(
            milliseconds(row.latency_p50_s),
            between(row.latency_p50_low_s, row.latency_p50_high_s, milliseconds),
        ),
        cell(p95, "few calls" if row.latency_p99_s is None else f"p99 {p99}"),
        cell(
            significant(row.throughput_samples_per_s),
            between(row.throughput_samples_per_s_low, row.throughput_samples_per_s_high),
        ),
    ]
    if row.baseline:
        cells.append(cell("1", "baseline"))
    elif row.across is not None:
        cells.append(cell(f"† {significant(row.across.ratio)}", between(row.across.low, row.across.high)))
    elif row.own_baseline and row.speedup is None:
        cells.append(cell(NOTHING, f"baseline of {row.run}"))
    else:
        cells.append(cell(significant(row.speedup), between(row.speedup_low, row.speedup_high)))
    return [*cells, *answers_and_memory(row, labelled)]


def settings(differing: Sequence[Setting]) -> str:
    """The settings that differ: their values, and the runs or rows with each value."""
    head = "".join(f'<th scope="col" class="ib-left">{text}</th>' for text in ("Setting", "Value", "Of"))
    body = ""
    for found in differing:
        span = len(found.values)
        first = f'<th scope="rowgroup" rowspan="{span}">{escape(found.name)}{sub_line(escape(found.group))}</th>'
        for value, holders in found.values:
            short = value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - 1].rstrip() + "…"
            body += (
                f'<tr>{first}<td class="ib-left ib-why ib-value" title="{escape(value)}">{escape(short)}</td>'
                f'<td class="ib-left ib-why" title="{escape(", ".join(holders))}">{escape(_few(holders))}</td></tr>'
            )
            first = ""
    return table("Settings that differ", head, body)


def _few(names: Sequence[str]) -> str:
    """`names` in words; of more than FEW + 1, the first FEW and the number of the rest."""
    if len(names) <= FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:FEW])} and {len(names) - FEW} more"


def evidence(rows: Sequence[Row], look: Theme, hourly_price: float | None = None) -> str:
    """The evidence behind each measured row: paired accuracy, calibration, batch, energy, the hardware's limit."""
    measured = [row for row in rows if row.status == "measured"]
    ordered = [*(row for row in measured if row.baseline), *(row for row in measured if not row.baseline)]
    shades = marks(list(rows), look)
    energy = any(row.energy_j_per_1000_examples is not None for row in measured)
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        ("McNemar", "p, Holm", _p),
        ("Lost, gained", "examples", _exchanged),
        ("Would show", "points, 80% power", lambda r: percent(r.detectable_difference)),
        ("Macro F1", "%", lambda r: percent(r.macro_f1)),
        ("NLL", "nats", lambda r: significant(r.nll)),
        ("ECE", "%", lambda r: percent(r.ece)),
        ("Batch flips", "% of answers", _batch_flips),
        *([("Energy", "J/1,000", lambda r: significant(r.energy_j_per_1000_examples))] if energy else []),
        *([("Price", "a million texts", _price(hourly_price))] if hourly_price else []),
        ("Of the limit", "%", lambda r: share_percent(r.limit_share)),
        ("Bound by", "", lambda r: r.binds or NOTHING),
    ]
    # Columns without any figure are left out, as in a run without labels or with random weights.
    columns = [column for column in columns if any(column[2](row) not in ("", NOTHING) for row in ordered)]
    head = '<th scope="col">Variant</th>' + "".join(
        f'<th scope="col"{" class=ib-left" if label == "Bound by" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit, _ in columns
    )
    body = ""
    for row in ordered:
        cells = "".join(
            f"<td{' class=ib-left' if label == 'Bound by' else ''}>{escape(show(row))}</td>"
            for label, _, show in columns
        )
        css = ' class="ib-base"' if row.baseline else ""
        name = f'<th scope="row">{glyph(shades[row.variant], usable(row))}{escape(row.name)}</th>'
        body += f"<tr{css}>{name}{cells}</tr>"
    return table("What the figures carry", head, body)


def _p(row: Row) -> str:
    return "" if row.accuracy_p is None else p_figure(row.accuracy_p)


def _exchanged(row: Row) -> str:
    return "" if row.accuracy_lost is None else f"{row.accuracy_lost}, {row.accuracy_gained}"


def _batch_flips(row: Row) -> str:
    ways = (row.invariance or {}).values()
    most = max((way["examples"] for way in ways), default=0)
    return NOTHING if not most else f"{percent(row.batch_flip_rate)} (n = {most})"


def _price(hourly_price: float) -> Callable[[Row], str]:
    return lambda row: significant(price_per_million(hourly_price, row.throughput_samples_per_s))
