"""The schema of a run file: every field with its bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, Integer, String, Table, Text

from engine.measurement.doubts import of_json
from engine.store import history
from engine.store.models import Block, Load, Measurement, Prediction, Run, UtcDateTime

if TYPE_CHECKING:
    pass

FORMAT, VERSION = "inference-bench run", 3
"""Version 3 has facts as columns; version 2 came with loads, which a file calls scenarios."""
SUFFIX = ".run.zip"
MANIFEST = "manifest.json"
PARTS = {
    "run.json": 16_000_000,
    "examples.json": 64_000_000,
    "latencies.f8": 100_000_000,
    "logits.f4": 100_000_000,
    "logs.json": 16_000_000,
}
"""The parts of a file, and the largest size of each in bytes. JSON takes up to twenty times as much once it is read."""
MAX_BYTES = 200_000_000
"""The largest size of the file, and of all its parts together once unpacked."""
MAX_MANIFEST_BYTES = MAX_DIRECTORY_BYTES = 4096
MAX_DEPTH = 16
MAX_TRIALS = 100
"""The most trials of one variant under load."""
MAX_TEXT = 100_000
"""The longest text of a column without a length of its own, in characters."""
LOG_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
"""How far the clock of another machine may be ahead: a run of the future would stay the latest one."""

ELSEWHERE = (
    "pid", "process", "queued_at", "cancel_requested", "progress", "heartbeat_at", "log_path", "imported_at",
    "example_set_id", "executor",
)  # fmt: skip
"""Columns of a run that mean nothing on another machine, or that are made anew there."""
KEYS = ("id", "run_id", "measurement_id")


# The contents of a file


def _sane(time: datetime) -> datetime:
    if not EARLIEST <= time <= datetime.now(UTC) + AHEAD:
        raise ValueError("is no time at which a run was measured")
    return time


Time = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_sane)]
Line = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[FiniteFloat, Field(ge=1e-9, le=1e12)]
"""Seconds of a call, rates and ratios: what any machine can reach, and what a logarithm can be taken of."""
Amount = Annotated[FiniteFloat, Field(ge=0, le=1e18)]
"""Counts and seconds that are means, operations a second, shares."""
INTERVALS = (
    ("latency_p50_s", "latency_p50_low_s", "latency_p50_high_s"),
    *(
        (name, f"{name}_low", f"{name}_high")
        for name in ("throughput_samples_per_s", "speedup", "accuracy", "accuracy_difference")
    ),
)
"""Figures and the limits of their intervals."""


def first_fault(error: ValidationError) -> str:
    """Where the first fault is, and what; without what was found there."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, what = " ".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what


def _like(kind: Any) -> Any:
    """A column of JSON that fits `kind`, and stays as it is given: the order of its keys is part of it."""
    adapter = TypeAdapter(kind)

    def check(value: Any) -> Any:
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from error
        return value

    return Annotated[Any, AfterValidator(check)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Open(BaseModel):
    """A column of JSON: what the pages read in it has its type, and there may be more."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Workload(_Open):
    dataset: Line
    batch_size: list[Annotated[int, Field(gt=0)]]
    max_length: int
    padding: Line


class _Protocol(_Open):
    rounds: int
    processes: int


class _Named(_Open):
    name: Line


class _Suite(_Named):
    title: Line | None = None
    workload: _Workload
    protocol: _Protocol
    variant: list[_Named] = []


class _Environment(_Open):
    threads: int | None = None
    preparing_s: Amount | None = None
    host: dict[str, Any] | None = None
    python: dict[str, Any] | None = None
    distributions: dict[str, Any] | None = None


class _Rate(_Open):
    operations_per_s: FiniteFloat | None = None
    median_operations_per_s: FiniteFloat | None = None
    bytes_per_s: FiniteFloat | None = None
    median_bytes_per_s: FiniteFloat | None = None
    repeats: int | None = None


class _Product(_Rate):
    ways: list[_Rate]


class _Ceilings(_Open):
    products: dict[str, _Product] | None = None
    copied: _Rate | None = Field(None, alias="copy")
    host_to_device: _Rate | None = None


class _Labels(_Strict):
    mapping: list[Count] | None
    how: Line | None
    reason: Line | None
    model_labels: list[Line]


class _Operator(_Strict):
    name: Line
    calls: Amount
    seconds: Amount


class _Rest(_Strict):
    operators: Count
    calls: Amount
    seconds: Amount


class _NoOperators(_Strict):
    reason: Line


class _Operators(_Strict):
    """A profile, in the form of `engine.measurement.operators.facts`."""

    reason: None
    by: Literal["operators", "kernels", "launches"]
    calls: Count
    shape: list[Count]
    wall_s: Amount
    seconds: Amount
    top: list[_Operator]
    rest: _Rest
    kinds: dict[Literal["attention", "products", "quantising", "copies", "elementwise", "other"], Amount]


class _Audit(_Open):
    operators: _Operators | _NoOperators | None = None
    settings: dict[str, Any] | None = None
    wrong: list[Line] | None = None
    deviations: list[Line] | None = None


class _Figure(_Open):
    bytes: Bytes | None = None


class _Memory(_Open):
    ram_peak: _Figure | None = None
    ram_after_imports: _Figure | None = None
    vram_peak: _Figure | None = None
    torch_allocated_peak_bytes: Bytes | None = None
    torch_reserved_peak_bytes: Bytes | None = None


class _Way(_Open):
    examples: Count
    changed: Count


class _Limit(_Open):
    sentence: Line
    operations_per_s: Amount | None = None
    compute_dtype: Line | None = None
    ceiling_operations_per_s: Amount | None = None
    compute_share: Amount | None = None
    bytes_per_call: Amount | None = None
    bandwidth_share: Amount | None = None
    traffic_share: Amount | None = None
    reason: Line | None = None


class _Score(_Open):
    precision: FiniteFloat | None
    recall: FiniteFloat | None
    f1: FiniteFloat | None
    support: Count


class _Flag(_Open):
    sentence: Line


class _Quality(_Open):
    names: list[Line] | None = None
    confusion: list[list[Count]] | None = None
    labels: list[_Score] | None = None
    flags: list[_Flag] | None = None

    @model_validator(mode="after")
    def _square(self) -> _Quality:
        names = len(self.names or [])
        lengths = [len(line) for line in self.confusion or []]
        if (self.labels is not None and len(self.labels) != names) or lengths not in ([], [names] * names):
            raise ValueError(f"the figures by label do not fit {names} names")
        return self


class _Trial(_Strict):
    """A trial, in the form of `engine.run.load.Trial`."""

    rate_per_s: Positive
    texts: Count
    late: Count
    answered: Count
    p99_s: Positive
    mean_batch: Positive
    holds: bool


class _Conditions(_Open):
    seconds: Amount | None = None
    others_cpu_share: Amount | None = None


class _UnderLoad(_Strict):
    """The rules for a row of a variant under load, beyond those of its columns."""

    @model_validator(mode="after")
    def _whole(self) -> _UnderLoad:
        row: Any = self
        figures = (row.single_texts, row.single_p90_s, row.offline_texts_per_s)
        if row.status != "measured":
            if row.trials or any(value is not None for value in (*figures, row.server_texts_per_s, row.validity)):
                raise ValueError("a variant that failed under load has no figures")
            return self
        if None in figures or row.validity is None or not row.trials:
            raise ValueError("a variant that was measured under load lacks a figure")
        held = max((trial["rate_per_s"] for trial in row.trials if trial["holds"]), default=None)
        if row.server_texts_per_s != held:
            raise ValueError("server_texts_per_s is not the highest rate that held")
        return self


class _Doubt(_Open):
    """A doubt, in the form of `engine.measurement.doubts`: a known code, with the values that its words need."""

    code: str

    @model_validator(mode="after")
    def _with_words(self) -> _Doubt:
        try:
            (made,) = of_json([self.model_dump()])
            TypeAdapter(Line).validate_python(made.words)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a doubt {self.code} lacks what it is about") from error
        return self


class _Figures(_Strict):
    """The rules for a measurement, beyond those of its columns."""

    @model_validator(mode="after")
    def _whole(self) -> _Figures:
        for names in INTERVALS:
            value, low, high = (getattr(self, name) is not None for name in names)
            if low != high or (low and not value) or (value and not low and names[0] == "accuracy_difference"):
                raise ValueError(f"{names[0]} lacks a limit of its interval, or the limits their figure")
        return self


COLUMNS: dict[str, Any] = {
    "id": Annotated[str, StringConstraints(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")],
    "run.status": Literal["finished", "failed", "cancelled", "interrupted"],
    "run.suite": _like(_Suite),
    "run.environment": _like(_Environment),
    "run.ceilings": _like(_Ceilings),
    "run.notes": Annotated[str, StringConstraints(max_length=history.NOTE_LENGTH)],
    "measurement.status": Literal["pending", "measured", "failed", "unavailable", "cancelled"],
    "measurement.validity": Literal["valid", "unstable", "invalid"],
    "measurement.comparison": Literal["better", "worse", "no_difference"],
    "measurement.accuracy_comparison": Literal["better", "worse", "no_difference"],
    "measurement.schedule": Literal["interleaved", "sequential"],
    "measurement.labels": _like(_Labels),
    "measurement.audit": _like(_Audit),
    "measurement.memory": _like(_Memory),
    "measurement.invariance": _like(dict[str, _Way]),
    "measurement.limits": _like(_Limit),
    "measurement.quality": _like(_Quality),
    "measurement.conditions": _like(list[dict[str, Any]]),
    "measurement.doubts": _like(list[_Doubt]),
    "measurement.batch_size": Annotated[int, Field(gt=0, lt=2**31)],
    **{
        f"measurement.{name}": Positive
        for name in (
            "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_p50_low_s",
            "latency_p50_high_s", "throughput_samples_per_s", "throughput_samples_per_s_low",
            "throughput_samples_per_s_high", "speedup", "speedup_low", "speedup_high",
        )
    },
    "scenario.status": Literal["measured", "failed"],
    "scenario.validity": Literal["valid", "unstable"],
    "scenario.p99_limit_s": Positive,
    "scenario.max_batch": Annotated[int, Field(gt=0, lt=2**31)],
    "scenario.max_wait_s": Amount,
    "scenario.single_p90_s": Positive,
    "scenario.offline_texts_per_s": Positive,
    "scenario.server_texts_per_s": Positive,
    "scenario.trials": _like(Annotated[list[_Trial], Field(max_length=MAX_TRIALS)]),
    "scenario.conditions": _like(_Conditions),
    "prediction.model_labels": list[Line],
    # Warm-up comes before round 0.
    "block.round": Annotated[int, Field(ge=-1, lt=2**31)],
    "block.kind": Literal["warmup", "timed"],
}  # fmt: skip
"""Bounds of columns, beyond those of their types in the database."""


def _kind(table: str, column: Column[Any]) -> Any:
    known = COLUMNS.get(f"{table}.{column.name}", COLUMNS.get(column.name))
    if known is not None:
        return known
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return Time
    if isinstance(kind, Boolean):
        return bool
    if isinstance(kind, Double):
        return FiniteFloat
    if isinstance(kind, Integer):
        return Annotated[int, Field(ge=0, lt=2**63 if isinstance(kind, BigInteger) else 2**31)]
    if isinstance(kind, String) and not isinstance(kind, Text):
        return Annotated[str, StringConstraints(max_length=kind.length)]
    if isinstance(kind, Text):
        return Line
    assert isinstance(kind, JSON), column
    return dict[str, Any]


def column_names(table: Table, without: Iterable[str] = ()) -> list[str]:
    left_out = {*without, "latencies_s", "logits"}
    return [column.name for column in table.columns if column.name not in left_out]


def _model(model: Any, without: Iterable[str], base: type[_Strict] = _Strict, **further: Any) -> type[BaseModel]:
    """A pydantic model of a table's columns; one that may be NULL may be missing."""
    table = model.__table__
    fields: dict[str, Any] = {}
    for name in column_names(table, without):
        column = table.columns[name]
        kind = _kind(table.name, column)
        fields[name] = (kind | None, None) if column.nullable else (kind, ...)
    return create_model(model.__name__, __base__=base, **fields, **further)


_Block = _model(Block, KEYS, calls=(Count, ...))
_Prediction = _model(Prediction, KEYS)
_Measurement = _model(
    Measurement,
    KEYS,
    _Figures,
    blocks=(list[_Block], []),  # type: ignore[valid-type]
    prediction=(_Prediction | None, None),
)
_Load = _model(Load, KEYS, _UnderLoad)
RunPart = _model(
    Run,
    ELSEWHERE,
    tags=(list[Line], []),
    measurements=(list[_Measurement], []),  # type: ignore[valid-type]
    scenarios=(list[_Load], []),  # type: ignore[valid-type]
)


class ExamplesPart(_Strict):
    dataset: Line
    label_names: list[Line] | None
    texts: list[str]
    labels: list[Count | None]
    source_indices: list[Count]

    @model_validator(mode="after")
    def _fitting(self) -> ExamplesPart:
        if not len(self.texts) == len(self.labels) == len(self.source_indices):
            raise ValueError(f"{len(self.texts)} texts, {len(self.labels)} labels")
        known = [label for label in self.labels if label is not None]
        if len(known) not in (0, len(self.texts)):
            raise ValueError("some examples have a label and some have none")
        if known and max(known) >= len(self.label_names or []):
            raise ValueError(f"a label {max(known)} of {len(self.label_names or [])} names")
        if any(CONTROL.search(name) for name in self.label_names or []):
            raise ValueError("a label's name holds a control character")
        for text in self.texts:
            # No database can hold these. Otherwise a text stays unchanged: its hash and the answers depend on it.
            if "\0" in text:
                raise ValueError("a text holds a null character")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError("a text holds half of a character") from error
        return self


class _Part(_Strict):
    bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Manifest(_Strict):
    format: Literal["inference-bench run"]
    version: Literal[1, 2, 3]
    db_schema: Annotated[str, Field(alias="schema", max_length=32)]
    parts: dict[Literal["run.json", "examples.json", "latencies.f8", "logits.f4", "logs.json"], _Part]
