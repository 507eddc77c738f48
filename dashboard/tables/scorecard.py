"""The scorecard: every variant against the baseline, as an HTML table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dashboard.run_rows import Row, baseline_of, usable
from dashboard.style import TECHNIQUES, Mark, Theme, marks
from dashboard.tables.html import CSS, cell, glyph, sub_line, table
from engine.report.words import ACCURACY_VERDICTS, SPEED_VERDICTS, STATES
from engine.store.rows import PublishedRow, present
from engine.units import (
    NOTHING,
    between,
    megabytes,
    milliseconds,
    percent,
    point_interval,
    points,
    significant,
    times,
)

ACROSS_VERDICTS = {
    "better": "▲ larger speed-up",
    "worse": "▼ smaller speed-up",
    "no_difference": "= speed-up: no difference shown",
}


def scorecard(rows: Sequence[Row], look: Theme) -> str:
    """The scorecard of one batch size, the baseline first."""
    ordered = [*(row for row in rows if row.baseline), *(row for row in rows if not row.baseline)]
    shades = marks(ordered, look)
    kind = "VRAM" if any(row.memory_kind == "vram" for row in rows) else "RAM"
    labelled = any(row.accuracy is not None for row in rows)
    answers = "Accuracy" if labelled else "Same answer"
    heads = [
        ("Variant", ""),
        ("Latency", "ms, p50"),
        ("Throughput", "samples/s"),
        ("Speed-up", "× (95%)"),
        (answers, "% (95%)"),
        *([("Difference", "points (95%)")] if labelled else []),
        (f"Peak {kind}", "MB, ratio"),
        ("Verdict", "against the baseline"),
    ]
    head = "".join(
        f'<th scope="col"{" class=ib-left" if label == "Verdict" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit in heads
    )
    body = "".join(_row(row, shades[row.variant], len(heads), labelled) for row in ordered)
    baseline = baseline_of(rows)
    label = f"Each variant against {baseline.title}" if baseline else "Each variant"
    return table(label, head, body)


def _row(row: Row, mark: Mark, columns: int, labelled: bool) -> str:
    about = TECHNIQUES[mark.technique]
    return row_html(row, row.title, mark, about, columns, _figures(row, labelled))


def row_html(row: Row, name: str, mark: Mark, about: str, columns: int, cells: Sequence[str]) -> str:
    """A line of a scorecard: `name`, then `cells`. A row that was not measured has its reason across all columns."""
    about = f"{about} · {row.backend} {row.precision}"
    name = f'<th scope="row">{glyph(mark, usable(row))}{escape(name)}{sub_line(escape(about))}</th>'
    if row.status != "measured":
        state = str(STATES.get(row.status, row.status))
        reason = row.status_reason or ""
        short = reason if len(reason) <= 110 else reason[:107].rstrip() + "…"
        return (
            f'<tr>{name}<td class="ib-left ib-why" colspan="{columns - 1}" title="{escape(reason)}">'
            f"{escape(state)}{sub_line(escape(short))}</td></tr>"
        )
    css = ' class="ib-base"' if row.baseline else ""
    return f"<tr{css}>{name}{''.join(cells)}</tr>"


def _figures(row: Row, labelled: bool) -> list[str]:
    p95 = "" if row.latency_p95_s is None else f"p95 {milliseconds(row.latency_p95_s)}"
    cells = [
        cell(milliseconds(row.latency_p50_s), p95 or "p95: few calls"),
        cell(
            significant(row.throughput_samples_per_s),
            between(row.throughput_samples_per_s_low, row.throughput_samples_per_s_high),
        ),
        cell("1", "baseline")
        if row.baseline
        else cell(significant(row.speedup), between(row.speedup_low, row.speedup_high)),
    ]
    return [*cells, *answers_and_memory(row, labelled)]


def answers_and_memory(row: Row, labelled: bool) -> list[str]:
    """The cells that end a line of a scorecard: accuracy or agreement, memory, verdict."""
    cells = []
    if labelled:
        cells.append(cell(percent(row.accuracy), between(row.accuracy_low, row.accuracy_high, percent)))
        if row.accuracy_difference is not None:
            limits = point_interval(row.accuracy_difference_low, row.accuracy_difference_high)
            cells.append(cell(points(row.accuracy_difference), limits))
        else:
            cells.append(cell("", "") if row.baseline else cell(NOTHING, ""))
    else:
        limits = between(row.agreement_low, row.agreement_high, percent)
        cells.append(cell(percent(row.agreement), limits))
    ratio = "" if row.baseline or row.memory_ratio is None else times(row.memory_ratio)
    cells.append(cell(megabytes(row.memory_bytes), ratio))
    cells.append(f'<td class="ib-left ib-verdict">{_verdicts(row)}</td>')
    return cells


def _verdicts(row: Row) -> str:
    doubt = {"invalid": "✗ invalid", "unstable": "~ unstable"}.get(row.validity or "", "")
    if doubt:
        reason = escape(row.validity_reason or "")
        doubt = f'<span title="{reason}">{doubt}</span>'
    if row.baseline:
        return f"baseline{sub_line(doubt)}"
    if row.across is not None:
        words = SPEED_VERDICTS if row.across.is_own else ACROSS_VERDICTS
        speed = f"{words[row.across.comparison]} †"
    elif row.own_baseline and row.speedup is None:
        speed = f"baseline of {row.run}"
    else:
        speed = SPEED_VERDICTS.get(row.comparison or "", NOTHING)
        if row.comparison == "no_difference":
            speed = "= speed: no difference shown"
    said = f'<span class="{"ib-strong" if speed[0] in "▲▼" else ""}">{speed}</span>'
    below = ACCURACY_VERDICTS.get(row.accuracy_comparison or "", "")
    if row.accuracy_comparison == "no_difference":
        below = "= accuracy: no difference shown"
    parts = [part for part in (below, doubt) if part]
    return said + "".join(sub_line(part) for part in parts)


def by_label(rows: Sequence[Row], look: Theme) -> str:
    """Precision, recall and F1 of each labelled row, by label; empty if no row has them."""
    known = [row for row in rows if row.status == "measured" and (row.quality or {}).get("labels")]
    if not known:
        return ""
    shades = marks(list(rows), look)
    quality = present(known[0].quality)
    names, support = quality["names"], [score["support"] for score in quality["labels"]]
    head = '<th scope="col">Variant</th>' + "".join(
        f'<th scope="col">{escape(name)}<span class=ib-sub>F1, n = {n:,}</span></th>'
        for name, n in zip(names, support, strict=True)
    )
    body = ""
    for row in known:
        cells = "".join(
            cell(percent(score["f1"]), f"P {percent(score['precision'])} · R {percent(score['recall'])}")
            for score in present(row.quality)["labels"]
        )
        name = f'<th scope="row">{glyph(shades[row.variant], usable(row))}{escape(row.name)}</th>'
        body += f"<tr{' class=ib-base' if row.baseline else ''}>{name}{cells}</tr>"
    return table("F1, precision and recall by label", head, body)


def confusion(row: Row) -> str:
    """The confusion matrix of one row: one line per label, one column per answer."""
    found = present(row.quality)
    head = '<th scope="col">Label</th>' + "".join(f'<th scope="col">{escape(name)}</th>' for name in found["names"])
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td{' class=ib-strong' if i == j else ''}>{count:,}</td>" for j, count in enumerate(found["confusion"][i])
        )
        + "</tr>"
        for i, name in enumerate(found["names"])
    )
    return table(f"Confusion matrix of {row.name}", head, body)


def sentences(said: Sequence[str], muted: bool = False) -> str:
    """A list of sentences."""
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f"<style>{CSS}</style><ul class='ib-said{' ib-muted' if muted else ''}'>{items}</ul>"


def published_table(pairs: Sequence[tuple[Row, PublishedRow, PublishedRow]]) -> str:
    """The published results, in their own figures."""
    heads = ("Published", "Latency (ms)", "Padded tokens/s", "VRAM (MB)", "Accuracy (%)", "Beside")
    head = "".join(f'<th scope="col"{" class=ib-left" if text == "Beside" else ""}>{text}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(theirs.title)}</th>'
        f"<td>{milliseconds(theirs.latency_s)}</td>"
        f"<td>{significant(theirs.throughput_padded_tokens_per_s, 5)}</td>"
        f"<td>{megabytes(theirs.vram_bytes)}</td>"
        f"<td>{percent(theirs.accuracy)}{'' if theirs.accuracy_meaningful else ' (chance)'}</td>"
        f'<td class="ib-left">{escape(row.title)}</td></tr>'
        for row, theirs, _ in pairs
    )
    return table("Published results", head, body)
