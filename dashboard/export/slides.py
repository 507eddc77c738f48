"""The slide itself: boxes, text, tables and native charts in python-pptx. Knows nothing of runs."""

from __future__ import annotations

import textwrap
from typing import Any

from pptx.enum.chart import XL_LABEL_POSITION
from pptx.enum.text import PP_ALIGN
from pptx.util import Emu, Inches, Length, Pt

from dashboard.export import native

WIDTH, HEIGHT = Inches(13.333), Inches(7.5)
MARGIN = Inches(0.6)
FONT, FOOTER = "Arial", "Footer"
Box = tuple[Length, Length, Length, Length]
BODY: Box = (MARGIN, Inches(1.55), Emu(WIDTH - 2 * MARGIN), Inches(5.1))

CHART = (Emu(BODY[2]).pt, Emu(BODY[3]).pt)
PLOT_AT = (0.08, 0.03, 0.9, 0.8)
"""Left, top, width and height of a scatter's plot, in shares of its chart."""
PLOT = (CHART[0] * PLOT_AT[2], CHART[1] * PLOT_AT[3])
"""The plot area of a chart on a slide, in points."""
MARKER, NO_MARKER = 13.0, 2.0
SIDES = (XL_LABEL_POSITION.RIGHT, XL_LABEL_POSITION.LEFT, XL_LABEL_POSITION.ABOVE, XL_LABEL_POSITION.BELOW)
"""In the order of `labels.nearest`."""
MOST_SAID = 12
"""Of more sentences those are left out that a chart of their own tells, too."""
TITLE_SIZES = (24, 20, 18, 16, 14)
TITLE_HEIGHT = 70.0
"""What a title may take, in points."""
LETTER = 0.56
"""The width of a letter of a title over its size, about: bold, and rather too wide than too narrow."""
TEXT_SIZES = (18, 16, 14)
TEXT_LETTER = 0.5
BODY_HEIGHT = 365.0
LABEL_HEIGHT = 17.0
TABLE_ROWS = 12
NAME_IN_LINE = 26
"""Letters of a variant's name in a line of a table of many rows."""
COLUMNS = 14
"""Of more variants a chart of columns, whose names stand below them, shows the foremost."""


def fitted_title(title: str) -> tuple[str, int]:
    """A title and the largest size at which it keeps to its box; cut where none does."""
    width = Emu(BODY[2]).pt - 14
    for size in TITLE_SIZES:
        if len(textwrap.wrap(title, int(width / (LETTER * size)))) * size * 1.2 <= TITLE_HEIGHT:
            return title, size
    size = TITLE_SIZES[-1]
    lines = int(TITLE_HEIGHT / (size * 1.2))
    return textwrap.shorten(title, int(width / (LETTER * size)) * lines - 20, placeholder=" …"), size


def write_text(text_frame: Any, text: str, size: float, color: str, bold: bool = False) -> None:
    """Replaces a text frame's content by one run."""
    text_frame.text = ""
    paragraph = text_frame.paragraphs[0]
    paragraph.alignment = PP_ALIGN.LEFT
    run = paragraph.add_run()
    run.text = text
    run.font.size, run.font.bold, run.font.name = Pt(size), bold, FONT
    run.font.color.rgb = native.rgb(color)


def shortened(name: str, limit: int) -> str:
    """A name of at most `limit` characters: what tells variants apart stands at its beginning and its end."""
    return name if len(name) <= limit else f"{name[: limit * 2 // 3 - 1].rstrip()}…{name[-(limit // 3) :].lstrip()}"
