"""Compare page: variants of one or several runs against any of them: figures, distributions, differing settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import plotly.graph_objects as go
import streamlit as st

from dashboard import figures, run_rows
from dashboard.controls import charts, run_choice, widgets
from dashboard.data import reads
from dashboard.figures import base
from dashboard.findings import comparing, headlines, settings
from dashboard.findings.comparing import Evidence, Side
from dashboard.run_rows import Row
from dashboard.style import Theme
from dashboard.tables import comparison, facts
from engine.report import words

OFFERED = 1000
"""Number of runs, the newest ones, offered for comparison with the chosen run."""


def main() -> None:
    left, right = st.columns([5, 6], vertical_alignment="center")
    with left:
        run_id = run_choice.choose_run()
    with right:
        others = _other_runs(run_id)
    widgets.state_of(reads.run(run_id))
    _comparison([run_id, *others])


@charts.charts_fragment
def _comparison(run_ids: list[str]) -> None:
    """Draw the comparison of the runs, the chosen run first."""
    sides = [_side(letter, run) for letter, run in zip(comparing.LETTERS, run_ids, strict=False)]
    everything = comparing.tagged(sides)
    if not everything:
        st.header("This run holds no measurements.")
        st.stop()
    sizes, baseline, variants = _choices(everything)
    rows = comparing.chosen(everything, sizes, variants, baseline)
    rows = comparing.against(rows, everything, baseline, evidence := _evidence(sides, everything, rows, baseline))
    look = widgets.look()
    _answer(sides, rows, look)
    if not any(row.status == "measured" for row in rows):
        st.stop()
    _how_compared(rows)
    _charts(sides, everything, rows, evidence, look)
    _changes(sides, rows, evidence)
    _settings(sides, rows)
    _notes(rows)
    charts.save_charts(f"{charts.stem(sides[0].summary)}-compare")


def _other_runs(run_id: str) -> list[str]:
    """Return the ids of the runs to compare with the chosen one."""
    known = {other: (suite, created) for other, suite, created in reads.named(OFFERED) if other != run_id}
    return st.multiselect(
        "Beside",
        list(known),
        # The URL holds this text, so it has only the parts of a run's label that never change.
        format_func=lambda other: f"{known[other][0]} · {run_choice.when(known[other][1])} · {other[-6:]}",
        max_selections=len(comparing.LETTERS) - 1,
        select_all=False,
        key="beside",
        bind="query-params",
        placeholder="This run alone; add others to compare",
        label_visibility="collapsed",
    )


def _side(letter: str, run_id: str) -> Side:
    summary = reads.run(run_id)
    return Side(letter, summary, reads.measurements(summary))


def _choices(everything: list[Row]) -> tuple[list[int], str, list[str]]:
    """Return batch sizes, baseline and variants; a control for batch sizes appears only if there are several."""
    known = comparing.sizes_of(everything)
    usual = [size] if (size := comparing.usual_size(everything)) is not None else known
    widths = [4, 2, 5] if len(known) > 1 else [5, 6]
    columns = st.columns(widths, vertical_alignment="bottom")
    sizes = usual
    if len(known) > 1:
        with columns[1]:
            picked = st.segmented_control(
                "Batch sizes",
                known,
                selection_mode="multi",
                default=usual,
                key="sizes",
                bind="query-params",
            )
        sizes = list(picked or usual)
    able, labels = comparing.baselines(everything), comparing.variants(everything)
    with columns[0]:
        baseline = st.selectbox(
            "Baseline",
            list(able),
            format_func=able.__getitem__,
            key="against",
            bind="query-params",
            help="Everything here is compared with this row. A baseline other than the run's own is compared from the "
            "same stored rounds and answers.",
        )
    with columns[-1]:
        variants = st.multiselect(
            "Variants",
            list(labels),
            format_func=labels.__getitem__,
            key="shown",
            bind="query-params",
            placeholder="All variants",
        )
    return sizes, str(baseline), variants or list(labels)


def _evidence(sides: list[Side], everything: list[Row], rows: list[Row], baseline: str) -> Evidence:
    """Read only the raw values that the comparison and the distributions need."""
    raws: dict[int, Any] = {}
    outputs: dict[int, Any] = {}
    labels: dict[str, Any] = {}
    phases = {(row.run, row.phase) for row in rows}
    answers = comparing.needs_answers(rows, baseline)
    for side in sides:
        ids = tuple(
            row.id
            for row in everything
            if row.run == side.letter and (row.run, row.phase) in phases and row.status == "measured"
        )
        if not ids:
            continue
        raws |= reads.raws(side.summary["id"], ids)
        set_id = side.summary["example_set_id"]
        if answers and set_id is not None:
            if len(sides) > 1:
                # Changes between runs are reported for every batch size.
                ids = tuple(row.id for row in side.stored if row.status == "measured")
            outputs |= reads.outputs(side.summary["id"], ids)
            labels[set_id] = reads.labels(set_id)
    return Evidence(raws, outputs, labels)


def _answer(sides: list[Side], rows: list[Row], look: Theme) -> None:
    headline = comparing.headline(sides, rows)
    st.header(headlines.literal(headline.finding), anchor=False)
    if headline.detail:
        st.write(headlines.literal(headline.detail))
    if len(sides) > 1:
        lines = [f"**{side.letter}** · {headlines.literal(run_choice.label(side.summary))}" for side in sides]
        st.caption("  \n".join(lines))
    st.html(comparison.comparison(rows, look))


def _how_compared(rows: list[Row]) -> None:
    differences = [row for row in rows if row.accuracy_p is not None]
    among = f" over the {len(differences)} rows here" if len(differences) > 1 else ""
    st.caption(
        f"Parentheses and ranges: 95% intervals. Speed-up: samples/s over the baseline's {words.rounds_words(rows)}. "
        f"Accuracy: exact McNemar on the same examples, corrected by Holm{among}. p95, p99 and memory have "
        "no interval, so no verdict is drawn from them."
        + (
            " †: from another run: its speed-up over its own run's baseline, divided by that of the baseline here; "
            "not paired."
            if any(row.across is not None for row in rows)
            else ""
        )
    )


def _charts(sides: list[Side], everything: list[Row], rows: list[Row], evidence: Evidence, look: Theme) -> None:
    naming = Naming(
        charts.stem(sides[0].summary),
        "; ".join(
            f"{side.letter}: " * (len(sides) > 1)
            + base.source(side.summary, [row for row in rows if row.run == side.letter])
            for side in sides
        ),
    )
    st.subheader("Latency of every timed call", anchor=False)
    timed = {row.id: evidence.raws[row.id].latencies_s() for row in rows if row.id in evidence.raws}
    _chart(
        figures.ecdf(rows, timed, look),
        "ecdf",
        naming,
        "; ".join(comparing.distribution_words(row) for row in rows if row.id in timed),
    )
    others = [row for row in rows if not row.baseline]
    draw: list[tuple[str, go.Figure]] = []
    if any(row.speedup is not None or row.across is not None for row in others):
        draw.append(("speedup", figures.speedups(rows, look)))
    if any(row.accuracy_difference is not None for row in others):
        draw.append(("accuracy", figures.accuracy_differences(rows, look)))
    if any(row.memory_bytes is not None for row in rows):
        draw.append(("memory", figures.memory(rows, look)))
    st.subheader("Speed, accuracy, memory", anchor=False)
    _two_by_two(draw, naming)
    sized = comparing.over_sizes(everything, rows)
    if sized:
        st.subheader("Over batch size", anchor=False)
        _two_by_two(
            [
                ("batch-throughput", figures.over_batch_size(sized, look)),
                ("batch-latency", figures.over_batch_size(sized, look, "latency_p50_s")),
            ],
            naming,
        )
    # Published figures are compared with their own baseline, so the measured rows are compared with theirs here too.
    names = {row.id: row.name for row in rows}
    own = [replace(row, name=names[row.id]) for row in everything if row.id in names]
    reported = reads.published()
    if figures.pairs(own, reported):
        st.subheader("Measured beside published", anchor=False)
        _chart(figures.published(own, reported, look), "published", naming)


def _two_by_two(draw: list[tuple[str, go.Figure]], naming: Naming) -> None:
    """Draw two charts per row; an odd last chart is as wide as both."""
    even = len(draw) // 2 * 2
    if even:
        with st.grid(2, min_column_width=520, gap="medium"):
            for name, figure in draw[:even]:
                _chart(figure, name, naming)
    for name, figure in draw[even:]:
        _chart(figure, name, naming)


def _chart(figure: go.Figure, name: str, naming: Naming, alt: str | None = None) -> None:
    charts.chart(figure, f"compare_{name}", f"{naming.stem}-compare-{name}", alt, source=naming.source)


class Naming(NamedTuple):
    """The beginning of a saved chart's file name, and the note of its origin."""

    stem: str
    source: str


def _changes(sides: list[Side], rows: list[Row], evidence: Evidence) -> None:
    shown, unshown = comparing.changes(sides, rows, evidence)
    baseline = run_rows.baseline_of(rows)
    alone = f" against {baseline.title}" if baseline and len(sides) == 1 else ""
    if shown or unshown:
        st.subheader(headlines.literal(f"What changes{alone}" if alone else "What changed"), anchor=False)
    widgets.sentences(shown, unshown)


def _settings(sides: list[Side], rows: list[Row]) -> None:
    st.subheader("Settings that differ", anchor=False)
    every = settings.settings(sides, rows)
    differing = [setting for setting in every if not setting.partial]
    if differing:
        st.html(comparison.settings(differing))
    else:
        st.caption("Nothing differs among these rows.")
    if partial := [setting for setting in every if setting.partial]:
        with st.expander(f"Settings that only some of them have ({len(partial)})"):
            st.html(comparison.settings(partial))


def _notes(rows: list[Row]) -> None:
    notes = headlines.notes(rows)
    if notes:
        st.subheader("Notes", anchor=False)
        st.html(facts.notes_table(notes))


widgets.behind_the_door()
main()
