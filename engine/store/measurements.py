"""What the bench asks of its database and writes to it. Every function works in the caller's session."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from engine.store.models import Block, Load, Measurement, Prediction, Published

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

FIXED_FIELDS: tuple[str, ...] = (
    "variant",
    "title",
    "model",
    "backend",
    "precision",
    "device",
    "batch_size",
    "status",
    "status_reason",
    "validity",
    "validity_reason",
    "comparison",
    "latency_mean_s",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "calls",
    "throughput_samples_per_s",
    "throughput_tokens_per_s",
    "throughput_padded_tokens_per_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "vram_peak_bytes",
    "vram_source",
    "ram_peak_bytes",
    "weights_bytes",
    "load_s",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "examples",
    "correct",
    "macro_f1",
    "agreement",
    "truncated",
)
"""The fields of a measurement's flat JSON that others rely on, in their order."""
FURTHER_FIELDS: tuple[str, ...] = (
    "padding",
    "order",
    "max_length",
    "options",
    "baseline",
    "published",
    "schedule",
    "device_p50_s",
    "tokenize_p50_s",
    "parameters",
    "ram_source",
    "memory",
    "accuracy_reason",
    "index_match_rate",
    "flips",
    "labels",
    "audit",
    "latency_p50_low_s",
    "latency_p50_high_s",
    "throughput_samples_per_s_low",
    "throughput_samples_per_s_high",
    "accuracy_difference",
    "accuracy_difference_low",
    "accuracy_difference_high",
    "accuracy_gained",
    "accuracy_lost",
    "accuracy_p",
    "accuracy_comparison",
    "detectable_difference",
    "nll",
    "ece",
    "quality",
    "batch_flip_rate",
    "invariance",
    "energy_j_per_1000_examples",
    "energy",
    "limit_share",
    "binds",
    "limits",
    "conditions",
    "max_batch_tokens",
    "experiment",
    "doubts",
    "random_weights",
)
"""What the flat JSON says beyond them, as stored."""
DERIVED_FIELDS = ("examples_per_call",)
"""What follows from these: the mean number of examples in a batch."""

LOAD_FIELDS: tuple[str, ...] = (
    "variant",
    "status",
    "status_reason",
    "validity",
    "validity_reason",
    "p99_limit_s",
    "max_batch",
    "max_wait_s",
    "padding",
    "single_texts",
    "single_p90_s",
    "offline_texts_per_s",
    "server_texts_per_s",
    "trials",
    "conditions",
)
"""The fields of a variant's flat JSON under load, as stored; when it was measured follows them."""


class TimedBlock(NamedTuple):
    """The calls that one worker timed in one round; samples and tokens as in the table `block`."""

    process: int
    round: int
    started_s: float
    samples: int
    tokens: int
    padded_tokens: int
    latencies_s: np.ndarray
    """float64 [calls], seconds."""


def measurements(session: Session, run_id: str) -> list[Measurement]:
    """The measurements of a run in the order of its suite."""
    query = select(Measurement).where(Measurement.run_id == run_id)
    return list(session.scalars(query.order_by(Measurement.position, Measurement.batch_size)))


def loads(session: Session, run_id: str) -> list[dict[str, Any]]:
    """What each variant of a run gave under load, as JSON-ready objects in the order of its suite."""
    rows = session.scalars(select(Load).where(Load.run_id == run_id).order_by(Load.id)).all()
    order = select(Measurement.variant, func.min(Measurement.position)).where(Measurement.run_id == run_id)
    at: dict[str, int] = {row[0]: row[1] for row in session.execute(order.group_by(Measurement.variant))}
    return [
        {name: plain(getattr(row, name)) for name in LOAD_FIELDS} | {"measured_at": iso(row.measured_at)}
        for row in sorted(rows, key=lambda row: at.get(row.variant, len(at)))
    ]


def packed(array: ArrayLike, dtype: Literal["<f4", "<f8"]) -> bytes:
    """An array as the bytes that a column of the store holds: little-endian, in C order."""
    import numpy as np

    return np.ascontiguousarray(array, dtype).tobytes()


def new_block(
    process: int,
    round: int,
    kind: Literal["warmup", "timed"],
    started_s: float,
    samples: int,
    tokens: int,
    padded_tokens: int,
    latencies_s: ArrayLike,
) -> Block:
    """A block to append to `Measurement.blocks`; latencies_s [calls] in seconds."""
    return Block(
        process=process,
        round=round,
        kind=kind,
        started_s=started_s,
        samples=samples,
        tokens=tokens,
        padded_tokens=padded_tokens,
        latencies_s=packed(latencies_s, "<f8"),
    )


def new_prediction(logits: ArrayLike, model_labels: Sequence[str]) -> Prediction:
    """A prediction to set as `Measurement.prediction`; logits [examples, labels], stored as float32."""
    import numpy as np

    array = np.ascontiguousarray(logits, "<f4")
    rows, columns = array.shape
    if len(model_labels) != columns:
        raise ValueError(f"{columns} columns of logits for {len(model_labels)} labels")
    return Prediction(rows=rows, columns=columns, model_labels=list(model_labels), logits=array.tobytes())


def logits(session: Session, measurement_id: int) -> np.ndarray | None:
    """float32 [examples, labels]; row i is position i of the example set. None where there are none."""
    return all_logits(session, [measurement_id]).get(measurement_id)


def all_logits(session: Session, measurement_ids: Sequence[int]) -> dict[int, np.ndarray]:
    """Measurement -> its `logits`, in one query; those without any are left out."""
    import numpy as np

    query = select(Prediction.measurement_id, Prediction.logits, Prediction.rows, Prediction.columns)
    return {
        row.measurement_id: np.frombuffer(row.logits, "<f4").reshape(row.rows, row.columns).astype(np.float32)
        for row in session.execute(query.where(Prediction.measurement_id.in_(measurement_ids)))
    }


def latencies(session: Session, measurement_id: int, kind: Literal["warmup", "timed"] = "timed") -> list[TimedBlock]:
    """The blocks of a measurement by process and round."""
    return all_latencies(session, [measurement_id], kind)[measurement_id]


def all_latencies(
    session: Session, measurement_ids: Sequence[int], kind: Literal["warmup", "timed"] = "timed"
) -> dict[int, list[TimedBlock]]:
    """Measurement -> its `latencies`, in one query; an empty list for those without any."""
    import numpy as np

    query = (
        select(
            Block.measurement_id,
            Block.process,
            Block.round,
            Block.started_s,
            Block.samples,
            Block.tokens,
            Block.padded_tokens,
            Block.latencies_s,
        )
        .where(Block.measurement_id.in_(measurement_ids), Block.kind == kind)
        .order_by(Block.process, Block.round, Block.id)
    )
    found: dict[int, list[TimedBlock]] = {measurement_id: [] for measurement_id in measurement_ids}
    for row in session.execute(query):
        found[row.measurement_id].append(
            TimedBlock(
                row.process,
                row.round,
                row.started_s,
                row.samples,
                row.tokens,
                row.padded_tokens,
                np.frombuffer(row.latencies_s, "<f8").astype(np.float64),
            )
        )
    return found


def published(session: Session) -> list[Published]:
    """What others reported, study by study, in their order."""
    return list(session.scalars(select(Published).order_by(Published.study, Published.id)))


def flat(measurement: Measurement) -> dict[str, Any]:
    """A measurement as one JSON-ready object: FIXED_FIELDS in order, then FURTHER_FIELDS and DERIVED_FIELDS.

    None where something is not known; a number that JSON cannot write (not finite) counts as such.
    """
    found = {name: plain(getattr(measurement, name)) for name in FIXED_FIELDS + FURTHER_FIELDS}
    rate, call_s = measurement.throughput_samples_per_s, measurement.latency_mean_s
    per_call = None if rate is None or call_s is None else rate * call_s
    return found | {"examples_per_call": plain(per_call)}


def plain(value: Any) -> Any:
    """`value` as JSON can write it: a number that is not finite is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def iso(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")
