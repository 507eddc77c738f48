"""A stored run as CSV, JSON, Markdown or LaTeX text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from engine import serving, tables
from engine.errors import RequestError

FORMULA = tuple("=+-@\t\n＝＋－＠")
"""What makes a spreadsheet read a cell of text as a formula."""
LOAD_FIELDS = (
    "status", "status_reason", "validity", "validity_reason", "p99_limit_s", "max_batch", "max_wait_s", "padding",
    "single_p90_s", "offline_texts_per_s", "server_texts_per_s", "beyond_texts_per_s", "ratio", "ratio_low",
    "ratio_high", "comparison",
)  # fmt: skip
"""What a CSV has of a variant under load."""


def measurements(reference: str, form: str) -> str:
    """The run's measurements: CSV with a row a measurement, JSON with `run` and `measurements`, or tables.

    `form`: csv, json, markdown or latex. What its variants gave under load is a list `scenarios` in JSON, a table in
    Markdown and LaTeX, and in CSV columns of each row's variant that begin with load_, where there is any.
    """
    from engine.store import open_store, queries

    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, reference)
        rows = [queries.flat(m) for m in queries.measurements(session, run.id)]
        summary = queries.run_summary(run)
        scenarios = queries.scenarios(session, run.id)
    if form == "json":
        return json.dumps({"run": summary, "measurements": rows, "scenarios": scenarios}, indent=2)
    loads = serving.joined(scenarios, rows)
    if form == "latex":
        return tables.document(summary, rows, loads)
    if form == "markdown":
        parts = [tables.markdown(part.rows, part.columns) for part in tables.parts(rows, loads=loads)]
        if notes := [*tables.notes(rows), *serving.notes(loads)]:
            parts.append("\n".join(f"- {tables.literal(note)}" for note in notes))
        return "\n\n".join([*parts, tables.literal(tables.caption(summary, rows))])
    if loads:
        of = {load["variant"]: load for load in loads}
        rows = [row | {f"load_{name}": of.get(row["variant"], {}).get(name) for name in LOAD_FIELDS} for row in rows]
    return _csv([{key: _cell(value) for key, value in row.items()} for row in rows])


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
    from engine.labels import Alignment
    from engine.store import open_store, queries
    from engine.summary import predicted_names

    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, reference)
        examples = queries.examples(session, run.example_set_id) if run.example_set_id else []
        names = run.example_set.label_names if run.example_set else None
        found = []
        for row in queries.measurements(session, run.id):
            logits = queries.logits(session, row.id)
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
