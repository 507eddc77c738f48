"""The tables. Raw values are kept; whatever can be derived from them later is derived.

Times are UTC, aware. Arrays are little-endian bytes with their dtype and shape named in the column's
docstring. A figure that could not be measured is NULL, never 0.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

# None is SQL's NULL, not JSON's null.
Json = JSON(none_as_null=True)
# MySQL's plain BLOB ends at 64 KiB.
Bytes = LargeBinary().with_variant(LargeBinary(2**32 - 1), "mysql", "mariadb")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as UTC; SQLite itself keeps no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Double, as MySQL's FLOAT keeps seven digits.
    type_annotation_map = {dict[str, Any]: Json, list[Any]: Json, datetime: UtcDateTime, float: Double}


class RunTag(Base):
    """A word that somebody gave a run to find it by."""

    __tablename__ = "run_tag"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(40), primary_key=True, index=True)


class Run(Base):
    """One execution of a suite on one device in one environment."""

    __tablename__ = "run"
    # The history is read newest first, a page at a time.
    __table_args__ = (Index("ix_run_created_at_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    """A ULID: unique across machines, sorts by time."""
    suite_name: Mapped[str] = mapped_column(String(64), index=True)
    suite: Mapped[dict[str, Any]]
    """The suite as it was run: every override applied, every default written out."""
    suite_path: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str] = mapped_column(String(32))
    """"cpu" or "cuda:N"."""
    device_name: Mapped[str] = mapped_column(Text)
    host: Mapped[str] = mapped_column(Text)
    """The machine that measures, as it is shown; "Slurm job 17 on n1" until the result of a job is here."""
    environment: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16), index=True)
    """queued, preparing, running, finished, failed, cancelled or interrupted."""
    status_reason: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Where a live run stands: phase, round, rounds, by variant."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    pid: Mapped[int | None]
    process: Mapped[str | None] = mapped_column(Text)
    """`engine.machine.processes.mark` of process `pid`: its number alone may be another's by now."""
    queued_at: Mapped[datetime | None]
    """When it was last asked for here: a run that is resumed joins the queue at its end. No file sets it."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    ceilings: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The ceilings measured at the run's start: matrix products in each dtype, bandwidths."""
    log_path: Mapped[str | None] = mapped_column(Text)
    notes: Mapped[str | None] = mapped_column(Text)
    imported_at: Mapped[datetime | None]
    """When the run came here as a file; NULL where it was measured into this database."""
    example_set_id: Mapped[str | None] = mapped_column(ForeignKey("example_set.id"))
    executor: Mapped[str | None] = mapped_column(String(16))
    """SLURM while the run is a Slurm job's and its result is not here; NULL: a process on `host` measures it."""

    measurements: Mapped[list[Measurement]] = relationship(
        back_populates="run", order_by="Measurement.position", cascade="all, delete-orphan"
    )
    loads: Mapped[list[Load]] = relationship(
        back_populates="run", order_by="Load.id", cascade="all, delete-orphan", passive_deletes=True
    )
    example_set: Mapped[ExampleSet | None] = relationship()
    tag_rows: Mapped[list[RunTag]] = relationship(
        cascade="all, delete-orphan", order_by="RunTag.tag", lazy="selectin", passive_deletes=True
    )

    @property
    def tags(self) -> list[str]:
        """In the order of the alphabet."""
        return [row.tag for row in self.tag_rows]

    @property
    def foreign(self) -> bool:
        """It came as a file that nobody here had asked for: all of it, its host too, is what its sender says.

        A Slurm job's result is a file as well, in the place of a row that was asked for here.
        """
        return self.imported_at is not None and self.queued_at is None


class ExampleSet(Base):
    """The examples that every variant of a run saw, shared by all runs over the same ones."""

    __tablename__ = "example_set"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 over data set, order, texts and labels."""
    dataset: Mapped[str] = mapped_column(Text)
    count: Mapped[int]
    label_names: Mapped[list[Any] | None] = mapped_column(Json)
    examples: Mapped[list[Example]] = relationship(order_by="Example.position", cascade="all, delete-orphan")


class Example(Base):
    __tablename__ = "example"

    set_id: Mapped[str] = mapped_column(ForeignKey("example_set.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """The row in every logits array of this set."""
    source_index: Mapped[int]
    """The row in the data set as read."""
    text_sha256: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(Text)
    label: Mapped[int | None]
    """Index into the set's label_names; None where unlabelled."""


class Measurement(Base):
    """The measurement of one variant in one run at one batch size."""

    __tablename__ = "measurement"
    __table_args__ = (
        UniqueConstraint("run_id", "variant", "batch_size"),
        Index("ix_measurement_run_id_position", "run_id", "position"),
        # Counts by status without reading a row.
        Index("ix_measurement_run_id_status", "run_id", "status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    position: Mapped[int]
    """The order of the suite's file, batch sizes ascending."""
    variant: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    backend: Mapped[str] = mapped_column(String(32))
    precision: Mapped[str] = mapped_column(String(16))
    options: Mapped[dict[str, Any]]
    device: Mapped[str] = mapped_column(String(32))
    baseline: Mapped[bool] = mapped_column(default=False)
    published: Mapped[str | None] = mapped_column(Text)
    batch_size: Mapped[int]
    padding: Mapped[str] = mapped_column(String(16))
    order: Mapped[str] = mapped_column(String(16))
    max_length: Mapped[int]

    status: Mapped[str] = mapped_column(String(16))
    """pending, measured, failed, unavailable or cancelled."""
    status_reason: Mapped[str | None] = mapped_column(Text)
    validity: Mapped[str | None] = mapped_column(String(16))
    """valid, unstable or invalid."""
    validity_reason: Mapped[str | None] = mapped_column(Text)
    comparison: Mapped[str | None] = mapped_column(String(16))
    """Speed against the baseline: better, worse or no_difference."""
    schedule: Mapped[str | None] = mapped_column(String(16))
    """interleaved, or sequential where the variants did not fit beside each other."""

    latency_mean_s: Mapped[float | None]
    latency_p50_s: Mapped[float | None]
    latency_p95_s: Mapped[float | None]
    latency_p99_s: Mapped[float | None]
    latency_p50_low_s: Mapped[float | None]
    """The lower limit of the 95% interval. It covers differences between rounds and between processes, as all intervals
    of speed do."""
    latency_p50_high_s: Mapped[float | None]
    device_p50_s: Mapped[float | None]
    """Device time of one call by device events; NULL without them."""
    tokenize_p50_s: Mapped[float | None]
    """Tokenising one batch, beside the model's call."""
    calls: Mapped[int | None]
    throughput_samples_per_s: Mapped[float | None]
    throughput_samples_per_s_low: Mapped[float | None]
    throughput_samples_per_s_high: Mapped[float | None]
    throughput_tokens_per_s: Mapped[float | None]
    """Real tokens, padding not counted."""
    throughput_padded_tokens_per_s: Mapped[float | None]
    speedup: Mapped[float | None]
    speedup_low: Mapped[float | None]
    speedup_high: Mapped[float | None]

    vram_peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    vram_source: Mapped[str | None] = mapped_column(Text)
    ram_peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    ram_source: Mapped[str | None] = mapped_column(Text)
    weights_bytes: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    memory: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Every memory figure by source, in bytes, and the reasons of those that are missing."""
    load_s: Mapped[float | None]

    energy_j_per_1000_examples: Mapped[float | None]
    """The device's energy by NVML's counter, with idle power subtracted."""
    energy: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """joules, seconds, samples and idle_w behind it, or the reason why there is none."""
    limit_share: Mapped[float | None]
    """The share of the device's measured ceiling that the calls reach, 0 to 1."""
    binds: Mapped[str | None] = mapped_column(String(16))
    """compute, bandwidth, launches or host: what keeps it from being faster."""
    limits: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Operations, bytes, ceilings and shares behind these, and the sentence that explains them."""
    conditions: Mapped[list[Any] | None] = mapped_column(Json)
    """The state of the machine during each process's rounds: use by other processes, clocks, temperature."""

    examples: Mapped[int | None]
    correct: Mapped[int | None]
    accuracy: Mapped[float | None]
    accuracy_low: Mapped[float | None]
    accuracy_high: Mapped[float | None]
    accuracy_reason: Mapped[str | None] = mapped_column(Text)
    """Why accuracy is NULL."""
    index_match_rate: Mapped[float | None]
    """Share of examples whose largest logit's index equals the label's index: what comparing numbers
    without names would have reported. Only where accuracy is NULL although there are labels."""
    accuracy_difference: Mapped[float | None]
    """Accuracy minus the baseline's on the same examples, a share, with its 95% interval."""
    accuracy_difference_low: Mapped[float | None]
    accuracy_difference_high: Mapped[float | None]
    accuracy_gained: Mapped[int | None]
    """Examples that this variant alone has right."""
    accuracy_lost: Mapped[int | None]
    """Examples that the baseline alone has right."""
    accuracy_p: Mapped[float | None]
    """Exact McNemar, two-sided, corrected by Holm over the run's variants."""
    accuracy_comparison: Mapped[str | None] = mapped_column(String(16))
    """better, worse or no_difference."""
    detectable_difference: Mapped[float | None]
    """The difference in accuracy, a share, that this many examples would have shown with 80% power: at the first step
    of Holm over the run's variants."""
    macro_f1: Mapped[float | None]
    nll: Mapped[float | None]
    """Mean negative log likelihood of the right label, nats."""
    ece: Mapped[float | None]
    """Expected calibration error over 15 bins, a share."""
    quality: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Confusion matrix, figures by class, flips by kind, calibration bins, flags of the label gate."""
    batch_flip_rate: Mapped[float | None]
    """Share of examples whose answer changes with the batch: alone, or under the other padding."""
    invariance: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """By way of batching: examples compared, answers changed, the largest change of a logit."""
    agreement: Mapped[float | None]
    """Share of examples answered as the baseline does."""
    flips: Mapped[int | None]
    truncated: Mapped[int | None]
    """Examples longer than max_length."""
    labels: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """How the model's outputs were aligned with the data set's labels."""
    audit: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The effective configuration: settings, wrong, deviations."""
    experiment: Mapped[int | None]
    """The batch size whose rounds the measurement shared: what is interleaved with it, and compared by rounds."""
    max_batch_tokens: Mapped[int | None]
    """Tokens in a batch at most, padding included; NULL without such a limit."""
    doubts: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    """Why it is unstable, as `engine.measurement.doubts` gives it: facts, which `validity_reason` has in words."""
    random_weights: Mapped[bool | None]
    """Whether the model was made with random weights, for speed and memory alone."""

    run: Mapped[Run] = relationship(back_populates="measurements")
    blocks: Mapped[list[Block]] = relationship(
        back_populates="measurement", cascade="all, delete-orphan", order_by="Block.id"
    )
    prediction: Mapped[Prediction | None] = relationship(back_populates="measurement", cascade="all, delete-orphan")


class Block(Base):
    """The calls that one worker timed in one round: the raw values."""

    __tablename__ = "block"
    __table_args__ = (Index("ix_block_measurement_id", "measurement_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurement.id", ondelete="CASCADE"))
    process: Mapped[int]
    """Which of the protocol's fresh workers, from 0."""
    round: Mapped[int]
    kind: Mapped[str] = mapped_column(String(8))
    """warmup or timed."""
    started_s: Mapped[float]
    """Seconds since the run's first block, by the monotonic clock."""
    samples: Mapped[int]
    tokens: Mapped[int]
    padded_tokens: Mapped[int]
    latencies_s: Mapped[bytes] = mapped_column(Bytes, deferred=True)
    """float64 [calls], in order."""

    measurement: Mapped[Measurement] = relationship(back_populates="blocks")


class Prediction(Base):
    """Every example's logits: one array a measurement."""

    __tablename__ = "prediction"

    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurement.id", ondelete="CASCADE"), primary_key=True)
    rows: Mapped[int]
    columns: Mapped[int]
    model_labels: Mapped[list[Any]]
    logits: Mapped[bytes] = mapped_column(Bytes)
    """float32 [rows, columns]; row i is the example set's position i."""

    measurement: Mapped[Measurement] = relationship(back_populates="prediction")


class Load(Base):
    """The results of one variant under a service's load in one run."""

    # The name that the table had before a service's load was called so everywhere.
    __tablename__ = "scenario"
    __table_args__ = (UniqueConstraint("run_id", "variant"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    variant: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    """measured or failed."""
    status_reason: Mapped[str | None] = mapped_column(Text)
    validity: Mapped[str | None] = mapped_column(String(16))
    """valid or unstable."""
    validity_reason: Mapped[str | None] = mapped_column(Text)
    measured_at: Mapped[datetime]
    p99_limit_s: Mapped[float]
    max_batch: Mapped[int]
    """Texts answered together, at most."""
    max_wait_s: Mapped[float]
    """How long a text waited for others, at most."""
    padding: Mapped[str] = mapped_column(String(16))
    single_texts: Mapped[int | None]
    single_p90_s: Mapped[float | None]
    """From text to answer, one text after another."""
    offline_texts_per_s: Mapped[float | None]
    server_texts_per_s: Mapped[float | None]
    """The highest rate of arrivals that held the limit; NULL where none did."""
    trials: Mapped[list[Any]]
    """Each rate tried, in order, as `engine.run.load.Trial` has it."""
    conditions: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The state of the machine meanwhile, and for how long, in the form of a measurement's conditions."""

    run: Mapped[Run] = relationship(back_populates="loads")


class Published(Base):
    """Results somebody else reported: shown beside measured ones, never mixed with them."""

    __tablename__ = "published"
    __table_args__ = (UniqueConstraint("study", "title"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200))
    baseline: Mapped[bool]
    device_name: Mapped[str] = mapped_column(Text)
    batch_size: Mapped[int]
    latency_s: Mapped[float | None]
    throughput_padded_tokens_per_s: Mapped[float | None]
    vram_bytes: Mapped[int | None] = mapped_column(BigInteger)
    accuracy: Mapped[float | None]
    examples: Mapped[int | None]
    accuracy_meaningful: Mapped[bool]
    remark: Mapped[str | None] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)


LIVE = ("queued", "preparing", "running")
"""The states in which a run has a process: a queued one waits for its device."""
SLURM = "slurm"
"""The `Run.executor` of a run that is a Slurm job's."""
STATUSES = ("pending", "measured", "failed", "unavailable", "cancelled")
"""The states of a measurement."""
