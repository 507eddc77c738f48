"""A run as a PowerPoint deck, 16:9, with native charts that can be edited: a slide a finding."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from pptx import Presentation
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE, XL_LABEL_POSITION, XL_TICK_LABEL_POSITION
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.util import Emu, Inches, Pt

from dashboard import frame
from dashboard.export import content, images, native
from dashboard.export.slides import (
    BODY,
    BODY_HEIGHT,
    CHART,
    COLUMNS,
    FONT,
    FOOTER,
    HEIGHT,
    LABEL_HEIGHT,
    MARGIN,
    MARKER,
    MOST_SAID,
    NAME_IN_LINE,
    NO_MARKER,
    PLOT,
    PLOT_AT,
    SIDES,
    TABLE_ROWS,
    TEXT_LETTER,
    TEXT_SIZES,
    WIDTH,
    Box,
    fitted_title,
    shortened,
    write_text,
)
from dashboard.figures import labels
from dashboard.figures.accuracy import gain_key
from dashboard.figures.batches import over_batch_size
from dashboard.figures.memory import parts
from dashboard.figures.published import pairs
from dashboard.figures.roofline import points as points_below
from dashboard.figures.roofline import roofs
from dashboard.figures.tradeoff import important
from dashboard.findings import headlines
from dashboard.frame import Row
from dashboard.metrics import METRICS, Better, Metric
from dashboard.style import LIGHT, Theme, marks
from engine.report import load, takeaways
from engine.report.words import ACCURACY_VERDICTS, SPEED_VERDICTS
from engine.units import between, megabytes, milliseconds, point_interval, points, share_percent, significant


def build(
    summary: dict[str, Any],
    measured: pd.DataFrame,
    published: pd.DataFrame,
    look: Theme = LIGHT,
    batch_size: int | None = None,
    loads: Sequence[Row] = (),
) -> bytes:
    """The deck of a run as a .pptx file, at one batch size: the baseline's largest where none is given.

    `loads`: what the run gave under load, as `engine.report.load.joined` has it.
    """
    return _Deck(summary, measured, published, look, batch_size, loads).save()


class _Deck:
    def __init__(
        self,
        summary: dict[str, Any],
        measured: pd.DataFrame,
        published: pd.DataFrame,
        look: Theme,
        batch_size: int | None,
        loads: Sequence[Row],
    ) -> None:
        self.loads = loads
        self.summary, self.look, self.every = summary, look, measured
        shown = content.at(measured, batch_size)
        rows = frame.rows_of(shown)
        self.rows = [*(r for r in rows if r["baseline"]), *(r for r in rows if not r["baseline"])]
        self.measured = [row for row in self.rows if row["status"] == "measured"]
        self.marks = marks(self.rows, look)
        self.pairs = pairs(shown, published)
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = WIDTH, HEIGHT

    def save(self) -> bytes:
        said = headlines.headline(self.rows)
        about = self.file.core_properties
        about.title, about.subject, about.author = said.finding[:255], self._source()[:255], "Inference Bench"
        self._scorecard(said)
        if self.measured:
            gain = gain_key(self.rows)
            self._takeaways()
            # Of random weights the answers say nothing.
            untaught = frame.untaught(self.rows)
            if not untaught:
                self._tradeoff(gain)
            self._dots(METRICS["latency_p50_s"], headlines.latency_title(self.rows))
            self._dots(METRICS["throughput_samples_per_s"], headlines.throughput_title(self.rows))
            self._batches()
            self._memory()
            self._dots(METRICS[headlines.ENERGY], headlines.energy_title(self.rows))
            if not untaught:
                self._dots(METRICS[gain], headlines.accuracy_title(self.rows))
            self._dots(METRICS["accuracy_difference"], _difference_title(self.rows))
            self._limits()
            self._roofline()
            self._load()
            if any(not row["baseline"] for row, _, _ in self.pairs):
                self._published()
        notes = [(f"{name}: {kind}. ", text) for name, kind, text in headlines.notes(self.rows)]
        if notes:
            self._list("What to know about these figures", notes)
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
        shown, size = fitted_title(title)
        write_text(head.text_frame, shown, size, self.look.text, bold=True)
        foot = slide.shapes.add_textbox(MARGIN, Inches(6.85), Emu(WIDTH - 2 * MARGIN), Inches(0.4))
        foot.text_frame.word_wrap = True
        foot.name = FOOTER
        write_text(foot.text_frame, footer, 11, self.look.muted)
        parts = [title if shown != title else "", notes, f"Method. {content.METHOD}", self._source()]
        slide.notes_slide.notes_text_frame.text = "\n\n".join(filter(None, parts))
        return slide

    def _source(self) -> str:
        return (
            f"Run {self.summary['id']}, suite {self.summary['suite']}, on {self.summary['device_name']} "
            f"({self.summary['device']}), host {self.summary['host']}, {(self.summary['created_at'] or '')[:16]} UTC."
        )

    def _footer(
        self, interval: str, sizes: Sequence[int] = (), of: tuple[Sequence[Row], Sequence[Row]] = ((), ())
    ) -> str:
        """`sizes`: the batch sizes, where they are not the rows'; `of`: what is shown, and what there is."""
        few = f"{len(of[0])} of {len(of[1])} variants, the rest in the notes · " if len(of[0]) < len(of[1]) else ""
        examples = sorted({row["examples"] for row in self.measured if row["examples"]})
        n = f"n = {examples[-1]:,} examples" if len(examples) == 1 else "n differs between variants"
        calls = [row["calls"] for row in self.measured if row["calls"]]
        many = f", at least {min(calls):,} timed calls a variant" if calls else ""
        batch = ", ".join(str(size) for size in sizes or sorted({row["batch_size"] for row in self.rows}))
        return (
            f"{self.summary['device_name']} ({self.summary['device']}) · batch {batch} · {n}{many} · "
            f"{few}{interval} · run {self.summary['id'][-6:]}"
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
            write_text(axis.axis_title.text_frame, title, 13, self.look.muted)

    def _scorecard(self, said: headlines.Headline) -> None:
        labelled = any(row["accuracy"] is not None for row in self.rows)
        kind = "VRAM" if any(row["memory_kind"] == "vram" for row in self.rows) else "RAM"
        answers = METRICS["accuracy" if labelled else "agreement"]
        columns: list[tuple[str, float, Callable[[Row], str]]] = [
            ("Variant", 2.5, lambda r: r["title"]),
            ("p50 (ms)", 1.0, lambda r: milliseconds(r["latency_p50_s"])),
            ("Samples/s", 1.25, lambda r: significant(r["throughput_samples_per_s"])),
            ("Speed-up, × (95%)", 2.0, _speedup),
            (f"{answers.header} (95%)", 2.1, lambda r: headlines.interval_words(r, answers.key)),
            (f"Peak {kind} (MB)", 1.2, lambda r: megabytes(r["memory_bytes"])),
            ("Against the baseline", 2.2, _verdict),
        ]
        starts = range(0, max(len(self.rows), 1), TABLE_ROWS)
        parts = [self.rows[start : start + TABLE_ROWS] for start in starts]
        for number, rows in enumerate(parts, 1):
            part = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            slide = self._slide(said.finding + part, self._footer("ranges are 95% intervals"), said.detail)
            self._table(slide, columns, rows)

    def _table(
        self, slide: Any, columns: Sequence[tuple[str, float, Callable[[Row], str]]], rows: Sequence[Row]
    ) -> None:
        height = min(Inches(0.62), int(Inches(4.9)) // (len(rows) + 1))
        size = (len(rows) + 1, len(columns), MARGIN, Inches(1.75), BODY[2], Emu(height * (len(rows) + 1)))
        shape = slide.shapes.add_table(*size)
        native.describe(shape, "Scorecard: " + "; ".join(f"{r['title']}: {_verdict(r)}" for r in rows))
        native.plain_table(shape)
        table = shape.table
        small = 0 if len(rows) < 10 else 2
        # Two lines of a long name in a low row.
        name_size = 9 if small and any(len(row["title"]) > NAME_IN_LINE for row in rows) else 13 - small
        total = sum(width for _, width, _ in columns)
        for index, (header, width, show) in enumerate(columns):
            table.columns[index].width = Emu(int(BODY[2] * width / total))
            side = PP_ALIGN.LEFT if index in (0, len(columns) - 1) else PP_ALIGN.RIGHT
            self._cell(table.cell(0, index), header, side, 12 - small, head=True)
            for position, row in enumerate(rows, 1):
                cell = table.cell(position, index)
                text = show(row) if index else shortened(show(row), 52 if small else 44)
                points_high = name_size if index == 0 else 13 - small
                self._cell(cell, text, side, points_high, bold=index == 0, base=row["baseline"])

    def _cell(
        self, cell: Any, text: str, side: Any, size: int, head: bool = False, bold: bool = False, base: bool = False
    ) -> None:
        cell.fill.solid()
        cell.fill.fore_color.rgb = native.rgb(self.look.grid if head or base else self.look.background)
        cell.vertical_anchor = MSO_ANCHOR.MIDDLE
        cell.margin_left = cell.margin_right = Inches(0.08)
        cell.margin_top = cell.margin_bottom = Inches(0.03)
        write_text(cell.text_frame, text, size, self.look.text, bold=head or bold)
        cell.text_frame.paragraphs[0].alignment = side

    def _dots(self, metric: Metric, title: str) -> None:
        log = metric.scale == "log"
        # Idle power subtracted, a light variant's energy may be no more than nothing.
        known = [row for row in self.measured if row[metric.key] is not None and not (log and row[metric.key] <= 0)]
        rows = _foremost(known, metric.key, metric.better)
        if not rows:
            return
        data = CategoryChartData()
        data.categories = _categories(rows)
        values = [row[metric.key] * metric.factor for row in rows]
        data.add_series(metric.header, values)
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: {headlines.interval_words(row, metric.key)} {metric.unit}" for row in rows
        )
        missing = [row["title"] for row in self.rows if row not in known]
        notes = f"{metric.explanation}" + (f"\nWithout a figure: {headlines.joined(missing)}." if missing else "")
        notes += _left_out(known, rows, lambda row: f"{headlines.interval_words(row, metric.key)} {metric.unit}")
        footer = self._footer("bars: 95% intervals" if metric.low else "one reading, no interval", of=(rows, known))
        slide = self._slide(title, footer, notes)
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
            native.marker(series.points[index], mark.symbol, mark.color, 11, self._pale(frame.usable(row)))
            signed = metric.key == "accuracy_difference"
            self._label(series.points[index], points(row[metric.key]) if signed else metric.text(row[metric.key]))
        suffix = ", log scale" if log else ""
        self._axis(chart.value_axis, f"{metric.header}{suffix}", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        if log:
            native.log_axis(chart.value_axis, *_log_ends(lows, highs))
        else:
            # The line of the categories stands at no difference.
            ends = _shares(lows, highs, zero=metric.key == "accuracy_difference")
            _scale(chart.value_axis, *ends)

    def _legend(self, chart: Any) -> None:
        chart.has_legend = True
        chart.legend.include_in_layout = False
        chart.legend.font.size = Pt(13)

    def _pale(self, solid: bool) -> str | None:
        return None if solid else self.look.background

    def _label(self, point: Any, text: str, side: Any = XL_LABEL_POSITION.RIGHT) -> None:
        label = point.data_label
        write_text(label.text_frame, text, 13, self.look.text)
        label.position = side
        native.one_line(point)

    def _name_marks(
        self,
        slide: Any,
        chart: Any,
        series: Sequence[Any],
        names: Sequence[str],
        centres: Sequence[tuple[float, float]],
        sizes: Sequence[float],
        first: Sequence[int],
        lines: Sequence[tuple[float, float, float, float]] = (),
    ) -> None:
        """Names the first points of a scatter's series, as far as no name lies on another; the rest go to the notes."""
        native.fix_plot(chart, *PLOT_AT)
        one_size = [(1.0, 1.0)]
        placed = labels.arrange(names, centres, sizes, PLOT, first, lines, one_size, far=False, images=False)
        for label in placed:
            point = series[label.mark].points[0]
            usual = labels.nearest(sizes[label.mark], label.width)
            at = usual.index((label.dx, label.dy)) if (label.dx, label.dy) in usual else None
            self._label(point, label.text(names), SIDES[at or 0])
            if at is None:
                native.move_label(point, (label.dx - usual[0][0]) / CHART[0], (label.dy - usual[0][1]) / CHART[1])
        without = [names[index] for index in labels.left_out(placed, names)]
        if without:
            said = slide.notes_slide.notes_text_frame
            said.text = f"Without a name on the chart, for want of room: {'; '.join(without)}.\n\n{said.text}"
            (foot,) = (shape for shape in slide.shapes if shape.name == FOOTER)
            foot.text_frame.paragraphs[0].runs[0].text += f" · {len(without)} marks are named in the notes only"

    def _memory(self) -> None:
        known = [row for row in self.measured if row["memory_bytes"] is not None]
        if not known:
            return
        kind = "VRAM" if known[0]["memory_kind"] == "vram" else "RAM"
        metric = METRICS[f"{kind.lower()}_peak_bytes"]
        rows = _foremost(known, "memory_bytes", "lower")
        names = {"imports": "libraries alone", "weights": "weights", "rest": "the rest of the peak"}
        used = [part for part in names if any(parts(row)[part] for row in rows)]
        data = CategoryChartData()
        data.categories = _categories(rows)
        for part in used:
            data.add_series(names[part], [parts(row)[part] / 1e6 for row in rows])
        title = headlines.memory_title(self.rows)
        alt = f"{title}. " + "; ".join(f"{row['title']}: {megabytes(row['memory_bytes'])} MB" for row in rows)
        notes = metric.explanation + _left_out(known, rows, lambda row: f"{megabytes(row['memory_bytes'])} MB")
        slide = self._slide(title, self._footer("one reading, no interval", of=(rows, known)), notes)
        chart = self._chart(slide, XL_CHART_TYPE.COLUMN_STACKED, data, alt)
        self._legend(chart)
        chart.plots[0].gap_width = 90
        chart.plots[0].overlap = 100
        pale = native.mixed(self.look.line, self.look.background, 0.45)
        hues = {"imports": pale, "weights": self.look.accent, "rest": self.look.line}
        for part, series in zip(used, chart.plots[0].series, strict=True):
            series.format.fill.solid()
            series.format.fill.fore_color.rgb = native.rgb(hues[part])
        self._axis(chart.value_axis, f"Peak {kind} (MB)", grid=True)
        chart.value_axis.minimum_scale = 0
        self._axis(chart.category_axis, None, grid=False)

    def _tradeoff(self, gain: str) -> None:
        metric = METRICS[gain]
        rows = [row for row in self.measured if row["latency_p50_s"] is not None and row[gain] is not None]
        cost = METRICS[frame.cost_key(rows)]
        rows = [row for row in rows if row[cost.key] is not None]
        if not rows:
            return
        front = frame.pareto(rows, cost.key, gain)
        title = headlines.tradeoff_title(rows, gain)
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: {headlines.interval_words(row, cost.key)} ms, {headlines.interval_words(row, gain)}%"
            for row in rows
        )
        notes = "Upper left is better. Pale: another was measured faster and better, or the row is not valid."
        slide = self._slide(title, self._footer("bars: 95% intervals"), notes)
        data = XyChartData()
        # The longest series goes first: LibreOffice hides one-point series before it.
        if len(front) > 1:
            line = data.add_series("Pareto front")
            for index, row in enumerate(front):
                x, y = row[cost.key] * cost.factor, row[gain] * 100
                if index:
                    line.add_data_point(x, front[index - 1][gain] * 100)
                line.add_data_point(x, y)
        for row in rows:
            data.add_series(row["title"]).add_data_point(row[cost.key] * cost.factor, row[gain] * 100)
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
            native.marker(series, mark.symbol, mark.color, int(MARKER), self._pale(row in front))
            for direction, key in (("y", metric), ("x", cost)):
                (low,), (high,) = _limits([row], key)
                value = row[key.key] * key.factor
                native.error_bars(series, [high - value], [value - low], direction, self.look.line)
        self._axis(chart.value_axis, metric.header, grid=True)
        half = ", p50" if cost.key == "latency_p50_s" else ""
        self._axis(chart.category_axis, f"{cost.header}{half}, log scale", grid=True)
        lows, highs = _limits(rows, cost)
        left, right, base = _log_ends(lows, highs)
        native.log_axis(chart.category_axis, left, right, base)
        bottom, top, step = _shares(*_limits(rows, metric))
        _scale(chart.value_axis, bottom, top, step)
        centres = [
            (
                PLOT[0] * math.log(row[cost.key] * cost.factor / left) / math.log(right / left),
                PLOT[1] * (top - row[gain] * 100) / (top - bottom),
            )
            for row in rows
        ]
        names = [labels.shortened(row["title"]) for row in rows]
        corners = [centres[rows.index(row)] for row in front]
        steps = [(x, y - 1, to, y + 1) for (x, y), (to, _) in itertools.pairwise(corners)]
        first = important(rows, front, cost.key)
        self._name_marks(slide, chart, drawn, names, centres, [MARKER] * len(rows), first, steps)

    def _published(self) -> None:
        title = headlines.published_title(self.pairs)
        compared = [
            (row, base["latency_s"] / theirs["latency_s"])
            for row, theirs, base in self.pairs
            if row["speedup"] is not None and theirs["latency_s"] and base["latency_s"]
        ]
        if not compared:
            return
        device = self.pairs[0][1]["device_name"]
        data = CategoryChartData()
        data.categories = _categories([row for row, _ in compared])
        data.add_series(f"measured here ({self.summary['device_name']})", [row["speedup"] for row, _ in compared])
        data.add_series(f"published ({device})", [ratio for _, ratio in compared])
        alt = f"{title}. " + "; ".join(
            f"{row['title']}: measured {_speedup(row)}, published {significant(ratio)}" for row, ratio in compared
        )
        remarks = dict.fromkeys(filter(None, (theirs["remark"] for _, theirs, _ in self.pairs)))
        slide = self._slide(title, self._footer("bars: 95% intervals of what was measured"), "\n".join(remarks))
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        self._legend(chart)
        mine, theirs = chart.plots[0].series
        for series, symbol, color in ((mine, "circle", self.look.accent), (theirs, "diamond", self.look.muted)):
            series.format.line.fill.background()
            series.smooth = False
            native.marker(series, symbol, color, 11, None)
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
        self._axis(chart.value_axis, "Speed-up over its own baseline (×, log)", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        ratios = [ratio for _, ratio in compared]
        native.log_axis(chart.value_axis, *_log_ends([*lows, *ratios], [*highs, *ratios]))

    def _takeaways(self) -> None:
        found = takeaways.takeaways(headlines.ranked(self.rows))
        order: list[takeaways.Kind] = ["labels", "speed", "accuracy", "memory", "energy", "batching", "answers"]
        shown = [item for kind in order for item in found if item.shown and item.kind == kind]
        if len(shown) > MOST_SAID:
            shown = [item for item in shown if item.kind not in ("memory", "energy")]
        unshown = [item for item in found if not item.shown]
        items = [("", item.sentence) for item in shown] + [("Not shown: ", item.sentence) for item in unshown]
        if len(self.rows) > headlines.MANY:
            # Dozens of variants would fill a dozen slides: what of the fastest is read at once, the rest counted.
            more = len(shown) - MOST_SAID
            items = [("", item.sentence) for item in shown[:MOST_SAID]]
            rest = [f"{more} more sentences"] if more > 0 else []
            rest += [f"{len(unshown)} differences looked for and not shown"] if unshown else []
            items += [("", f"In the report: {headlines.joined(rest)}.")] if rest else []
            unshown = []
        if items:
            self._list("What this run shows" + (", and what it does not" if unshown else ""), items)

    def _batches(self) -> None:
        metric = METRICS["throughput_samples_per_s"]
        if not frame.swept(frame.rows_of(self.every), metric.key):
            return
        rows = [r for r in frame.rows_of(self.every) if frame.usable(r) and r[metric.key] is not None]
        sizes = sorted({row["batch_size"] for row in rows})
        if len(sizes) < 2:
            return
        title = images.words(over_batch_size(self.every, self.look))[0]
        lines = {
            v: {r["batch_size"]: r for r in rows if r["variant"] == v}
            for v in dict.fromkeys(r["variant"] for r in rows)
        }
        data = CategoryChartData()
        data.categories = [str(size) for size in sizes]
        for line in lines.values():
            name = next(iter(line.values()))["title"]
            data.add_series(name, [line[size][metric.key] if size in line else None for size in sizes])
        alt = f"{title}. " + "; ".join(
            f"{row['title']} at batch {row['batch_size']}: {headlines.interval_words(row, metric.key)} {metric.unit}"
            for row in rows
        )
        footer = self._footer("bars: 95% intervals", sizes)
        slide = self._slide(title, footer, f"{metric.explanation} The batch size is the lower axis.")
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        shades = marks(rows, self.look)
        ends = [line[max(line)] for line in lines.values()]
        low, high, base = _log_ends(*_limits(rows, metric))
        places = sorted(PLOT[1] * math.log(row[metric.key] / low) / math.log(high / low) for row in ends)
        # Names stand at the lines' ends where they have room.
        named = all(upper - lower > LABEL_HEIGHT for lower, upper in itertools.pairwise(places))
        if not named:
            self._legend(chart)
        for (variant, line), series in zip(lines.items(), chart.plots[0].series, strict=True):
            mark = shades[variant]
            series.smooth = False
            series.format.line.color.rgb = native.rgb(mark.color)
            series.format.line.width = Pt(2)
            native.marker(series, mark.symbol, mark.color, 9, None)
            lows, highs = _limits(list(line.values()), metric)
            ends_at = dict(zip(line, zip(lows, highs, strict=True), strict=True))
            ups = [ends_at[size][1] - line[size][metric.key] if size in line else None for size in sizes]
            downs = [line[size][metric.key] - ends_at[size][0] if size in line else None for size in sizes]
            native.error_bars(series, ups, downs, "y", mark.color)
            if named:
                self._label(series.points[sizes.index(max(line))], shortened(line[max(line)]["title"], 28))
        self._axis(chart.value_axis, f"{metric.header}, log scale", grid=True)
        self._axis(chart.category_axis, "Batch size (examples)", grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        native.log_axis(chart.value_axis, low, high, base)

    def _limits(self) -> None:
        known = [row for row in self.measured if row["limit_share"] is not None]
        rows = _foremost(known, "limit_share", "higher")
        if not rows:
            return
        data = CategoryChartData()
        data.categories = _categories(rows)
        data.add_series("Share of the limit (%)", [row["limit_share"] * 100 for row in rows])
        most = max(row["limit_share"] for row in rows)
        title = headlines.limit_title(rows)
        said = [f"{row['title']}: {row['limits']['sentence']}" for row in rows if row["limits"]]
        alt = f"{title}. " + "; ".join(f"{r['title']}: {share_percent(r['limit_share'])}%, {_binds(r)}" for r in rows)
        left_out = _left_out(known, rows, lambda row: f"{share_percent(row['limit_share'])}%")
        footer = self._footer("one figure each, no interval", of=(rows, known))
        slide = self._slide(title, footer, "\n".join(said) + left_out)
        chart = self._chart(slide, XL_CHART_TYPE.COLUMN_CLUSTERED, data, alt)
        plot = chart.plots[0]
        plot.gap_width = 120
        for index, row in enumerate(rows):
            point = plot.series[0].points[index]
            point.format.fill.solid()
            point.format.fill.fore_color.rgb = native.rgb(self.marks[row["variant"]].color)
            share = f"{share_percent(row['limit_share'])}%"
            label = f"{share}, {_binds(row)}" if len(rows) < 9 else share
            self._label(point, label, XL_LABEL_POSITION.OUTSIDE_END)
        self._axis(chart.value_axis, "Share of the device's measured limit (%)", grid=True)
        chart.value_axis.minimum_scale, chart.value_axis.maximum_scale = 0, max(100, math.ceil(most * 11) * 10)
        self._axis(chart.category_axis, None, grid=False)

    def _roofline(self) -> None:
        ceilings = self.summary["ceilings"] or {}
        copy = ceilings.get("copy") or {}
        drawn = points_below(self.measured, copy.get("bytes_per_s"))
        above = roofs(ceilings, drawn)
        if not drawn or not above:
            return
        bound = headlines.limit_detail(self.measured)
        title = bound or headlines.limit_title(self.measured)
        alt = "; ".join(f"{p.row['title']}: {share_percent(p.row['limit_share'])}%, {_binds(p.row)}" for p in drawn)
        notes = "\n".join(f"{p.row['title']}: {p.row['limits']['sentence']}" for p in drawn)
        slide = self._slide(title, self._footer("one figure each, no interval"), notes)
        top, per_byte = above[-1].operations_per_s, copy["bytes_per_s"]
        xs = [point.intensity for point in drawn] + [0.5 * top / per_byte]
        left, right, base_x = _log_ends(xs, xs)
        rates = [point.operations_per_s for point in drawn] + [roof.operations_per_s for roof in above]
        prefix, unit = ("T", 1e12) if max(rates) >= 2e12 else ("G", 1e9)
        low, high, base_y = _log_ends([rate / unit for rate in rates], [rate / unit for rate in rates])
        begin = max(left, low * unit / per_byte)
        lines = [(f"Copy {significant(per_byte / 1e9)} GB/s", (begin, begin * per_byte), (top / per_byte, top))]
        lines += [
            (r.name, (min(r.operations_per_s / per_byte, right), r.operations_per_s), (right, r.operations_per_s))
            for r in above
        ]
        data = XyChartData()
        for name, *ends in lines:
            series = data.add_series(name)
            for x, rate in ends:
                series.add_data_point(x, rate / unit)
        for point in drawn:
            data.add_series(point.row["title"]).add_data_point(point.intensity, point.operations_per_s / unit)
        chart = self._chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, f"{title}. {alt}")
        every = list(chart.plots[0].series)
        for series in every[: len(lines)]:
            series.smooth = False
            series.format.line.color.rgb = native.rgb(self.look.muted)
            series.format.line.width = Pt(1.5)

        def spot(x: float, rate: float) -> tuple[float, float]:
            across = math.log(x / left) / math.log(right / left)
            return PLOT[0] * across, PLOT[1] * (1 - math.log(rate / unit / low) / math.log(high / low))

        # A line's name stands at its first point, and like a mark's on no other.
        starts = [spot(*start) for _, start, _ in lines]
        centres = starts + [spot(point.intensity, point.operations_per_s) for point in drawn]
        flat = [(x, y - 2, PLOT[0], y + 2) for x, y in starts[1:]]
        for point, series in zip(drawn, every[len(lines) :], strict=True):
            mark = self.marks[point.row["variant"]]
            series.format.line.fill.background()
            native.marker(series, mark.symbol, mark.color, int(MARKER), self._pale(frame.usable(point.row)))
        names = [name for name, *_ in lines]
        names += [f"{labels.shortened(p.row['title'])} {share_percent(p.row['limit_share'])}%" for p in drawn]
        sizes = [NO_MARKER] * len(lines) + [MARKER] * len(drawn)
        first = [*range(len(lines)), *(len(lines) + i for i in important([point.row for point in drawn], []))]
        self._name_marks(slide, chart, every, names, centres, sizes, first, flat)
        self._axis(chart.value_axis, f"Products ({prefix}FLOP/s, INT8: {prefix}OP/s), log scale", grid=True)
        self._axis(chart.category_axis, "Operations a byte, each weight read once a call (log scale)", grid=True)
        native.log_axis(chart.value_axis, low, high, base_y)
        native.log_axis(chart.category_axis, left, right, base_x)

    def _load(self) -> None:
        """The highest rate that each variant holds under load, beside what it answers offline."""
        rows = [row for row in self.loads if row["status"] == "measured"]
        if not rows:
            return
        held = [row["server_texts_per_s"] for row in rows]
        data = CategoryChartData()
        data.categories = _categories(rows)
        data.add_series(f"holds {load.limit_words(rows)}", held)
        data.add_series("offline", [row["offline_texts_per_s"] for row in rows])
        title = load.headline(rows)
        alt = f"{title} " + "; ".join(f"{row['title']}: {_holds(row)}" for row in rows)
        said = load.notes(self.loads)
        slide = self._slide(title, self._load_footer(rows), "\n".join(said))
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        self._legend(chart)
        mine, offline = chart.plots[0].series
        for series, symbol, color in ((mine, "circle", self.look.accent), (offline, "diamond", self.look.muted)):
            series.format.line.fill.background()
            series.smooth = False
            native.marker(series, symbol, color, 11, None)
        ups = [
            row["beyond_texts_per_s"] - rate if rate and row["beyond_texts_per_s"] else None
            for row, rate in zip(rows, held, strict=True)
        ]
        native.error_bars(mine, ups, [None] * len(rows), "y", self.look.accent)
        for index, rate in enumerate(held):
            if rate:
                self._label(mine.points[index], significant(rate))
        self._axis(chart.value_axis, "Texts a second, log scale", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        every = [rate for row in rows for rate in (row["server_texts_per_s"], row["offline_texts_per_s"]) if rate]
        native.log_axis(chart.value_axis, *_log_ends(every, every))

    def _load_footer(self, rows: Sequence[Row]) -> str:
        trials = sorted(trial["answered"] for row in rows for trial in row["trials"] if trial["holds"])
        many = f"{trials[0]:,} to {trials[-1]:,} arrivals a trial that held" if trials else "no trial held"
        examples = sorted({row["examples"] for row in self.measured if row["examples"]})
        n = f"n = {examples[-1]:,} examples, {many}" if examples else many
        most = sorted({row["max_batch"] for row in rows})
        return (
            f"{self.summary['device_name']} ({self.summary['device']}) · batches of at most "
            f"{' or '.join(map(str, most))} · {n} · bars: the interval up to the lowest rate that failed twice · "
            f"run {self.summary['id'][-6:]}"
        )

    def _list(self, title: str, items: Sequence[tuple[str, str]]) -> None:
        """Sentences, each with a bold beginning, on as many slides as they need."""
        width = Emu(BODY[2]).pt

        def heights(size: int) -> list[float]:
            letters = width / (TEXT_LETTER * size)
            return [max(1, math.ceil(len(bold + text) / letters)) * size * 1.2 + 7 for bold, text in items]

        count = math.ceil(sum(heights(TEXT_SIZES[-1])) / BODY_HEIGHT)
        size = next(size for size in TEXT_SIZES if math.ceil(sum(heights(size)) / BODY_HEIGHT) <= count)
        # Slides of about the same length: none for the last line alone.
        room = min(BODY_HEIGHT, sum(heights(size)) / count + 2 * size)
        pages: list[list[tuple[str, str]]] = [[]]
        used = 0.0
        for item, height in zip(items, heights(size), strict=True):
            if pages[-1] and used + height > room:
                pages.append([])
                used = 0.0
            pages[-1].append(item)
            used += height
        for number, page in enumerate(pages, 1):
            part = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
            slide = self._slide(title + part, self._footer("ranges are 95% intervals"), "")
            box = slide.shapes.add_textbox(*BODY)
            box.text_frame.word_wrap = True
            for index, (bold, text) in enumerate(page):
                paragraph = box.text_frame.paragraphs[0] if index == 0 else box.text_frame.add_paragraph()
                paragraph.space_after = Pt(7)
                for words, strong in ((bold, True), (text, False)):
                    run = paragraph.add_run()
                    run.text, run.font.bold, run.font.size, run.font.name = words, strong, Pt(size), FONT
                    run.font.color.rgb = native.rgb(self.look.text)


def _foremost(rows: Sequence[Row], key: str, better: Better) -> list[Row]:
    """Of more than COLUMNS the baseline, the best by column `key`, and the fastest, in the order of `rows`."""
    if len(rows) <= COLUMNS:
        return list(rows)
    best = (max if better == "higher" else min)(rows, key=lambda row: row[key])
    fastest = sorted(rows, key=lambda row: row["speedup"] or 0.0, reverse=True)
    chosen: list[Row] = []
    for row in (*(row for row in rows if row["baseline"]), best, *fastest):
        if len(chosen) < COLUMNS and row not in chosen:
            chosen.append(row)
    return [row for row in rows if row in chosen]


def _left_out(known: Sequence[Row], shown: Sequence[Row], say: Callable[[Row], str]) -> str:
    """The figures of the rows that a chart has no room for, as a paragraph of the notes."""
    rest = [f"{row['title']}: {say(row)}" for row in known if row not in shown]
    return f"\nNot on the chart: {'; '.join(rest)}." if rest else ""


def _categories(rows: Sequence[Row]) -> list[str]:
    """Names below a chart, each in two or three lines of its share of the width; numbered where two become alike."""
    limit = max(12, int(3 * PLOT[0] / len(rows) / 8))
    names = [shortened(row["title"], limit) for row in rows]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _difference_title(rows: Sequence[Row]) -> str:
    """What the paired tests of accuracy show."""
    compared = [row for row in rows if row["accuracy_comparison"] is not None]
    baseline = frame.baseline_of(rows)
    if not compared or baseline is None:
        return "Accuracy against the baseline"
    said = []
    for verdict, one, several in (("worse", "loses", "lose"), ("better", "gains", "gain")):
        found = [row for row in compared if row["accuracy_comparison"] == verdict]
        if len(found) == 1:
            limits = point_interval(found[0]["accuracy_difference_low"], found[0]["accuracy_difference_high"])
            said.append(f"{found[0]['name']} {one} {abs(found[0]['accuracy_difference']) * 100:.1f} points ({limits})")
        elif found:
            said.append(f"{headlines.joined([row['name'] for row in found])} {several} accuracy")
    against = f" against {baseline['title']}"
    if said:
        rest = [row["name"] for row in compared if row["accuracy_comparison"] == "no_difference"]
        others = headlines.joined(rest) if len(rest) < 3 else f"the {len(rest)} others"
        return "; ".join(said) + against + (f"; no difference is shown for {others}" if rest else "")
    could = [row["detectable_difference"] for row in compared if row["detectable_difference"] is not None]
    least = f"; {takeaways.would_show(max(could))}" if could else ""
    return f"No difference in accuracy{against} is shown{least}"


def _binds(row: Row) -> str:
    return row["binds"] or "bound by something else"


def _holds(row: Row) -> str:
    rate, beyond = row["server_texts_per_s"], row["beyond_texts_per_s"]
    said = f"holds {significant(rate)} texts/s" if rate else "holds no rate that was tried"
    said += f", not {significant(beyond)}" if beyond else ""
    return f"{said}, offline {significant(row['offline_texts_per_s'])}"


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


def _log_ends(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float, int]:
    """Ends and base of a log axis. PowerPoint labels powers of the base only: 2 unless they would be too many."""
    base = 2 if max(highs) / min(lows) < 40 else 10
    low = base ** math.floor(math.log(min(lows), base) + 1e-9)
    high = base ** math.ceil(math.log(max(highs), base) - 1e-9)
    return low, max(high, low * base), base


def _scale(axis: Any, low: float, high: float, step: float) -> None:
    axis.minimum_scale, axis.maximum_scale, axis.major_unit = low, high, step


def _shares(lows: Sequence[float], highs: Sequence[float], zero: bool = False) -> tuple[float, float, float]:
    """Ends and step of an axis of percentages or points around all that is drawn, with `zero` where asked for."""
    low, high = min(lows), max(highs)
    if zero:
        low, high = min(low, 0), max(high, 0)
    span = high - low
    step = next((step for step in (1, 2, 5, 10) if span / step <= 8), 20)
    bottom, top = math.floor((low - 0.04 * span) / step) * step, math.ceil((high + 0.04 * span) / step) * step
    return (max(0, bottom), min(100, max(top, bottom + step)), step) if not zero else (bottom, top, step)
