"""What is said of a service's load: bounds, ratios, verdicts, sentences; and the tables and files that carry it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from row_builder import stored_row
from sqlalchemy import delete

from engine.report import exports, load, markup, tables
from engine.report.load import joined
from engine.store import open_store
from engine.store.models import Load, Measurement, Run
from engine.store.rows import LoadRow


def trial(rate_per_s: float, holds: bool) -> dict[str, Any]:
    found = {"rate_per_s": rate_per_s, "texts": 700, "late": 1 if holds else 9, "answered": 700 if holds else 90}
    return found | {"p99_s": 0.04 if holds else 0.2, "mean_batch": 2.5, "holds": holds}


def loaded(variant: str, held: float | None, failing: list[float], **changes: Any) -> LoadRow:
    """A row as `engine.store.measurements.loads` gives it: each rate of `failing` failed twice."""
    row = {
        "variant": variant, "status": "measured", "status_reason": None, "validity": "valid", "validity_reason": None,
        "p99_limit_s": 0.05, "max_batch": 32, "max_wait_s": 0.0, "padding": "longest", "single_texts": 64,
        "single_p90_s": 0.01, "offline_texts_per_s": 120.0, "server_texts_per_s": held,
        "trials": [*([trial(held, True)] if held else []), *(trial(rate, False) for rate in failing * 2)],
        "conditions": {"seconds": 60.0}, "measured_at": "2026-03-01T12:00:00.000+00:00",
    }  # fmt: skip
    return LoadRow(**row | changes)


FAILED = {"status": "failed", "status_reason": "the worker was ended by SIGSEGV", "trials": []} | dict.fromkeys(
    ("validity", "single_texts", "single_p90_s", "offline_texts_per_s", "server_texts_per_s", "conditions")
)
MEASURED = [stored_row(variant=name, title=name.upper(), baseline=name == "fp32") for name in ("fp32", "int8")]


def beside(base: LoadRow, other: LoadRow) -> load.JoinedLoad:
    return joined([base, other], MEASURED)[1]


@pytest.mark.parametrize(
    ("base", "other", "comparison", "ratio"),
    [
        ((50.0, [60.0]), (100.0, [110.0]), "better", (2.0, 100 / 60, 2.2)),
        ((50.0, [60.0]), (55.0, [58.0]), "no_difference", (1.1, 55 / 60, 58 / 50)),
        ((50.0, [60.0]), (20.0, [30.0, 25.0]), "worse", (0.4, 20 / 60, 0.5)),
        # Nothing failed: what it answers offline bounds it.
        ((50.0, [60.0]), (100.0, []), "better", (2.0, 100 / 60, 2.4)),
        ((50.0, [60.0]), (None, [40.0]), "worse", (None, None, None)),
        ((None, [60.0]), (70.0, [80.0]), "better", (None, None, None)),
        ((None, [60.0]), (50.0, [80.0]), "no_difference", (None, None, None)),
    ],
)
def test_a_rate_lies_between_what_held_and_what_did_not(base, other, comparison, ratio):
    row = beside(loaded("fp32", *base), loaded("int8", *other))
    assert row.comparison == comparison
    found = row.ratio, row.ratio_low, row.ratio_high
    assert found == ratio if ratio[0] is None else found == pytest.approx(ratio)


def test_a_rate_that_failed_once_bounds_nothing():
    row = loaded("int8", 100.0, [116.0])
    row.trials.append(trial(110.0, False))
    assert load.beyond(row) == 116.0
    row.trials.remove(trial(116.0, False))
    assert load.beyond(row) is None
    assert beside(loaded("fp32", 50.0, [60.0]), row).ratio_high == 120 / 50


def test_the_headline_says_no_more_than_the_bounds_show():
    base = loaded("fp32", 50.0, [60.0])
    say = lambda *rows: load.headline(joined(rows, MEASURED))  # noqa: E731
    assert say(base, loaded("int8", 100.0, [110.0])) == (
        "INT8 holds 100 texts/s with p99 within 50.0 ms, 2.00 times the baseline's (1.67 to 2.20)."
    )
    assert "no difference to the baseline is shown (1.10 times" in say(base, loaded("int8", 55.0, [58.0]))
    assert say(base, loaded("int8", 20.0, [30.0])).endswith("the most of all, and it is the baseline.")
    none = loaded("fp32", None, [9.0])
    assert say(none, loaded("int8", 20.0, [30.0])).endswith("the baseline held no rate that was tried.")
    assert say(replace(base, **FAILED), loaded("int8", 20.0, [30.0])).endswith("the baseline was not put under load.")
    assert say(none) == "No variant held p99 within 50.0 ms at any rate that was tried."
    assert say(replace(base, **FAILED)) == "No variant could be put under load."


def test_a_headline_in_doubt_says_so():
    unstable = {"validity": "unstable", "validity_reason": "others"}
    base, other = loaded("fp32", 50.0, [60.0]), loaded("int8", 100.0, [110.0])
    assert load.doubt(joined([base, other], MEASURED)) == ""
    both = joined([replace(base, **unstable), replace(other, **unstable)], MEASURED)
    assert load.doubt(both) == "In doubt, by what the machine did meanwhile: FP32 and INT8."
    # Neither the best nor the baseline: the headline does not speak of it.
    third = [*MEASURED, stored_row(variant="nf4", title="NF4")]
    assert load.doubt(joined([base, other, loaded("nf4", 10.0, [20.0], **unstable)], third)) == ""
    assert load.doubt(joined([replace(base, **FAILED)], MEASURED)) == ""


def test_doubts_and_failures_are_noted():
    doubted = loaded("fp32", 50.0, [60.0], validity="unstable", validity_reason="others")
    rows = joined([doubted, replace(loaded("int8", 1.0, []), **FAILED)], MEASURED)
    assert load.notes(rows) == [
        "FP32: unstable under load: others", "INT8: failed under load: the worker was ended by SIGSEGV",
    ]  # fmt: skip


def test_the_table_has_a_line_a_variant_with_its_bounds():
    rows = joined([loaded("fp32", 50.0, [60.0]), loaded("int8", None, [40.0])], MEASURED)
    (part,) = [part for part in tables.parts([], loads=rows) if part.name == "load"]
    assert part.title == "Under a service's load: p99 within 50.0 ms, batches of at most 32"
    first, second = markup.markdown(part.rows, part.columns).splitlines()[2:]
    assert first.split(" | ") == ["| FP32", "10.0", "120", "50.0", "60.0", "1 (baseline)", " |"]
    assert second.split(" | ") == ["| INT8", "10.0", "120", "none", "40.0", "–", "▼ holds less |"]
    failed = joined([loaded("fp32", 50.0, [60.0]), replace(loaded("int8", 1.0, []), **FAILED)], MEASURED)
    assert markup.markdown(failed, tables.LOAD).splitlines()[-1] == "| INT8 | – | – | – | – | – | ✗ failed |"
    own = joined([loaded("fp32", 50.0, [60.0]), loaded("int8", 1.0, [2.0], max_batch=8)], MEASURED)
    assert "batches of each variant's own" in tables.parts([], loads=own)[1].title
    assert "| INT8 @ 8 |" in markup.markdown(own, tables.LOAD)
    assert not [part for part in tables.parts([]) if part.name == "load"]


@pytest.fixture
def stored(tmp_path, monkeypatch) -> str:
    """The id of a run in a database of its own, of two variants under load."""
    from datetime import UTC, datetime

    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    now = datetime.now(UTC)
    run = Run(
        id="01J0000000000000000000000A", suite_name="demo", device="cpu", device_name="a processor", host="here",
        suite={"name": "demo", "baseline": "fp32", "workload": {"max_length": 48, "batch_size": [8]},
               "protocol": {"processes": 1}, "variant": []},
        environment={"threads": 2}, status="finished", created_at=now,
    )  # fmt: skip
    usual = {
        "model": "m", "backend": "pytorch", "precision": "fp32", "options": {}, "device": "cpu", "batch_size": 8,
        "padding": "longest", "order": "given", "max_length": 48, "status": "measured",
    }  # fmt: skip
    for position, name in enumerate(("fp32", "int8")):
        named = {"variant": name, "title": name.upper(), "baseline": name == "fp32", "position": position}
        run.measurements.append(Measurement(**usual | named))
    for made in (loaded("int8", 100.0, [110.0]), loaded("fp32", 50.0, [60.0])):
        run.loads.append(Load(**made.to_json() | {"measured_at": now}))
    with open_store() as store, store.session() as session:
        session.add(run)
    return run.id


def test_every_form_of_export_carries_it(stored):
    found = json.loads(exports.measurements(stored, "json"))["scenarios"]
    # In the order of the suite, not of the rows.
    assert [row["variant"] for row in found] == ["fp32", "int8"]
    assert found[1]["trials"] == [trial(100.0, True), *[trial(110.0, False)] * 2] and found[1]["max_batch"] == 32
    rows = list(csv.DictReader(io.StringIO(exports.measurements(stored, "csv"))))
    assert [row["load_server_texts_per_s"] for row in rows] == ["50.0", "100.0"]
    assert rows[1]["load_comparison"] == "better" and rows[1]["load_beyond_texts_per_s"] == "110.0"
    assert "| Holds texts/s | Fails at |" in exports.measurements(stored, "markdown")
    latex = exports.measurements(stored, "latex")
    assert "tab:01j0000000000000000000000a-load" in latex and "Under a service's load: p99 within 50.0 ms" in latex


def test_without_load_nothing_is_said_of_it(stored):
    with open_store() as store, store.session() as session:
        session.execute(delete(Load))
    assert json.loads(exports.measurements(stored, "json"))["scenarios"] == []
    for form in ("csv", "markdown", "latex"):
        assert "load_status" not in exports.measurements(stored, form)
        assert "Fails at" not in exports.measurements(stored, form)
