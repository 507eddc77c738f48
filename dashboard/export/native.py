"""Features of PowerPoint's native charts that python-pptx lacks: error bars, log axes, alternative text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lxml import etree
from pptx.chart import xlsx
from pptx.dml.color import RGBColor
from pptx.enum.chart import XL_MARKER_STYLE
from pptx.oxml.ns import qn
from pptx.util import Pt
from xlsxwriter import Workbook

MARKERS = {
    "circle": XL_MARKER_STYLE.CIRCLE,
    "diamond": XL_MARKER_STYLE.DIAMOND,
    "square": XL_MARKER_STYLE.SQUARE,
    "triangle-up": XL_MARKER_STYLE.TRIANGLE,
    "star": XL_MARKER_STYLE.STAR,
}
AFTER_ERROR_BARS = ("c:cat", "c:val", "c:xVal", "c:yVal", "c:smooth", "c:shape", "c:extLst")
"""The elements that must follow c:errBars in a series, as the schema fixes the order."""
C15 = "http://schemas.microsoft.com/office/drawing/2012/chart"
"""Namespace of the chart features added by Office 2013."""


class _Workbook(Workbook):
    """The table behind a chart. A name in it is always text, never a formula or a link."""

    def __init__(self, file: Any, options: dict[str, Any]) -> None:
        super().__init__(file, options | {"strings_to_formulas": False, "strings_to_urls": False})


xlsx.Workbook = _Workbook


def rgb(color: str) -> RGBColor:
    """A "#rrggbb" colour."""
    return RGBColor.from_string(color.lstrip("#").upper())


def error_bars(
    series: Any, plus: Sequence[float | None], minus: Sequence[float | None], direction: str, color: str
) -> None:
    """Add error bars to `series`, with a length per point; None for a point without one.

    `direction` is "x" or "y"; a chart with categories has only "y".
    """
    element = series._element
    bars = etree.Element(qn("c:errBars"))
    _child(bars, "c:errDir", direction)
    _child(bars, "c:errBarType", "both")
    _child(bars, "c:errValType", "cust")
    _child(bars, "c:noEndCap", "0")
    for tag, lengths in (("c:plus", plus), ("c:minus", minus)):
        literal = etree.SubElement(etree.SubElement(bars, qn(tag)), qn("c:numLit"))
        etree.SubElement(literal, qn("c:formatCode")).text = "General"
        _child(literal, "c:ptCount", str(len(lengths)))
        for index, length in enumerate(lengths):
            point = etree.SubElement(literal, qn("c:pt"), idx=str(index))
            etree.SubElement(point, qn("c:v")).text = repr(float(length or 0.0))
    line = etree.SubElement(etree.SubElement(bars, qn("c:spPr")), qn("a:ln"), w=str(Pt(1.5)))
    fill = etree.SubElement(line, qn("a:solidFill"))
    etree.SubElement(fill, qn("a:srgbClr"), val=color.lstrip("#").upper())
    followers = [child for child in element if child.tag in {qn(tag) for tag in AFTER_ERROR_BARS}]
    followers[0].addprevious(bars)


def log_axis(axis: Any, low: float, high: float, base: int) -> None:
    """Make a value axis logarithmic from `low` to `high`, labelled at the powers of `base`."""
    scaling = axis._element.find(qn("c:scaling"))
    scaling.insert(0, etree.Element(qn("c:logBase"), val=str(base)))
    axis.minimum_scale, axis.maximum_scale = low, high
    # LibreOffice takes the steps of the labels from the major unit.
    axis.major_unit = base
    axis.tick_labels.number_format = "[<1]0.0##;#,##0"
    axis.tick_labels.number_format_is_linked = False


def fix_plot(chart: Any, left: float, top: float, width: float, height: float) -> None:
    """Set the place of the plot area without its axis labels, in shares of the chart."""
    area = chart._chartSpace.find(qn("c:chart")).find(qn("c:plotArea"))
    layout = area.find(qn("c:layout"))
    if layout is None:
        layout = etree.Element(qn("c:layout"))
        area.insert(0, layout)
    manual = etree.SubElement(layout, qn("c:manualLayout"))
    _child(manual, "c:layoutTarget", "inner")
    _child(manual, "c:xMode", "edge")
    _child(manual, "c:yMode", "edge")
    for tag, share in (("c:x", left), ("c:y", top), ("c:w", width), ("c:h", height)):
        _child(manual, tag, repr(share))


def one_line(point: Any) -> None:
    """Keep a point's label on one line. By default it is wrapped at a fifth of the chart's width."""
    for body in point.data_label._get_or_add_dLbl().iter(qn("a:bodyPr")):
        body.set("wrap", "none")


def move_label(point: Any, right: float, down: float) -> None:
    """Move a point's label from its default place, by shares of the chart."""
    element = point.data_label._get_or_add_dLbl()
    # Without this, LibreOffice draws a black line to the mark, although the mark is next to the label.
    every = element.getparent()
    if every.find(qn("c:extLst")) is None:
        listed = etree.SubElement(every, qn("c:extLst"))
        ours = etree.SubElement(listed, qn("c:ext"), uri="{CE6537A1-D6FC-4f65-9D91-7224C49458BB}", nsmap={"c15": C15})
        etree.SubElement(ours, f"{{{C15}}}showLeaderLines", val="0")
    layout = etree.Element(qn("c:layout"))
    manual = etree.SubElement(layout, qn("c:manualLayout"))
    _child(manual, "c:x", repr(right))
    _child(manual, "c:y", repr(down))
    element.find(qn("c:idx")).addnext(layout)


def plain_table(shape: Any) -> None:
    """Remove the borders and bands of PowerPoint's default table, which are white on any background."""
    shape._element.xpath(".//a:tableStyleId")[0].text = "{2D5ABB26-0587-4C30-8999-92F81FD0307C}"


def describe(shape: Any, text: str) -> None:
    """Set alternative text for people who cannot see the shape."""
    shape._element.xpath(".//p:cNvPr")[0].set("descr", text)


def mixed(color: str, ground: str, share: float) -> str:
    """The mix of two "#rrggbb" colours: `share` of `color` over `ground`."""
    pairs = ((int(color[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(over * share + under * (1 - share)):02x}" for over, under in pairs)


def marker(point_or_series: Any, symbol: str, color: str, size: int, pale_on: str | None) -> None:
    """Set the marker of a point or series. With the background `pale_on`, it is pale instead of hollow.

    LibreOffice does not draw hollow markers.
    """
    drawn = point_or_series.marker
    drawn.style = MARKERS.get(symbol, XL_MARKER_STYLE.CIRCLE)
    drawn.size = size
    drawn.format.fill.solid()
    drawn.format.fill.fore_color.rgb = rgb(mixed(color, pale_on, 0.35) if pale_on else color)
    drawn.format.line.color.rgb = rgb(color)
    drawn.format.line.width = Pt(1.5)


def _child(parent: Any, tag: str, value: str) -> None:
    etree.SubElement(parent, qn(tag), val=value)
