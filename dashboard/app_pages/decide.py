"""Decide page: set limits, and see which variants remain, which is fastest, and what each limit costs."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from dashboard import figures, run_rows
from dashboard.controls import charts, choices, widgets
from dashboard.data import reads
from dashboard.findings import deciding, decision_words, headlines
from dashboard.findings.deciding import Decision, Limits
from dashboard.style import Theme
from dashboard.tables import decision
from engine.units import significant

SHIP = "app_pages/ship.py"
KEYS = {
    "memory_bytes": "max_memory_mb",
    "latency_p95_s": "max_p95_ms",
    "accuracy_lost": "max_lost_points",
    "energy_j_per_1000_examples": "max_energy_j",
}
"""The name of each limit in the URL."""
STEPS = {"memory_bytes": 10.0, "latency_p95_s": 1.0, "accuracy_lost": 0.1, "energy_j_per_1000_examples": 1.0}


def main() -> None:
    left, right = st.columns([6, 5], vertical_alignment="center")
    summary, _, size = choices.choose_measurements(left, right)
    widgets.state_of(summary)
    _decision(summary["id"], size)


@charts.charts_fragment
def _decision(run_id: str, size: int | None) -> None:
    """Draw everything that follows from the limits, from the measurements that the run holds so far."""
    summary = reads.run(run_id)
    rows = run_rows.at_batch(reads.measurements(summary), size)
    if not rows:
        st.header("This run holds no measurements.")
        st.stop()
    limits, strict = _controls(rows)
    versus = None
    if summary["status"] not in reads.LIVE:
        versus = deciding.from_rounds(rows, reads.rates(summary, rows))
    decided = deciding.decide(rows, limits, strict, versus)
    _answer(summary, decided)
    _evidence(summary, decided, widgets.look())
    charts.save_charts(f"{charts.stem(summary)}-decide")


def _controls(rows: list[run_rows.Row]) -> tuple[Limits, bool]:
    """Draw one number field per limit, with the range that this run measured; an empty field sets no limit.

    Return the limits, and whether a variant must be shown to be within them.
    """
    limits: dict[str, float] = {}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        for key, quantity in deciding.quantities(rows).items():
            values = [figure.estimate for row in rows if run_rows.usable(row) and (figure := quantity.read(row))]
            if key == "energy_j_per_1000_examples" and not values and KEYS[key] not in st.query_params:
                continue  # no energy was measured, and the URL sets no limit on it
            others = [row for row in rows if run_rows.usable(row) and not row.baseline]
            if key == "accuracy_lost" and not any(quantity.read(row) for row in others):
                values = []  # only the baseline has a value, which is zero by definition
            measured = f"{quantity.text(min(values))} to {quantity.text(max(values))}" if values else "not measured"
            value = st.number_input(
                f"{quantity.label}, at most ({quantity.unit})",
                min_value=0.0,
                value=None,
                step=STEPS[key],
                format="%g",
                placeholder=f"no limit · {measured}",
                key=KEYS[key],
                bind="query-params",
                width=214,
                help=f"Empty: no limit. Measured in this run: {measured} {quantity.unit}.",
            )
            # Streamlit does not hold a value from the URL to the control's own range.
            if value is not None and math.isfinite(value) and value >= 0:
                limits[key] = value / quantity.factor
        strict = st.toggle(
            "Only what is shown to be within",
            value=True,
            key="shown",
            bind="query-params",
            help="On: the whole 95% interval of the accuracy lost must lie within the limit. Off: its estimate "
            "decides, and the page notes where the interval does not show it. Memory, p95 and energy have one value "
            "each and no interval.",
        )
    return Limits(**limits), bool(strict)


def _answer(summary: dict[str, Any], decided: Decision) -> None:
    finding, detail = decision_words.answer(decided)
    st.header(headlines.literal(finding), anchor=False)
    if detail:
        st.write(headlines.literal(detail))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        for loosening in decided.loosenings:
            key = loosening.quantity.key
            amount = loosening.quantity.counted(significant(loosening.shown))
            name = headlines.literal(loosening.row.name)
            st.button(
                f"{loosening.quantity.label} {amount}: {name} remains",
                key=f"loosen_{key}",
                on_click=_set_limit,
                args=(KEYS[key], loosening.shown),
            )
        if decided.fastest is not None:
            for row in [decided.fastest, *(rival for rival, _ in decided.rivals)][:3]:
                st.page_link(
                    SHIP,
                    label=f":primary[→ Ship {headlines.literal(row.name)}]",
                    query_params={
                        "run": summary["id"],
                        "variant": row.variant,
                        "batch": choices.batch_words(row.batch_size),
                    },
                )


def _set_limit(key: str, value: float) -> None:
    st.session_state[key] = value


def _evidence(summary: dict[str, Any], decided: Decision, look: Theme) -> None:
    stem = charts.stem(summary)
    left, right = charts.table_and_charts("decision")
    with left:
        st.html(decision.verdicts(decided, look))
        st.caption(
            "✓ within, ✗ beyond, ? not shown: the limit lies inside the 95% interval. Accuracy lost: against the "
            "baseline on the same examples, negative where gained. Memory, p95 and energy: one value, no interval."
        )
        if decided.costs:
            st.subheader("What each limit costs", anchor=False)
            st.html(decision.costs(decided))
            st.caption(
                "The fastest variant without this one limit, and its samples/s over those of the fastest now, in the "
                "rounds that both share (95%)."
            )
    others = [j.row for j in decided.judged if j.row.status == "measured" and not j.row.baseline]
    known = [
        key
        for key, quantity in decided.quantities.items()
        if key != "latency_p95_s" and any(quantity.read(row) for row in others)
    ]
    # Limited quantities come first.
    known.sort(key=lambda key: (key not in decided.limits.given, key != "accuracy_lost"))
    with right:
        for index, key in enumerate(known[:2]):
            figure = figures.decision(decided, look, key)
            charts.chart(figure, f"decision_{index}", f"{stem}-decision-{key.split('_')[0]}", _alt(decided, key))


def _alt(decided: Decision, key: str) -> str:
    """Return a description of the chart in words."""
    parts, quantity = [], decided.quantities[key]
    for judged in decided.judged:
        figure = quantity.read(judged.row)
        if figure is not None and judged.row.latency_p50_s is not None:
            state = "remains" if judged.remains else "out"
            parts.append(f"{judged.row.name}: {quantity.text(figure.estimate)} {quantity.unit}, {state}")
    return f"{decision_words.title(decided, key)}. {'; '.join(parts)}."


widgets.behind_the_door()
main()
