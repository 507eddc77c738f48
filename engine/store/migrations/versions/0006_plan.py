"""Columns for facts that were read from sentences: the plan of a measurement, its doubts, who runs a run."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from engine.store.past import executor, fact_columns, planned_columns

revision = "0006"
down_revision = "0005"
COLUMNS: tuple[tuple[str, Any], ...] = (
    ("experiment", sa.Integer()),
    ("max_batch_tokens", sa.Integer()),
    ("doubts", sa.JSON(none_as_null=True)),
    ("random_weights", sa.Boolean()),
)


def upgrade() -> None:
    for name, kind in COLUMNS:
        op.add_column("measurement", sa.Column(name, kind))
    op.add_column("run", sa.Column("executor", sa.String(16)))
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    run = sa.table("run", sa.column("id", sa.String()), sa.column("suite", sa.JSON()))
    submitted = sa.table("run", *(sa.column(name, sa.String()) for name in ("id", "host", "executor", "imported_at")))
    for row in connection.execute(sa.select(submitted.c.id, submitted.c.host).where(submitted.c.imported_at.is_(None))):
        if known := executor(row.host):
            connection.execute(submitted.update().where(submitted.c.id == row.id).values(executor=known))
    texts = ("run_id", "variant", "validity", "validity_reason", "accuracy_reason")
    measurement = sa.table(
        "measurement",
        sa.column("id", sa.Integer()),
        sa.column("batch_size", sa.Integer()),
        *(sa.column(name, sa.Text()) for name in texts),
        *(sa.column(name, kind) for name, kind in COLUMNS),
    )
    stored = measurement.c
    rows: list[Any] = list(
        connection.execute(
            sa.select(
                stored.id,
                stored.variant,
                stored.batch_size,
                stored.validity,
                stored.validity_reason,
                stored.accuracy_reason,
                run.c.suite,
            ).join(run, run.c.id == stored.run_id)
        )
    )
    for row in rows:
        values = planned_columns(row.suite or {}, row.variant, row.batch_size)
        facts = fact_columns(row.validity, row.validity_reason, row.accuracy_reason)
        connection.execute(measurement.update().where(stored.id == row.id).values(**values, **facts))
