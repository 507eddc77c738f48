"""Examples page: the texts on which variants disagree, by kind of flip, class and words, with confusion matrices."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zlib import crc32

import numpy as np
import streamlit as st

from dashboard import run_rows
from dashboard.controls import choices, run_choice, widgets
from dashboard.controls.link import moved
from dashboard.data import reads
from dashboard.data.answers import Answers
from dashboard.export import sheets
from dashboard.findings import disagreements, headlines
from dashboard.findings.disagreements import KINDS, Kind, Wanted
from dashboard.style import marks
from dashboard.tables import examples
from dashboard.tables.examples import Column, Text
from engine.suite.spec import suite_files

PAGE_TEXTS = 20
WORDS = 8
"""The most words that a search looks for."""
URL_CHARACTERS = 1500
"""A link names a longer text by its run and position instead of containing it."""
KIND = "flip"
OF, FROM, LABEL, WAS, SAID, SEARCH, PAGE = (
    f"flip_{name}" for name in ("of", "from", "label", "was", "said", "words", "page")
)
ANY = -1
MANY = 12
"""The most variants that are offered as buttons and whose answers stand in columns. If more are chosen, the columns
show those that differ most."""


def main() -> None:
    left, right = st.columns([8, 3], vertical_alignment="center")
    summary, measured, size = choices.choose_measurements(left, right)
    widgets.state_of(summary)
    rows = run_rows.at_batch(measured, size)
    found = reads.answers(summary, rows)
    if not found.ids:
        _nothing(summary, found)
        return
    columns = _columns(rows, found)
    reference, others = _compared(columns)
    titles = {column.at: column.name for column in columns}
    said = disagreements.headline(found, titles, reference.at, [column.at for column in others])
    st.header(headlines.literal(f"{said}."), anchor=False)
    st.caption(headlines.literal(_context(summary, found, rows)))
    if not others:
        others = [reference]
    _texts(summary, found, reference, others, size)
    _confusion(found, reference, others, partial(_link, summary["id"], size, reference))


def _nothing(summary: dict[str, Any], found: Answers) -> None:
    if summary["status"] in reads.LIVE:
        st.header("No answers yet", anchor=False)
        st.caption("A variant's answers appear here as soon as it has been measured.")
    else:
        st.header("This run holds no answers to compare", anchor=False)
        st.caption("No variant got as far as answering the examples.")
    _left_out(found)


def _left_out(found: Answers) -> None:
    for name, reason in found.left_out:
        st.caption(headlines.literal(f"○ {name} is left out: {reason}."))


def _columns(rows: list[run_rows.Row], found: Answers) -> list[Column]:
    """Return the variants that can be compared, the baseline first."""
    by_id = {row.id: row for row in rows}
    shades = marks(rows, widgets.look())
    times = Counter(row.name for row in rows)
    columns = []
    for at, measurement_id in enumerate(found.ids):
        row = by_id[measurement_id]
        name = row.name if times[row.name] == 1 else f"{row.name} ({row.variant})"
        columns.append(Column(at, name, row, shades[row.variant]))
    return sorted(columns, key=lambda column: not column.row.baseline)


def _compared(columns: list[Column]) -> tuple[Column, list[Column]]:
    """Return the reference and the variants that are compared with it."""
    names = [column.name for column in columns]
    if len(columns) == 1:
        return columns[0], []
    left, right = st.columns([8, 3])
    # The right control comes first: its choice is not offered on the left.
    against = right.selectbox("Against", names, key=FROM, bind="query-params")
    reference = next(column for column in columns if column.name == against)
    offered = [column for column in columns if column is not reference]
    usable = [headlines.literal(column.name) for column in offered if run_rows.usable(column.row)]
    if len(offered) > MANY:
        # This many buttons would fill the screen.
        every = [headlines.literal(column.name) for column in offered]
        chosen = left.multiselect("Compared", every, key=OF, bind="query-params", placeholder="All variants")
    else:
        chosen = left.pills(
            "Compared",
            [headlines.literal(column.name) for column in offered],
            selection_mode="multi",
            default=usable,
            key=OF,
            bind="query-params",
            wrap=True,
        )
    names_compared = chosen or usable
    return reference, [column for column in offered if headlines.literal(column.name) in names_compared]


def _context(summary: dict[str, Any], found: Answers, rows: list[run_rows.Row]) -> str:
    dataset = summary["spec"]["workload"]["dataset"].rsplit("/", 1)[-1]
    sizes = ", ".join(str(size) for size in sorted({row.batch_size for row in rows if row.id in found.ids}))
    labels = "" if found.truth is not None else " · unlabelled: the right answers are not known"
    if run_rows.untaught(rows):
        labels += " · random weights: right answers are chance"
    return (
        f"{len(found.answers):,} texts of {dataset} · batch {sizes} · {summary['device_name']} "
        f"({summary['device']}){labels} · counts of this run's texts, not estimates; the Overview says whether "
        "accuracy differs."
    )


def _link(run_id: str, size: int | None, reference: Column, **choice: Any) -> str:
    """Return the address of this page with the run, batch size and reference kept and with `choice` applied."""
    kept = {
        run_choice.PARAMETER: run_id,
        **({"batch": f"batch {size}"} if size else {}),
        **({} if reference.row.baseline else {FROM: reference.name}),
    }
    return "examples?" + urlencode(kept | choice)


# The texts are a fragment of their own, so that a changed condition redraws neither the choice of run nor the matrices.


@st.fragment
def _texts(summary: dict[str, Any], found: Answers, reference: Column, others: list[Column], size: int | None) -> None:
    at = [column.at for column in others]
    each = disagreements.by_variant(found, reference.at, at)
    link = partial(_link, summary["id"], size, reference)
    st.html(
        examples.by_variant(
            others,
            each,
            len(found.answers),
            lambda column, kind: link(**{OF: headlines.literal(column.name), KIND: kind}),
        )
    )
    _left_out(found)
    wanted, words = _filters(found, reference, others)
    among = reads.positions_with(summary["example_set_id"], words) if words else None
    kind = _kind(disagreements.counts(found, wanted, reference.at, at, among))
    wanted = wanted._replace(kind=kind)
    positions = disagreements.chosen(found, wanted, reference.at, at, among)
    pages = max(1, -(-len(positions) // PAGE_TEXTS))
    count, save = st.columns([8, 3], vertical_alignment="center")
    table = st.container()
    page = _page(pages, (summary["id"], size, reference.name, tuple(at), wanted, words))
    shown = positions[(page - 1) * PAGE_TEXTS : page * PAGE_TEXTS]
    columns = [reference, *(column for column in others if column is not reference)]
    drawn = [reference, *_foremost(found, reference, columns[1:])]
    with count:
        if not len(positions):
            st.caption("No text matches. Fewer conditions, another kind or other words show more.")
        else:
            first = (page - 1) * PAGE_TEXTS + 1
            signs = "✓ right, ✗ wrong; " if found.truth is not None else ""
            few = f" The {MANY} variants that differ most; choose others above." if len(columns) > len(drawn) else ""
            st.caption(
                f"Texts {first:,} to {first + len(shown) - 1:,} of {len(positions):,}, in the run's order. {signs}"
                f"= same as the first answer, ≠ different; % is the answer's probability.{few}"
            )
    save.download_button(
        f"{len(positions):,} texts as CSV",
        data=partial(_csv, summary["example_set_id"], positions, found, columns),
        file_name=f"{summary['suite']}-{summary['id'][-6:].lower()}-{kind}.csv",
        mime="text/csv",
        on_click="ignore",
        disabled=not len(positions),
        width="stretch",
        key="flips_csv",
    )
    if len(shown):
        texts = [
            Text(
                item["position"],
                item["source_index"],
                item["text"],
                _classify(summary, item["position"], item["text"]),
            )
            for item in reads.examples_at(summary["example_set_id"], shown)
        ]
        table.html(examples.texts(texts, found, reference, drawn[1:]))


def _foremost(found: Answers, reference: Column, others: list[Column]) -> list[Column]:
    """Return at most MANY of `others`, those that differ most from the reference, in their own order."""
    foremost = disagreements.foremost(found, reference.at, [column.at for column in others], MANY)
    return [column for column in others if column.at in foremost]


def _page(pages: int, choice: tuple[Any, ...]) -> int:
    """Return the page to show. It is written to the URL here, because another choice begins on its first page."""
    key = f"{PAGE}_{crc32(repr(choice).encode()):08x}"
    followed = moved(PAGE)
    if st.session_state.get("flip_now", key) != key and not followed:
        st.query_params.pop(PAGE, None)
    st.session_state["flip_now"] = key
    if pages == 1:
        return 1
    if followed or key not in st.session_state:
        requested = st.query_params.get(PAGE, "")
        known = requested.isascii() and requested.isdigit() and 1 <= int(requested[:9]) <= pages
        st.session_state[key] = int(requested[:9]) if known else 1
    return st.pagination(pages, key=key, on_change=_remember_page, args=(key,))


def _remember_page(key: str) -> None:
    st.query_params[PAGE] = str(st.session_state[key])


def _csv(set_id: str, positions: np.ndarray, found: Answers, columns: list[Column]) -> bytes:
    return sheets.written(*examples.sheet(reads.examples_at(set_id, positions), found, columns))


def _filters(found: Answers, reference: Column, others: list[Column]) -> tuple[Wanted, tuple[str, ...]]:
    """Draw the filters; return the conditions on labels and answers, and the words to search for."""
    options = [ANY, *range(len(found.names))]
    cells = st.columns(4 if found.truth is not None else 3, vertical_alignment="bottom")
    label = ANY
    if found.truth is not None:
        label = _label(cells[0], "Label", options, found.names, LABEL)
    was = _label(cells[-3], f"{reference.name} answers", options, found.names, WAS)
    who = others[0].name if len(others) == 1 else "A compared variant"
    said = _label(cells[-2], f"{who} answers", options, found.names, SAID)
    typed = cells[-1].text_input(
        "Words in the text",
        key=SEARCH,
        bind="query-params",
        placeholder="all of these words",
        max_chars=200,
        help="Case does not matter.",
    )
    none = lambda index: None if index == ANY else index  # noqa: E731
    return Wanted("other", none(label), none(was), none(said)), _words(typed)


def _label(cell: Any, title: str, options: list[int], names: list[str], key: str) -> int:
    index = cell.selectbox(
        headlines.literal(title),
        options,
        format_func=lambda index: "any" if index == ANY else names[index],
        key=key,
        bind="query-params",
    )
    return ANY if index is None else int(index)


def _words(typed: str | None) -> tuple[str, ...]:
    """Return the words to search for, without characters that no database accepts."""
    plain = (typed or "").encode("utf-8", "ignore").decode().replace("\0", " ")
    return tuple(plain[:200].split()[:WORDS])


def _kind(counts: dict[Kind, int]) -> Kind:
    """Return the chosen kind. The code writes it to the URL itself: a bound control would write the changing counts."""
    if moved(KIND) or KIND not in st.session_state:
        st.session_state[KIND] = st.query_params.get(KIND)
    if st.session_state[KIND] not in counts:
        st.session_state[KIND] = next(iter(counts))
    st.segmented_control(
        "Kind of text",
        list(counts),
        format_func=lambda kind: f"{KINDS[kind]} · {counts[kind]:,}",
        key=KIND,
        required=True,
        on_change=_remember_kind,
        label_visibility="collapsed",
        wrap=True,
    )
    return st.session_state[KIND] or next(iter(counts))


def _remember_kind() -> None:
    # One update for both: each write to the URL is a step of the browser's Back.
    first_page = {PAGE: "1"} if PAGE in st.query_params else {}
    st.query_params.update({KIND: st.session_state[KIND]} | first_page)


def _classify(summary: dict[str, Any], position: int, text: str) -> str:
    """Return the address of the Classify page with a text and the run's suite."""
    known, path = suite_files(), summary["suite_path"] or ""
    here = {"text": text} if len(text) <= URL_CHARACTERS else {"example": f"{summary['id']}:{position}"}
    stem = Path(path).stem
    if stem in known and (Path(path) == known[stem] or not Path(path).exists()):
        # For a run from another machine, the bench's own suite of that name is the same suite.
        here["suite"] = stem
    elif path and Path(path).exists():
        here |= {"suite": choices.FILE, "suite_file": path}
    return "classify?" + urlencode(here, errors="replace")


# Confusion


def _confusion(found: Answers, reference: Column, others: list[Column], link: Any) -> None:
    st.subheader("Confusion", anchor=False)
    caption = "A count off the diagonal links to its texts."
    if found.truth is not None:
        caption = f"Left against the labels, right against {reference.name}'s answers. {caption}"
    compared = [other for other in others if other is not reference]
    foremost = _foremost(found, reference, compared)
    if len(foremost) < len(compared):
        caption += f" The {MANY} variants that differ most; choose others above."
    st.caption(headlines.literal(caption))
    for column in (reference, *foremost):
        against: list[Column | None] = [None] if found.truth is not None else []
        against += [reference] if column is not reference else []
        with st.grid(2, min_column_width=440, gap="medium"):
            for other in against:
                with st.container():
                    _matrix(found, column, other, reference, link)


def _matrix(found: Answers, column: Column, against: Column | None, reference: Column, link: Any) -> None:
    names = found.names
    counts = disagreements.confusion(found, column.at, None if against is None else against.at)
    own = {OF: headlines.literal(column.name)}
    if against is None:
        title, rows = f"{column.name} against the labels", "label"
        # The reference is not among the compared ones.
        mine, answer = ({}, WAS) if column is reference else (own, SAID)
        there = lambda i, j: link(**mine, **{KIND: "all", LABEL: names[i], answer: names[j]})  # noqa: E731
    else:
        title, rows = f"{column.name} against {against.name}", against.name
        there = lambda i, j: link(**own, **{KIND: "other", WAS: names[i], SAID: names[j]})  # noqa: E731
    st.html(examples.matrix(title, names, counts, column.mark, rows, there))


widgets.behind_the_door()
main()
