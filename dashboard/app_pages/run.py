"""Run page: choose what to measure, see what prevents it, start a run, follow it, cancel it."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import streamlit as st

from dashboard.controls import choices, link, run_choice, widgets
from dashboard.data import live, plan, reads
from dashboard.findings import headlines
from dashboard.style import OfSuite, Theme, marks
from dashboard.tables import html
from dashboard.tables import live as tables_live
from engine.errors import RequestError, one_line
from engine.jobs import ending, local, queue, slurm
from engine.machine import devices
from engine.machine.devices import Device
from engine.suite.reading import find_suite, load_suite
from engine.suite.spec import Suite

LIVE_SECONDS = 2.0
"""Seconds between updates. Each update costs some ten milliseconds of CPU time that the run would use."""
CHART_SECONDS = 10.0
"""Seconds between updates of a chart, which costs ten times as much."""
LOG_LINES = 40
OVERVIEW = "app_pages/overview.py"
HERE = "app_pages/run.py"
SIGNS = {
    plan.READY: "✓ ready",
    plan.DOWNLOAD: "↓ download",
    plan.MAKE: "⚙ to be made",
    plan.UNAVAILABLE: "○ unavailable",
    plan.WRONG: "✗ not possible",
}


@dataclass(frozen=True)
class Choice:
    """The values of the controls."""

    suite: Suite
    device_request: str
    device: Device
    offline: bool
    reference: str
    cluster: list[slurm.Profile]
    """One job is submitted for each profile; empty if this machine measures."""
    each_batch_size: bool = False
    """Whether each batch size gets a job of its own."""


def main() -> None:
    under_way = live.current()
    run_id = _followed(under_way)
    summary = None
    if run_id is not None:
        try:
            summary = reads.run(run_id)
        except RequestError as error:
            st.warning(headlines.literal(one_line(error)))
    if summary is not None and summary["status"] in reads.LIVE:
        st.session_state["watched"] = summary["id"]
        _watch(summary["id"])
        _others(under_way, summary["id"])
        st.divider()
        if not st.toggle("Queue another run behind it", key="another", bind="query-params"):
            return
    elif summary is not None:
        _ended(summary)
    _set_up(under_way)


def _followed(under_way: list[dict[str, Any]]) -> str | None:
    """Return the id of the run to show: the URL's, else one that is under way."""
    reference = st.query_params.get(run_choice.PARAMETER)
    if reference is None and under_way:
        reference = under_way[0]["id"]
        st.query_params[run_choice.PARAMETER] = reference
    if reference is None:
        return None
    try:
        return reads.resolve(reference)
    except RequestError as error:
        st.warning(headlines.literal(one_line(error)))
        return None


# A run under way


def _watch(run_id: str) -> None:
    """Draw a live run in fragments, each of which updates itself as often as its cost allows."""
    _spare_the_collector()
    head = st.container()
    with st.grid(2, min_column_width=560, gap="medium"):
        table, drawn = st.empty(), st.container()
    with head:
        _standing(run_id, table)
    with drawn:
        _rates(run_id)
    _live_log(run_id)


@st.cache_resource(show_spinner=False)
def _spare_the_collector() -> None:
    """Exclude all objects that exist now from garbage collection.

    Streamlit collects garbage after every run of a fragment, which takes 50 ms of CPU time from a live run. The modules
    imported so far are not garbage, so the collector need not examine them again.
    """
    gc.collect()
    gc.freeze()


@st.fragment(run_every=LIVE_SECONDS)
def _standing(run_id: str, table: Any) -> None:
    summary = reads.run(run_id)
    if summary["status"] not in reads.LIVE:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        st.header(headlines.literal(_title(summary)), anchor=False)
        st.caption(headlines.literal(_context(summary)))
    with right:
        _cancel(summary)
    st.html(tables_live.strip(summary))
    progress = summary["progress"] or {}
    text = headlines.literal(queue.standing(summary["status"], summary["progress"]))
    st.progress(min(max(progress.get("done") or 0.0, 0.0), 1.0), text=text[:1].upper() + text[1:])
    if found := live.lanes(run_id):
        table.html(tables_live.table(summary, found, widgets.look()))


@st.fragment(run_every=CHART_SECONDS)
def _rates(run_id: str) -> None:
    found = live.lanes(run_id)
    chart, colors = tables_live.series(found, widgets.look())
    if len(chart) > 1:
        size = live.timed_batch(found)
        st.caption(f"Samples/s by round at batch {size}, as they arrive; there is no verdict before the end.")
        st.line_chart(chart, color=colors, x_label="round", height=300, alt="Samples per second by round")
    elif found:
        st.caption("Samples/s by round appear here as soon as two rounds are done.")


@st.fragment(run_every=CHART_SECONDS)
def _live_log(run_id: str) -> None:
    _log(run_id)


def _title(summary: dict[str, Any]) -> str:
    names = len(summary["spec"].get("variant", []))
    verb = {"queued": "waits to measure", "preparing": "prepares"}.get(summary["status"], "measures")
    return f"{summary['suite']} {verb} {names} variant{'s' * (names != 1)}"


def _context(summary: dict[str, Any]) -> str:
    workload = summary["spec"].get("workload", {})
    sizes = ", ".join(map(str, workload.get("batch_size", [])))
    began = "queued" if summary["status"] == "queued" else "under way"
    return (
        f"{summary['device_name']} ({summary['device']}) on {summary['host']} · batch {sizes} · "
        f"{workload.get('examples') or 'all'} examples · {began} for {live.clock(live.elapsed(summary))} · "
        f"run …{summary['id'][-6:]}. The run continues without this page."
    )


def _cancel(summary: dict[str, Any]) -> None:
    if summary["cancel_requested"]:
        st.caption(f"Ends after this {'trial' if live.phase(summary) == 'serving' else 'round'}.")
        if st.button("End at once", key="cancel_now", width="stretch", help="What was measured until then is kept."):
            try:
                ending.cancel(summary["id"], at_once=True)
            except RequestError as error:
                st.error(headlines.literal(one_line(error)))
    elif st.button("Cancel run", key="cancel", width="stretch", help="What was measured until then is kept."):
        ending.cancel(summary["id"])
        st.rerun(scope="fragment")


def _log(run_id: str) -> None:
    with st.expander("Log", key="log"):
        st.code(queue.log_tail(run_id, LOG_LINES) or "nothing yet", language=None, wrap_lines=True)


def _others(under_way: list[dict[str, Any]], shown: str) -> None:
    for other in under_way:
        if other["id"] != shown:
            st.page_link(
                HERE,
                label=headlines.literal(f"{run_choice.STATES[other['status']]}: {other['suite']} …{other['id'][-6:]}"),
                query_params={run_choice.PARAMETER: other["id"]},
            )


def _ended(summary: dict[str, Any]) -> None:
    """Open a finished run on the Overview if it was watched; otherwise show one line about the ended run and a link."""
    watched = st.session_state.pop("watched", None) == summary["id"]
    if watched and summary["status"] == "finished":
        st.switch_page(OVERVIEW, query_params={run_choice.PARAMETER: summary["id"]})
    reason = f": {one_line(ValueError(summary['status_reason']))}" if summary["status_reason"] else ""
    message = headlines.literal(
        f"{run_choice.STATES[summary['status']]}: {summary['suite']}, run …{summary['id'][-6:]}, after "
        f"{live.clock(live.elapsed(summary))}{reason}"
    )
    show = {"finished": st.success, "failed": st.error, "cancelled": st.info}.get(summary["status"], st.warning)
    show(message)
    links = st.container(horizontal=True, vertical_alignment="center")
    links.page_link(
        OVERVIEW, label="Open it on the Overview", query_params={run_choice.PARAMETER: summary["id"]}, icon=None
    )
    if links.button("Close", key="close", type="tertiary"):
        st.query_params.pop(run_choice.PARAMETER, None)
        st.rerun()
    if summary["status"] != "finished":
        _log(summary["id"])


# Before the start


def _set_up(under_way: list[dict[str, Any]]) -> None:
    st.header("Measure a suite on this machine", anchor=False)
    left, right = st.columns([42, 58], gap="large")
    with left:
        choice = _controls()
    with right:
        if choice is not None:
            _plan(choice, under_way)


def _controls() -> Choice | None:
    """Draw the controls and return their values; None, with one sentence on why, if their values cannot be run."""
    found = choices.choose_suite()
    if found is None:
        return None
    suite, reference = found
    key = f"{suite.folder}/{suite.name}"
    st.caption(headlines.literal(suite.description or suite.title or suite.name))
    chosen = choices.choose_variants(suite, "variants", "is always measured")
    workload, protocol = suite.workload, suite.protocol
    one, two = st.columns(2)
    usual_sizes = ", ".join(map(str, workload.batch_size))
    sizes = one.text_input(
        "Batch size",
        link.first("batch_size", f"batch:{key}", usual_sizes, str),
        key=f"batch:{key}",
        persist_state="session",
        help="One number, or several with commas between: one measurement for each.",
    )
    examples = two.number_input(
        "Examples",
        value=link.first("examples", f"examples:{key}", workload.examples, choices.at_least(0, int)),
        min_value=0,
        step=1,
        key=f"examples:{key}",
        persist_state="session",
        help="0 takes the whole data set.",
    )
    rounds = one.number_input(
        "Rounds, at least",
        value=link.first("rounds", f"rounds:{key}", protocol.rounds, choices.at_least(1, int)),
        min_value=1,
        step=1,
        key=f"rounds:{key}",
        persist_state="session",
        help=f"In each round every variant works once, in shuffled order. Rounds go on until every variant has "
        f"{protocol.min_calls} timed calls.",
    )
    seconds = two.number_input(
        "Timing, at most (s)",
        value=link.first("max_seconds", f"seconds:{key}", protocol.max_seconds, choices.at_least(1, float)),
        min_value=1.0,
        format="%.0f",
        key=f"seconds:{key}",
        persist_state="session",
        help="For each batch size.",
    )
    usual_ms = suite.load.p99_ms if suite.load else None
    limit_ms = one.number_input(
        "p99 limit under load (ms)",
        value=link.first("p99_ms", f"p99:{key}", usual_ms, choices.at_least(0.001, float)),
        min_value=0.001,
        format="%g",
        placeholder="none: no load",
        key=f"p99:{key}",
        persist_state="session",
        help="Also puts each variant, alone and after the rounds, under a service's load: how many randomly arriving "
        "texts a second does it answer with 99% of them within this limit? Takes some minutes per variant.",
    )
    for name, value, usual in (
        ("batch_size", sizes, usual_sizes),
        ("examples", examples, workload.examples),
        ("rounds", rounds, protocol.rounds),
        ("max_seconds", seconds, protocol.max_seconds),
        ("p99_ms", "" if limit_ms is None else f"{limit_ms:g}", "" if usual_ms is None else f"{usual_ms:g}"),
    ):
        link.remember(name, value, usual)
    job_options = _slurm()
    apart = job_options is not None and st.toggle(
        "A job for each batch size",
        key="each_batch_size",
        bind="query-params",
        help="One run per batch size. The runs may work at the same time, on separate nodes.",
    )
    # Full width: half of the column cuts off a device's name in a narrow window.
    device = "auto" if job_options is not None else choices.choose_device()
    offline = st.toggle(
        "Ask no model hub", key="offline", bind="query-params", help="Only what is on this machine is used."
    )
    try:
        overrides = [
            f"workload.batch_size={json.dumps(_sizes(str(sizes or '')))}",
            f"workload.examples={examples}",
            f"protocol.rounds={rounds}",
            f"protocol.max_seconds={float(seconds)}",
            *([f"load.p99_ms={limit_ms}"] if limit_ms is not None else []),
        ]
        selected = load_suite(reference, overrides).select(chosen)
        cluster = [] if job_options is None else slurm.profiles(**job_options)
        return Choice(selected, device, devices.resolve_device(device), bool(offline), reference, cluster, apart)
    except RequestError as error:
        st.error(headlines.literal(one_line(error)))
        return None


def _slurm() -> dict[str, str | None] | None:
    """Draw the options of a cluster job; return those that override the profile, or None if this machine measures."""
    why = slurm.unavailable()
    if why and not slurm.profile_file().exists():
        return None
    about = why or "One job on one node for all variants; its result is added here when the job has ended."
    if (
        not st.toggle("As a job of Slurm", key="slurm", bind="query-params", disabled=why is not None, help=about)
        or why
    ):
        if why:
            st.caption(f"No job of Slurm: {why}.")
        return None
    try:
        usual = slurm.profile()
    except RequestError as error:
        st.error(headlines.literal(one_line(error)))
        usual = slurm.Profile()
    one, two = st.columns(2)
    return {
        name: place.text_input(
            label,
            key=f"slurm_{name}",
            bind="query-params",
            placeholder=getattr(usual, name) or nothing,
            help=hint,
        ).strip()
        for place, name, label, nothing, hint in (
            (one, "partition", "Partition", "the cluster's own", None),
            (two, "gpu", "GPU", "none", 'A type, or "any". Several, with commas between, make one job each.'),
            (one, "time", "Time limit", "the partition's", "In the format of sbatch, such as 2:00:00."),
            (two, "account", "Account", "your own", None),
        )
    }


def _sizes(text: str) -> list[int]:
    """The batch sizes that `text` lists. Raises RequestError."""
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and 0 < int(part[:8]) < 100_000 for part in parts):
        raise RequestError(f"batch size {text[:40]!r}: allowed are whole numbers from 1, such as 8, or 1, 8, 32")
    return [int(part) for part in parts]


def _plan(choice: Choice, under_way: list[dict[str, Any]]) -> None:
    """Show what would be measured, how long it takes, and the button."""
    found = plan.chances(choice.suite, choice.device, choice.offline)
    if choice.cluster:
        # This machine does not know which variants the node can run.
        found = [replace(c, state=plan.READY, reason="") if c.state == plan.UNAVAILABLE else c for c in found]
    first, second = st.container(), st.container()
    # A button below a long table would be overlooked.
    table, start = (second, first) if len(found) > headlines.MANY else (first, second)
    table.html(plan_table(found, choice.suite, widgets.look()))
    with start:
        _offer(choice, found, under_way)


def _offer(choice: Choice, found: list[plan.Chance], under_way: list[dict[str, Any]]) -> None:
    """Show the estimate and the button, or the problem that prevents a start."""
    problem = None
    try:
        plan.check(choice.suite, found)
    except RequestError as error:
        problem = one_line(error)
    if problem:
        st.error(headlines.literal(problem))
    elif choice.cluster:
        st.caption("If the node lacks something that a variant needs, the variant's row will say so.")
    else:
        st.caption(headlines.literal(plan.estimate(choice.suite, choice.device)))
    busy = [] if choice.cluster else [run for run in under_way if run["device_name"] == choice.device.name]
    if busy:
        first = busy[0]
        st.caption(
            headlines.literal(
                f"{choice.device.name} is in use by run …{first['id'][-6:]} ({first['suite']}); this one waits for it."
            )
        )
    if st.button("Start run", type="primary", key="start", disabled=problem is not None):
        _start(choice)


def _start(choice: Choice) -> None:
    path = str(find_suite(choice.reference))
    try:
        for suite in choice.suite.each_batch_size() if choice.each_batch_size else [choice.suite]:
            for profile in choice.cluster:
                run_id = slurm.submit(suite, profile, choice.device_request, path, choice.offline)
        if not choice.cluster:
            run_id = local.start(choice.suite, choice.device_request, path, choice.offline)
    except RequestError as error:
        st.error(headlines.literal(one_line(error)))
        return
    st.session_state["watched"] = run_id
    st.query_params[run_choice.PARAMETER] = run_id
    st.rerun()


def plan_table(found: list[plan.Chance], suite: Suite, look: Theme) -> str:
    """HTML table of what each variant needs before it can be measured, or why it cannot be."""
    shades = marks(OfSuite.all(suite), look)
    body = ""
    for chance in found:
        variant = chance.variant
        is_baseline = variant.name == suite.baseline
        is_solid = chance.state not in (plan.UNAVAILABLE, plan.WRONG)
        about = f"{'baseline · ' if is_baseline else ''}{variant.backend} {variant.precision}"
        reason = f"<span class=ib-sub>{escape(chance.reason)}</span>" if chance.reason else ""
        body += (
            f"<tr{' class=ib-base' if is_baseline else ''}>"
            f'<th scope="row">{html.glyph(shades[variant.name], is_solid)}{escape(variant.shown)}'
            f"<span class=ib-sub>{escape(about)}</span></th>"
            f'<td class="ib-left ib-why">{escape(variant.model)}</td>'
            f'<td class="ib-left ib-why">{SIGNS[chance.state]}{reason}</td></tr>'
        )
    head = "".join(f'<th scope="col" class="ib-left">{name}</th>' for name in ("Variant", "Model", "On this device"))
    return (
        f'<style>{html.CSS}</style><div class=ib-card><table aria-label="What will be measured">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


widgets.behind_the_door()
main()
