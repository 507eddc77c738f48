"""PowerPoint's own charts, with what python-pptx has no call for: error bars, log axes, alternative text."""

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
"""What must follow c:errBars in a series; the schema fixes the order."""
C15 = "http://schemas.microsoft.com/office/drawing/2012/chart"
"""What Office 2013 added to charts."""


class _Workbook(Workbook):
    """The table behind a chart: a name in it is text, whatever it begins with, and neither formula nor link."""

    def __init__(self, file: Any, options: dict[str, Any]) -> None:
        super().__init__(file, options | {"strings_to_formulas": False, "strings_to_urls": False})


xlsx.Workbook = _Workbook


def rgb(color: str) -> RGBColor:
    """A "#rrggbb" colour."""
    return RGBColor.from_string(color.lstrip("#").upper())


def error_bars(
    series: Any, plus: Sequence[float | None], minus: Sequence[float | None], direction: str, color: str
) -> None:
    """Gives `series` error bars of its own length at each point; None where a point has none.

    `direction` is "x" or "y"; a chart with categories knows "y" only.
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
    """Makes a value axis logarithmic from `low` to `high`, labelled at the powers of `base`."""
    scaling = axis._element.find(qn("c:scaling"))
    scaling.insert(0, etree.Element(qn("c:logBase"), val=str(base)))
    axis.minimum_scale, axis.maximum_scale = low, high
    # LibreOffice takes the steps of the labels from here.
    axis.major_unit = base
    axis.tick_labels.number_format = "[<1]0.0##;#,##0"
    axis.tick_labels.number_format_is_linked = False


def fix_plot(chart: Any, left: float, top: float, width: float, height: float) -> None:
    """Puts the plot itself, without what stands at its axes, where it is asked for: in shares of the chart."""
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
    """Keeps a point's label from being wrapped, at a fifth of the chart as is usual."""
    for body in point.data_label._get_or_add_dLbl().iter(qn("a:bodyPr")):
        body.set("wrap", "none")


def move_label(point: Any, right: float, down: float) -> None:
    """Moves a point's label from its usual place, by shares of the chart."""
    element = point.data_label._get_or_add_dLbl()
    # LibreOffice would draw a black line to the mark, which is the label's neighbour.
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
    """Takes away the borders and bands of PowerPoint's usual table, which are white on any ground."""
    shape._element.xpath(".//a:tableStyleId")[0].text = "{2D5ABB26-0587-4C30-8999-92F81FD0307C}"


def describe(shape: Any, text: str) -> None:
    """Alternative text for those who do not see the shape."""
    shape._element.xpath(".//p:cNvPr")[0].set("descr", text)


def mixed(color: str, ground: str, share: float) -> str:
    """`share` of a "#rrggbb" colour over another."""
    pairs = ((int(color[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(over * share + under * (1 - share)):02x}" for over, under in pairs)


def marker(point_or_series: Any, symbol: str, color: str, size: int, pale_on: str | None) -> None:
    """How a point is drawn; pale on a ground stands for hollow, which LibreOffice would not draw at all."""
    made = point_or_series.marker
    made.style = MARKERS.get(symbol, XL_MARKER_STYLE.CIRCLE)
    made.size = size
    made.format.fill.solid()
    made.format.fill.fore_color.rgb = rgb(mixed(color, pale_on, 0.35) if pale_on else color)
    made.format.line.color.rgb = rgb(color)
    made.format.line.width = Pt(1.5)


def _child(parent: Any, tag: str, value: str) -> None:
    etree.SubElement(parent, qn(tag), val=value)
