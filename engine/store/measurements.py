"""Reads measurements from the database, and makes rows to write. Every function works in the caller's session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from engine.measurement.blocks import Block, Kind
from engine.store import models
from engine.store.models import Load, Measurement, Prediction, Published
from engine.store.rows import LoadRow, PublishedRow, Row, load_row_of, published_row_of, row_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike


def measurements(session: Session, run_id: str) -> list[Measurement]:
    """The measurements of a run in the order of its suite."""
    query = select(Measurement).where(Measurement.run_id == run_id)
    return list(session.scalars(query.order_by(Measurement.position, Measurement.batch_size)))


def rows(session: Session, run_id: str) -> list[Row]:
    """The rows of a run in the order of its suite."""
    return [row_of(measurement) for measurement in measurements(session, run_id)]


def loads(session: Session, run_id: str) -> list[LoadRow]:
    """The results of a run's variants under load, in the order of its suite."""
    stored = session.scalars(select(Load).where(Load.run_id == run_id).order_by(Load.id)).all()
    order = select(Measurement.variant, func.min(Measurement.position)).where(Measurement.run_id == run_id)
    at: dict[str, int] = {row[0]: row[1] for row in session.execute(order.group_by(Measurement.variant))}
    return [load_row_of(load) for load in sorted(stored, key=lambda load: at.get(load.variant, len(at)))]


def packed(array: ArrayLike, dtype: Literal["<f4", "<f8"]) -> bytes:
    """An array as the bytes that a column of the store holds: little-endian, in C order."""
    import numpy as np

    return np.ascontiguousarray(array, dtype).tobytes()


def new_block(
    process: int,
    round: int,
    kind: Kind,
    started_s: float,
    samples: int,
    tokens: int,
    padded_tokens: int,
    latencies_s: ArrayLike,
) -> models.Block:
    """A block to append to `Measurement.blocks`; latencies_s [calls] in seconds."""
    return models.Block(
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


def blocks(session: Session, measurement_id: int, kind: Kind = "timed") -> list[Block]:
    """The blocks of a measurement by process and round."""
    return all_blocks(session, [measurement_id], kind)[measurement_id]


def all_blocks(session: Session, measurement_ids: Sequence[int], kind: Kind = "timed") -> dict[int, list[Block]]:
    """Measurement -> its `blocks`, in one query; an empty list for those without any."""
    import numpy as np

    query = (
        select(
            models.Block.measurement_id,
            models.Block.process,
            models.Block.round,
            models.Block.started_s,
            models.Block.samples,
            models.Block.tokens,
            models.Block.padded_tokens,
            models.Block.latencies_s,
        )
        .where(models.Block.measurement_id.in_(measurement_ids), models.Block.kind == kind)
        .order_by(models.Block.process, models.Block.round, models.Block.id)
    )
    found: dict[int, list[Block]] = {measurement_id: [] for measurement_id in measurement_ids}
    for row in session.execute(query):
        found[row.measurement_id].append(
            Block(
                row.process,
                row.round,
                row.started_s,
                np.frombuffer(row.latencies_s, "<f8").astype(np.float64),
                row.samples,
                row.tokens,
                row.padded_tokens,
                kind,
            )
        )
    return found


def published(session: Session) -> list[PublishedRow]:
    """Published results, by study, in the order of each study."""
    return [published_row_of(row) for row in session.scalars(select(Published).order_by(Published.study, Published.id))]
