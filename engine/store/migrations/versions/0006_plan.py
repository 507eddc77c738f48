"""What the plan of a run asks for: each measurement holds its experiment and its batches' token budget."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from engine.store.past import planned_columns

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("measurement", sa.Column("experiment", sa.Integer()))
    op.add_column("measurement", sa.Column("max_batch_tokens", sa.Integer()))
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    rows: list[Any] = list(
        connection.execute(
            sa.text(
                "SELECT measurement.id, measurement.variant, measurement.batch_size, run.suite "
                "FROM measurement JOIN run ON run.id = measurement.run_id"
            )
        )
    )
    values: list[dict[str, Any]] = []
    for key, variant, batch_size, suite in rows:
        spec: Any = json.loads(suite) if isinstance(suite, str) else suite
        values.append({"key": key, **planned_columns(spec or {}, variant, batch_size)})
    if values:
        columns = "experiment = :experiment, max_batch_tokens = :max_batch_tokens"
        connection.execute(sa.text(f"UPDATE measurement SET {columns} WHERE id = :key"), values)
