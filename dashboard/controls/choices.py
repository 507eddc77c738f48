"""Controls that several pages share: the suite, its variants, the device; a run's batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

from dashboard.controls import link, run_choice
from dashboard.data import plan, reads
from dashboard.findings import headlines
from dashboard.run_rows import Row
from engine.errors import RequestError, one_line
from engine.suite.reading import load_suite
from engine.suite.spec import Suite, suite_files

FILE = "a file …"
FIRST = "demo"
OF_SUITE = ("variants", "batch_size", "examples", "rounds", "max_seconds", "p99_ms")
"""The choices in the URL that are a suite's own: another suite begins with what it says itself."""
Value = TypeVar("Value")


def at_least(least: float, kind: Callable[[str], Value]) -> Callable[[str], Value]:
    """Reads a number of some kind that is finite and no less than `least`; raises ValueError."""

    def read(text: str) -> Value:
        value = kind(text)
        if not least <= value < math.inf:  # type: ignore[operator]
            raise ValueError(text)
        return value

    return read


def _other_suite() -> None:
    for name in OF_SUITE:
        st.query_params.pop(name, None)


def choose_suite() -> tuple[Suite, str] | None:
    """The chosen suite and what it was called; None, with one sentence on why, where it cannot be read."""
    known = list(suite_files())
    reference = st.selectbox(
        "Suite",
        [*known, FILE],
        index=known.index(FIRST) if FIRST in known else 0,
        key="suite",
        bind="query-params",
        on_change=_other_suite,
        help="What comes with the bench, in data/suites; or a suite file of your own.",
    )
    if reference == FILE:
        reference = st.text_input(
            "Path of the suite file",
            key="suite_file",
            bind="query-params",
            on_change=_other_suite,
            placeholder="/path/to/suite.toml",
            label_visibility="collapsed",
        ).strip()
        if not reference:
            st.caption("The path of a suite file on the machine that runs this dashboard.")
            return None
    try:
        suite = load_suite(str(reference))
    except (RequestError, ValueError) as error:
        st.error(headlines.literal(one_line(error)))
        return None
    return suite, str(reference)


def choose_variants(suite: Suite, key: str, baseline_does: str) -> list[str]:
    """Names of the chosen variants beside the baseline."""
    titles = {v.name: v.shown for v in suite.variant}
    others = [name for name in titles if name != suite.baseline]
    if not others:
        return []
    key = f"{key}:{suite.folder}/{suite.name}"
    first = link.first("variants", key, others, lambda text: [name for name in others if name in text.split(",")])
    # So many buttons would fill the screen: then no choice stands for all of them.
    many = len(others) > headlines.MANY
    about: dict[str, Any] = {
        "label": "Variants beside the baseline",
        "options": others,
        "format_func": lambda name: headlines.literal(titles[name]),
        "key": key,
        "persist_state": "session",
        "wrap": True,
        "help": f"The baseline, {headlines.literal(titles[suite.baseline])}, {baseline_does}.",
    }
    if many:
        default = [] if first == others else first
        chosen = st.multiselect(**about, default=default, placeholder=f"All {len(others)}; choose, to have only some")
    else:
        chosen = st.pills(**about, default=first, selection_mode="multi")
    wanted = [name for name in others if name in chosen] or (others if many else [])
    link.remember("variants", ",".join(wanted), ",".join(others))
    return wanted


def choose_device() -> str:
    """auto, cpu or cuda:N."""
    found = plan.devices()
    return str(
        st.selectbox("Device", list(found), format_func=found.__getitem__, key="device", bind="query-params") or "auto"
    )


def choose_measurements(run: Any, batch: Any) -> tuple[dict[str, Any], list[Row], int | None]:
    """The run chosen in the place `run`, its rows, and the batch size chosen in the place `batch`."""
    with run:
        run_id = run_choice.choose_run()
    summary = reads.run(run_id)
    measured = reads.measurements(summary)
    with batch:
        return summary, measured, choose_batch(measured)


def choose_batch(measured: Sequence[Row]) -> int | None:
    """The batch size to show; a control only where the run has several."""
    sizes = sorted({row.batch_size for row in measured if row.baseline})
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
