"""A slide for each chart of a run. One method decides the data, the title and the marks of a slide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE, XL_TICK_LABEL_POSITION
from pptx.util import Pt

from dashboard import run_rows
from dashboard.export import images, native
from dashboard.export.slides import (
    COLUMNS,
    LABEL_HEIGHT,
    MARKER,
    NO_MARKER,
    PLOT,
    Slides,
    shortened,
)
from dashboard.figures import labels
from dashboard.figures.batches import over_batch_size
from dashboard.figures.memory import parts
from dashboard.figures.roofline import points as points_below
from dashboard.figures.roofline import roofs
from dashboard.figures.tradeoff import important
from dashboard.findings import headlines
from dashboard.metrics import METRICS, Better, Metric
from dashboard.run_rows import Row
from dashboard.style import Theme, marks
from engine.report.load import JoinedLoad
from engine.store.rows import present
from engine.units import megabytes, points, share_percent, significant


class ChartSlides(Slides):
    """The slides with charts of a run's measurements."""

    def __init__(self, summary: dict[str, Any], rows: list[Row], every: Sequence[Row], look: Theme) -> None:
        super().__init__(summary, rows, look)
        self.every = every
        """The run's rows at all batch sizes."""

    def _dots(self, metric: Metric, title: str) -> None:
        log = metric.scale == "log"
        # With idle power subtracted, the energy of a light variant may be zero or less, which no log axis can show.
        known = [
            row
            for row in self.measured
            if row.figure(metric.key) is not None and not (log and row.figure(metric.key) <= 0)
        ]
        rows = foremost_rows(known, metric.key, metric.better)
        if not rows:
            return
        data = CategoryChartData()
        data.categories = category_names(rows)
        values = [row.figure(metric.key) * metric.factor for row in rows]
        data.add_series(metric.header, values)
        alt = f"{title}. " + "; ".join(
            f"{row.title}: {headlines.interval_words(row, metric.key)} {metric.unit}" for row in rows
        )
        missing = [row.title for row in self.rows if row not in known]
        notes = f"{metric.explanation}" + (f"\nWithout a figure: {headlines.joined(missing)}." if missing else "")
        notes += left_out_words(known, rows, lambda row: f"{headlines.interval_words(row, metric.key)} {metric.unit}")
        footer = self._footer("bars: 95% intervals" if metric.low else "one reading, no interval", of=(rows, known))
        slide = self._slide(title, footer, notes)
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        series = chart.plots[0].series[0]
        series.format.line.fill.background()
        series.smooth = False
        lows, highs = interval_ends(rows, metric)
        native.error_bars(
            series,
            [high - value for high, value in zip(highs, values, strict=True)],
            [value - low for low, value in zip(lows, values, strict=True)],
            "y",
            self.look.line,
        )
        for index, row in enumerate(rows):
            mark = self.marks[row.variant]
            native.marker(series.points[index], mark.symbol, mark.color, 11, self._pale(run_rows.usable(row)))
            signed = metric.key == "accuracy_difference"
            self._label(
                series.points[index], points(row.figure(metric.key)) if signed else metric.text(row.figure(metric.key))
            )
        suffix = ", log scale" if log else ""
        self._axis(chart.value_axis, f"{metric.header}{suffix}", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        if log:
            native.log_axis(chart.value_axis, *log_ends(lows, highs))
        else:
            # The category axis crosses at a difference of zero.
            ends = share_axis(lows, highs, zero=metric.key == "accuracy_difference")
            set_scale(chart.value_axis, *ends)

    def _memory(self) -> None:
        known = [row for row in self.measured if row.memory_bytes is not None]
        if not known:
            return
        kind = "VRAM" if known[0].memory_kind == "vram" else "RAM"
        metric = METRICS[f"{kind.lower()}_peak_bytes"]
        rows = foremost_rows(known, "memory_bytes", "lower")
        names = {"imports": "libraries alone", "weights": "weights", "rest": "the rest of the peak"}
        used = [part for part in names if any(parts(row)[part] for row in rows)]
        data = CategoryChartData()
        data.categories = category_names(rows)
        for part in used:
            data.add_series(names[part], [parts(row)[part] / 1e6 for row in rows])
        title = headlines.memory_title(self.rows)
        alt = f"{title}. " + "; ".join(f"{row.title}: {megabytes(row.memory_bytes)} MB" for row in rows)
        notes = metric.explanation + left_out_words(known, rows, lambda row: f"{megabytes(row.memory_bytes)} MB")
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
        rows = [row for row in self.measured if row.latency_p50_s is not None and row.figure(gain) is not None]
        cost = METRICS[run_rows.cost_key(rows)]
        rows = [row for row in rows if row.figure(cost.key) is not None]
        if not rows:
            return
        front = run_rows.pareto(rows, cost.key, gain)
        title = headlines.tradeoff_title(rows, gain)
        alt = f"{title}. " + "; ".join(
            f"{row.title}: {headlines.interval_words(row, cost.key)} ms, {headlines.interval_words(row, gain)}%"
            for row in rows
        )
        notes = "Upper left is better. Pale: another was measured faster and better, or the row is not valid."
        slide = self._slide(title, self._footer("bars: 95% intervals"), notes)
        data = XyChartData()
        # The longest series goes first, as LibreOffice hides one-point series that come before it.
        if len(front) > 1:
            line = data.add_series("Pareto front")
            for index, row in enumerate(front):
                x, y = row.figure(cost.key) * cost.factor, row.figure(gain) * 100
                if index:
                    line.add_data_point(x, front[index - 1].figure(gain) * 100)
                line.add_data_point(x, y)
        for row in rows:
            data.add_series(row.title).add_data_point(row.figure(cost.key) * cost.factor, row.figure(gain) * 100)
        chart = self._chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, alt)
        drawn = list(chart.plots[0].series)
        if len(front) > 1:
            step = drawn.pop(0)
            step.format.line.color.rgb = native.rgb(self.look.line)
            step.format.line.width = Pt(1.5)
            step.smooth = False
        for row, series in zip(rows, drawn, strict=True):
            mark = self.marks[row.variant]
            series.format.line.fill.background()
            native.marker(series, mark.symbol, mark.color, int(MARKER), self._pale(row in front))
            for direction, key in (("y", metric), ("x", cost)):
                (low,), (high,) = interval_ends([row], key)
                value = row.figure(key.key) * key.factor
                native.error_bars(series, [high - value], [value - low], direction, self.look.line)
        self._axis(chart.value_axis, metric.header, grid=True)
        half = ", p50" if cost.key == "latency_p50_s" else ""
        self._axis(chart.category_axis, f"{cost.header}{half}, log scale", grid=True)
        lows, highs = interval_ends(rows, cost)
        left, right, base = log_ends(lows, highs)
        native.log_axis(chart.category_axis, left, right, base)
        bottom, top, step = share_axis(*interval_ends(rows, metric))
        set_scale(chart.value_axis, bottom, top, step)
        centres = [
            (
                PLOT[0] * math.log(row.figure(cost.key) * cost.factor / left) / math.log(right / left),
                PLOT[1] * (top - row.figure(gain) * 100) / (top - bottom),
            )
            for row in rows
        ]
        names = [labels.shortened(row.title) for row in rows]
        corners = [centres[rows.index(row)] for row in front]
        steps = [(x, y - 1, to, y + 1) for (x, y), (to, _) in itertools.pairwise(corners)]
        first = important(rows, front, cost.key)
        self._name_marks(slide, chart, drawn, names, centres, [MARKER] * len(rows), first, steps)

    def _batches(self) -> None:
        metric = METRICS["throughput_samples_per_s"]
        if not run_rows.swept(self.every, metric.key):
            return
        rows = [r for r in self.every if run_rows.usable(r) and r.figure(metric.key) is not None]
        sizes = sorted({row.batch_size for row in rows})
        if len(sizes) < 2:
            return
        title = images.words(over_batch_size(self.every, self.look))[0]
        lines = {v: {r.batch_size: r for r in rows if r.variant == v} for v in dict.fromkeys(r.variant for r in rows)}
        data = CategoryChartData()
        data.categories = [str(size) for size in sizes]
        for line in lines.values():
            name = next(iter(line.values())).title
            data.add_series(name, [line[size].figure(metric.key) if size in line else None for size in sizes])
        alt = f"{title}. " + "; ".join(
            f"{row.title} at batch {row.batch_size}: {headlines.interval_words(row, metric.key)} {metric.unit}"
            for row in rows
        )
        footer = self._footer("bars: 95% intervals", sizes)
        slide = self._slide(title, footer, f"{metric.explanation} The batch size is the lower axis.")
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        shades = marks(rows, self.look)
        ends = [line[max(line)] for line in lines.values()]
        low, high, base = log_ends(*interval_ends(rows, metric))
        places = sorted(PLOT[1] * math.log(row.figure(metric.key) / low) / math.log(high / low) for row in ends)
        # Names are at the ends of the lines if they have room, else in a legend.
        named = all(upper - lower > LABEL_HEIGHT for lower, upper in itertools.pairwise(places))
        if not named:
            self._legend(chart)
        for (variant, line), series in zip(lines.items(), chart.plots[0].series, strict=True):
            mark = shades[variant]
            series.smooth = False
            series.format.line.color.rgb = native.rgb(mark.color)
            series.format.line.width = Pt(2)
            native.marker(series, mark.symbol, mark.color, 9, None)
            lows, highs = interval_ends(list(line.values()), metric)
            ends_at = dict(zip(line, zip(lows, highs, strict=True), strict=True))
            ups = [ends_at[size][1] - line[size].figure(metric.key) if size in line else None for size in sizes]
            downs = [line[size].figure(metric.key) - ends_at[size][0] if size in line else None for size in sizes]
            native.error_bars(series, ups, downs, "y", mark.color)
            if named:
                self._label(series.points[sizes.index(max(line))], shortened(line[max(line)].title, 28))
        self._axis(chart.value_axis, f"{metric.header}, log scale", grid=True)
        self._axis(chart.category_axis, "Batch size (examples)", grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        native.log_axis(chart.value_axis, low, high, base)

    def _roofline(self) -> None:
        ceilings = self.summary["ceilings"] or {}
        copy = ceilings.get("copy") or {}
        drawn = points_below(self.measured, copy.get("bytes_per_s"))
        above = roofs(ceilings, drawn)
        if not drawn or not above:
            return
        bound = headlines.limit_detail(self.measured)
        title = bound or headlines.limit_title(self.measured)
        alt = "; ".join(f"{p.row.title}: {share_percent(p.row.limit_share)}%, {binding_words(p.row)}" for p in drawn)
        notes = "\n".join(f"{p.row.title}: {present(p.row.limits)['sentence']}" for p in drawn)
        slide = self._slide(title, self._footer("one figure each, no interval"), notes)
        top, per_byte = above[-1].operations_per_s, copy["bytes_per_s"]
        xs = [point.intensity for point in drawn] + [0.5 * top / per_byte]
        left, right, base_x = log_ends(xs, xs)
        rates = [point.operations_per_s for point in drawn] + [roof.operations_per_s for roof in above]
        prefix, unit = ("T", 1e12) if max(rates) >= 2e12 else ("G", 1e9)
        low, high, base_y = log_ends([rate / unit for rate in rates], [rate / unit for rate in rates])
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
            data.add_series(point.row.title).add_data_point(point.intensity, point.operations_per_s / unit)
        chart = self._chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, f"{title}. {alt}")
        every = list(chart.plots[0].series)
        for series in every[: len(lines)]:
            series.smooth = False
            series.format.line.color.rgb = native.rgb(self.look.muted)
            series.format.line.width = Pt(1.5)

        def spot(x: float, rate: float) -> tuple[float, float]:
            across = math.log(x / left) / math.log(right / left)
            return PLOT[0] * across, PLOT[1] * (1 - math.log(rate / unit / low) / math.log(high / low))

        # A line's name is at its first point. Like the names of marks, it must not overlap another name.
        starts = [spot(*start) for _, start, _ in lines]
        centres = starts + [spot(point.intensity, point.operations_per_s) for point in drawn]
        flat = [(x, y - 2, PLOT[0], y + 2) for x, y in starts[1:]]
        for point, series in zip(drawn, every[len(lines) :], strict=True):
            mark = self.marks[point.row.variant]
            series.format.line.fill.background()
            native.marker(series, mark.symbol, mark.color, int(MARKER), self._pale(run_rows.usable(point.row)))
        names = [name for name, *_ in lines]
        names += [f"{labels.shortened(p.row.title)} {share_percent(p.row.limit_share)}%" for p in drawn]
        sizes = [NO_MARKER] * len(lines) + [MARKER] * len(drawn)
        first = [*range(len(lines)), *(len(lines) + i for i in important([point.row for point in drawn], []))]
        self._name_marks(slide, chart, every, names, centres, sizes, first, flat)
        self._axis(chart.value_axis, f"Products ({prefix}FLOP/s, INT8: {prefix}OP/s), log scale", grid=True)
        self._axis(chart.category_axis, "Operations a byte, each weight read once a call (log scale)", grid=True)
        native.log_axis(chart.value_axis, low, high, base_y)
        native.log_axis(chart.category_axis, left, right, base_x)


def foremost_rows(rows: Sequence[Row], key: str, better: Better) -> list[Row]:
    """At most COLUMNS of `rows`, in their order: the baseline, the best by `key`, and the fastest."""
    if len(rows) <= COLUMNS:
        return list(rows)
    best = (max if better == "higher" else min)(rows, key=lambda row: row.figure(key))
    fastest = sorted(rows, key=lambda row: row.speedup or 0.0, reverse=True)
    chosen: list[Row] = []
    for row in (*(row for row in rows if row.baseline), best, *fastest):
        if len(chosen) < COLUMNS and row not in chosen:
            chosen.append(row)
    return [row for row in rows if row in chosen]


def left_out_words(known: Sequence[Row], shown: Sequence[Row], say: Callable[[Row], str]) -> str:
    """A paragraph for the notes, with the figures of the rows that have no room on the chart; empty if all have."""
    rest = [f"{row.title}: {say(row)}" for row in known if row not in shown]
    return f"\nNot on the chart: {'; '.join(rest)}." if rest else ""


def category_names(rows: Sequence[Row | JoinedLoad]) -> list[str]:
    """Names below a chart, shortened to two or three lines in their share of the width.

    Names that become equal are numbered.
    """
    limit = max(12, int(3 * PLOT[0] / len(rows) / 8))
    names = [shortened(row.title, limit) for row in rows]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def binding_words(row: Row) -> str:
    return row.binds or "bound by something else"


def interval_ends(rows: Sequence[Row], metric: Metric) -> tuple[list[float], list[float]]:
    """The low ends and the high ends of the rows' intervals in the shown unit; the value itself if there is none."""

    def end(row: Row, key: str | None) -> float:
        value = row.figure(key) if key and row.figure(key) is not None else row.figure(metric.key)
        return value * metric.factor

    return [end(row, metric.low) for row in rows], [end(row, metric.high) for row in rows]


def log_ends(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float, int]:
    """Ends and base of a log axis. The base is 2, or 10 for a long axis: PowerPoint labels every power of the base."""
    base = 2 if max(highs) / min(lows) < 40 else 10
    low = base ** math.floor(math.log(min(lows), base) + 1e-9)
    high = base ** math.ceil(math.log(max(highs), base) - 1e-9)
    return low, max(high, low * base), base


def set_scale(axis: Any, low: float, high: float, step: float) -> None:
    axis.minimum_scale, axis.maximum_scale, axis.major_unit = low, high, step


def share_axis(lows: Sequence[float], highs: Sequence[float], zero: bool = False) -> tuple[float, float, float]:
    """Ends and step of an axis of percentages or points around all drawn values. `zero`: the axis includes zero."""
    low, high = min(lows), max(highs)
    if zero:
        low, high = min(low, 0), max(high, 0)
    span = high - low
    step = next((step for step in (1, 2, 5, 10) if span / step <= 8), 20)
    bottom, top = math.floor((low - 0.04 * span) / step) * step, math.ceil((high + 0.04 * span) / step) * step
    return (max(0, bottom), min(100, max(top, bottom + step)), step) if not zero else (bottom, top, step)
