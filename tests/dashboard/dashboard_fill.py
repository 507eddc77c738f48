"""Runs of every kind for the dashboard's tests. `python tests/dashboard/dashboard_fill.py URL` fills a database."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from engine.measurement import labels, operators, summary
from engine.measurement.summary import Block, Raw, answers, speed
from engine.store import examples, measurements, open_store, runs
from engine.store.models import Load, Measurement, Run
from engine.store.past import planned_columns

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
EXAMPLES = 200
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FULL, SIZES, UNLABELLED, RUNNING, CANCELLED, INTERRUPTED, FAILED = (
    f"01J0000000000000000000000{letter}" for letter in "ABCDEFG"
)
DEVICE = "Test CPU <4> & co"

# name, title, backend, precision, model, seconds a call, share right, MB, published
VARIANTS: list[tuple[str, str, str, str, str, float, float, float, str | None]] = [
    ("fp32", "DistilBERT FP32", "pytorch", "fp32", "big", 0.040, 0.90, 660, "study/DistilBERT FP32"),
    ("nf4", "DistilBERT 4-bit", "bitsandbytes", "nf4", "big", 0.052, 0.89, 640, "study/DistilBERT 4-bit"),
    ("student", "Student FP32", "pytorch", "fp32", "small", 0.008, 0.72, 400, "study/TinyBERT"),
    ("onnx", "ONNX FP32", "onnxruntime", "fp32", "big", 0.0398, 0.90, 250, "study/ONNX FP32"),
    ("int8", "ONNX INT8", "onnxruntime", "int8", "big", 0.015, 0.88, 160, "study/ONNX INT8"),
]


PRODUCT = {"how": "torch.matmul <b>", "library": "torch", "repeats": 12, "size": 512, "reason": None}
CEILINGS = {
    "reason": None,
    "products": {
        "fp32": PRODUCT
        | {"operations_per_s": 4e11, "median_operations_per_s": 3.9e11}
        | {"ways": [PRODUCT | {"operations_per_s": 4e11, "median_operations_per_s": 3.9e11}]},
        "tf32": {"operations_per_s": None, "reason": "a CPU has none", "ways": []},
    },
    "copy": {"bytes_per_s": 4.2e10, "median_bytes_per_s": 4e10, "repeats": 9, "how": "copy_", "reason": None},
    "host_to_device": {"bytes_per_s": None, "reason": "the device is the host"},
}


PROFILE = operators.facts(
    operators.Profile(
        "operators",
        [
            operators.Operator("aten::addmm", 14, 0.020),
            operators.Operator("aten::<b>copy_", 30, 0.006),
            operators.Operator("aten::gelu", 2, 0.004),
            *(operators.Operator(f"aten::op{index}", 1, 0.0002) for index in range(14)),
        ],
        0.041,
    ),
    1,
    (8, 128),
)


def fill(url: str) -> None:
    """Stores all runs in the database at `url`."""
    generator = np.random.default_rng(7)
    truth = generator.integers(0, 4, EXAMPLES)
    with open_store(url) as store, store.session() as session:
        texts = [f"example {index}" for index in range(EXAMPLES)]
        examples.add_example_set(session, "labelled", "test.csv", LABELS, texts, truth.tolist(), range(EXAMPLES))
        examples.add_example_set(session, "plain", "lines.csv", None, texts, None, range(EXAMPLES))

        run = _run(FULL, "finished", hours=5)
        rows = [_measured(generator, truth, position, values, 8) for position, values in enumerate(VARIANTS)]
        rows[1].validity, rows[1].validity_reason = "unstable", "latency drifted by +20%"
        chance = _measured(
            generator, truth, 5, ("sst2", "SST-2 head", "pytorch", "fp32", "other", 0.03, 0.3, 600, None), 8
        )
        for column in ("accuracy", "accuracy_low", "accuracy_high", "correct", "macro_f1", "nll", "ece", "quality"):
            setattr(chance, column, None)
        chance.accuracy_reason, chance.index_match_rate = "2 labels of the model, 4 of the data set", 0.275
        wrong = _measured(
            generator, truth, 6, ("bf16", "BF16 that is not", "pytorch", "bf16", "big", 0.02, 0.9, 500, None), 8
        )
        wrong.validity, wrong.validity_reason = "invalid", "parameters are float32, not bfloat16"
        failed = _empty(7, "gone", "A <b>model</b> that fails", "failed", "no such folder: /models/gone")
        lacking = _empty(8, "tf32", "DistilBERT TF32", "unavailable", "TF32 needs a GPU")
        _compare([*rows, chance, wrong], truth)
        run.measurements = [*rows, chance, wrong, failed, lacking]
        run.suite = run.suite | {"scenarios": {"p99_ms": 100.0, "max_batch": 32, "max_wait_ms": 0.0}}
        run.loads = loads()
        _add(session, run)

        run = _run(SIZES, "finished", hours=4, sizes=[1, 8, 32])
        for size in (1, 8, 32):
            group = [_measured(generator, truth, p, values, size) for p, values in enumerate(VARIANTS[:3])]
            _compare(group, truth)
            run.measurements += group
        _add(session, run)

        run = _run(UNLABELLED, "finished", hours=6, example_set="plain")
        run.measurements = [_measured(generator, truth, p, values, 8) for p, values in enumerate(VARIANTS)]
        for row in run.measurements:
            row.accuracy = row.accuracy_low = row.accuracy_high = row.correct = row.macro_f1 = None
            row.nll = row.ece = row.quality = None
            row.accuracy_reason = "the workload is unlabelled"
        _compare(run.measurements, None)
        _add(session, run)

        run = _run(RUNNING, "running", hours=0.1)
        run.progress = {
            "phase": "timing",
            "text": "round 3 of at least 30",
            "done": 0.4,
            "seconds_left": 42.0,
            "position": {"round": 3, "rounds": 30, "process": 1, "processes": 1},
        }
        # By its host's clock, which is ahead: it goes on for as long as the tests take.
        run.host, run.pid, run.heartbeat_at = "another-host", 1, datetime.now(UTC) + timedelta(days=1)
        run.measurements = [_empty(p, values[0], values[1], "pending", None) for p, values in enumerate(VARIANTS)]
        _add(session, run)

        for run_id, status, reason, hours in (
            (CANCELLED, "cancelled", "cancelled by the user", 3),
            (INTERRUPTED, "interrupted", "its process 77 ended without finishing", 2),
            (FAILED, "failed", "the device's driver is gone", 1),
        ):
            run = _run(run_id, status, hours=hours)
            run.status_reason = reason
            group = [_measured(generator, truth, 0, VARIANTS[0], 8)] if status == "cancelled" else []
            _compare(group, truth)
            rest = VARIANTS[len(group) :]
            run.measurements = group + [
                _empty(p + len(group), values[0], values[1], "cancelled", reason) for p, values in enumerate(rest)
            ]
            _add(session, run)


def loads() -> list[Load]:
    """Under load: the baseline, one in doubt, the fastest, one no rate of which held, one as good as the baseline."""
    doubt = {"validity": "unstable", "validity_reason": "other processes used 1.2 of 4 CPUs while it was timed"}
    none = dict.fromkeys(
        ("validity", "single_texts", "single_p90_s", "offline_texts_per_s", "server_texts_per_s", "conditions")
    )
    died = {"status": "failed", "status_reason": "the worker was ended by SIGKILL", "trials": []}
    return [
        _load("fp32", 200.0, [(140.0, True), (167.0, False), (153.0, True), (160.0, False), (160.0, False)]),
        _load("nf4", 150.0, [(105.0, True), (125.0, False), (115.0, False), (115.0, False)], **doubt),
        _load("student", 1100.0, [(770.0, True), (920.0, True), (1006.0, False), (962.0, True), (1006.0, False)]),
        _load("onnx", 205.0, [(143.0, True), (171.0, False), (157.0, True), (164.0, False), (164.0, False)]),
        _load("int8", 520.0, [(364.0, False), (182.0, False), (91.0, False), (91.0, False)]),
        _load("sst2", 1.0, [], **none | died),
    ]


def _load(variant: str, offline_per_s: float, tried: list[tuple[float, bool]], **columns: Any) -> Load:
    trials = [
        {
            "rate_per_s": rate,
            "texts": (count := max(662, round(15 * rate))),
            "late": count // 200 if holds else count // 80,
            "answered": count if holds else count // 2,
            "p99_s": 0.1 * (0.55 + 0.4 * rate / offline_per_s if holds else 1.5 + 3 * rate / offline_per_s),
            "mean_batch": 1 + 4 * rate / offline_per_s,
            "holds": holds,
        }
        for rate, holds in tried
    ]
    given = {
        "variant": variant,
        "status": "measured",
        "validity": "valid",
        "measured_at": START,
        "p99_limit_s": 0.1,
        "max_batch": 32,
        "max_wait_s": 0.0,
        "padding": "max_length",
        "single_texts": 400,
        "single_p90_s": 1.2 / offline_per_s,
        "offline_texts_per_s": offline_per_s,
        "server_texts_per_s": max((rate for rate, holds in tried if holds), default=None),
        "trials": trials,
        "conditions": {"seconds": 72.0, "cpus": 4, "others_cpu_share": 0.02, "steal_share": 0.0},
    }
    return Load(**given | columns)


def _run(run_id: str, status: str, hours: float, sizes: list[int] | None = None, example_set: str = "labelled") -> Run:
    created = START - timedelta(hours=hours)
    ended = None if status == "running" else created + timedelta(minutes=3)
    return Run(
        id=run_id,
        suite_name="fixture",
        suite={
            "name": "fixture",
            "title": "",
            "baseline": "fp32",
            "workload": {
                "dataset": "../news/test.csv",
                "batch_size": sizes or [8],
                "max_length": 128,
                "padding": "max_length",
            },
            "protocol": {"rounds": 12, "processes": 1},
        },
        suite_path="/suites/fixture.toml",
        device="cpu",
        device_name=DEVICE,
        host="test-host",
        environment={"threads": 4, "cpu": {"name": DEVICE}, "packages": {"numpy": "2.4"}},
        status=status,
        created_at=created,
        started_at=created,
        finished_at=ended,
        heartbeat_at=ended,
        example_set_id=example_set,
        ceilings=CEILINGS if run_id in (FULL, SIZES) else {"reason": "the protocol says ceilings = false"},
        measurements=[],
    )


def _add(session: Session, run: Run) -> None:
    """Store a run whose measurements hold what its suite plans, as a real run writes it."""
    for row in run.measurements:
        for name, value in planned_columns(run.suite, row.variant, row.batch_size).items():
            setattr(row, name, value)
    runs.add_run(session, run)


def _base(position: int, name: str, title: str, batch_size: int) -> dict[str, Any]:
    return {
        "position": position,
        "variant": name,
        "title": title,
        "model": "big",
        "backend": "pytorch",
        "precision": "fp32",
        "options": {},
        "device": "cpu",
        "baseline": name == "fp32",
        "batch_size": batch_size,
        "padding": "max_length",
        "order": "given",
        "max_length": 128,
    }


def _empty(position: int, name: str, title: str, status: str, reason: str | None) -> Measurement:
    return Measurement(**_base(position, name, title, 8), status=status, status_reason=reason)


def _measured(
    generator: np.random.Generator, truth: np.ndarray, position: int, values: tuple, batch_size: int
) -> Measurement:
    """A row with its blocks and logits; every figure follows from them as in a real run."""
    name, title, backend, precision, model, seconds, right, megabytes, published = values
    scale = seconds * (0.3 + 0.7 * batch_size / 8)
    rate = 3e8 * batch_size / scale
    blocks = [
        Block(0, index, float(index), scale * np.exp(generator.normal(0, 0.02, 6)), 6 * batch_size, 6 * batch_size * 40,
              6 * batch_size * 128)
        for index in range(12)
    ]  # fmt: skip
    predicted = np.where(generator.random(EXAMPLES) < right, truth, (truth + 1) % 4)
    if model == "big":
        # The same weights err on the same examples.
        predicted = np.where(np.arange(EXAMPLES) / EXAMPLES < right, truth, (truth + 1) % 4)
    logits = np.eye(4, dtype=np.float32)[predicted] * 3
    alignment = labels.Alignment([0, 1, 2, 3], "name", None, LABELS)
    row = Measurement(
        **_base(position, name, title, batch_size)
        | {"model": model, "backend": backend, "precision": precision, "published": published},
        status="measured",
        validity="valid",
        schedule="interleaved",
        **speed(Raw(blocks)),
        **answers(logits, alignment, truth, LABELS, False),
        ram_peak_bytes=int(megabytes * 1e6),
        ram_source="VmHWM",
        weights_bytes=int(megabytes * 2e5),
        memory={"ram_after_imports": {"bytes": int(megabytes * 4e5), "source": "VmRSS"}},
        load_s=1.5,
        truncated=0,
        invariance={"batch 1": {"examples": 64, "changed": 2 * (name == "int8"), "largest_logit_change": 0.01}},
        batch_flip_rate=2 / 64 if name == "int8" else 0.0,
        limit_share=rate / CEILINGS["products"]["fp32"]["operations_per_s"],
        binds="compute",
        limits={
            "sentence": "It reaches 40% of <b>FP32</b>. Compute binds.",
            "operations_per_s": rate,
            "compute_dtype": "fp32",
            "ceiling_operations_per_s": CEILINGS["products"]["fp32"]["operations_per_s"],
            "compute_share": rate / CEILINGS["products"]["fp32"]["operations_per_s"],
            "bytes_per_call": 4e7,
            "bandwidth_share": 4e7 / scale / CEILINGS["copy"]["bytes_per_s"],
            "traffic_share": 2e8 / scale / CEILINGS["copy"]["bytes_per_s"],
            "reason": None,
        },
        audit={
            "settings": {"tf32": False, "threads": 4},
            "wrong": [],
            "deviations": [],
            "operators": {"reason": "backend <b> has no profiler here"} if name == "student" else PROFILE,
        },
    )
    row.blocks = [
        measurements.new_block(
            b.process, b.round, "timed", b.started_s, b.samples, b.tokens, b.padded_tokens, b.latencies_s
        )
        for b in blocks
    ]
    row.prediction = measurements.new_prediction(logits, LABELS)
    return row


def _compare(rows: list[Measurement], truth: np.ndarray | None) -> None:
    """Fills in what a row has against the first one, as a run does."""
    every = [_raw(row) for row in rows]
    alignment = labels.Alignment([0, 1, 2, 3], "name", None, LABELS)
    found, differences = [], {}
    for row, raw in zip(rows, every, strict=True):
        mine, base = (
            summary.predicted_names(of.logits, alignment, LABELS) for of in (raw, every[0]) if of.logits is not None
        )
        values = summary.comparison(raw, every[0], row is rows[0]) | summary.agreement(mine, base)
        if row is not rows[0] and row.accuracy is not None:
            difference, kinds = summary.paired(raw.logits, alignment, every[0].logits, alignment, truth)
            row.quality = row.quality | {"flips": kinds}
            differences[row.variant, row.batch_size] = difference
        found.append(values)
    corrected = dict(zip(differences, summary.corrected(list(differences.values())), strict=True))
    for row, values in zip(rows, found, strict=True):
        if difference := corrected.get((row.variant, row.batch_size)):
            values |= asdict(difference)
        for name, value in values.items():
            setattr(row, name, value)


def _raw(row: Measurement) -> summary.Raw:
    blocks = [
        Block(b.process, b.round, b.started_s, np.frombuffer(b.latencies_s), b.samples, b.tokens, b.padded_tokens)
        for b in row.blocks
    ]
    return summary.Raw(blocks, np.frombuffer(row.prediction.logits, "<f4").reshape(-1, 4))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    fill(sys.argv[1])
