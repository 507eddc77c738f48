"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# MySQL's plain BLOB ends at 64 KiB.
BYTES = sa.LargeBinary().with_variant(sa.LargeBinary(2**32 - 1), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "example_set",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("label_names", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_example_set"),
    )
    op.create_table(
        "published",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("latency_s", sa.Double()),
        sa.Column("throughput_padded_tokens_per_s", sa.Double()),
        sa.Column("vram_bytes", sa.BigInteger()),
        sa.Column("accuracy", sa.Double()),
        sa.Column("examples", sa.Integer()),
        sa.Column("accuracy_meaningful", sa.Boolean(), nullable=False),
        sa.Column("remark", sa.Text()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_published"),
        sa.UniqueConstraint("study", "title", name="uq_published_study"),
    )
    op.create_table(
        "example",
        sa.Column("set_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source_index", sa.Integer(), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("label", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["set_id"], ["example_set.id"], name="fk_example_set_id_example_set", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("set_id", "position", name="pk_example"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("suite_name", sa.String(length=64), nullable=False),
        sa.Column("suite", sa.JSON(), nullable=False),
        sa.Column("suite_path", sa.Text()),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("progress", sa.JSON()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime()),
        sa.Column("finished_at", sa.DateTime()),
        sa.Column("heartbeat_at", sa.DateTime()),
        sa.Column("pid", sa.Integer()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("log_path", sa.Text()),
        sa.Column("notes", sa.Text()),
        sa.Column("example_set_id", sa.String(length=64)),
        sa.ForeignKeyConstraint(["example_set_id"], ["example_set.id"], name="fk_run_example_set_id_example_set"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_index("ix_run_status", "run", ["status"])
    op.create_index("ix_run_suite_name", "run", ["suite_name"])
    op.create_table(
        "measurement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=26), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("backend", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=16), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column("published", sa.Text()),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("padding", sa.String(length=16), nullable=False),
        sa.Column("order", sa.String(length=16), nullable=False),
        sa.Column("max_length", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("validity", sa.String(length=16)),
        sa.Column("validity_reason", sa.Text()),
        sa.Column("comparison", sa.String(length=16)),
        sa.Column("schedule", sa.String(length=16)),
        sa.Column("latency_mean_s", sa.Double()),
        sa.Column("latency_p50_s", sa.Double()),
        sa.Column("latency_p95_s", sa.Double()),
        sa.Column("latency_p99_s", sa.Double()),
        sa.Column("device_p50_s", sa.Double()),
        sa.Column("tokenize_p50_s", sa.Double()),
        sa.Column("calls", sa.Integer()),
        sa.Column("throughput_samples_per_s", sa.Double()),
        sa.Column("throughput_tokens_per_s", sa.Double()),
        sa.Column("throughput_padded_tokens_per_s", sa.Double()),
        sa.Column("speedup", sa.Double()),
        sa.Column("speedup_low", sa.Double()),
        sa.Column("speedup_high", sa.Double()),
        sa.Column("vram_peak_bytes", sa.BigInteger()),
        sa.Column("vram_source", sa.Text()),
        sa.Column("ram_peak_bytes", sa.BigInteger()),
        sa.Column("ram_source", sa.Text()),
        sa.Column("weights_bytes", sa.BigInteger()),
        sa.Column("parameters", sa.BigInteger()),
        sa.Column("memory", sa.JSON()),
        sa.Column("load_s", sa.Double()),
        sa.Column("examples", sa.Integer()),
        sa.Column("correct", sa.Integer()),
        sa.Column("accuracy", sa.Double()),
        sa.Column("accuracy_low", sa.Double()),
        sa.Column("accuracy_high", sa.Double()),
        sa.Column("accuracy_reason", sa.Text()),
        sa.Column("index_match_rate", sa.Double()),
        sa.Column("macro_f1", sa.Double()),
        sa.Column("agreement", sa.Double()),
        sa.Column("flips", sa.Integer()),
        sa.Column("truncated", sa.Integer()),
        sa.Column("labels", sa.JSON()),
        sa.Column("audit", sa.JSON()),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_measurement_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_measurement"),
        sa.UniqueConstraint("run_id", "variant", "batch_size", name="uq_measurement_run_id"),
    )
    op.create_index("ix_measurement_run_id_position", "measurement", ["run_id", "position"])
    op.create_table(
        "block",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("started_s", sa.Double(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("padded_tokens", sa.Integer(), nullable=False),
        sa.Column("latencies_s", BYTES, nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"],
            ["measurement.id"],
            name="fk_block_measurement_id_measurement",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_block"),
    )
    op.create_index("ix_block_measurement_id", "block", ["measurement_id"])
    op.create_table(
        "prediction",
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", sa.Integer(), nullable=False),
        sa.Column("model_labels", sa.JSON(), nullable=False),
        sa.Column("logits", BYTES, nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"],
            ["measurement.id"],
            name="fk_prediction_measurement_id_measurement",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("measurement_id", name="pk_prediction"),
    )
