"""Overview page: one run's headline, scorecard, trade-off, the study's four comparisons, published results, notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard import figures, run_rows
from dashboard.controls import charts, choices, run_choice, widgets
from dashboard.data import reads
from dashboard.export import report
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import Theme
from dashboard.tables import comparison, facts, scorecard
from engine.report import takeaways

EXAMPLES = "app_pages/examples.py"
ROOFLINE = "app_pages/roofline.py"


MIME = {
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "html": "text/html",
    "csv": "text/csv",
    "json": "application/json",
    "md": "text/markdown",
    "tex": "application/x-tex",
}


def main() -> None:
    left, middle, right = st.columns([6, 3, 2], vertical_alignment="center")
    summary, measured, size = choices.choose_measurements(left, middle)
    look = widgets.look()
    rows = run_rows.at_batch(measured, size)
    with right:
        _downloads(summary, measured, size, look)
    widgets.state_of(summary)
    if not rows:
        st.header("This run holds no measurements.")
        st.stop()
    _first_screen(summary, rows, look)
    if any(row.status == "measured" for row in rows):
        _takeaways(rows)
        _comparisons(summary, measured, rows, look)
        _evidence(summary["id"], rows, look)
        _by_label(summary["id"], rows, look)
        _published(summary, rows, look)
        _notes(rows)
        charts.save_charts(charts.stem(summary))


def _first_screen(summary: dict[str, Any], rows: list[Row], look: Theme) -> None:
    headline = headlines.headline(rows)
    st.header(headlines.literal(headline.finding), anchor=False)
    if headline.detail:
        st.write(headlines.literal(headline.detail))
    st.caption(headlines.literal(headlines.context(summary, rows)))
    if summary["suite"] == choices.FIRST:
        widgets.small_models(rows)
    if not any(row.status == "measured" for row in rows):
        st.html(scorecard.scorecard(rows, look))
        return
    left, right = charts.table_and_charts("tradeoff")
    with left:
        st.html(scorecard.scorecard(rows, look))
    with right:
        charts.chart(figures.tradeoff(rows, look), "tradeoff", f"{charts.stem(summary)}-tradeoff")


def _comparisons(summary: dict[str, Any], measured: Sequence[Row], rows: Sequence[Row], look: Theme) -> None:
    # The answers of random weights mean nothing, so energy takes the place of accuracy.
    energy = run_rows.untaught(rows) and any(row.figure(headlines.ENERGY) is not None for row in rows)
    st.subheader(f"Latency, throughput, memory, {'energy' if energy else 'accuracy'}", anchor=False)
    draw: list[tuple[str, Callable[[Sequence[Row], Theme], go.Figure]]] = [
        ("latency", figures.latency),
        ("throughput", figures.throughput),
        ("memory", figures.memory),
        ("energy", figures.energy) if energy else ("accuracy", figures.accuracy),
    ]
    # The charts stand two by two or four in a row, never three and one.
    with st.grid(2, min_column_width=1100, gap="medium"):
        for pair in (draw[:2], draw[2:]):
            with st.grid(2, min_column_width=520, gap="medium"):
                for name, make in pair:
                    charts.chart(make(rows, look), name, f"{charts.stem(summary)}-{name}")
    if run_rows.swept(measured, "throughput_samples_per_s"):
        charts.chart(figures.over_batch_size(measured, look), "batches", f"{charts.stem(summary)}-batch-size")


def _takeaways(rows: list[run_rows.Row]) -> None:
    found = takeaways.takeaways(headlines.ranked(rows))
    # A variant's state and limit are shown with the figures that establish them.
    shown = headlines.told([item for item in found if item.shown and item.kind not in ("state", "limit")])
    unshown = [item.sentence for item in found if not item.shown]
    if shown:
        st.subheader("What this run shows", anchor=False)
    widgets.sentences(shown, unshown)


def _evidence(run_id: str, rows: list[run_rows.Row], look: Theme) -> None:
    st.subheader("What the figures carry", anchor=False)
    with st.container(width=260):
        price = st.number_input(
            "Price of the machine an hour",
            min_value=0.0,
            value=None,
            placeholder="none given",
            key="hourly_price",
            bind="query-params",
            help="In any currency. Adds the cost of a million texts at this batch size, with the machine always busy.",
        )
    st.html(comparison.evidence(rows, look, price))
    paired = (
        "McNemar: on the same examples as the baseline. Would show: the difference in accuracy that this many "
        "examples detect with 80% power at Holm's first step. "
    )
    st.caption(
        f"{paired if any(row.accuracy_p is not None for row in rows) else ''}"
        "Batch flips: answers that change when a text is classified alone or with the other padding. "
        "Of the limit: the share of what this device was measured to do. The page Method has the formulas."
    )
    if any(row.limits for row in rows):
        st.page_link(
            ROOFLINE,
            label=":primary[→ How near each comes to this device's limit, and what binds it]",
            query_params={run_choice.PARAMETER: run_id},
        )


def _by_label(run_id: str, rows: list[run_rows.Row], look: Theme) -> None:
    table = scorecard.by_label(rows, look)
    if not table:
        return
    with st.expander("By label: F1, precision, recall, confusion"):
        st.html(table)
        known = [row for row in rows if (row.quality or {}).get("confusion")]
        with st.grid(2, min_column_width=420, gap="medium"):
            for row in known:
                with st.container():
                    st.caption(f"{headlines.literal(row.name)}: one row per label, one column per answer")
                    st.html(scorecard.confusion(row))
        st.page_link(EXAMPLES, label="The texts behind these counts", query_params={run_choice.PARAMETER: run_id})


def _published(summary: dict[str, Any], shown: Sequence[Row], look: Theme) -> None:
    st.subheader("Measured beside published", anchor=False)
    reported = reads.published()
    if not figures.pairs(shown, reported):
        st.caption("No variant of this suite names a published row (`published` in the suite file).")
        return
    charts.chart(figures.published(shown, reported, look), "published", f"{charts.stem(summary)}-published")
    found = figures.pairs(shown, reported)
    remarks = dict.fromkeys(filter(None, (theirs.remark for _, theirs, _ in found)))
    with st.expander(headlines.literal(f"What was published, and what to make of it ({found[0][1].source})")):
        st.html(scorecard.published_table(found))
        for remark in remarks:
            st.caption(headlines.literal(remark))


def _notes(rows: list[run_rows.Row]) -> None:
    notes = headlines.notes(rows)
    if not notes:
        return
    st.subheader("Notes", anchor=False)
    st.html(facts.notes_table(notes))


def _downloads(summary: dict[str, Any], measured: Sequence[Row], size: int | None, look: Theme) -> None:
    stem = charts.stem(summary)
    with st.popover("Download", width="stretch"):
        for label, suffix, make in (
            ("PowerPoint, charts to edit (.pptx)", "pptx", partial(_deck, summary, measured, size, look)),
            ("Report, interactive (.html)", "html", partial(_report, summary, measured, size, look)),
            ("Measurements (.csv)", "csv", partial(reads.export, summary["id"], "csv")),
            ("Measurements (.json)", "json", partial(reads.export, summary["id"], "json")),
            ("Tables, Markdown (.md)", "md", partial(reads.export, summary["id"], "markdown")),
            ("Tables, LaTeX (.tex)", "tex", partial(reads.export, summary["id"], "latex")),
        ):
            st.download_button(
                label,
                data=make,
                file_name=f"{stem}.{suffix}",
                mime=MIME[suffix],
                on_click="ignore",
                width="stretch",
                key=f"download_{suffix}",
            )
        st.caption(f"Slides and report are {look.name}, as this page is; tables hold every batch size.")
        st.segmented_control(
            "Charts save as",
            ["PNG", "SVG"],
            default="PNG",
            key=charts.FORMAT,
            bind="query-params",
            required=True,
            help="The camera at each chart's upper right saves it at slide size (16:9). More formats: the page's end.",
        )


def _deck(summary: dict[str, Any], measured: Sequence[Row], size: int | None, look: Theme) -> bytes:
    # Imported here, so that python-pptx is loaded only when slides are requested.
    from dashboard.export import deck

    return deck.build(summary, measured, reads.published(), look, size, reads.loads(summary, measured))


def _report(summary: dict[str, Any], measured: Sequence[Row], size: int | None, look: Theme) -> str:
    return report.build(summary, measured, reads.published(), look, size, reads.loads(summary, measured))


widgets.behind_the_door()
main()
