"""Building blocks of slides in python-pptx: boxes, text, tables, native charts. Other modules make the content."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from pptx import Presentation
from pptx.enum.chart import XL_LABEL_POSITION
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.util import Emu, Inches, Length, Pt

from dashboard.export import content, native
from dashboard.figures import labels
from dashboard.run_rows import Row
from dashboard.style import Theme, marks
from engine.report.words import ACCURACY_VERDICTS, SPEED_VERDICTS

WIDTH, HEIGHT = Inches(13.333), Inches(7.5)
MARGIN = Inches(0.6)
FONT, FOOTER = "Arial", "Footer"
Box = tuple[Length, Length, Length, Length]
BODY: Box = (MARGIN, Inches(1.55), Emu(WIDTH - 2 * MARGIN), Inches(5.1))

CHART = (Emu(BODY[2]).pt, Emu(BODY[3]).pt)
PLOT_AT = (0.08, 0.03, 0.9, 0.8)
"""Left, top, width and height of the plot of a scatter chart, in shares of the chart."""
PLOT = (CHART[0] * PLOT_AT[2], CHART[1] * PLOT_AT[3])
"""The plot area of a chart on a slide, in points."""
MARKER, NO_MARKER = 13.0, 2.0
SIDES = (XL_LABEL_POSITION.RIGHT, XL_LABEL_POSITION.LEFT, XL_LABEL_POSITION.ABOVE, XL_LABEL_POSITION.BELOW)
"""Label positions in the order of `labels.nearest`."""
MOST_SAID = 12
"""With more sentences than this, those on memory and energy are left out, as these have charts of their own."""
TITLE_SIZES = (24, 20, 18, 16, 14)
TITLE_HEIGHT = 70.0
"""The largest height of a title, in points."""
LETTER = 0.56
"""About the width of a bold letter of a title over its font size, rather too wide than too narrow."""
TEXT_SIZES = (18, 16, 14)
TEXT_LETTER = 0.5
BODY_HEIGHT = 365.0
LABEL_HEIGHT = 17.0
TABLE_ROWS = 12
NAME_IN_LINE = 26
"""Letters of a variant's name that fit on one line in a table with many rows."""
COLUMNS = 14
"""The most variants on a chart with names below it. Of more variants, it shows the foremost."""


def fitted_title(title: str) -> tuple[str, int]:
    """A title and the largest size at which it fits its box. A title that fits at no size is cut."""
    width = Emu(BODY[2]).pt - 14
    for size in TITLE_SIZES:
        if len(textwrap.wrap(title, int(width / (LETTER * size)))) * size * 1.2 <= TITLE_HEIGHT:
            return title, size
    size = TITLE_SIZES[-1]
    lines = int(TITLE_HEIGHT / (size * 1.2))
    return textwrap.shorten(title, int(width / (LETTER * size)) * lines - 20, placeholder=" …"), size


def write_text(text_frame: Any, text: str, size: float, color: str, bold: bool = False) -> None:
    """Replace the content of a text frame by one run of text."""
    text_frame.text = ""
    paragraph = text_frame.paragraphs[0]
    paragraph.alignment = PP_ALIGN.LEFT
    run = paragraph.add_run()
    run.text = text
    run.font.size, run.font.bold, run.font.name = Pt(size), bold, FONT
    run.font.color.rgb = native.rgb(color)


def shortened(name: str, limit: int) -> str:
    """`name` in at most `limit` characters. The middle is cut, as variants differ at the beginning and the end."""
    return name if len(name) <= limit else f"{name[: limit * 2 // 3 - 1].rstrip()}…{name[-(limit // 3) :].lstrip()}"


class Slides:
    """The slides of one run: methods to make a slide, and the parts that all slides share.

    `rows`: the baseline first; `look`: the colours.
    """

    def __init__(self, summary: dict[str, Any], rows: list[Row], look: Theme) -> None:
        self.summary, self.rows, self.look = summary, rows, look
        self.measured = [row for row in rows if row.status == "measured"]
        self.marks = marks(rows, look)
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = WIDTH, HEIGHT

    def _slide(self, title: str, footer: str, notes: str) -> Any:
        # "Title Only" is the only fitting layout with a title, which outline views and screen readers need.
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
        """The text of a footer.

        `sizes`: the batch sizes, if they differ from those of the rows; `of`: the rows shown, and all rows.
        """
        few = f"{len(of[0])} of {len(of[1])} variants, the rest in the notes · " if len(of[0]) < len(of[1]) else ""
        examples = sorted({row.examples for row in self.measured if row.examples})
        n = f"n = {examples[-1]:,} examples" if len(examples) == 1 else "n differs between variants"
        calls = [row.calls for row in self.measured if row.calls]
        many = f", at least {min(calls):,} timed calls a variant" if calls else ""
        batch = ", ".join(str(size) for size in sizes or sorted({row.batch_size for row in self.rows}))
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

    def _table(
        self, slide: Any, columns: Sequence[tuple[str, float, Callable[[Row], str]]], rows: Sequence[Row]
    ) -> None:
        height = min(Inches(0.62), int(Inches(4.9)) // (len(rows) + 1))
        size = (len(rows) + 1, len(columns), MARGIN, Inches(1.75), BODY[2], Emu(height * (len(rows) + 1)))
        shape = slide.shapes.add_table(*size)
        native.describe(shape, "Scorecard: " + "; ".join(f"{r.title}: {verdict_words(r)}" for r in rows))
        native.plain_table(shape)
        table = shape.table
        small = 0 if len(rows) < 10 else 2
        # A low table row has to fit two lines of a long name.
        name_size = 9 if small and any(len(row.title) > NAME_IN_LINE for row in rows) else 13 - small
        total = sum(width for _, width, _ in columns)
        for index, (header, width, show) in enumerate(columns):
            table.columns[index].width = Emu(int(BODY[2] * width / total))
            side = PP_ALIGN.LEFT if index in (0, len(columns) - 1) else PP_ALIGN.RIGHT
            self._cell(table.cell(0, index), header, side, 12 - small, head=True)
            for position, row in enumerate(rows, 1):
                cell = table.cell(position, index)
                text = show(row) if index else shortened(show(row), 52 if small else 44)
                points_high = name_size if index == 0 else 13 - small
                self._cell(cell, text, side, points_high, bold=index == 0, base=row.baseline)

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
        """Name the first points of a scatter's series. Names that would overlap others go to the notes."""
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
            said.text = f"Not named on the chart, as there was no room: {'; '.join(without)}.\n\n{said.text}"
            (foot,) = (shape for shape in slide.shapes if shape.name == FOOTER)
            foot.text_frame.paragraphs[0].runs[0].text += f" · {len(without)} marks are named in the notes only"


def verdict_words(row: Row) -> str:
    if row.status != "measured":
        return row.status
    if row.baseline:
        return "baseline"
    said = [SPEED_VERDICTS.get(row.comparison or "", "")]
    if row.accuracy_comparison in ("better", "worse"):
        said.append(ACCURACY_VERDICTS[row.accuracy_comparison])
    if row.validity in ("invalid", "unstable"):
        said.append(row.validity)
    return ", ".join(filter(None, said))
