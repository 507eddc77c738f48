"""Ship page: the chosen variant as a folder, with its files, checksums and a few lines that load it."""

from __future__ import annotations

import re
import shlex
from functools import partial
from typing import Any

import streamlit as st

from dashboard import run_rows
from dashboard.controls import choices, widgets
from dashboard.data import reads
from dashboard.findings import headlines
from dashboard.tables import decision, scorecard
from engine.errors import RequestError, one_line
from engine.report import takeaways, words
from engine.store.rows import present
from engine.units import between, megabytes, point_interval, points, times

BROWSER_BYTES = 500_000_000
"""Larger folders are made from a terminal: the server holds a download in memory until the browser has it."""
PROMISE = (
    "Before the copy is handed over, it classifies some of the run's texts again, in the run's own batches. On the "
    "run's machine it must reproduce the stored logits, otherwise nothing is shipped. `checked.txt` in the folder has "
    "the result, or why the check was not possible; `python load.py` repeats the check anywhere."
)


def main() -> None:
    left, middle, right = st.columns([6, 3, 2], vertical_alignment="center")
    summary, measured, size = choices.choose_measurements(left, right)
    rows = run_rows.at_batch(measured, size)
    shippable = [row for row in rows if run_rows.usable(row)]
    with middle:
        row = _choose(shippable)
    widgets.state_of(summary)
    if row is None:
        st.header("Nothing in this run can be shipped.")
        st.write("A variant can be shipped once it is measured and valid.")
        if rows:
            st.html(scorecard.scorecard(rows, widgets.look()))
        st.stop()
    st.header(headlines.literal(_headline(row, rows)), anchor=False)
    st.caption(headlines.literal(_context(summary, row)))
    st.html(scorecard.scorecard([r for r in rows if r.baseline and r is not row] + [row], widgets.look()))
    _folder(summary, row)


def _choose(rows: list[run_rows.Row]) -> run_rows.Row | None:
    """Return the variant to ship: the URL's, else the fastest of those shown to be faster, else the first."""
    by_name = {row.variant: row for row in rows}
    if not by_name:
        return None
    ahead = [row.variant for row in rows if row.comparison == "better"]
    fastest = max(ahead, key=lambda name: present(by_name[name].speedup)) if ahead else next(iter(by_name))
    chosen = st.selectbox(
        "Variant",
        list(by_name),
        index=list(by_name).index(fastest),
        key="variant",
        bind="query-params",
        label_visibility="collapsed",
    )
    return by_name.get(str(chosen))


def _headline(row: run_rows.Row, rows: list[run_rows.Row]) -> str:
    baseline = run_rows.baseline_of(rows, row)
    if row.baseline or baseline is None or row.speedup is None:
        doubt = " for its speed and memory alone: its weights are random" if takeaways.untaught(row) else ""
        return f"Ship {row.name}{doubt}."
    limits = between(row.speedup_low, row.speedup_high)
    finding = f"{times(row.speedup)} ({limits}) the samples/s of {baseline.title}"
    if row.comparison == "no_difference":
        finding += ", no difference shown"
    if takeaways.untaught(row):
        finding += "; its weights are random, so its answers mean nothing"
    elif row.accuracy_difference is not None:
        verdict = {"worse": "it loses accuracy", "better": "it gains accuracy"}.get(
            row.accuracy_comparison or "", "no difference in accuracy is shown"
        )
        limits = point_interval(row.accuracy_difference_low, row.accuracy_difference_high)
        finding += f"; {verdict}: {points(row.accuracy_difference)} ({limits}) points{takeaways.alone(row)}"
    return f"Ship {row.name}: {finding}."


def _context(summary: dict[str, Any], row: run_rows.Row) -> str:
    threads = summary["environment"].get("threads")
    padded = words.padding_words([row], row.max_length)
    return (
        f"Measured on {summary['device_name']} ({summary['device']}{f', {threads} threads' if threads else ''}) in "
        f"batches of {words.batch_words(row)} {padded} · run …{summary['id'][-6:]}"
    )


def _folder(summary: dict[str, Any], row: run_rows.Row) -> None:
    try:
        with st.spinner("Looking for what the run loaded …", show_time=True):
            shipment, checksums = reads.shipment(summary, row.variant, row.batch_size)
    except RequestError as error:
        st.warning(headlines.literal(f"It cannot be shipped from here. {one_line(error)}."))
        return
    total = sum(shipment.sizes.values())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{summary['suite']}-{row.variant}-{summary['id'][-6:].lower()}")
    both = st.grid(2, min_column_width=560, gap="large")
    with both.cell():
        st.subheader("Loaded in a few lines, without the bench", anchor=False)
        st.code(shipment.snippet, language="python")
    with both.cell():
        st.subheader(f"The folder: {len(shipment.sizes) + 2} files, {megabytes(total)} MB", anchor=False)
        _take(summary, row, name, total)
        st.caption(PROMISE)
        with st.expander("Files and checksums", expanded=True):
            st.html(decision.files(shipment.sizes, checksums))
            st.caption("`SHA256SUMS` in the folder has the same: `sha256sum -c SHA256SUMS` checks them.")
        with st.expander("requirements.txt"):
            st.code(shipment.made["requirements.txt"], language="text")
        with st.expander("README.md"):
            st.code(shipment.made["README.md"], language="markdown", wrap_lines=True)


def _take(summary: dict[str, Any], row: run_rows.Row, name: str, total: int) -> None:
    """Offer the folder as a download, and as a terminal command that sends nothing through the browser."""
    if total <= BROWSER_BYTES:
        st.download_button(
            f"Make and download it (.zip, {megabytes(total)} MB)",
            data=partial(reads.shipped_zip, summary["id"], row.variant, row.batch_size, name),
            file_name=f"{name}.zip",
            mime="application/zip",
            on_click="ignore",
            key="download_zip",
            type="primary",
            help="The folder is made and checked on this machine first, which takes some seconds.",
        )
        st.caption("Or on the machine itself, with nothing through the browser:")
    else:
        st.write(f"{megabytes(total)} MB are too much for a download through the browser. On the machine itself:")
    command = f"python -m engine ship {summary['id']} {shlex.quote(row.variant)} {name}"
    st.code(f"{command} --batch-size {row.batch_size}", language="bash", wrap_lines=True)


widgets.behind_the_door()
main()
