"""A run as a PowerPoint deck, 16:9, with native charts that can be edited: a slide a finding."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from pptx import Presentation
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE, XL_LABEL_POSITION, XL_TICK_LABEL_POSITION
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.util import Emu, Inches, Length, Pt

from dashboard import findings, frame
from dashboard.export import native
from dashboard.figures.accuracy import gain_key
from dashboard.figures.memory import parts
from dashboard.figures.published import pairs
from dashboard.figures.tradeoff import place
from dashboard.frame import Row
from dashboard.metrics import METRICS, Metric
from dashboard.style import LIGHT, Theme, marks
from engine.tables import ACCURACY_VERDICTS, SPEED_VERDICTS
from engine.units import between, megabytes, milliseconds, significant

WIDTH, HEIGHT = Inches(13.333), Inches(7.5)
MARGIN = Inches(0.6)
FONT = "Calibri"
Box = tuple[Length, Length, Length, Length]
BODY: Box = (MARGIN, Inches(1.55), Emu(WIDTH - 2 * MARGIN), Inches(5.1))

PLOT = (780.0, 300.0)
"""The plot area of a chart on a slide, in points, about."""
METHOD = (
    "Method. Every variant works in a process of its own; in each round every variant, in shuffled order, answers the "
    "same examples, and speed-ups are taken round by round, over the third of the rounds in which the machine was "
    "least disturbed. A call takes one tokenised batch as host arrays and returns its logits as a host array. "
    "Intervals are 95%: speed by Student's t over the rounds with a part for what two processes of one variant differ "
    "by; accuracy by Wilson; accuracy differences by a bootstrap of paired answers, their verdicts by exact McNemar, "
    "corrected by Holm."
)


def build(summary: dict[str, Any], measured: pd.DataFrame, published: pd.DataFrame, look: Theme = LIGHT) -> bytes:
    """The deck of a run as a .pptx file; where it has several batch sizes, of the baseline's largest."""
    sizes = [row["batch_size"] for row in frame.rows_of(measured) if row["baseline"]]
    shown = frame.at_batch(measured, max(sizes) if sizes else None)
    return _Deck(summary, shown, published, look).save()


class _Deck:
    def __init__(self, summary: dict[str, Any], shown: pd.DataFrame, published: pd.DataFrame, look: Theme) -> None:
        self.summary, self.look = summary, look
        rows = frame.rows_of(shown)
        self.rows = [*(r for r in rows if r["baseline"]), *(r for r in rows if not r["baseline"])]
        self.measured = [row for row in self.rows if row["status"] == "measured"]
        self.marks = marks(self.rows, look)
        self.pairs = pairs(shown, published)
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = WIDTH, HEIGHT

    def save(self) -> bytes:
        said = findings.headline(self.rows)
        self._scorecard(said)
        if self.measured:
            gain = gain_key(self.rows)
            self._tradeoff(gain)
            self._dots(METRICS["latency_p50_s"], findings.latency_title(self.rows), log=True)
            self._dots(METRICS["throughput_samples_per_s"], findings.throughput_title(self.rows), log=True)
            self._memory()
            self._dots(METRICS[gain], findings.accuracy_title(self.rows), log=False)
            if any(not row["baseline"] for row, _, _ in self.pairs):
                self._published()
        notes = findings.notes(self.rows)
        if notes:
            self._notes(notes)
        out = io.BytesIO()
        self.file.save(out)
        return out.getvalue()

    def _slide(self, title: str, footer: str, notes: str) -> Any:
        # Of the default template only "Title Only" has what outline views and screen readers look for.
        slide = self.file.slides.add_slide(self.file.slide_layouts[5])
        background = slide.background.fill
        background.solid()
        background.fore_color.rgb = native.rgb(self.look.background)
        head = slide.shapes.title
        head.left, head.top, head.width, head.height = MARGIN, Inches(0.4), Emu(WIDTH - 2 * MARGIN), Inches(1.05)
        head.text_frame.word_wrap = True
        head.text_frame.vertical_anchor = MSO_ANCHOR.TOP
        _write(head.text_frame, title, 24 if len(title) < 130 else 20, self.look.text, bold=True)
        foot = slide.shapes.add_textbox(MARGIN, Inches(6.85), Emu(WIDTH - 2 * MARGIN), Inches(0.4))
        foot.text_frame.word_wrap = True
        _write(foot.text_frame, footer, 11, self.look.muted)
        slide.notes_slide.notes_text_frame.text = f"{notes}\n\n{METHOD}\n\n{self._source()}"
        return slide

    def _source(self) -> str:
        return (
            f"Run {self.summary['id']}, suite {self.summary['suite']}, on {self.summary['device_name']} "
            f"({self.summary['device']}), host {self.summary['host']}, {(self.summary['created_at'] or '')[:16]} UTC."
        )

    def _footer(self, interval: str) -> str:
        examples = sorted({row["examples"] for row in self.measured if row["examples"]})
        n = f"n = {examples[-1]:,} examples" if len(examples) == 1 else "n differs between variants"
        calls = [row["calls"] for row in self.measured if row["calls"]]
        many = f", at least {min(calls):,} timed calls a variant" if calls else ""
        batch = ", ".join(str(size) for size in sorted({row["batch_size"] for row in self.rows}))
        return (
            f"{self.summary['device_name']} ({self.summary['device']}) · batch {batch} · {n}{many} · "
            f"{interval} · run {self.summary['id'][-6:]}"
        )

    def _chart(self, slide: Any, kind: Any, data: Any, alt: str, box: Box = BODY) -> Any:
        shape = slide.shapes.add_chart(kind, *box, data)
        native.describe(shape, alt)
        chart = shape.chart
        chart.has_legend = False
        chart.has_title = False
        chart.font.size = Pt(14)
        chart.font.name = FONT
        chart.font.color.rgb = native.rgb(self.look.text)
        return chart

    def _axis(self, axis: Any, title: str | None, grid: bool) -> None:
        axis.has_major_gridlines = grid
        if grid:
            axis.major_gridlines.format.line.color.rgb = native.rgb(self.look.grid)
        axis.format.line.color.rgb = native.rgb(self.look.line)
        axis.tick_labels.font.size = Pt(13)
        axis.has_title = title is not None
        if title is not None:
            _write(axis.axis_title.text_frame, title, 13, self.look.muted)

    def _scorecard(self, said: findings.Headline) -> None:
        labelled = any(row["accuracy"] is not None for row in self.rows)
        kind = "VRAM" if any(row["memory_kind"] == "vram" for row in self.rows) else "RAM"
        answers = METRICS["accuracy" if labelled else "agreement"]
        columns: list[tuple[str, float, Callable[[Row], str]]] = [
            ("Variant", 2.5, lambda r: r["title"]),
            ("p50 (ms)", 1.0, lambda r: milliseconds(r["latency_p50_s"])),
            ("Samples/s", 1.25, lambda r: significant(r["throughput_samples_per_s"])),
            ("Speed-up, × (95%)", 2.0, _speedup),
            (f"{answers.header} (95%)", 2.1, lambda r: findings.interval_words(r, answers.key)),
            (f"Peak {kind} (MB)", 1.2, lambda r: megabytes(r["memory_bytes"])),
            ("Against the baseline", 2.2, _verdict),
        ]
        slide = self._slide(said.finding, self._footer("ranges are 95% intervals"), said.detail)
        height = Emu(min(Inches(0.62), int(Inches(5.0)) // (len(self.rows) + 1)))
        shape = slide.shapes.add_table(
            len(self.rows) + 1, len(columns), MARGIN, Inches(1.75), BODY[2], Emu(height * (len(self.rows) + 1))
        )
        native.describe(shape, "Scorecard: " + "; ".join(f"{r['title']}: {_verdict(r)}" for r in self.rows))
        table = shape.table
        table.horz_banding = False
        total = sum(width for _, width, _ in columns)
        for index, (header, width, show) in enumerate(columns):
            table.columns[index].width = Emu(int(BODY[2] * width / total))
            side = PP_ALIGN.LEFT if index in (0, len(columns) - 1) else PP_ALIGN.RIGHT
            self._cell(table.cell(0, index), header, side, head=True)
            for position, row in enumerate(self.rows, 1):
                self._cell(table.cell(position, index), show(row), side, bold=index == 0, base=row["baseline"])

    def _cell(
        self, cell: Any, text: str, side: Any, head: bool = False, bold: bool = False, base: bool = False
    ) -> None:
        cell.fill.solid()
        cell.fill.fore_color.rgb = native.rgb(self.look.grid if head or base else self.look.background)
        cell.vertical_anchor = MSO_ANCHOR.MIDDLE
        cell.margin_left = cell.margin_right = Inches(0.08)
        _write(cell.text_frame, text, 12 if head else 13, self.look.text, bold=head or bold)
        cell.text_frame.paragraphs[0].alignment = side

    def _dots(self, metric: Metric, title: str, log: bool) -> None:
        rows = [row for row in self.measured if row[metric.key] is not None]
        if not rows:
            return
        data = CategoryChartData()
        data.categories = [row["title"] for row in rows]
        values = [row[metric.key] * metric.factor for row in rows]
        data.add_series(metric.header, values)
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: {findings.interval_words(row, metric.key)} {metric.unit}" for row in rows
        )
        missing = [row["title"] for row in self.rows if row not in rows]
        notes = f"{metric.explanation}" + (f"\nWithout a figure: {findings.joined(missing)}." if missing else "")
        slide = self._slide(title, self._footer("bars: 95% intervals"), notes)
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        series = chart.plots[0].series[0]
        series.format.line.fill.background()
        series.smooth = False
        lows, highs = _limits(rows, metric)
        native.error_bars(
            series,
            [high - value for high, value in zip(highs, values, strict=True)],
            [value - low for low, value in zip(lows, values, strict=True)],
            "y",
            self.look.line,
        )
        for index, row in enumerate(rows):
            mark = self.marks[row["variant"]]
            hollow = not frame.usable(row)
            native.marker(series.points[index], mark.symbol, mark.color, 13, hollow)
            self._label(series.points[index], metric.text(row[metric.key]))
        suffix = ", log scale" if log else ""
        self._axis(chart.value_axis, f"{metric.header}{suffix}", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        if log:
            native.log_axis(chart.value_axis, *_decades(lows, highs))
        else:
            low, high = min(lows), max(highs)
            chart.value_axis.minimum_scale = max(0, math.floor((low - 2) / 5) * 5)
            chart.value_axis.maximum_scale = min(100, math.ceil((high + 1) / 5) * 5)

    def _label(self, point: Any, text: str, side: Any = XL_LABEL_POSITION.RIGHT) -> None:
        label = point.data_label
        _write(label.text_frame, text, 13, self.look.text)
        label.position = side

    def _memory(self) -> None:
        rows = [row for row in self.measured if row["memory_bytes"] is not None]
        if not rows:
            return
        kind = "VRAM" if rows[0]["memory_kind"] == "vram" else "RAM"
        names = {"imports": "libraries alone", "weights": "weights", "rest": "the rest of the peak"}
        used = [part for part in names if any(parts(row)[part] for row in rows)]
        data = CategoryChartData()
        data.categories = [row["title"] for row in rows]
        for part in used:
            data.add_series(names[part], [parts(row)[part] / 1e6 for row in rows])
        title = findings.memory_title(self.rows)
        alt = f"{title}. " + "; ".join(f"{row['title']}: {megabytes(row['memory_bytes'])} MB" for row in rows)
        explanation = METRICS[f"{kind.lower()}_peak_bytes"].explanation
        slide = self._slide(title, self._footer("one reading, no interval"), explanation)
        chart = self._chart(slide, XL_CHART_TYPE.COLUMN_STACKED, data, alt)
        chart.has_legend = True
        chart.legend.include_in_layout = False
        chart.legend.font.size = Pt(13)
        chart.plots[0].gap_width = 90
        chart.plots[0].overlap = 100
        hues = {"imports": self.look.grid, "weights": self.look.accent, "rest": self.look.line}
        for part, series in zip(used, chart.plots[0].series, strict=True):
            series.format.fill.solid()
            series.format.fill.fore_color.rgb = native.rgb(hues[part])
        self._axis(chart.value_axis, f"Peak {kind} (MB)", grid=True)
        chart.value_axis.minimum_scale = 0
        self._axis(chart.category_axis, None, grid=False)

    def _tradeoff(self, gain: str) -> None:
        metric, latency = METRICS[gain], METRICS["latency_p50_s"]
        rows = [row for row in self.measured if row["latency_p50_s"] is not None and row[gain] is not None]
        if not rows:
            return
        front = frame.pareto(rows, "latency_p50_s", gain)
        title = findings.tradeoff_title(rows, gain)
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: {findings.interval_words(row, 'latency_p50_s')} ms, {findings.interval_words(row, gain)}%"
            for row in rows
        )
        notes = "Upper left is better. Pale: another variant is both faster and better, or the row is not valid."
        slide = self._slide(title, self._footer("bars: 95% intervals"), notes)
        data = XyChartData()
        # The longest series goes first: LibreOffice hides one-point series before it.
        if len(front) > 1:
            line = data.add_series("Pareto front")
            for index, row in enumerate(front):
                x, y = row["latency_p50_s"] * 1e3, row[gain] * 100
                if index:
                    line.add_data_point(x, front[index - 1][gain] * 100)
                line.add_data_point(x, y)
        for row in rows:
            data.add_series(row["title"]).add_data_point(row["latency_p50_s"] * 1e3, row[gain] * 100)
        chart = self._chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, alt)
        drawn = list(chart.plots[0].series)
        if len(front) > 1:
            step = drawn.pop(0)
            step.format.line.color.rgb = native.rgb(self.look.line)
            step.format.line.width = Pt(1.5)
            step.smooth = False
        for row, series in zip(rows, drawn, strict=True):
            mark = self.marks[row["variant"]]
            series.format.line.fill.background()
            native.marker(series, mark.symbol, mark.color, 14, row not in front)
            for direction, key in (("y", metric), ("x", latency)):
                (low,), (high,) = _limits([row], key)
                value = row[key.key] * key.factor
                native.error_bars(series, [high - value], [value - low], direction, self.look.line)
        self._axis(chart.value_axis, metric.header, grid=True)
        self._axis(chart.category_axis, f"{latency.header}, p50, log scale", grid=True)
        lows, highs = _limits(rows, latency)
        left, right = _decades(lows, highs)
        native.log_axis(chart.category_axis, left, right)
        lows, highs = _limits(rows, metric)
        bottom = max(0, math.floor((min(lows) - 1) / 5) * 5)
        top = min(100, math.ceil((max(highs) + 1) / 5) * 5)
        chart.value_axis.minimum_scale, chart.value_axis.maximum_scale = bottom, top
        centres = [
            (
                PLOT[0] * math.log(row["latency_p50_s"] * 1e3 / left) / math.log(right / left),
                PLOT[1] * (top - row[gain] * 100) / (top - bottom),
            )
            for row in rows
        ]
        offsets = place([row["title"] for row in rows], centres, [14.0] * len(rows), PLOT)
        for row, series, offset in zip(rows, drawn, offsets, strict=True):
            self._label(series.points[0], row["title"], _side(*offset))

    def _published(self) -> None:
        title = findings.published_title(self.pairs)
        compared = [
            (row, base["latency_s"] / theirs["latency_s"])
            for row, theirs, base in self.pairs
            if row["speedup"] is not None and theirs["latency_s"] and base["latency_s"]
        ]
        if not compared:
            return
        device = self.pairs[0][1]["device_name"]
        data = CategoryChartData()
        data.categories = [row["title"] for row, _ in compared]
        data.add_series(f"measured here ({self.summary['device_name']})", [row["speedup"] for row, _ in compared])
        data.add_series(f"published ({device})", [ratio for _, ratio in compared])
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: measured {_speedup(row)}, published {significant(ratio)}" for row, ratio in compared
        )
        remarks = dict.fromkeys(filter(None, (theirs["remark"] for _, theirs, _ in self.pairs)))
        slide = self._slide(title, self._footer("bars: 95% intervals of what was measured"), "\n".join(remarks))
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        chart.has_legend = True
        chart.legend.include_in_layout = False
        chart.legend.font.size = Pt(13)
        mine, theirs = chart.plots[0].series
        for series, symbol, color in ((mine, "circle", self.look.accent), (theirs, "diamond", self.look.muted)):
            series.format.line.fill.background()
            series.smooth = False
            native.marker(series, symbol, color, 12, False)
        rows = [row for row, _ in compared]
        lows, highs = _limits(rows, METRICS["speedup"])
        values = [row["speedup"] for row in rows]
        native.error_bars(
            mine,
            [high - value for high, value in zip(highs, values, strict=True)],
            [value - low for low, value in zip(lows, values, strict=True)],
            "y",
            self.look.accent,
        )
        self._axis(chart.value_axis, "Speed-up over each side's own baseline (×, log scale)", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        ratios = [ratio for _, ratio in compared]
        native.log_axis(chart.value_axis, *_decades([*lows, *ratios], [*highs, *ratios]))

    def _notes(self, notes: Sequence[tuple[str, str, str]]) -> None:
        slide = self._slide("What to know about these figures", self._footer("ranges are 95% intervals"), "")
        box = slide.shapes.add_textbox(*BODY)
        box.text_frame.word_wrap = True
        size = 16 if len(notes) < 8 else 12
        for index, (name, kind, text) in enumerate(notes):
            paragraph = box.text_frame.paragraphs[0] if index == 0 else box.text_frame.add_paragraph()
            paragraph.space_after = Pt(6)
            for part, bold in ((f"{name}: {kind}. ", True), (text, False)):
                run = paragraph.add_run()
                run.text, run.font.bold, run.font.size, run.font.name = part, bold, Pt(size), FONT
                run.font.color.rgb = native.rgb(self.look.text)


def _write(text_frame: Any, text: str, size: float, color: str, bold: bool = False) -> None:
    """Replaces a text frame's content by one run."""
    text_frame.text = ""
    paragraph = text_frame.paragraphs[0]
    paragraph.alignment = PP_ALIGN.LEFT
    run = paragraph.add_run()
    run.text = text
    run.font.size, run.font.bold, run.font.name = Pt(size), bold, FONT
    run.font.color.rgb = native.rgb(color)


def _side(dx: float, dy: float) -> Any:
    """The place of a data label that is nearest to an offset from its mark."""
    if dy == 0:
        return XL_LABEL_POSITION.RIGHT if dx > 0 else XL_LABEL_POSITION.LEFT
    return XL_LABEL_POSITION.ABOVE if dy < 0 else XL_LABEL_POSITION.BELOW


def _speedup(row: Row) -> str:
    if row["baseline"]:
        return "1 (baseline)"
    limits = between(row["speedup_low"], row["speedup_high"])
    return f"{significant(row['speedup'])} ({limits})" if limits else significant(row["speedup"])


def _verdict(row: Row) -> str:
    if row["status"] != "measured":
        return row["status"]
    if row["baseline"]:
        return "baseline"
    said = [SPEED_VERDICTS.get(row["comparison"], "")]
    if row["accuracy_comparison"] in ("better", "worse"):
        said.append(ACCURACY_VERDICTS[row["accuracy_comparison"]])
    if row["validity"] in ("invalid", "unstable"):
        said.append(row["validity"])
    return ", ".join(filter(None, said))


def _limits(rows: Sequence[Row], metric: Metric) -> tuple[list[float], list[float]]:
    """The ends of each row's interval in the shown unit; its value where it has none."""

    def end(row: Row, key: str | None) -> float:
        value = row[key] if key and row[key] is not None else row[metric.key]
        return value * metric.factor

    return [end(row, metric.low) for row in rows], [end(row, metric.high) for row in rows]


def _decades(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Ends of a log axis: PowerPoint labels powers of ten only, so whole decades."""
    low, high = 10 ** math.floor(math.log10(min(lows))), 10 ** math.ceil(math.log10(max(highs)))
    return low, max(high, low * 10)
