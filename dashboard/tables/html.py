"""HTML of tables: glyphs, cells and their style."""

from __future__ import annotations

from html import escape

from dashboard.style import Mark
from engine.report.words import STATES

KINDS = STATES | {
    "invalid": "✗ invalid",
    "unstable": "~ unstable",
    "deviation": "≠ not as asked",
    "no accuracy": "– no accuracy",
    "index match": "– index match",
    "labels": "⚑ labels",
    "truncated": "✂ cut",
    "sequential": "→ sequential",
}
GLYPHS = {
    "circle": "●○",
    "diamond": "◆◇",
    "square": "■□",
    "triangle-up": "▲△",
    "triangle-down": "▼▽",
    "pentagon": "⬟⬠",
    "hexagon": "⬢⬡",
}
"""Symbol -> its solid and its hollow character. Characters are needed because Streamlit's sanitiser removes SVG."""
CSS = """
.ib-card{overflow-x:auto}
.ib-card table{border-collapse:collapse;width:100%;font-size:.94rem;line-height:1.25;
  font-variant-numeric:tabular-nums lining-nums}
.ib-card th,.ib-card td{padding:.4rem .38rem;border:0;border-bottom:1px solid
  color-mix(in srgb,currentColor 12%,transparent);text-align:right;vertical-align:top;white-space:nowrap}
.ib-card thead th{font-weight:600;font-size:.82rem;vertical-align:bottom;padding-top:0;
  border-bottom:1.5px solid color-mix(in srgb,currentColor 45%,transparent)}
.ib-card thead th span{font-weight:400}
.ib-card th:first-child,.ib-card td.ib-left,.ib-card thead th.ib-left{text-align:left}
.ib-card tbody th{font-weight:600;padding-left:0}
.ib-card thead th:first-child{padding-left:0}
.ib-card .ib-sub{display:block;font-size:.8rem;font-weight:400;opacity:.72}
.ib-card .ib-mark{display:inline-block;width:1.15rem;font-weight:400}
.ib-card .ib-why{white-space:normal;opacity:.92}
.ib-card .ib-who{white-space:normal;min-width:11rem;max-width:24rem}
.ib-card .ib-open{border-bottom:0;padding-bottom:0}
.ib-card .ib-told{padding:.1rem .38rem .5rem 1.15rem;font-size:.88rem;line-height:1.35}
.ib-card .ib-mark~.ib-sub{padding-left:1.15rem}
.ib-card tbody th:has(>.ib-mark){white-space:normal;min-width:9.5rem;padding-left:1.15rem;text-indent:-1.15rem}
.ib-card tbody th>.ib-mark,.ib-card tbody th>.ib-mark~.ib-sub{padding-left:0;text-indent:0;white-space:nowrap}
.ib-card .ib-verdict{white-space:normal;min-width:6.6rem}
.ib-card .ib-strong{font-weight:600}
.ib-card .ib-asked{white-space:normal;min-width:10.5rem}
.ib-card .ib-value{max-width:26rem;font-weight:600;overflow-wrap:anywhere}
.ib-card .ib-name{overflow-wrap:anywhere;min-width:9rem}
.ib-said{margin:0 0 .6rem;padding-left:1.1rem;line-height:1.4;max-width:72rem}
.ib-said li{margin:.15rem 0}
.ib-muted{opacity:.75;font-size:.92rem}
.ib-card tr.ib-base{background:color-mix(in srgb,currentColor 4%,transparent)}
"""


def glyph(mark: Mark, is_solid: bool) -> str:
    """The variant's mark as a coloured character; pass `is_solid` for a row that is `usable`, else it is hollow."""
    shapes = GLYPHS.get(mark.symbol, "★☆")
    shown = shapes[0] if is_solid else shapes[1]
    return f'<span class=ib-mark style="color:{mark.color}" aria-hidden="true">{shown}</span>'


def cell(value: str, below: str) -> str:
    return f"<td>{value}{sub_line(below)}</td>"


def sub_line(text: str) -> str:
    return f"<span class=ib-sub>{text}</span>" if text else ""


def table(label: str, head: str, body: str) -> str:
    """An HTML table with the accessible name `label`. A table that is too wide scrolls sideways."""
    return (
        f'<style>{CSS}</style><div class=ib-card><table aria-label="{escape(label)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
