"""What a worker is asked, and what it answers: the objects that cross the pipe between it and its parent.

A request names its reply's type, so that `Worker.ask` gives that type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.backends.base import Audit, LoadRequest
from engine.worker.memory import Figure

if TYPE_CHECKING:
    import numpy as np

Reply = TypeVar("Reply", covariant=True)


@dataclass(frozen=True)
class Request(Generic[Reply]):
    """Something that a worker does once. In every request:

    positions: int64 [examples in the batch], rows of the texts that `Encode` gave; batches: a list of such.
    padding: max_length, longest or packed.
    """


@dataclass(frozen=True)
class Failed:
    """The reply to a request that could not be met."""

    reason: str
    """One line."""
    is_unavailable: bool
    """Whether the technique cannot run here, rather than broke."""
    out_of_memory: bool


@dataclass(frozen=True)
class Started:
    import_s: float
    imports_bytes: int | None
    """RAM of the process before anything is loaded."""


@dataclass(frozen=True)
class Start(Request[Started]):
    """Import what a backend needs, before anything is loaded."""

    backend: str
    device_uuid: str | None


@dataclass(frozen=True)
class Loaded:
    load_s: float
    weights_bytes: int | None


@dataclass(frozen=True)
class Load(Request[Loaded]):
    """Load a variant and its tokenizer."""

    request: LoadRequest
    tokenizer: str
    """The folder of the tokenizer."""
    max_length: int


@dataclass(frozen=True)
class Encoded:
    lengths: np.ndarray
    """int64 [texts], tokens."""
    truncated: np.ndarray
    """bool [texts]: whether a text was cut to the longest length."""


@dataclass(frozen=True)
class Encode(Request[Encoded]):
    """Tokenise the whole workload once; positions in later requests refer to it."""

    texts: list[str]


@dataclass(frozen=True)
class MemoryPeaks:
    host: Figure
    device: Figure
    allocator: dict[str, int]
    """Bytes by name, as the backend's own allocator tells them."""


@dataclass(frozen=True)
class MeasureMemory(Request[MemoryPeaks]):
    """Read the peaks over a few calls of one batch: the largest that a measurement makes."""

    positions: np.ndarray
    padding: str


@dataclass(frozen=True)
class Logits:
    logits: np.ndarray
    """float32 [examples, labels], rows in the order of the batches."""


@dataclass(frozen=True)
class Evaluate(Request[Logits]):
    """Answer every example of some batches."""

    batches: list[np.ndarray]
    padding: str


@dataclass(frozen=True)
class WarmedUp:
    started_ns: int
    """By `time.perf_counter_ns`, one clock for all processes of a machine."""
    latencies_s: np.ndarray
    """float64 [calls], seconds."""
    settled: bool | None
    """Whether the latency has settled; None where too few calls were made to tell."""


@dataclass(frozen=True)
class WarmUp(Request[WarmedUp]):
    """Make calls before anything counts."""

    batches: list[np.ndarray]
    to_come: list[np.ndarray]
    """One batch of every shape that will be timed."""
    padding: str
    seconds: float
    max_seconds: float


@dataclass(frozen=True)
class TimedBlock:
    started_ns: int
    """By `time.perf_counter_ns`, one clock for all processes of a machine."""
    latencies_s: np.ndarray
    """float64 [calls], seconds."""
    samples: int
    tokens: int
    padded_tokens: int


@dataclass(frozen=True)
class TimeBlock(Request[TimedBlock]):
    """Time calls over one round's batches, whole passes of them, for at least `seconds`."""

    batches: list[np.ndarray]
    padding: str
    seconds: float
    untimed_seconds: float
    """Calls before the first timed one, at least one; 0: none."""


@dataclass(frozen=True)
class Tokenized:
    latencies_s: np.ndarray
    """float64 [batches], seconds."""


@dataclass(frozen=True)
class Tokenize(Request[Tokenized]):
    """Time the way from texts to a padded batch."""

    texts: list[list[str]]
    """The texts of each batch."""
    padding: str


@dataclass(frozen=True)
class DeviceTimes:
    seconds: np.ndarray | None
    """float64 [calls]; None where the device has no events."""


@dataclass(frozen=True)
class MeasureDeviceTime(Request[DeviceTimes]):
    """Read the time between device events around a call, for some calls."""

    positions: np.ndarray
    padding: str
    calls: int


@dataclass(frozen=True)
class Profiled:
    operators: dict[str, Any] | None
    """As `engine.measurement.operators.facts`; None where the profile failed."""
    reason: str | None = None
    """Why it failed."""
    trace: str | None = None
    """The file of the trace, in the worker's own folder, where one was asked for."""

    def facts(self) -> dict[str, Any]:
        """The operators as a row stores them; the `reason` alone where there are none."""
        return {"reason": self.reason} if self.operators is None else self.operators


@dataclass(frozen=True)
class Profile(Request[Profiled]):
    """Find where some calls of one batch spend their time."""

    positions: np.ndarray
    padding: str
    calls: int
    keep_trace: bool = False


@dataclass(frozen=True)
class ReadAudit(Request[Audit]):
    """Read the effective configuration back from the loaded model."""


@dataclass(frozen=True)
class Classified:
    logits: np.ndarray
    """float32 [texts, labels]."""
    latencies_s: np.ndarray
    """float64 [calls], the model's call alone."""
    tokenize_s: np.ndarray
    """float64 [calls], from texts to a padded batch."""
    tokens: np.ndarray
    """int64 [texts]."""
    truncated: np.ndarray
    """bool [texts]."""
    shape: list[int]
    """Of the batch: texts, and tokens with padding."""


@dataclass(frozen=True)
class Classify(Request[Classified]):
    """Answer texts as one batch, over some timed calls after one that is not timed."""

    texts: list[str]
    padding: str
    calls: int


@dataclass(frozen=True)
class AnswerTexts(Request[Logits]):
    """Answer texts as one batch, tokenised now: what a service does under load."""

    texts: list[str]
    padding: str


@dataclass(frozen=True)
class Met:
    """The shapes to come have been seen."""


@dataclass(frozen=True)
class Meet(Request[Met]):
    """Prepare for batches of each of `sizes`, as long as each of `texts`: those to come are among them."""

    texts: list[str]
    sizes: list[int]
    padding: str
