"""Every run so far, and all that is stored about one of them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import data, findings, frame, scorecard, widgets
from engine.errors import RequestError

TABLE_KEY = "runs_table"
ROWS_SHOWN = 8
"""More of them scroll."""
ENVIRONMENT_FIRST = ("cpu", "gpu", "gpus", "memory", "host", "python", "packages", "bench")
"""What of the environment to show first; whatever else there is follows."""


def main() -> None:
    runs = widgets.history()
    st.header("Runs", anchor=False)
    found = _filtered(runs)
    picked = _table(found)
    if picked is not None:
        widgets.go_to_run(picked)
    run_id = widgets.choose_run()
    summary = data.run(run_id)
    widgets.state_of(summary)
    _details(summary)


def _filtered(runs: pd.DataFrame) -> pd.DataFrame:
    """The history, narrowed by a search over everything that the table shows and by state and suite."""
    search, suite, state = st.columns([4, 3, 3])
    words = search.text_input(
        "Search",
        key="search",
        bind="query-params",
        placeholder="Search suite, device, host, id, note",
        label_visibility="collapsed",
    )
    suites = suite.multiselect(
        "Suite",
        sorted(runs["suite"].unique()),
        key="suites",
        placeholder="All suites",
        label_visibility="collapsed",
        bind="query-params",
    )
    states = state.multiselect(
        "State",
        list(widgets.STATES),
        key="states",
        placeholder="All states",
        label_visibility="collapsed",
        bind="query-params",
    )
    return matching(runs, words or "", suites, states)


def matching(runs: pd.DataFrame, words: str, suites: list[str], states: list[str]) -> pd.DataFrame:
    """The runs that hold every word of `words` somewhere, and are of `suites` and `states` where those are given."""
    keep = pd.Series(True, index=runs.index)
    text = (
        runs[["id", "suite", "title", "device", "device_name", "host", "status", "status_reason", "notes"]]
        .fillna("")
        .astype(str)
        .agg(" ".join, axis=1)
        .str.casefold()
    )
    for word in words.casefold().split():
        keep &= text.str.contains(word, regex=False)
    if suites:
        keep &= runs["suite"].isin(suites)
    if states:
        keep &= runs["status"].isin(states)
    return runs[keep]


def _table(runs: pd.DataFrame) -> str | None:
    """The history; returns the run that was just clicked."""
    if runs.empty:
        st.caption("No run matches. Clear the search to see all of them.")
        return None
    shown = pd.DataFrame(
        {
            "Started": [row["created_at"] for row in runs.to_dict("records")],
            "Suite": runs["suite"].to_list(),
            "Device": [f"{row['device_name']} ({row['device']})" for row in runs.to_dict("records")],
            "Host": runs["host"].to_list(),
            "State": [widgets.STATES.get(status, status) for status in runs["status"]],
            "Variants": [_counts(row) for row in runs.to_dict("records")],
            "Took (s)": [_took(row) for row in runs.to_dict("records")],
            "Ends in": [f"…{run_id[-6:]}" for run_id in runs["id"]],
            "Run": runs["id"].to_list(),
        }
    )
    event = st.dataframe(
        shown,
        hide_index=True,
        height="content" if len(shown) <= ROWS_SHOWN else 318,
        placeholder="–",
        key=TABLE_KEY,
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "Took (s)": st.column_config.NumberColumn(format="%.0f"),
            "Ends in": st.column_config.TextColumn("Run", help="The end of its id, as everywhere here"),
            "Run": None,
        },
        alt=f"{len(shown)} runs, the newest first",
    )
    st.caption(f"{len(shown):,} of the newest {data.LISTED:,} runs at most. Select a row to see all about it.")
    chosen = event["selection"]["rows"]
    clicked = shown["Run"].iloc[chosen[0]] if chosen and chosen[0] < len(shown) else None
    # A selection stays; only a new one may overrule what the list of runs says.
    if clicked == st.session_state.get("clicked_run"):
        return None
    st.session_state["clicked_run"] = clicked
    return clicked


def _counts(row: dict[str, Any]) -> str:
    kinds = ("measured", "failed", "unavailable", "cancelled", "pending")
    return ", ".join(f"{row[kind]} {kind}" for kind in kinds if row[kind])


def _took(row: dict[str, Any]) -> float | None:
    if row["started_at"] is None or row["finished_at"] is None:
        return None
    return (row["finished_at"] - row["started_at"]).total_seconds()


def _details(summary: dict[str, Any]) -> None:
    measured = data.measurements(summary)
    rows = frame.rows_of(measured)
    buttons = st.columns([1, 1, 1, 1, 3])
    stem = f"{summary['suite']}-{summary['id'][-6:].lower()}"
    for place, form, mime in zip(
        buttons, ("csv", "json", "markdown"), ("text/csv", "application/json", "text/markdown"), strict=False
    ):
        place.download_button(
            {"csv": "CSV", "json": "JSON", "markdown": "Markdown"}[form],
            data=partial(data.export, summary["id"], form),
            file_name=f"{stem}.{'md' if form == 'markdown' else form}",
            mime=mime,
            on_click="ignore",
            width="stretch",
            key=f"runs_{form}",
            help="The run's measurements",
        )
    buttons[3].download_button(
        "Answers",
        data=lambda: _answers(summary["id"]),
        file_name=f"{stem}-answers.csv",
        mime="text/csv",
        on_click="ignore",
        width="stretch",
        key="runs_answers",
        help="CSV: every example's answer and logits by each variant",
        disabled=not any(row["examples"] for row in rows),
    )
    names = ["Variants", "Environment", "Suite", "Log"]
    variants, environment, suite, log = st.tabs(names)
    with variants:
        _audit(rows)
    with environment:
        _environment(summary)
    with suite:
        path = f"From `{summary['suite_path']}`, as it was run" if summary["suite_path"] else "As it was run"
        st.caption(f"{path}: every override applied, every default written out.")
        st.code(json.dumps(summary["spec"], indent=2), language="json", height=520)
    with log:
        _log(summary)


def _answers(run_id: str) -> str:
    try:
        return data.predictions(run_id, "csv")
    except RequestError as error:
        return f"{error}\n"


def _audit(rows: list[frame.Row]) -> None:
    """What each variant was asked to be, and what it was found to be after its warm-up."""
    if not rows:
        st.caption("This run holds no measurements.")
        return
    st.html(scorecard.audit_table(rows))
    chosen = st.selectbox("All fields of", [row["name"] for row in rows], key="audit_variant", persist_state="page")
    row = next((row for row in rows if row["name"] == chosen), rows[0])
    kept = {key: value for key, value in row.items() if key not in frame.DERIVED and key != "id"}
    st.code(json.dumps(kept, indent=2, default=str), language="json", height=420)


def _environment(summary: dict[str, Any]) -> None:
    st.html(
        scorecard.facts_table(
            {
                "Run": summary["id"],
                "State": f"{summary['status']}{': ' + summary['status_reason'] if summary['status_reason'] else ''}",
                "Device": f"{summary['device_name']} ({summary['device']})",
                "Host": summary["host"],
                "Asked for": widgets.when(summary["created_at"]),
                "Started": widgets.when(summary["started_at"]),
                "Ended": widgets.when(summary["finished_at"]),
                **({"Note": summary["notes"]} if summary["notes"] else {}),
            }
        )
    )
    if summary["ceilings"]:
        st.caption("What this device was measured to do at the start of the run")
        st.html(scorecard.ceilings_table(summary["ceilings"]))
    found = summary["environment"]
    order = [key for key in ENVIRONMENT_FIRST if key in found] + [k for k in found if k not in ENVIRONMENT_FIRST]
    flat = {key: text for section in order for key, text in _flat(section, found[section])}
    st.html(scorecard.facts_table(flat))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """A nested fact as lines of "section · key" and text; what is not known is left out."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _flat(f"{name} · {key}", item)]
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [(name, ", ".join(str(item) for item in value))]
    return [(name, str(value))]


def _log(summary: dict[str, Any]) -> None:
    found = data.logs(summary)
    if not found:
        where = f" in {summary['log_path']}" if summary["log_path"] else ""
        st.caption(findings.literal(f"No log of this run on this machine{where}."))
        return
    name = st.selectbox("File", list(found), key="log_file", label_visibility="collapsed")
    text = found.get(name or "", "") or "(empty)"
    st.code(text, language=None, height=460)
    st.caption(findings.literal(f"The end of {summary['log_path']}/{name}"))


main()
