"""What several pages show alike: the choice of a run, a chart that leaves as an image, the state of a run."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard import style
from dashboard.controls.run_choice import PARAMETER, RUN
from dashboard.data import reads
from dashboard.findings import headlines
from dashboard.run_rows import Row, baseline_of
from dashboard.server import door
from dashboard.tables import scorecard
from engine.errors import RequestError, one_line
from engine.jobs import local
from engine.units import duration, megabytes

LIVE_SECONDS = 2.0
DISTILBERT_BASE_BYTES = 267_800_000
"""The weights of distilbert-base-uncased with a classifier, in FP32."""


def behind_the_door() -> None:
    """Ends a page that is served without the door: whoever comes would see all of it, and do what it can do."""
    if not door.stands():
        st.error("Nothing is shown here: this server asks nobody for a token. Start it with `python -m dashboard`.")
        st.stop()


def look() -> style.Theme:
    """The theme that the reader's browser shows."""
    return style.theme(st.context.theme.type)


def sentences(shown: Sequence[str], unshown: Sequence[str]) -> None:
    """What a run shows, and what was looked for in vain; of more than are read at once the rest on demand."""
    most = headlines.MANY
    if shown:
        st.html(scorecard.sentences(shown[:most]))
    if len(shown) > most:
        with st.expander(f"{len(shown) - most} more"):
            st.html(scorecard.sentences(shown[most:]))
    if len(unshown) > most:
        with st.expander(f"{len(unshown)} looked for, and not shown"):
            st.html(scorecard.sentences(unshown, muted=True))
    elif unshown:
        st.caption("Looked for, and not shown:")
        st.html(scorecard.sentences(unshown, muted=True))


def small_models(rows: Sequence[Row]) -> None:
    """Says plainly what the demo's models are, and leads on to suites whose models are not small."""
    baseline = baseline_of(rows)
    size = "."
    if baseline is not None and baseline.weights_bytes:
        size = (
            f": {megabytes(baseline.weights_bytes)} MB of weights, DistilBERT-base {megabytes(DISTILBERT_BASE_BYTES)}."
        )
    # In one line with its links at 1440 px: the first screen has no room for two.
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"**The demo's models are small and made here**{size} They show how the bench works, not how fast "
            "DistilBERT is.",
            width="content",
        )
        for suite, about in (("shapes", "true sizes"), ("agnews", "real models")):
            st.page_link(RUN, label=f":primary[→ {suite}], {about}", query_params={"suite": suite})


def state_of(summary: dict[str, Any]) -> None:
    """Says in one line what is special about a run that did not simply finish; follows a live one."""
    status, reason = summary["status"], summary["status_reason"]
    because = headlines.literal(f": {reason.rstrip('.')}." if reason else ".")
    if status in reads.LIVE:
        _follow(summary["id"])
    elif status == "failed":
        st.error(f"This run failed{because}")
    elif status == "cancelled":
        st.info(f"This run was cancelled{because}")
    elif status == "interrupted":
        st.warning(f"This run was interrupted{because}")
    # A finished run has a reason where variants failed. Only where it was begun are its models and its device, and what
    # a file says of that is its sender's word.
    here = summary["host"] == socket.gethostname() and not summary["foreign"]
    if status not in reads.LIVE and reason and here:
        _resume(summary["id"])


def _resume(run_id: str) -> None:
    """Offers to go on with a run that lacks something."""
    if st.button("Measure what is missing", key="resume", help="What is measured stays as it is."):
        try:
            local.resume(run_id)
        except RequestError as error:
            st.error(headlines.literal(one_line(error)))
        else:
            st.switch_page(RUN, query_params={PARAMETER: run_id})


@st.fragment(run_every=LIVE_SECONDS)
def _follow(run_id: str) -> None:
    now = reads.run(run_id)
    if now["status"] not in reads.LIVE:
        st.rerun()
    progress = now["progress"] or {}
    text = progress.get("text") or now["status"]
    left = progress.get("seconds_left")
    remaining = f" · about {duration(left)} left" if left else ""
    st.progress(
        min(max(progress.get("done") or 0.0, 0.0), 1.0),
        text=headlines.literal(f"This run is under way: {progress.get('phase') or now['status']}: {text}{remaining}"),
    )
