"""What a long history asks for: tags, where a run came from, and indices for a page of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "run_tag",
        sa.Column("run_id", sa.String(length=26), nullable=False),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_tag_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "tag", name="pk_run_tag"),
    )
    op.create_index("ix_run_tag_tag", "run_tag", ["tag"])
    op.add_column("run", sa.Column("imported_at", sa.DateTime()))
    op.create_index("ix_run_created_at_id", "run", ["created_at", "id"])
    op.create_index("ix_measurement_run_id_status", "measurement", ["run_id", "status"])
