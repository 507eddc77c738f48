"""A measurement as everything above the store reads it: one typed row, made here from the database's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from engine.store.models import Load, Measurement, Published

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The measurement of one variant in one run at one batch size.

    A figure that was not measured, or is not finite, is None. Times are in seconds, memory in bytes, shares from 0 to
    1. The fields as far as `truncated` are those of the flat JSON that others rely on, in its order.
    """

    variant: str
    title: str
    model: str
    backend: str
    precision: str
    device: str
    batch_size: int
    status: str
    """pending, measured, failed, unavailable or cancelled."""
    status_reason: str | None = None
    validity: str | None = None
    """valid, unstable or invalid."""
    validity_reason: str | None = None
    comparison: str | None = None
    """Speed against the baseline: better, worse or no_difference."""
    latency_mean_s: float | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    calls: int | None = None
    throughput_samples_per_s: float | None = None
    throughput_tokens_per_s: float | None = None
    """Real tokens, padding not counted."""
    throughput_padded_tokens_per_s: float | None = None
    speedup: float | None = None
    """Samples/s over the baseline's, with its 95% interval."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    vram_peak_bytes: int | None = None
    vram_source: str | None = None
    ram_peak_bytes: int | None = None
    weights_bytes: int | None = None
    load_s: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    examples: int | None = None
    correct: int | None = None
    macro_f1: float | None = None
    agreement: float | None = None
    """Share of examples answered as the baseline does."""
    truncated: int | None = None
    """Examples longer than max_length."""

    padding: str
    order: str
    max_length: int
    options: dict[str, Any]
    baseline: bool
    published: str | None = None
    schedule: str | None = None
    """interleaved or sequential."""
    device_p50_s: float | None = None
    tokenize_p50_s: float | None = None
    parameters: int | None = None
    ram_source: str | None = None
    memory: dict[str, Any] | None = None
    accuracy_reason: str | None = None
    index_match_rate: float | None = None
    flips: int | None = None
    labels: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None
    latency_p50_low_s: float | None = None
    latency_p50_high_s: float | None = None
    throughput_samples_per_s_low: float | None = None
    throughput_samples_per_s_high: float | None = None
    accuracy_difference: float | None = None
    accuracy_difference_low: float | None = None
    accuracy_difference_high: float | None = None
    accuracy_gained: int | None = None
    accuracy_lost: int | None = None
    accuracy_p: float | None = None
    accuracy_comparison: str | None = None
    """better, worse or no_difference."""
    detectable_difference: float | None = None
    nll: float | None = None
    ece: float | None = None
    quality: dict[str, Any] | None = None
    batch_flip_rate: float | None = None
    invariance: dict[str, Any] | None = None
    energy_j_per_1000_examples: float | None = None
    energy: dict[str, Any] | None = None
    limit_share: float | None = None
    binds: str | None = None
    limits: dict[str, Any] | None = None
    conditions: list[Any] | None = None
    max_batch_tokens: int | None = None
    experiment: int | None = None
    doubts: list[dict[str, Any]] | None = None
    random_weights: bool | None = None

    id: int = 0
    """The key of its row in the database; 0 if it is not in one."""

    @property
    def examples_per_call(self) -> float | None:
        """The mean number of examples in a batch."""
        if self.throughput_samples_per_s is None or self.latency_mean_s is None:
            return None
        return self.throughput_samples_per_s * self.latency_mean_s

    @property
    def text_s(self) -> float | None:
        """Seconds a text in batches: one over the samples/s."""
        return _inverse(self.throughput_samples_per_s)

    @property
    def text_low_s(self) -> float | None:
        """The lower limit of `text_s`, which is one over the upper limit of the samples/s."""
        return _inverse(self.throughput_samples_per_s_high)

    @property
    def text_high_s(self) -> float | None:
        return _inverse(self.throughput_samples_per_s_low)

    def figure(self, name: str) -> Any:
        """The field or property of that name, for code that is told which figure to show."""
        return getattr(self, name)

    def to_json(self) -> dict[str, Any]:
        """The flat JSON of a measurement: COLUMNS in their order, then `examples_per_call`."""
        return {name: getattr(self, name) for name in COLUMNS} | {"examples_per_call": plain(self.examples_per_call)}


COLUMNS = tuple(field.name for field in fields(Row) if field.name != "id")
"""The columns of the table `measurement` that a row has, in the order of the flat JSON."""
FIXED_COLUMNS = COLUMNS[: COLUMNS.index("truncated") + 1]
"""Those that others rely on, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """The results of one variant under a service's load in one run: the columns of `engine.store.models.Load`."""

    variant: str
    status: str
    """measured or failed."""
    status_reason: str | None = None
    validity: str | None = None
    """valid or unstable."""
    validity_reason: str | None = None
    p99_limit_s: float
    max_batch: int
    max_wait_s: float
    padding: str
    single_texts: int | None = None
    single_p90_s: float | None = None
    offline_texts_per_s: float | None = None
    server_texts_per_s: float | None = None
    """The highest rate of arrivals that held the limit; None where none did."""
    trials: list[Any]
    """Each rate tried, in order, as `engine.run.load.Trial` has it."""
    conditions: dict[str, Any] | None = None
    measured_at: str | None = None
    """ISO 8601, UTC."""

    def figure(self, name: str) -> Any:
        """The field or property of that name."""
        return getattr(self, name)

    def to_json(self) -> dict[str, Any]:
        """The flat JSON of a variant under load: LOAD_COLUMNS in their order."""
        return {name: getattr(self, name) for name in LOAD_COLUMNS}


LOAD_COLUMNS = tuple(field.name for field in fields(LoadRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A result that somebody else reported: the columns of `engine.store.models.Published`."""

    study: str
    title: str
    baseline: bool
    device_name: str
    batch_size: int
    latency_s: float | None = None
    throughput_padded_tokens_per_s: float | None = None
    vram_bytes: int | None = None
    accuracy: float | None = None
    examples: int | None = None
    accuracy_meaningful: bool
    remark: str | None = None
    source: str


def published_row_of(published: Published) -> PublishedRow:
    """The row of a published result as stored."""
    return PublishedRow(**{field.name: getattr(published, field.name) for field in fields(PublishedRow)})


def row_of(measurement: Measurement) -> Row:
    """The row of a stored measurement."""
    return Row(id=measurement.id, **{name: plain(getattr(measurement, name)) for name in COLUMNS})


def load_row_of(load: Load) -> LoadRow:
    """The row of a variant under load as stored."""
    found = {name: plain(getattr(load, name)) for name in LOAD_COLUMNS if name != "measured_at"}
    return LoadRow(**found, measured_at=iso(load.measured_at))


def present(value: T | None) -> T:
    """A figure that is known to be there. Raises ValueError where it is not."""
    if value is None:
        raise ValueError("a figure is missing that its rows were chosen by")
    return value


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
    """ISO 8601 in UTC to the millisecond."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")


def _inverse(rate: float | None) -> float | None:
    return 1 / rate if rate else None
