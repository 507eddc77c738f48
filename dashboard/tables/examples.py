"""HTML tables of the texts on which variants disagree. Pure. Text from data sets is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from dashboard.data.answers import Answers
from dashboard.findings.disagreements import FLIPS, KINDS, Kind
from dashboard.run_rows import Row, usable
from dashboard.style import Mark
from dashboard.tables import answers, html
from engine.units import NOTHING, percent, whole

SHOWN_CHARACTERS = 260
UNFOLDED_CHARACTERS = 6000
"""The most characters of a text that a page shows. Classify gets the whole text."""
MATRIX_LABELS = 12
"""With more labels, a list of the commonest confusions replaces the matrix, which would be too large to read."""
PAIRS = 15
CSS = """
.ib-ex td,.ib-ex tbody th{padding-top:.34rem;padding-bottom:.34rem}
.ib-ex td.ib-text{white-space:normal;text-align:left;min-width:clamp(10rem,17vw,17rem);max-width:46rem;
  unicode-bidi:plaintext;overflow-wrap:anywhere}
.ib-ex details>summary{cursor:pointer;list-style:none}
.ib-ex details>summary::after{content:" more";opacity:.72;text-decoration:underline}
.ib-ex details[open]>summary::after{content:""}
.ib-ex details[open]>summary span{display:none}
.ib-ex thead th.ib-wrap{white-space:normal;min-width:5.8rem}
.ib-ex thead .ib-mark{width:auto;margin-right:.35em}
.ib-ex thead .ib-mark~.ib-sub{padding-left:0}
.ib-ex .ib-beside{font-weight:400;font-size:.85rem;opacity:.72;margin-left:.6em}
.ib-ex table[aria-label^="Flips"]{max-width:72rem}
.ib-ex .ib-same{opacity:.72}
.ib-ex .ib-same .ib-sub{opacity:1}
.ib-ex .ib-not{font-weight:600}
.ib-ex a{color:inherit;text-decoration:underline;text-underline-offset:.15em;text-decoration-thickness:1px}
.ib-ex a.ib-go{white-space:nowrap}
.ib-ex .ib-zero{opacity:.68}
.ib-ex caption{caption-side:top;text-align:left;font-size:.88rem;padding:0 0 .35rem;white-space:normal}
.ib-ex .ib-diagonal{font-weight:600}
@media (max-width:1214px){
.ib-many thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.ib-many tr{display:flex;flex-wrap:wrap;gap:.1rem .9rem;padding:.4rem 0;border-bottom:1px solid
  color-mix(in srgb,currentColor 14%,transparent)}
.ib-many tbody th,.ib-many tbody td{border:0;padding:.1rem 0}
.ib-many tbody td{flex:0 0 6.6rem}
.ib-many td.ib-text{flex:1 1 calc(100% - 4rem);max-width:none}
.ib-many td[data-of]::before{content:attr(data-of);display:block;font-size:.8rem;opacity:.72;font-weight:400}
}
"""
MANY = 6
"""From this many compared variants on, a narrow window shows them below their text, as beside it they would not fit."""


@dataclass(frozen=True)
class Column:
    """One variant of the table: its place in the answers and how it looks."""

    at: int
    name: str
    row: Row
    mark: Mark


@dataclass(frozen=True)
class Text:
    """One example to show."""

    position: int
    source_index: int
    text: str
    link: str
    """The page on which a click opens the text."""


def texts(shown: Sequence[Text], found: Answers, reference: Column, others: Sequence[Column]) -> str:
    """One row per text: its label, the reference's answer, and every compared answer with a sign and probability."""
    labelled = found.truth is not None
    head = '<th scope="col" class="ib-left">Row</th><th scope="col" class="ib-left">Text</th>'
    head += '<th scope="col" class="ib-left">Label</th>' if labelled else ""
    for column in (reference, *others):
        about = "compared with" if column is reference else _about(column)
        glyph = html.glyph(column.mark, usable(column.row))
        head += (
            f'<th scope="col" class="ib-left ib-wrap">{glyph}{escape(column.name)}'
            f"<span class=ib-sub>{escape(about)}</span></th>"
        )
    head += '<th scope="col" class="ib-left">Try it</th>'
    body = ""
    for item in shown:
        truth = int(found.truth[item.position]) if found.truth is not None else None
        label = f'<td class="ib-left">{escape(found.names[truth])}</td>' if truth is not None else ""
        cells = "".join(_answer(found, item.position, truth, column, reference) for column in (reference, *others))
        body += (
            f'<tr><th scope="row">{item.source_index:,}</th><td class="ib-text" dir="auto">{_text(item.text)}</td>'
            f'{label}{cells}<td class="ib-left"><a class="ib-go" href="{escape(item.link)}" '
            f'aria-label="Classify the text of row {item.source_index}">Classify →</a></td></tr>'
        )
    return _table("Texts and answers", head, body, many=len(others) >= MANY)


def _text(text: str) -> str:
    short = answers.shortened(text, SHOWN_CHARACTERS)
    whole_text = answers.shortened(text, UNFOLDED_CHARACTERS)
    if whole_text == short:
        return escape(short)
    return f"<details><summary><span>{escape(short)}</span></summary>{escape(whole_text)}</details>"


def _answer(found: Answers, position: int, truth: int | None, column: Column, reference: Column) -> str:
    said = int(found.answers[position, column.at])
    share = float(found.confidence[position, column.at])
    right = "" if truth is None else ("✓ " if said == truth else "✗ ")
    same = said == int(found.answers[position, reference.at])
    sign = "" if column is reference else ("= " if same else "≠ ")
    css = "" if column is reference else (" ib-same" if same else " ib-not")
    shown = f"{percent(share)} %" if np.isfinite(share) else NOTHING
    answer = f"{sign}{right}{escape(found.names[said])}<span class=ib-sub>{shown}</span>"
    return f'<td class="ib-left{css}" data-of="{escape(column.name)}">{answer}</td>'


def by_variant(
    columns: Sequence[Column], counts: Sequence[Mapping[Kind, int]], n: int, link: Callable[[Column, Kind], str]
) -> str:
    """One row per compared variant, one column per kind of flip. Each count links to its texts."""
    flips = [kind for kind in FLIPS if any(kind in count for count in counts)]
    head = '<th scope="col">Variant</th>' + "".join(
        f'<th scope="col">{escape(KINDS[kind])}<span class=ib-sub>'
        f"{f'of {n:,} texts, %' if kind == 'other' else 'texts'}</span></th>"
        for kind in flips
    )
    body = ""
    for column, count in zip(columns, counts, strict=True):
        cells = ""
        for kind in flips:
            share = f"<span class=ib-beside>{percent(count[kind] / n)} %</span>" if kind == "other" and n else ""
            cells += f"<td>{_count(count[kind], link(column, kind))}{share}</td>"
        body += (
            f'<tr><th scope="row">{html.glyph(column.mark, usable(column.row))}{escape(column.name)}'
            f"<span class=ib-beside>{escape(_about(column))}</span></th>{cells}</tr>"
        )
    return _table("Flips by variant", head, body)


def _about(column: Column) -> str:
    doubt = " · ✗ invalid" if column.row.validity == "invalid" else ""
    return f"{column.row.backend} {column.row.precision}{doubt}"


def _count(count: int, link: str) -> str:
    return f'<a href="{escape(link)}">{count:,}</a>' if count else "<span class=ib-zero>0</span>"


def matrix(
    title: str, names: Sequence[str], counts: np.ndarray, mark: Mark, rows: str, link: Callable[[int, int], str]
) -> str:
    """A confusion matrix: one line per label or answer as `rows` names it, one column per answer.

    `counts` is int64 [labels, labels]. Cells off the diagonal link to their texts, and more texts give a darker cell.
    With more than MATRIX_LABELS labels, the table lists the commonest confusions instead.
    """
    off = counts.copy()
    np.fill_diagonal(off, 0)
    most = int(off.max()) if off.size else 0
    if len(names) > MATRIX_LABELS:
        return _pairs(title, names, off, rows, link)
    head = f'<th scope="col">{escape(rows)} ↓ answer →</th>' + "".join(
        f'<th scope="col" class="ib-wrap">{escape(name)}</th>' for name in names
    )
    body = ""
    for i, name in enumerate(names):
        cells = ""
        for j in range(len(names)):
            count = int(counts[i, j])
            if i == j:
                cells += f'<td class="ib-diagonal">{whole(count)}</td>'
                continue
            strength = round(38 * count / most) if most else 0
            shade = f' style="background:color-mix(in srgb,{mark.color} {strength}%,transparent)"' if count else ""
            cells += f"<td{shade}>{_count(count, link(i, j))}</td>"
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return _table(title, head, body, title)


def _pairs(title: str, names: Sequence[str], off: np.ndarray, rows: str, link: Callable[[int, int], str]) -> str:
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    head = "".join(f'<th scope="col" class="ib-left">{escape(name)}</th>' for name in (rows, "Answer"))
    body = ""
    for i, j in zip(*np.unravel_index(order, off.shape), strict=True):
        if count := int(off[i, j]):
            body += (
                f'<tr><th scope="row">{escape(names[i])}</th><td class="ib-left">{escape(names[j])}</td>'
                f"<td>{_count(count, link(int(i), int(j)))}</td></tr>"
            )
    body = body or '<tr><td class="ib-left" colspan="3">none</td></tr>'
    return _table(title, head + '<th scope="col">Texts</th>', body, f"{title}: the commonest of {len(names)} labels")


def sheet(
    shown: Sequence[dict[str, Any]], found: Answers, columns: Sequence[Column]
) -> tuple[list[str], list[list[object]]]:
    """Header and rows of a file with the texts `shown` (position, source_index, text), the reference's answer first."""
    head = ["row", "text", *(["label"] if found.truth is not None else [])]
    for column in columns:
        head += [f"{column.name}: answer", f"{column.name}: probability"]
    rows: list[list[object]] = []
    for item in shown:
        at = item["position"]
        row: list[object] = [item["source_index"], item["text"]]
        if found.truth is not None:
            row.append(found.names[found.truth[at]])
        for column in columns:
            row += [found.names[found.answers[at, column.at]], round(float(found.confidence[at, column.at]), 4)]
        rows.append(row)
    return head, rows


def _table(label: str, head: str, body: str, caption: str = "", many: bool = False) -> str:
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    css = "ib-card ib-ex ib-many" if many else "ib-card ib-ex"
    return (
        f'<style>{html.CSS}{CSS}</style><div class="{css}"><table aria-label="{escape(label)}">{said}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
