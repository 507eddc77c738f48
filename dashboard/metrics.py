"""What is measured, said once: label, unit, which direction is better, scale, format and explanation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.units import between, significant

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """A figure of a measurement, as people read it."""

    key: str
    """The column of the frame that holds it."""
    label: str
    unit: str
    better: Better
    factor: float
    """From the stored unit to the shown one."""
    scale: Literal["log", "linear"]
    explanation: str
    low: str | None = None
    """The columns of its 95% interval, where it has one."""
    high: str | None = None
    show: Callable[[float | None], str] = significant

    @property
    def header(self) -> str:
        """Label and unit: the head of a column, the title of an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, stored: float | None) -> str:
        """The stored value in the shown unit, without it; an en dash for None."""
        return self.show(None if stored is None else stored * self.factor)

    def interval(self, low: float | None, high: float | None) -> str:
        """ "low to high" in the shown unit, or an empty string."""
        if low is None or high is None:
            return ""
        return between(low * self.factor, high * self.factor, self.show)


def _one_place(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "latency_p50_s",
            "Latency",
            "ms a batch",
            "lower",
            1e3,
            "log",
            "Half of the timed calls were faster. A call takes one tokenised batch as host arrays and gives "
            "its logits as a host array; the device is synchronised on both sides. Tokenising is timed apart.",
            "latency_p50_low_s",
            "latency_p50_high_s",
        ),
        Metric(
            "text_s",
            "Time a text",
            "ms",
            "lower",
            1e3,
            "log",
            "One over samples/s: what a text takes in batches. It stands for latency where variants batch by different "
            "sizes, as a larger batch takes longer because it holds more.",
            "text_low_s",
            "text_high_s",
        ),
        Metric(
            "latency_p95_s",
            "Latency, 95th percentile",
            "ms a batch",
            "lower",
            1e3,
            "log",
            "19 of 20 timed calls were faster. Given from 59 calls on: fewer cannot carry it.",
        ),
        Metric(
            "throughput_samples_per_s",
            "Throughput",
            "samples/s",
            "higher",
            1.0,
            "log",
            "Examples answered a second of model time: batch size over latency, tokenising not counted.",
            "throughput_samples_per_s_low",
            "throughput_samples_per_s_high",
        ),
        Metric(
            "throughput_tokens_per_s",
            "Throughput in tokens",
            "tokens/s",
            "higher",
            1.0,
            "log",
            "Real tokens a second; padding is not counted.",
        ),
        Metric(
            "throughput_padded_tokens_per_s",
            "Throughput in padded tokens",
            "padded tokens/s",
            "higher",
            1.0,
            "log",
            "Tokens a second with the padding that filled the batch: the unit of the study's throughput column.",
        ),
        Metric(
            "speedup",
            "Speed-up",
            "×",
            "higher",
            1.0,
            "log",
            "Samples a second over the baseline's, taken round by round and summed up by the median. The interval "
            "holds both the rounds' spread and how far two processes of one variant differ.",
            "speedup_low",
            "speedup_high",
        ),
        Metric(
            "vram_peak_bytes",
            "Peak VRAM",
            "MB",
            "lower",
            1e-6,
            "linear",
            "The most memory that the variant's process held on the device; the source is named. 1 MB = 10⁶ bytes.",
        ),
        Metric(
            "ram_peak_bytes",
            "Peak RAM",
            "MB",
            "lower",
            1e-6,
            "linear",
            "The most memory that the variant's process held on the host while it loaded and worked. 1 MB = 10⁶ bytes.",
        ),
        Metric(
            "energy_j_per_1000_examples",
            "Energy",
            "J for 1,000 texts",
            "lower",
            1.0,
            "log",
            "By the device's own counter, over a window of calls after the rounds; what it takes idle is subtracted.",
        ),
        Metric(
            "weights_bytes",
            "Weights",
            "MB",
            "lower",
            1e-6,
            "linear",
            "The bytes of the model's parameters as loaded.",
        ),
        Metric(
            "accuracy",
            "Accuracy",
            "%",
            "higher",
            100.0,
            "linear",
            "Share of examples answered with their label, labels aligned by name. Wilson's 95% interval.",
            "accuracy_low",
            "accuracy_high",
            _one_place,
        ),
        Metric(
            "accuracy_difference",
            "Accuracy lost or gained",
            "points",
            "higher",
            100.0,
            "linear",
            "Accuracy less the baseline's on the same examples, with its paired bootstrap's 95% interval; the "
            "verdict is exact McNemar's, corrected over the variants by Holm.",
            "accuracy_difference_low",
            "accuracy_difference_high",
            _one_place,
        ),
        Metric(
            "agreement",
            "Same answer as the baseline",
            "%",
            "higher",
            100.0,
            "linear",
            "Share of examples answered as the baseline answers them, whether right or wrong.",
            "agreement_low",
            "agreement_high",
            _one_place,
        ),
        Metric(
            "load_s",
            "Load",
            "s",
            "lower",
            1.0,
            "linear",
            "From the worker's start of loading to its readiness.",
        ),
    )
}
