"""Runs page: every run so far, and everything that is stored about one of them."""

from __future__ import annotations

import json
import math
import zlib
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import run_rows
from dashboard.controls import charts, run_choice, widgets
from dashboard.data import reads
from dashboard.findings import headlines
from dashboard.tables import facts
from engine.errors import RequestError, one_line
from engine.report.exports import safe
from engine.store import history
from engine.store.runfile import schema
from engine.store.runs import Search

TABLE_KEY = "runs_table"
PAGE = "page"
PAGE_ROWS = 25
ROWS_SHOWN = 8
"""A table with more rows scrolls."""
SEARCH_LENGTH = 200
ENVIRONMENT_FIRST = ("cpu", "gpu", "gpus", "memory", "host", "python", "packages", "bench")
"""Sections of the environment to show first; all others follow."""


def main() -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.header("Runs", anchor=False, width="content")
        # A new key closes the popover.
        with st.popover("Import a run file", key=f"importing_{st.session_state.get('imports', 0)}"):
            _import()
    _say()
    newest = run_choice.history()
    _table(_search(), run_choice.wanted() or run_choice.newest_finished(newest))
    run_id = run_choice.choose_run(search=False)
    summary = reads.run(run_id)
    widgets.state_of(summary)
    _remarks(summary)
    _details(summary)


def _say() -> None:
    """Show the result of the last action, once."""
    result = st.session_state.pop("runs_said", None)
    if result is not None:
        good, text = result
        (st.toast if good else st.error)(headlines.literal(text))


def _import() -> None:
    # A new key for every file, so that the uploader is empty after an import.
    key = f"run_file_{st.session_state.get('imports', 0)}"
    st.file_uploader(
        "A run that another machine exported",
        type=[schema.SUFFIX.rpartition(".")[2]],
        max_upload_size=schema.MAX_BYTES // 1_000_000,
        key=key,
        on_change=_take,
        args=(key,),
    )
    st.caption("Or `python -m engine import FILE`. Everything in it is checked first.")


def _take(key: str) -> None:
    file = st.session_state[key]
    if file is None:
        return
    try:
        imported = reads.import_run(file.getvalue(), file.name)
    except RequestError as error:
        st.session_state["runs_said"] = (False, one_line(error))
    else:
        text = "is imported" if imported.new else "is already here; nothing was changed"
        st.session_state["runs_said"] = (True, f"Run …{imported.run_id[-6:]} {text}.")
        run_choice.go_to_run(imported.run_id)
    st.session_state["imports"] = st.session_state.get("imports", 0) + 1


def _search() -> Search:
    """Draw the controls above the table and return their search."""
    suites, tags = reads.names()
    words, suite, state, tag = st.columns([4, 3, 3, 3])
    typed = words.text_input(
        "Search",
        key="search",
        bind="query-params",
        placeholder="Search suite, device, host, id, note, tag",
        label_visibility="collapsed",
        max_chars=SEARCH_LENGTH,
        on_change=_first_page,
    )
    chosen = [
        place.multiselect(
            label,
            options,
            key=key,
            placeholder=f"All {key}" if options else f"No {key} yet",
            label_visibility="collapsed",
            bind="query-params",
            on_change=_first_page,
        )
        for place, label, options, key in (
            (suite, "Suite", suites, "suites"),
            (state, "State", list(run_choice.STATES), "states"),
            (tag, "Tag", tags, "tags"),
        )
    ]
    return Search((typed or "")[:SEARCH_LENGTH], *map(tuple, chosen))


def _first_page() -> None:
    st.session_state[PAGE] = 1


def _table(search: Search, run_id: str) -> None:
    """Draw one page of the history, with `run_id` marked if it is on that page; a click chooses a run."""
    number = reads.number(search)
    if not number:
        st.caption("No run matches. Clear the search to see all of them.")
        return
    place = st.container()
    page, pages = 1, math.ceil(number / PAGE_ROWS)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{number:,} run{'s' * (number > 1)}, the newest first. Select a row to see all about it.")
        if pages > 1:
            page = st.pagination(pages, key=PAGE, bind="query-params")
    shown = history_table(reads.runs(search, PAGE_ROWS, (page - 1) * PAGE_ROWS))
    ids = list(shown["Run"])
    if st.session_state.get("table_run") != run_id:
        # The run was chosen elsewhere. A table keeps the selection made in it, so this needs a new table.
        st.session_state["table_run"] = run_id
        st.session_state["tables"] = st.session_state.get("tables", 0) + 1
    key = f"{TABLE_KEY}_{st.session_state['tables']}_{zlib.crc32(' '.join(ids).encode())}"

    def pick() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(ids):
            st.session_state["table_run"] = ids[rows[0]]
            run_choice.go_to_run(ids[rows[0]])

    place.dataframe(
        shown,
        hide_index=True,
        height="content" if len(shown) <= ROWS_SHOWN else 318,
        placeholder="–",
        key=key,
        on_select=pick,
        selection_mode="single-row",
        selection_default={"selection": {"rows": [ids.index(run_id)] if run_id in ids else []}},
        column_config={
            "Started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "Took (s)": st.column_config.NumberColumn(format="%.0f"),
            "Tags": st.column_config.ListColumn(),
            "Ends in": st.column_config.TextColumn("Run", help="The end of the run's id, as on every page"),
            "Run": None,
        },
        alt=f"{len(shown)} runs, the newest first",
    )


def history_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The columns of the history in readable form; "Run" holds the whole id.

    Streamlit's own button saves them as CSV, so no text may be a formula.
    """
    rows = runs.to_dict("records")
    return pd.DataFrame(
        {
            "Started": [row["created_at"] for row in rows],
            "Ends in": [f"…{row['id'][-6:]}" for row in rows],
            "Suite": [safe(row["suite"]) for row in rows],
            "Device": [safe(f"{row['device_name']} ({row['device']})") for row in rows],
            "Host": [safe(row["host"]) for row in rows],
            "State": [run_choice.STATES.get(row["status"], row["status"]) for row in rows],
            "Measurements": [_counts(row) for row in rows],
            "Took (s)": [_took(row) for row in rows],
            "Tags": [[safe(tag) for tag in row["tags"]] for row in rows],
            "Note": [safe(" ".join((row["notes"] or "").split())) or None for row in rows],
            "Run": [row["id"] for row in rows],
        }
    )


def _counts(row: dict[str, Any]) -> str:
    kinds = ("measured", "failed", "unavailable", "cancelled", "pending")
    return ", ".join(f"{row[kind]} {kind}" for kind in kinds if row[kind])


def _took(row: dict[str, Any]) -> float | None:
    if row["started_at"] is None or row["finished_at"] is None:
        return None
    # A run that was resumed after the clock had been set back may have ended before it began.
    return max(0.0, (row["finished_at"] - row["started_at"]).total_seconds())


def _remarks(summary: dict[str, Any]) -> None:
    """Show the tags and the note of a run."""
    if summary["tags"]:
        st.markdown(" ".join(f":gray-badge[{headlines.literal(tag)}]" for tag in summary["tags"]))
    if summary["notes"]:
        st.text(summary["notes"])


def _edit(summary: dict[str, Any]) -> None:
    run_id = summary["id"]
    with st.form(f"remarks_{run_id}", border=False):
        left, right = st.columns([3, 2])
        note = left.text_area("Note", summary["notes"] or "", max_chars=history.NOTE_LENGTH, key=f"note_{run_id}")
        tags = right.multiselect(
            "Tags",
            sorted({*reads.names()[1], *summary["tags"]}),
            default=summary["tags"],
            accept_new_options=True,
            select_all=False,
            max_selections=history.TAGS,
            key=f"tags_{run_id}",
            placeholder="Choose or type",
            help="Lower-case letters, digits and . _ - : / +; no spaces.",
        )
        if st.form_submit_button("Save", type="primary"):
            try:
                reads.annotate(run_id, note or "", tags)
            except RequestError as error:
                st.error(headlines.literal(one_line(error)))
            else:
                st.rerun()


@st.dialog("Delete this run?")
def _confirm(summary: dict[str, Any]) -> None:
    if "runs_said" in st.session_state:
        # The dialog was answered; the page shows the result.
        st.rerun()
    run_id = summary["id"]
    try:
        contents = reads.contents(run_id)
    except RequestError as error:
        st.error(headlines.literal(one_line(error)))
        return
    st.write(headlines.literal(run_choice.label(summary)))
    st.write(headlines.literal(history.going(contents)))
    st.caption("Export its run file first if you may need it again.")
    with st.container(horizontal=True):
        st.button("Delete run", type="primary", key="delete_now", on_click=_delete, args=(run_id,))
        if st.button("Keep it", key="keep"):
            st.rerun()


def _delete(run_id: str) -> None:
    try:
        reads.delete(run_id)
    except RequestError as error:
        st.session_state["runs_said"] = (False, one_line(error))
        return
    st.session_state.pop("chosen_run", None)
    st.query_params.pop(run_choice.PARAMETER, None)
    st.session_state["runs_said"] = (True, f"Run …{run_id[-6:]} is deleted.")


def _details(summary: dict[str, Any]) -> None:
    rows = reads.measurements(summary)
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        with st.container(horizontal=True, width="content"):
            _downloads(summary, rows)
        live = summary["status"] in reads.LIVE
        why = "It is under way: cancel it first." if live else None
        if st.button("Delete …", key="delete", disabled=live, help=why):
            _confirm(summary)
    remarks = st.expander("Note and tags", key="remarks", on_change="rerun")
    if remarks.open:
        with remarks:
            _edit(summary)
    draw = {
        "Variants": partial(_audit, rows),
        "Fields": partial(_fields, rows),
        "Environment": partial(_environment, summary),
        "Suite": partial(_suite, summary),
        "Log": partial(_log, summary),
    }
    for tab, show in zip(
        st.tabs(list(draw), key="tab", on_change="rerun", bind="query-params"), draw.values(), strict=True
    ):
        if tab.open:
            with tab:
                show()


def _suite(summary: dict[str, Any]) -> None:
    path = f"From {summary['suite_path']}, as it was run" if summary["suite_path"] else "As it was run"
    st.caption(headlines.literal(f"{path}: every override applied, every default written out."))
    st.code(json.dumps(summary["spec"], indent=2), language="json", height=520)


def _downloads(summary: dict[str, Any], rows: list[run_rows.Row]) -> None:
    run_id, stem = summary["id"], charts.stem(summary)
    live = summary["status"] in reads.LIVE
    measurements = "The run's measurements"
    for label, suffix, mime, make, about, off in (
        ("CSV", ".csv", "text/csv", partial(reads.export, run_id, "csv"), measurements, False),
        ("JSON", ".json", "application/json", partial(reads.export, run_id, "json"), measurements, False),
        ("Markdown", ".md", "text/markdown", partial(reads.export, run_id, "markdown"), measurements, False),
        (
            "Answers",
            "-answers.csv",
            "text/csv",
            partial(_answers, run_id),
            "CSV: every example's answer and logits by each variant",
            not any(row.examples for row in rows),
        ),
        (
            "Run file",
            schema.SUFFIX,
            "application/zip",
            partial(reads.run_file, run_id),
            "The run has to end first." if live else "The whole run as one file, for import on another machine",
            live,
        ),
    ):
        st.download_button(
            label,
            data=make,
            file_name=stem + suffix,
            mime=mime,
            on_click="ignore",
            key=f"runs_{label.split()[0].lower()}",
            help=about,
            disabled=off,
        )


def _answers(run_id: str) -> str:
    try:
        return reads.predictions(run_id, "csv")
    except RequestError as error:
        return f"{error}\n"


def _audit(rows: list[run_rows.Row]) -> None:
    """Show what each variant was asked to be, and what it was found to be after its warm-up."""
    if not rows:
        st.caption("This run holds no measurements.")
        return
    st.html(facts.audit_table(rows))


def _fields(rows: list[run_rows.Row]) -> None:
    """Show everything that is stored about one measurement."""
    if not rows:
        st.caption("This run holds no measurements.")
        return
    chosen = st.selectbox("All fields of", [row.name for row in rows], key="audit_variant", bind="query-params")
    row = next((row for row in rows if row.name == chosen), rows[0])
    # Without syntax colours: they are thousands of elements, and the whole page would wait for them.
    st.code(json.dumps(row.to_json(), indent=2, default=str), language=None, height=420)


def _environment(summary: dict[str, Any]) -> None:
    st.html(
        facts.facts_table(
            {
                "Run": summary["id"],
                "State": f"{summary['status']}{': ' + summary['status_reason'] if summary['status_reason'] else ''}",
                "Device": f"{summary['device_name']} ({summary['device']})",
                "Host": summary["host"],
                "Asked for": run_choice.when(summary["created_at"]),
                "Started": run_choice.when(summary["started_at"]),
                "Ended": run_choice.when(summary["finished_at"]),
                **({"Imported": run_choice.when(summary["imported_at"])} if summary["imported_at"] else {}),
            }
        )
    )
    if summary["ceilings"]:
        st.caption("What this device was measured to do at the start of the run")
        st.html(facts.ceilings_table(summary["ceilings"]))
    found = summary["environment"]
    order = [key for key in ENVIRONMENT_FIRST if key in found] + [k for k in found if k not in ENVIRONMENT_FIRST]
    flat = {key: text for section in order for key, text in _flat(section, found[section])}
    st.html(facts.facts_table(flat))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """A nested fact as lines of "section · key" and text; unknown values are left out."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _flat(f"{name} · {key}", item)]
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [(name, ", ".join(str(item) for item in value))]
    return [(name, str(value))]


def _log(summary: dict[str, Any]) -> None:
    found = reads.logs(summary)
    if not found:
        where = f" in {summary['log_path']}" if summary["log_path"] else ""
        st.caption(headlines.literal(f"No log of this run on this machine{where}."))
        return
    # Files with content come first.
    names = sorted(found, key=lambda name: not found[name])
    name = st.selectbox("File", names, key="log_file", bind="query-params", label_visibility="collapsed")
    text = found.get(name or "", "") or "(empty)"
    st.code(text, language=None, height=460)
    st.caption(headlines.literal(f"The end of {summary['log_path']}/{name}"))


widgets.behind_the_door()
main()
