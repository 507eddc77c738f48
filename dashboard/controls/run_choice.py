"""The choice of the run that a page shows, kept in the address and across pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.data import reads
from dashboard.findings import headlines
from engine.errors import NoDatabaseError, RequestError, one_line
from engine.store.runs import Search

CHOICE = "run_choice"
PARAMETER = "run"
RUN = "app_pages/run.py"
RUNS = "app_pages/runs.py"
STATES = {
    "queued": "… queued",
    "preparing": "… preparing",
    "running": "▶ running",
    "finished": "✓ finished",
    "failed": "✗ failed",
    "cancelled": "◌ cancelled",
    "interrupted": "⚡ interrupted",
}
OLDER = ""
"""What stands for the runs that the choice of a run does not offer."""


def history() -> pd.DataFrame:
    """The newest runs; where there are none, says how to get one and ends the page."""
    try:
        runs = reads.runs()
    except NoDatabaseError:
        runs = pd.DataFrame()
    except RequestError as error:
        st.error(headlines.literal(f"The database cannot be read: {one_line(error)}"))
        st.stop()
    if runs.empty:
        st.header("No runs yet")
        st.write("Measure the demo's variants on this machine; this page shows them as soon as they are there.")
        st.page_link(RUN, label="Measure a suite on this machine")
        st.caption("Or from a terminal:")
        st.code("python -m engine run demo", language="bash")
        st.caption("`python -m engine suites` lists what else there is to run.")
        st.stop()
    return runs


def label(run: dict[str, Any]) -> str:
    """A run in one line of a list."""
    return (
        f"{run['suite']} · {run['device_name']} · {when(run['created_at'])} · "
        f"{STATES.get(run['status'], run['status'])} · …{run['id'][-6:]}"
    )


def when(time: datetime | str | None) -> str:
    """A time in UTC, to the minute."""
    if time is None:
        return "–"
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return f"{time:%Y-%m-%d %H:%M} UTC"


def choose_run(search: bool = True) -> str:
    """The id of the chosen run: the URL's, else this session's, else the newest finished one.

    Offers the newest ones; where there are more, `search` leads on to the page that finds them. Ends the page with
    what to do where there are no runs, or the reason where the URL names a run that is not there.
    """
    if st.session_state.pop("find_run", False):
        st.switch_page(RUNS)
    runs = history()
    known = {row["id"]: row for row in runs.to_dict("records")}
    asked = wanted()
    if asked:
        try:
            chosen = asked if asked in known else reads.resolve(asked)
        except RequestError as error:
            st.warning(headlines.literal(one_line(error)))
            if st.button("Show the newest run"):
                st.query_params.pop(PARAMETER, None)
                st.session_state.pop("chosen_run", None)
                st.rerun()
            st.stop()
        # Another page starts with an empty URL.
        go_to_run(chosen)
    else:
        chosen = newest_finished(runs)
    if chosen not in known:
        known[chosen] = reads.run(chosen)
    options = list(known)
    if search and len(runs) == reads.RECENT and (number := reads.number()) > reads.RECENT:
        options.append(OLDER)
    st.session_state[CHOICE] = chosen
    st.selectbox(
        "Run",
        options,
        format_func=lambda run_id: label(known[run_id]) if run_id else f"All {number:,} runs, with a search …",
        key=CHOICE,
        on_change=_remember,
        label_visibility="collapsed",
    )
    return chosen


def wanted() -> str | None:
    """The run that the URL asks for, else the one that this session chose."""
    return st.query_params.get(PARAMETER) or st.session_state.get("chosen_run")


def newest_finished(runs: pd.DataFrame) -> str:
    """Of all runs, of which these are the newest; the newest of all where none has finished."""
    finished = runs[runs["status"] == "finished"]
    if finished.empty and len(runs) == reads.RECENT:
        finished = reads.runs(Search(states=("finished",)), limit=1)
    return str((runs if finished.empty else finished)["id"].iloc[0])


def _remember() -> None:
    if st.session_state[CHOICE] == OLDER:
        st.session_state["find_run"] = True
    else:
        go_to_run(st.session_state[CHOICE])


def go_to_run(run_id: str) -> None:
    """Make `run_id` the chosen run of this session and its URL."""
    st.session_state["chosen_run"] = run_id
    st.query_params[PARAMETER] = run_id
