"""A stored run as CSV, JSON, Markdown or LaTeX text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from engine.errors import RequestError
from engine.report import load as report_load
from engine.report import markup, tables
from engine.store.rows import LoadRow, Row

FORMULA = tuple("=+-@\t\n＝＋－＠")
"""A spreadsheet reads a cell of text that begins with one of these as a formula."""
LOAD_FIELDS = (
    "status", "status_reason", "validity", "validity_reason", "p99_limit_s", "max_batch", "max_wait_s", "padding",
    "single_p90_s", "offline_texts_per_s", "server_texts_per_s", "beyond_texts_per_s", "ratio", "ratio_low",
    "ratio_high", "comparison",
)  # fmt: skip
"""The columns of a CSV for a variant under load."""


def measurements(reference: str, form: str) -> str:
    """The run's measurements: CSV with a row a measurement, JSON with `run` and `measurements`, or tables.

    `form`: csv, json, markdown or latex. What its variants gave under load is a list `scenarios` in JSON, a table in
    Markdown and LaTeX, and in CSV columns of each row's variant that begin with load_, where there is any.
    """
    from engine.store import measurements as store_measurements
    from engine.store import open_store, runs

    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        rows = store_measurements.rows(session, run.id)
        summary = runs.run_summary(run)
        stored_loads = store_measurements.loads(session, run.id)
    if form == "json":
        return as_json(summary, rows, stored_loads)
    loads = report_load.joined(stored_loads, rows)
    if form == "latex":
        return tables.document(summary, rows, loads)
    if form == "markdown":
        parts = [markup.markdown(part.rows, part.columns) for part in tables.parts(rows, loads=loads)]
        if notes := [*tables.notes(rows), *report_load.notes(loads)]:
            parts.append("\n".join(f"- {markup.literal(note)}" for note in notes))
        return "\n\n".join([*parts, markup.literal(tables.caption(summary, rows))])
    lines = [row.to_json() for row in rows]
    if loads:
        of = {load.variant: load for load in loads}
        for line in lines:
            load = of.get(line["variant"])
            line |= {f"load_{name}": load.figure(name) if load else None for name in LOAD_FIELDS}
    return _csv([{key: _cell(value) for key, value in line.items()} for line in lines])


def as_json(summary: dict[str, Any], rows: Sequence[Row], loads: Sequence[LoadRow]) -> str:
    """A run's summary and its flat rows; the list `scenarios` has what its variants gave under load."""
    found = {
        "run": summary,
        "measurements": [row.to_json() for row in rows],
        "scenarios": [load.to_json() for load in loads],
    }
    return json.dumps(found, indent=2)


def predictions(reference: str, form: str) -> str:
    """Every example's index in the data set, text hash, label and logits, for each measurement that has them.

    CSV: a row an example and measurement, logits as a JSON array in the model's own order. Raises
    RequestError for Markdown and LaTeX, and for a run without answers.
    """
    if form in ("markdown", "latex"):
        name = {"markdown": "Markdown", "latex": "LaTeX"}[form]
        raise RequestError(f"--predictions has no {name} form; allowed: csv, json")
    run_id, found = _predictions(reference)
    if not found:
        raise RequestError(f"run {run_id} holds no answers: no variant got that far")
    if form == "json":
        return json.dumps({"run": run_id, "predictions": found})
    return _csv(
        [
            {
                "variant": item["variant"],
                "batch_size": item["batch_size"],
                **example,
                "logits": json.dumps(example["logits"]),
            }
            for item in found
            for example in item["examples"]
        ]
    )


def _predictions(reference: str) -> tuple[str, list[dict[str, Any]]]:
    from engine.measurement.labels import Alignment
    from engine.measurement.summary import predicted_names
    from engine.store import examples as store_examples
    from engine.store import measurements as store_measurements
    from engine.store import open_store, runs

    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        examples = store_examples.examples(session, run.example_set_id) if run.example_set_id else []
        names = run.example_set.label_names if run.example_set else None
        found = []
        for row in store_measurements.measurements(session, run.id):
            logits = store_measurements.logits(session, row.id)
            if logits is None or row.prediction is None:
                continue
            outputs = row.prediction.model_labels
            alignment = Alignment(**row.labels) if row.labels else Alignment(None, None, "not aligned", outputs)
            predicted = predicted_names(logits, alignment, names)
            found.append(
                {
                    "variant": row.variant,
                    "batch_size": row.batch_size,
                    "model_labels": outputs,
                    "examples": [
                        {
                            "index": example.source_index,
                            "text_sha256": example.text_sha256,
                            "label": names[example.label] if names and example.label is not None else None,
                            "predicted": answer,
                            "logits": [float(value) for value in line],
                        }
                        for example, answer, line in zip(examples, predicted, logits, strict=True)
                    ],
                }
            )
        return run.id, found


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: safe(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def safe(value: Any) -> Any:
    """A cell that no spreadsheet reads as a formula: text that begins like one gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    # The csv module leaves a lone carriage return unquoted.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(FORMULA) else text
