"""Controls that several pages share: the suite, its variants, the device; a run's batch size."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import findings, plan
from engine.errors import RequestError, one_line
from engine.spec import Suite, load_suite, suite_files

FILE = "a file …"
FIRST = "demo"


def choose_suite() -> tuple[Suite, str] | None:
    """The chosen suite and what it was called; None, with one sentence on why, where it cannot be read."""
    known = list(suite_files())
    reference = st.selectbox(
        "Suite",
        [*known, FILE],
        index=known.index(FIRST) if FIRST in known else 0,
        key="suite",
        bind="query-params",
        help="What comes with the bench, in data/suites; or a suite file of your own.",
    )
    if reference == FILE:
        reference = st.text_input(
            "Path of the suite file",
            key="suite_file",
            bind="query-params",
            placeholder="/path/to/suite.toml",
            label_visibility="collapsed",
        ).strip()
        if not reference:
            st.caption("The path of a suite file on the machine that runs this dashboard.")
            return None
    try:
        suite = load_suite(str(reference))
    except (RequestError, ValueError) as error:
        st.error(findings.literal(one_line(error)))
        return None
    return suite, str(reference)


def choose_variants(suite: Suite, key: str, baseline_does: str) -> list[str]:
    """Names of the chosen variants beside the baseline."""
    titles = {v.name: v.shown for v in suite.variant}
    others = [name for name in titles if name != suite.baseline]
    if not others:
        return []
    chosen = st.pills(
        "Variants beside the baseline",
        others,
        selection_mode="multi",
        default=others,
        format_func=lambda name: findings.literal(titles[name]),
        key=f"{key}:{suite.folder}/{suite.name}",
        persist_state="session",
        wrap=True,
        help=f"The baseline, {findings.literal(titles[suite.baseline])}, {baseline_does}.",
    )
    return list(chosen or [])


def choose_device() -> str:
    """auto, cpu or cuda:N."""
    found = plan.devices()
    return str(
        st.selectbox("Device", list(found), format_func=found.__getitem__, key="device", bind="query-params") or "auto"
    )


def choose_batch(measured: pd.DataFrame) -> int | None:
    """The batch size to show; a control only where the run has several."""
    if measured.empty:
        return None
    baseline = measured[measured["baseline"].astype(bool)]
    sizes = sorted(baseline["batch_size"].unique()) if not baseline.empty else []
    if len(sizes) < 2:
        return None
    return st.segmented_control(
        "Batch size",
        sizes,
        default=sizes[-1],
        format_func=batch_words,
        key="batch",
        label_visibility="collapsed",
        required=True,
        bind="query-params",
    )


def batch_words(size: int) -> str:
    """A batch size as its control shows it, and as a link names it."""
    return f"batch {size}"
