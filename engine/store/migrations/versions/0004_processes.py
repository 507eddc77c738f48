"""What survival asks for: which process measures a run, by more than its number, and when a run was asked for last."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("run", sa.Column("process", sa.Text()))
    op.add_column("run", sa.Column("queued_at", sa.DateTime()))
