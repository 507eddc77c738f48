"""Load page: the highest rate of randomly arriving texts that each variant holds within a limit on p99."""

from __future__ import annotations

import shlex
from typing import Any

import streamlit as st

from dashboard import figures
from dashboard.controls import charts, run_choice, widgets
from dashboard.data import reads
from dashboard.findings import headlines
from dashboard.tables import load as tables_load
from engine.report import load
from engine.report.load import JoinedLoad
from engine.suite.spec import suite_files
from engine.units import milliseconds

RUN = "app_pages/run.py"
USUAL_MS = 100
"""The p99 limit in the link and the command that lead to a first result."""


def main() -> None:
    left, _ = st.columns([6, 5], vertical_alignment="center")
    with left:
        run_id = run_choice.choose_run()
    summary = reads.run(run_id)
    measured = reads.measurements(summary)
    look = widgets.look()
    widgets.state_of(summary)
    loads = reads.loads(summary, measured)
    if not loads:
        _how_to(summary)
        return
    st.header(headlines.literal(load.headline(loads)), anchor=False)
    if doubt := load.doubt(loads):
        st.write(headlines.literal(doubt))
    st.caption(headlines.literal(_context(summary, loads)))
    stem = charts.stem(summary)
    rates, trials = figures.load_rates(measured, loads, look), figures.load_trials(measured, loads, look)
    with st.grid(2, min_column_width=560, gap="medium"):
        charts.chart(rates, "load", f"{stem}-load")
        charts.chart(trials, "load_p99", f"{stem}-load-p99")
    st.html(tables_load.variants(measured, loads, look))
    st.caption(
        "Holds: the highest tried rate at which so few of a trial's texts were late that p99 is shown, with 99% "
        "confidence, to be within the limit. The true rate lies between this one and the lowest that failed twice. "
        "A ratio's bounds are the extremes that both brackets allow; a verdict is given where the brackets do not "
        "overlap. Near the edge a rate may hold by luck. The page Method has the rules."
    )
    _trials(loads)
    charts.save_charts(f"{stem}-load")


def _context(summary: dict[str, Any], loads: list[JoinedLoad]) -> str:
    """Return a sentence on how the texts arrived, and on the device."""
    waits = sorted({row.max_wait_s for row in loads})
    most = sorted({row.max_batch for row in loads})
    waiting = f"waiting at most {milliseconds(waits[-1])} ms" if any(waits) else "going as soon as the server is free"
    quick = "A first look: fewer and shorter trials. " if summary["spec"].get("protocol", {}).get("quick") else ""
    return (
        f"{quick}Texts of the workload arrive by a Poisson process; each variant's own worker, alone, tokenises and "
        f"answers one batch at a time: batches of at most {' or '.join(map(str, most))}, {waiting}. "
        f"{summary['device_name']} ({summary['device']})."
    )


def _how_to(summary: dict[str, Any]) -> None:
    """Explain, for a run without load results, how to get some."""
    st.header("This run was not put under a service's load.", anchor=False)
    if (summary["spec"].get("load") or summary["spec"].get("scenarios")) and summary["status"] in reads.LIVE:
        st.write("Its variants are put under load one after another once all rounds are done.")
        return
    st.write(
        "With a limit on p99 a run finds, after its rounds, how many randomly arriving texts a second each variant "
        "answers in time."
    )
    known = {"suite": summary["suite"]} if summary["suite"] in suite_files() else {}
    st.page_link(RUN, label="Measure a suite with a limit", query_params=known | {"p99_ms": f"{USUAL_MS}"})
    st.caption("Or from a terminal; a table `[load]` with `p99_ms` in the suite's file does the same:")
    suite = shlex.quote(summary["suite"])
    st.code(f"python -m engine run {suite} --set load.p99_ms={USUAL_MS}", language="bash", wrap_lines=True)


def _trials(loads: list[JoinedLoad]) -> None:
    tried = {row.variant: row for row in loads if row.trials}
    if not tried:
        return
    st.subheader("The rates that were tried", anchor=False)
    with st.container(width=360):
        chosen = st.selectbox(
            "Trials of",
            list(tried),
            format_func=lambda name: headlines.literal(tried[name].name),
            key="variant",
            bind="query-params",
        )
    st.html(tables_load.trials(tried[str(chosen)]))


widgets.behind_the_door()
main()
