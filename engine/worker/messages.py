"""Requests to a worker and its replies: the objects that cross the pipe between a worker and its parent.

A request declares its reply's type, which `Worker.ask` returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from engine.backends.base import Audit, LoadRequest
from engine.worker.memory import Figure

if TYPE_CHECKING:
    import numpy as np

Reply = TypeVar("Reply", covariant=True)


@dataclass(frozen=True)
class Request(Generic[Reply]):
    """Something that a worker does once. These fields mean the same in every request:

    positions: int64 [examples in the batch], row numbers in the texts of `Encode`; batches: a list of positions.
    padding: max_length, longest or packed.
    """

    activity: ClassVar[str]
    """What the worker is doing, for a message that ends in "while ..."."""


@dataclass(frozen=True)
class Failed:
    """The reply to a request that failed."""

    reason: str
    """One line."""
    is_unavailable: bool
    """True if the technique cannot run here; False if it failed."""
    out_of_memory: bool


@dataclass(frozen=True)
class Started:
    import_s: float
    imports_bytes: int | None
    """RAM of the process after its imports, before anything is loaded; None off Linux."""


@dataclass(frozen=True)
class Start(Request[Started]):
    """Import the modules that a backend needs, before anything is loaded."""

    activity: ClassVar[str] = "importing its libraries"

    backend: str
    device_uuid: str | None


@dataclass(frozen=True)
class Loaded:
    load_s: float
    weights_bytes: int | None


@dataclass(frozen=True)
class Load(Request[Loaded]):
    """Load a variant and its tokenizer."""

    activity: ClassVar[str] = "loading"

    request: LoadRequest
    tokenizer: str
    """The folder of the tokenizer."""
    max_length: int


@dataclass(frozen=True)
class Encoded:
    lengths: np.ndarray
    """int64 [texts], tokens."""
    truncated: np.ndarray
    """bool [texts]: whether a text was cut to the maximum length."""


@dataclass(frozen=True)
class Encode(Request[Encoded]):
    """Tokenise the whole workload once; positions in later requests refer to it."""

    activity: ClassVar[str] = "encoding the texts"

    texts: list[str]


@dataclass(frozen=True)
class MemoryPeaks:
    host: Figure
    device: Figure
    allocator: dict[str, int]
    """Bytes by name, as reported by the backend's own allocator."""


@dataclass(frozen=True)
class MeasureMemory(Request[MemoryPeaks]):
    """Read the memory peaks over a few calls of one batch: the largest batch of a measurement."""

    activity: ClassVar[str] = "measuring memory"

    positions: np.ndarray
    padding: str


@dataclass(frozen=True)
class Logits:
    logits: np.ndarray
    """float32 [examples, labels], rows in the order of the batches."""


@dataclass(frozen=True)
class Evaluate(Request[Logits]):
    """Answer every example of some batches."""

    activity: ClassVar[str] = "answering the examples"

    batches: list[np.ndarray]
    padding: str


@dataclass(frozen=True)
class WarmedUp:
    started_ns: int
    """By `time.perf_counter_ns`, which is one clock for all processes of a machine."""
    latencies_s: np.ndarray
    """float64 [calls], seconds."""
    settled: bool | None
    """Whether the latency has settled; None if there were too few calls to tell."""


@dataclass(frozen=True)
class WarmUp(Request[WarmedUp]):
    """Make calls before anything is measured."""

    activity: ClassVar[str] = "warming up"

    batches: list[np.ndarray]
    to_come: list[np.ndarray]
    """One batch of every shape that will be timed."""
    padding: str
    seconds: float
    max_seconds: float


@dataclass(frozen=True)
class TimedBlock:
    started_ns: int
    """By `time.perf_counter_ns`, which is one clock for all processes of a machine."""
    latencies_s: np.ndarray
    """float64 [calls], seconds."""
    samples: int
    tokens: int
    padded_tokens: int


@dataclass(frozen=True)
class TimeBlock(Request[TimedBlock]):
    """Time calls in whole passes over one round's batches, for at least `seconds`."""

    activity: ClassVar[str] = "timing a block of calls"

    batches: list[np.ndarray]
    padding: str
    seconds: float
    untimed_seconds: float
    """Seconds of untimed calls before the first timed one, at least one call; 0 for no untimed calls."""


@dataclass(frozen=True)
class Tokenized:
    latencies_s: np.ndarray
    """float64 [batches], seconds."""


@dataclass(frozen=True)
class Tokenize(Request[Tokenized]):
    """Time the tokenising of texts into a padded batch."""

    activity: ClassVar[str] = "timing the tokeniser"

    texts: list[list[str]]
    """The texts of each batch."""
    padding: str


@dataclass(frozen=True)
class DeviceTimes:
    seconds: np.ndarray | None
    """float64 [calls]; None if the device has no events."""


@dataclass(frozen=True)
class MeasureDeviceTime(Request[DeviceTimes]):
    """Read the time between device events around a call, for some calls."""

    activity: ClassVar[str] = "timing by the device"

    positions: np.ndarray
    padding: str
    calls: int


@dataclass(frozen=True)
class Profiled:
    operators: dict[str, Any] | None
    """As returned by `engine.measurement.operators.facts`; None if the profile failed."""
    reason: str | None = None
    """Why the profile failed."""
    trace: str | None = None
    """The path of the trace in the worker's own folder; None if no trace was requested."""

    def facts(self) -> dict[str, Any]:
        """The operators as a row stores them; only the `reason` if there are none."""
        return {"reason": self.reason} if self.operators is None else self.operators


@dataclass(frozen=True)
class Profile(Request[Profiled]):
    """Profile where some calls of one batch spend their time."""

    activity: ClassVar[str] = "profiling"

    positions: np.ndarray
    padding: str
    calls: int
    keep_trace: bool = False


@dataclass(frozen=True)
class ReadAudit(Request[Audit]):
    """Read the effective configuration back from the loaded model."""

    activity: ClassVar[str] = "reading its configuration back"


@dataclass(frozen=True)
class Classified:
    logits: np.ndarray
    """float32 [texts, labels]."""
    latencies_s: np.ndarray
    """float64 [calls], seconds of the model's call alone."""
    tokenize_s: np.ndarray
    """float64 [calls], seconds from texts to a padded batch."""
    tokens: np.ndarray
    """int64 [texts]."""
    truncated: np.ndarray
    """bool [texts]."""
    shape: list[int]
    """The shape of the batch: texts, and tokens with padding."""


@dataclass(frozen=True)
class Classify(Request[Classified]):
    """Answer texts as one batch, in one untimed call and then some timed calls."""

    activity: ClassVar[str] = "classifying"

    texts: list[str]
    padding: str
    calls: int


@dataclass(frozen=True)
class AnswerTexts(Request[Logits]):
    """Tokenise and answer texts as one batch, as a service does under load."""

    activity: ClassVar[str] = "answering under load"

    texts: list[str]
    padding: str


@dataclass(frozen=True)
class Met:
    """The backend has prepared for the shapes to come."""


@dataclass(frozen=True)
class Meet(Request[Met]):
    """Prepare for batches of each size in `sizes` and each length in `texts`: they cover the batches to come."""

    activity: ClassVar[str] = "preparing for batches of several sizes"

    texts: list[str]
    sizes: list[int]
    padding: str
