"""What a service's load asks for: a table of what each variant gave under it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "scenario",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=26), nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("validity", sa.String(length=16)),
        sa.Column("validity_reason", sa.Text()),
        sa.Column("measured_at", sa.DateTime(), nullable=False),
        sa.Column("p99_limit_s", sa.Double(), nullable=False),
        sa.Column("max_batch", sa.Integer(), nullable=False),
        sa.Column("max_wait_s", sa.Double(), nullable=False),
        sa.Column("padding", sa.String(length=16), nullable=False),
        sa.Column("single_texts", sa.Integer()),
        sa.Column("single_p90_s", sa.Double()),
        sa.Column("offline_texts_per_s", sa.Double()),
        sa.Column("server_texts_per_s", sa.Double()),
        sa.Column("trials", sa.JSON(), nullable=False),
        sa.Column("conditions", sa.JSON()),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_scenario_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_scenario"),
        sa.UniqueConstraint("run_id", "variant", name="uq_scenario_run_id"),
    )
