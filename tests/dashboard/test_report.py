"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, INTERRUPTED, RUNNING, SIZES, UNLABELLED
from reading import Reader

from dashboard import style
from dashboard.data import reads
from dashboard.export import images, report

HOSTILE = "</script><script>alert(1)</script><img src=//example.com onerror=alert(2)>"


def built(run_id: str, look: style.Theme | None = None, batch_size: int | None = None) -> str:
    summary = reads.run(run_id)
    measured = reads.measurements(summary)
    return report.build(summary, measured, reads.published(), look, batch_size, reads.loads(summary, measured))


def drawn(page: str) -> dict[str, dict]:
    return json.loads(re.search(r"const drawn=(.*),config=", page)[1])


def test_it_says_what_the_overview_says(database: str) -> None:
    page = built(FULL)
    said = Reader(page).text
    for expected in (
        "Student FP32 answers 4.98× as many samples/s as DistilBERT FP32",
        "Test CPU <4> & co (cpu, 4 threads)",
        "What this run shows",
        "Looked for, and not shown",
        "2 of 64 under batch 1",
        "Student FP32 holds 962 texts/s with p99 within 100 ms, 6.29 times the baseline's (6.01 to 6.58).",
        "It reaches 40% of <b>FP32</b>",
        "A <b>model</b> that fails",
        "parameters are float32, not bfloat16",
        "run 01J0000000000000000000000A, 2026-03-01 07:00 UTC",
        "exact McNemar",
    ):
        assert expected in said, expected


def test_it_fetches_nothing(database: str) -> None:
    page = built(FULL)
    read = Reader(page)
    assert read.fetched() == []
    policy = read.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy" and "default-src 'none'" in policy["content"]
    own = page.replace(images.get_plotlyjs(), "")
    assert "@import" not in own and "url(" not in own
    assert page.count(images.get_plotlyjs()) == 1, "plotly.js is there once"
    assert len(own) < 300_000


def test_charts_are_there_in_both_appearances_with_alternatives(database: str) -> None:
    page = built(SIZES)
    figures = drawn(page)
    assert list(figures["light"]) == list(figures["dark"]) and "batches" in figures["light"]
    for name in style.THEMES:
        grounds = {figure["layout"]["template"]["layout"]["paper_bgcolor"] for figure in figures[name].values()}
        assert grounds == {style.THEMES[name].background}
    read = Reader(page)
    boxes = [tag["id"] for tag in read.all("div") if (tag.get("id") or "").startswith("chart-")]
    assert boxes == [f"chart-{name}" for name in figures["light"]]
    said = [tag["aria-label"] or "" for tag in read.all("figure")]
    assert len(said) == len(boxes) and "Student FP32, 24.9 ms a batch, 95%: 23.7 to 26.2" in " ".join(said)


def test_the_figures_are_the_databases(database: str) -> None:
    latency = drawn(built(SIZES, batch_size=8))["light"]["latency"]
    rows = [row for row in reads.measurements(reads.run(SIZES)) if row.batch_size == 8]
    values = {trace["name"]: trace["x"][0] for trace in latency["data"]}
    for row in rows:
        assert values[row.title] == pytest.approx(1e3 * row.latency_p50_s)


def test_an_appearance_can_be_chosen(database: str) -> None:
    assert Reader(built(FULL, style.DARK)).all("html")[0]["data-theme"] == "dark"
    assert "data-theme" not in Reader(built(FULL)).all("html")[0]


def test_no_text_is_markup(database: str) -> None:
    summary = reads.run(FULL) | {"device_name": HOSTILE, "suite": HOSTILE, "status": "failed", "status_reason": HOSTILE}
    summary["environment"] = {"threads": 4, "note": HOSTILE}
    columns = ("title", "name", "status_reason", "validity_reason", "accuracy_reason", "binds")
    measured = [
        replace(row, **{column: HOSTILE for column in columns if row.figure(column)})
        for row in reads.measurements(reads.run(FULL))
    ]
    page = report.build(summary, measured, reads.published())
    read = Reader(page)
    assert read.all("img") == [] and len(read.all("script")) == 2
    assert not [attrs for _, attrs in read.tags if any(name.startswith("on") for name in attrs)]
    assert html.unescape(HOSTILE) in read.text


@pytest.mark.parametrize("run_id", [UNLABELLED, RUNNING, CANCELLED, INTERRUPTED, FAILED])
def test_every_kind_of_run_becomes_a_report(run_id: str, database: str) -> None:
    page = built(run_id)
    said = Reader(page).text
    assert reads.run(run_id)["status"] == "finished" or f"This run is {reads.run(run_id)['status']}" in said
    assert (images.get_plotlyjs() in page) == (run_id in (UNLABELLED, CANCELLED)), "only where there are charts"
