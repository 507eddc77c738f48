"""Roofline page: how near each variant comes to its device's measured ceilings, what binds it, where its time goes."""

from __future__ import annotations

import shlex
import socket
from typing import Any

import streamlit as st

from dashboard import figures, run_rows
from dashboard.controls import charts, choices, widgets
from dashboard.data import reads
from dashboard.figures import operators as drawn
from dashboard.findings import headlines
from dashboard.style import Theme
from dashboard.tables import facts, roofline
from engine.errors import RequestError, one_line
from engine.measurement import operators


def main() -> None:
    left, right = st.columns([6, 5], vertical_alignment="center")
    summary, measured, size = choices.choose_measurements(left, right)
    rows = run_rows.at_batch(measured, size)
    look = widgets.look()
    widgets.state_of(summary)
    known = [row for row in rows if row.status == "measured"]
    if not known:
        st.header("This run holds no measurements.")
        st.stop()
    # The chart's own title says which variant comes nearest.
    st.header(headlines.literal(headlines.limit_detail(rows) or "What binds the fastest is not known."), anchor=False)
    ceilings, stem = summary["ceilings"] or {}, charts.stem(summary)
    if ceilings.get("products"):
        charts.chart(figures.roofline(measured, ceilings, look, size), "roofline", f"{stem}-roofline")
    else:
        st.info(headlines.literal(f"No ceilings were measured: {ceilings.get('reason') or 'no reason was stored'}."))
    st.html(roofline.shares(rows, look))
    st.caption(
        "Of the limit: operations of the matrix products a second, padding included, over the fastest products "
        "measured here in the same dtype. All operations of an INT8 model count as integer ones. The page Method has "
        "the rules."
    )
    _profiles(summary, known, look, stem)
    with st.expander("The measured ceilings"):
        st.html(facts.ceilings_table(ceilings))
    charts.save_charts(f"{stem}-roofline")


def _profiles(summary: dict[str, Any], rows: list[run_rows.Row], look: Theme, stem: str) -> None:
    st.subheader("What a call's time goes to", anchor=False)
    profiled = [row for row in rows if drawn.of(row)]
    if profiled:
        charts.chart(figures.by_kind(profiled, look), "kinds", f"{stem}-operators")
    names = {row.variant: row for row in rows}
    with st.container(width=360):
        chosen = st.selectbox(
            "Operators of",
            list(names),
            format_func=lambda name: headlines.literal(names[name].name),
            key="variant",
            bind="query-params",
        )
    row = names[str(chosen)]
    found = drawn.of(row)
    if found is None:
        reason = ((row.audit or {}).get("operators") or {}).get("reason")
        why = f": {reason}" if reason else ": the run is older than this feature"
        st.write(headlines.literal(f"This run holds no operators of {row.name}{why}."))
    else:
        both = st.grid(2, min_column_width=520, gap="large")
        with both.cell():
            charts.chart(figures.by_operator(row, look), "operators", f"{stem}-{row.variant}-operators")
        with both.cell():
            st.html(roofline.profile(found))
            st.caption(headlines.literal(operators.caption(found)))
    _trace(summary, row)


def _trace(summary: dict[str, Any], row: run_rows.Row) -> None:
    """Offer the trace as a download, and the ways to make one."""
    variant, size = row.variant, row.batch_size
    try:
        trace = reads.trace(summary["id"], variant, size)
        if st.session_state.pop("profile_now", None) == (summary["id"], variant, size):
            with st.spinner("A separate worker loads the variant and profiles five calls …", show_time=True):
                trace = reads.make_trace(summary["id"], variant, size)
    except RequestError as error:
        st.warning(headlines.literal(f"No trace was made. {one_line(error)}."))
        trace = None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if trace is not None:
            st.download_button(
                f"Download the trace ({len(trace) / 1e3:,.0f} kB)",
                data=trace,
                file_name=f"{charts.stem(summary)}-{variant}-batch-{size}.trace.json.gz",
                mime="application/gzip",
                on_click="ignore",
                key="download_trace",
            )
        here = summary["host"] == socket.gethostname() and not summary["foreign"]
        if here and summary["status"] not in reads.LIVE:
            st.button(
                "Make a new trace" if trace is not None else "Make a trace",
                key="make_trace",
                on_click=_ask,
                args=(summary["id"], variant, size),
                help="Loads the variant again in a separate worker and profiles five calls.",
            )
    st.caption(
        "A trace has every operator of five calls on a time line. Perfetto (ui.perfetto.dev) and chrome://tracing "
        "open it as it is, and neither sends it anywhere."
    )
    # Drawn only when opened: the browser's script for code blocks is large.
    terminal = st.expander("From a terminal on the machine of the run", key="terminal", on_change="rerun")
    if terminal.open:
        command = f"python -m engine profile {summary['id']} {shlex.quote(variant)} --batch-size {size}"
        terminal.code(command, language="bash", wrap_lines=True)


def _ask(run_id: str, variant: str, size: int) -> None:
    st.session_state["profile_now"] = (run_id, variant, size)


widgets.behind_the_door()
main()
