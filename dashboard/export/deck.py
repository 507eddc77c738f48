"""A run as a PowerPoint deck, 16:9, with native charts that can be edited. Decides on the slides and their order."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE, XL_LABEL_POSITION, XL_TICK_LABEL_POSITION
from pptx.util import Emu, Pt

from dashboard import run_rows
from dashboard.export import content, native
from dashboard.export.chart_slides import (
    ChartSlides,
    binding_words,
    category_names,
    foremost_rows,
    interval_ends,
    left_out_words,
    log_ends,
)
from dashboard.export.slides import (
    BODY,
    BODY_HEIGHT,
    FONT,
    MOST_SAID,
    TABLE_ROWS,
    TEXT_LETTER,
    TEXT_SIZES,
    verdict_words,
)
from dashboard.figures.accuracy import gain_key
from dashboard.figures.published import pairs
from dashboard.findings import headlines
from dashboard.metrics import METRICS
from dashboard.run_rows import Row
from dashboard.style import LIGHT, Theme
from engine.report import load, takeaways
from engine.report.load import JoinedLoad
from engine.store.rows import PublishedRow, present
from engine.units import between, megabytes, milliseconds, point_interval, share_percent, significant


def build(
    summary: dict[str, Any],
    measured: Sequence[Row],
    published: Sequence[PublishedRow],
    look: Theme = LIGHT,
    batch_size: int | None = None,
    loads: Sequence[JoinedLoad] = (),
) -> bytes:
    """The deck of a run as a .pptx file, at `batch_size` or, if that is None, at the baseline's largest.

    `loads`: results under load, as `engine.report.load.joined` gives them.
    """
    return Deck(summary, measured, published, look, batch_size, loads).save()


class Deck(ChartSlides):
    """The deck of one run."""

    def __init__(
        self,
        summary: dict[str, Any],
        measured: Sequence[Row],
        published: Sequence[PublishedRow],
        look: Theme,
        batch_size: int | None,
        loads: Sequence[JoinedLoad],
    ) -> None:
        shown = content.at(measured, batch_size)
        rows = sorted(shown, key=lambda row: not row.baseline)
        super().__init__(summary, rows, measured, look)
        self.loads = loads
        self.pairs = pairs(shown, published)

    def save(self) -> bytes:
        said = headlines.headline(self.rows)
        about = self.file.core_properties
        about.title, about.subject, about.author = said.finding[:255], self._source()[:255], "Inference Bench"
        self._scorecard(said)
        if self.measured:
            gain = gain_key(self.rows)
            self._takeaways()
            # With random weights, the answers mean nothing.
            untaught = run_rows.untaught(self.rows)
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
            if any(not row.baseline for row, _, _ in self.pairs):
                self._published()
        notes = [(f"{name}: {kind}. ", text) for name, kind, text in headlines.notes(self.rows)]
        if notes:
            self._list("What to know about these figures", notes)
        out = io.BytesIO()
        self.file.save(out)
        return out.getvalue()

    def _scorecard(self, said: headlines.Headline) -> None:
        labelled = any(row.accuracy is not None for row in self.rows)
        kind = "VRAM" if any(row.memory_kind == "vram" for row in self.rows) else "RAM"
        answers = METRICS["accuracy" if labelled else "agreement"]
        columns: list[tuple[str, float, Callable[[Row], str]]] = [
            ("Variant", 2.5, lambda r: r.title),
            ("p50 (ms)", 1.0, lambda r: milliseconds(r.latency_p50_s)),
            ("Samples/s", 1.25, lambda r: significant(r.throughput_samples_per_s)),
            ("Speed-up, × (95%)", 2.0, _speedup),
            (f"{answers.header} (95%)", 2.1, lambda r: headlines.interval_words(r, answers.key)),
            (f"Peak {kind} (MB)", 1.2, lambda r: megabytes(r.memory_bytes)),
            ("Against the baseline", 2.2, verdict_words),
        ]
        starts = range(0, max(len(self.rows), 1), TABLE_ROWS)
        parts = [self.rows[start : start + TABLE_ROWS] for start in starts]
        for number, rows in enumerate(parts, 1):
            part = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            slide = self._slide(said.finding + part, self._footer("ranges are 95% intervals"), said.detail)
            self._table(slide, columns, rows)

    def _published(self) -> None:
        title = headlines.published_title(self.pairs)
        compared = [
            (row, base.latency_s / theirs.latency_s)
            for row, theirs, base in self.pairs
            if row.speedup is not None and theirs.latency_s and base.latency_s
        ]
        if not compared:
            return
        device = self.pairs[0][1].device_name
        data = CategoryChartData()
        data.categories = category_names([row for row, _ in compared])
        data.add_series(f"measured here ({self.summary['device_name']})", [row.speedup for row, _ in compared])
        data.add_series(f"published ({device})", [ratio for _, ratio in compared])
        alt = f"{title}. " + "; ".join(
            f"{row.title}: measured {_speedup(row)}, published {significant(ratio)}" for row, ratio in compared
        )
        remarks = dict.fromkeys(filter(None, (theirs.remark for _, theirs, _ in self.pairs)))
        slide = self._slide(title, self._footer("bars: 95% intervals of what was measured"), "\n".join(remarks))
        chart = self._chart(slide, XL_CHART_TYPE.LINE_MARKERS, data, alt)
        self._legend(chart)
        mine, theirs = chart.plots[0].series
        for series, symbol, color in ((mine, "circle", self.look.accent), (theirs, "diamond", self.look.muted)):
            series.format.line.fill.background()
            series.smooth = False
            native.marker(series, symbol, color, 11, None)
        rows = [row for row, _ in compared]
        lows, highs = interval_ends(rows, METRICS["speedup"])
        values = [present(row.speedup) for row in rows]
        native.error_bars(
            mine,
            [present(high) - value for high, value in zip(highs, values, strict=True)],
            [value - present(low) for low, value in zip(lows, values, strict=True)],
            "y",
            self.look.accent,
        )
        self._axis(chart.value_axis, "Speed-up over its own baseline (×, log)", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        ratios = [ratio for _, ratio in compared]
        native.log_axis(chart.value_axis, *log_ends([*lows, *ratios], [*highs, *ratios]))

    def _takeaways(self) -> None:
        found = takeaways.takeaways(headlines.ranked(self.rows))
        order: list[takeaways.Kind] = ["labels", "speed", "accuracy", "memory", "energy", "batching", "answers"]
        shown = [item for kind in order for item in found if item.shown and item.kind == kind]
        if len(shown) > MOST_SAID:
            shown = [item for item in shown if item.kind not in ("memory", "energy")]
        unshown = [item for item in found if not item.shown]
        items = [("", item.sentence) for item in shown] + [("Not shown: ", item.sentence) for item in unshown]
        if len(self.rows) > headlines.MANY:
            # Dozens of variants would fill a dozen slides. So only the first sentences, on the fastest variants, are
            # shown, and the rest are counted.
            more = len(shown) - MOST_SAID
            items = [("", item.sentence) for item in shown[:MOST_SAID]]
            rest = [f"{more} more sentences"] if more > 0 else []
            rest += [f"{len(unshown)} differences looked for and not shown"] if unshown else []
            items += [("", f"In the report: {headlines.joined(rest)}.")] if rest else []
            unshown = []
        if items:
            self._list("What this run shows" + (", and what it does not" if unshown else ""), items)

    def _limits(self) -> None:
        known = [row for row in self.measured if row.limit_share is not None]
        rows = foremost_rows(known, "limit_share", "higher")
        if not rows:
            return
        data = CategoryChartData()
        data.categories = category_names(rows)
        data.add_series("Share of the limit (%)", [present(row.limit_share) * 100 for row in rows])
        most = max(present(row.limit_share) for row in rows)
        title = headlines.limit_title(rows)
        said = [f"{row.title}: {row.limits['sentence']}" for row in rows if row.limits]
        alt = f"{title}. " + "; ".join(f"{r.title}: {share_percent(r.limit_share)}%, {binding_words(r)}" for r in rows)
        left_out = left_out_words(known, rows, lambda row: f"{share_percent(row.limit_share)}%")
        footer = self._footer("one figure each, no interval", of=(rows, known))
        slide = self._slide(title, footer, "\n".join(said) + left_out)
        chart = self._chart(slide, XL_CHART_TYPE.COLUMN_CLUSTERED, data, alt)
        plot = chart.plots[0]
        plot.gap_width = 120
        for index, row in enumerate(rows):
            point = plot.series[0].points[index]
            point.format.fill.solid()
            point.format.fill.fore_color.rgb = native.rgb(self.marks[row.variant].color)
            share = f"{share_percent(row.limit_share)}%"
            label = f"{share}, {binding_words(row)}" if len(rows) < 9 else share
            self._label(point, label, XL_LABEL_POSITION.OUTSIDE_END)
        self._axis(chart.value_axis, "Share of the device's measured limit (%)", grid=True)
        chart.value_axis.minimum_scale, chart.value_axis.maximum_scale = 0, max(100, math.ceil(most * 11) * 10)
        self._axis(chart.category_axis, None, grid=False)

    def _load(self) -> None:
        """Add the slide of the highest rate that each variant holds under load, beside its offline rate."""
        rows = [row for row in self.loads if row.status == "measured"]
        if not rows:
            return
        held = [row.server_texts_per_s for row in rows]
        data = CategoryChartData()
        data.categories = category_names(rows)
        data.add_series(f"holds {load.limit_words(rows)}", held)
        data.add_series("offline", [row.offline_texts_per_s for row in rows])
        title = load.headline(rows)
        alt = f"{title} " + "; ".join(f"{row.title}: {_holds(row)}" for row in rows)
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
            row.beyond_texts_per_s - rate if rate and row.beyond_texts_per_s else None
            for row, rate in zip(rows, held, strict=True)
        ]
        native.error_bars(mine, ups, [None] * len(rows), "y", self.look.accent)
        for index, rate in enumerate(held):
            if rate:
                self._label(mine.points[index], significant(rate))
        self._axis(chart.value_axis, "Texts a second, log scale", grid=True)
        self._axis(chart.category_axis, None, grid=False)
        chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
        every = [rate for row in rows for rate in (row.server_texts_per_s, row.offline_texts_per_s) if rate]
        native.log_axis(chart.value_axis, *log_ends(every, every))

    def _load_footer(self, rows: Sequence[JoinedLoad]) -> str:
        trials = sorted(trial["answered"] for row in rows for trial in row.trials if trial["holds"])
        many = f"{trials[0]:,} to {trials[-1]:,} arrivals a trial that held" if trials else "no trial held"
        examples = sorted({row.examples for row in self.measured if row.examples})
        n = f"n = {examples[-1]:,} examples, {many}" if examples else many
        most = sorted({row.max_batch for row in rows})
        return (
            f"{self.summary['device_name']} ({self.summary['device']}) · batches of at most "
            f"{' or '.join(map(str, most))} · {n} · bars: the interval up to the lowest rate that failed twice · "
            f"run {self.summary['id'][-6:]}"
        )

    def _list(self, title: str, items: Sequence[tuple[str, str]]) -> None:
        """Add sentences, each with a bold beginning, on as many slides as they need."""
        width = Emu(BODY[2]).pt

        def heights(size: int) -> list[float]:
            letters = width / (TEXT_LETTER * size)
            return [max(1, math.ceil(len(bold + text) / letters)) * size * 1.2 + 7 for bold, text in items]

        count = math.ceil(sum(heights(TEXT_SIZES[-1])) / BODY_HEIGHT)
        size = next(size for size in TEXT_SIZES if math.ceil(sum(heights(size)) / BODY_HEIGHT) <= count)
        # Slides are filled about equally, so that no slide has only the last line.
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


def _difference_title(rows: Sequence[Row]) -> str:
    """The result of the paired tests of accuracy, as a title."""
    compared = [row for row in rows if row.accuracy_comparison is not None]
    baseline = run_rows.baseline_of(rows)
    if not compared or baseline is None:
        return "Accuracy against the baseline"
    said = []
    for verdict, one, several in (("worse", "loses", "lose"), ("better", "gains", "gain")):
        found = [row for row in compared if row.accuracy_comparison == verdict]
        if len(found) == 1:
            limits = point_interval(found[0].accuracy_difference_low, found[0].accuracy_difference_high)
            said.append(
                f"{found[0].name} {one} {abs(present(found[0].accuracy_difference)) * 100:.1f} points ({limits})"
            )
        elif found:
            said.append(f"{headlines.joined([row.name for row in found])} {several} accuracy")
    against = f" against {baseline.title}"
    if said:
        rest = [row.name for row in compared if row.accuracy_comparison == "no_difference"]
        others = headlines.joined(rest) if len(rest) < 3 else f"the {len(rest)} others"
        return "; ".join(said) + against + (f"; no difference is shown for {others}" if rest else "")
    could = [row.detectable_difference for row in compared if row.detectable_difference is not None]
    least = f"; {takeaways.would_show(max(could))}" if could else ""
    return f"No difference in accuracy{against} is shown{least}"


def _holds(row: JoinedLoad) -> str:
    rate, beyond = row.server_texts_per_s, row.beyond_texts_per_s
    said = f"holds {significant(rate)} texts/s" if rate else "holds no rate that was tried"
    said += f", not {significant(beyond)}" if beyond else ""
    return f"{said}, offline {significant(row.offline_texts_per_s)}"


def _speedup(row: Row) -> str:
    if row.baseline:
        return "1 (baseline)"
    limits = between(row.speedup_low, row.speedup_high)
    return f"{significant(row.speedup)} ({limits})" if limits else significant(row.speedup)
