"""What a reviewer asks of a row: paired accuracy, calibration, batch invariance, energy, the hardware's limit."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MEASUREMENT: dict[str, Any] = {
    "latency_p50_low_s": sa.Double,
    "latency_p50_high_s": sa.Double,
    "throughput_samples_per_s_low": sa.Double,
    "throughput_samples_per_s_high": sa.Double,
    "energy_j_per_1000_examples": sa.Double,
    "energy": sa.JSON,
    "limit_share": sa.Double,
    "binds": lambda: sa.String(length=16),
    "limits": sa.JSON,
    "conditions": sa.JSON,
    "accuracy_difference": sa.Double,
    "accuracy_difference_low": sa.Double,
    "accuracy_difference_high": sa.Double,
    "accuracy_gained": sa.Integer,
    "accuracy_lost": sa.Integer,
    "accuracy_p": sa.Double,
    "accuracy_comparison": lambda: sa.String(length=16),
    "detectable_difference": sa.Double,
    "nll": sa.Double,
    "ece": sa.Double,
    "quality": sa.JSON,
    "batch_flip_rate": sa.Double,
    "invariance": sa.JSON,
}


def upgrade() -> None:
    op.add_column("run", sa.Column("ceilings", sa.JSON()))
    for name, kind in MEASUREMENT.items():
        op.add_column("measurement", sa.Column(name, kind()))
