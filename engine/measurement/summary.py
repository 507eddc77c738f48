"""From a measurement's raw values to the figures of its row. Pure: the store's arrays give the same again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from engine.measurement import bounds, gate, quality, stats
from engine.measurement import labels as label_names
from engine.measurement.blocks import Block
from engine.measurement.doubts import Code, Doubt, doubt, in_words
from engine.measurement.labels import RANDOM_WEIGHTS, Alignment

SLOWER_MACHINE = 0.1
"""By how much calls may be slower than in the fastest earlier run before the machine is said to be."""


@dataclass(frozen=True)
class Raw:
    """What one measurement gave, before anything is derived."""

    blocks: list[Block] = field(default_factory=list)
    logits: np.ndarray | None = None
    """float32 [examples, model labels]."""

    def rates(self) -> list[np.ndarray]:
        """Samples/s: one float64 [rounds] array a process, NaN where a round has no block."""
        return self._by_round(lambda block: block.samples / float(block.latencies_s.sum()))

    def median_rates(self) -> list[np.ndarray]:
        """Likewise, calls/s by each round's median call: what few slow calls of a round do not move."""
        return self._by_round(lambda block: 1 / float(np.median(block.latencies_s)))

    def _by_round(self, figure: Callable[[Block], float]) -> list[np.ndarray]:
        processes = 1 + max((b.process for b in self.blocks), default=-1)
        rounds = 1 + max((b.round for b in self.blocks), default=-1)
        found = [np.full(rounds, np.nan) for _ in range(processes)]
        for b in self.blocks:
            if b.kind == "timed":
                found[b.process][b.round] = figure(b)
        return found

    def latencies_s(self) -> np.ndarray:
        """float64 [calls], timed ones, in order."""
        timed = [b.latencies_s for b in self.blocks if b.kind == "timed"]
        return np.concatenate(timed) if timed else np.empty(0)


def speed(raw: Raw) -> dict[str, Any]:
    """Latency and throughput columns."""
    latencies_s = raw.latencies_s()
    if not len(latencies_s):
        return {"calls": 0}
    timed = [b for b in raw.blocks if b.kind == "timed"]
    total_s = float(latencies_s.sum())
    return _intervals(raw, float(np.median(latencies_s)), sum(b.samples for b in timed) / total_s) | {
        "calls": len(latencies_s),
        "latency_mean_s": float(latencies_s.mean()),
        "latency_p50_s": stats.percentile(latencies_s, 0.5),
        "latency_p95_s": stats.percentile(latencies_s, 0.95),
        "latency_p99_s": stats.percentile(latencies_s, 0.99),
        "throughput_samples_per_s": sum(b.samples for b in timed) / total_s,
        "throughput_tokens_per_s": sum(b.tokens for b in timed) / total_s,
        "throughput_padded_tokens_per_s": sum(b.padded_tokens for b in timed) / total_s,
    }


def _intervals(raw: Raw, median_s: float, samples_per_s: float) -> dict[str, float]:
    """95% limits in proportion: of the median call by the rounds' median calls, of throughput by their rates."""
    medians, rates = stats.rate(raw.median_rates()), stats.rate(raw.rates())
    if medians is None or rates is None:
        return {}
    return {
        "latency_p50_low_s": median_s * medians.estimate / medians.high,
        "latency_p50_high_s": median_s * medians.estimate / medians.low,
        "throughput_samples_per_s_low": samples_per_s * rates.low / rates.estimate,
        "throughput_samples_per_s_high": samples_per_s * rates.high / rates.estimate,
    }


def comparison(
    raw: Raw,
    baseline: Raw | None,
    is_baseline: bool,
    calm: list[np.ndarray] | None = None,
    slower: float = 1.0,
    sequential: bool = False,
) -> dict[str, Any]:
    """Speed-up columns against the baseline's rounds, of those that were `calm`; None where the baseline gave none.

    `sequential`: the two were timed one after another; then no round was calm for both, and all are taken.
    `slower`: the machine's `slowdown`. Variants suffer between not at all and about twice as much as the median of
    them, so the interval reaches that factor further to both sides.
    """
    if is_baseline:
        return {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0, "comparison": None}
    interval = None
    if baseline:
        interval = stats.speed_up(raw.rates(), baseline.rates(), None if sequential else calm, sequential)
    if interval:
        interval = stats.Interval(interval.estimate, interval.low / slower, interval.high * slower)
    return {
        "speedup": interval.estimate if interval else None,
        "speedup_low": interval.low if interval else None,
        "speedup_high": interval.high if interval else None,
        "comparison": stats.comparison(interval),
    }


def answers(
    logits: np.ndarray,
    alignment: Alignment,
    labels: np.ndarray | None,
    dataset_labels: list[str] | None,
    random_weights: bool,
    head: gate.Flag | None = None,
) -> dict[str, Any]:
    """Accuracy columns, or the reason why there are none.

    `logits`: float32 [examples, model labels]; `labels`: int64 [examples] or None; `head`: as `artefacts.heads.fresh`
    has it, of weights that are not random anyway.
    """
    found: dict[str, Any] = {"examples": len(logits), "labels": alignment.to_json()}
    fresh = [asdict(head)] if head and not random_weights else []
    if labels is None:
        found |= {"quality": {"flags": fresh}} if fresh else {}
        return found | {"accuracy_reason": "the workload is unlabelled"}
    names = dataset_labels or []
    reason = RANDOM_WEIGHTS if random_weights else None
    if reason or alignment.mapping is None:
        fault = None if reason else gate.study_fault(logits, labels, alignment, len(names))
        return found | {
            "accuracy_reason": reason or alignment.reason,
            "index_match_rate": label_names.index_match_rate(logits, labels),
            "quality": {"flags": fresh + ([{"kind": "study", "sentence": fault, "figures": {}}] if fault else [])},
        }
    predicted = alignment.apply(logits)
    correct = int((predicted == labels).sum())
    interval = stats.wilson(correct, len(labels))
    calibration = quality.calibration(logits, alignment.mapping, labels)
    return found | {
        "correct": correct,
        "accuracy": interval.estimate,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "macro_f1": stats.macro_f1(labels, predicted, len(names)),
        "nll": quality.nll(logits, alignment.mapping, labels),
        "ece": calibration.ece if calibration else None,
        "quality": {
            "names": names,
            "confusion": quality.confusion(labels, predicted, len(names)).tolist(),
            "labels": [asdict(score) for score in quality.label_scores(labels, predicted, len(names))],
            "calibration": [asdict(part) for part in calibration.bins] if calibration else None,
            "flags": fresh + [asdict(flag) for flag in gate.label_gate(labels, predicted, names)],
        },
    }


@dataclass(frozen=True)
class Difference:
    """A variant's accuracy beside another's on the same examples; the fields are columns of a measurement."""

    examples: int
    accuracy_difference: float
    accuracy_difference_low: float
    accuracy_difference_high: float
    accuracy_gained: int
    accuracy_lost: int
    accuracy_p: float | None
    """Exact McNemar, two-sided; uncorrected until `corrected`."""
    accuracy_comparison: str | None = None
    """better, worse or no_difference, as `detectable_difference` from `corrected`."""
    detectable_difference: float | None = None


def difference(right: np.ndarray, baseline: np.ndarray) -> Difference:
    """The accuracy beside a baseline: both bool [examples], whether each is answered right."""
    pair = quality.compare(right, baseline)
    return Difference(len(right), pair.difference, pair.low, pair.high, pair.gained, pair.lost, pair.p)


def paired(
    logits: np.ndarray, alignment: Alignment, baseline: np.ndarray, other: Alignment, labels: np.ndarray
) -> tuple[Difference, dict[str, Any]] | None:
    """A variant's answers beside the baseline's: the difference in accuracy, and the changed answers by kind.

    Both logits are float32 [examples, model labels]. None where either model's labels are not aligned.
    """
    if alignment.mapping is None or other.mapping is None:
        return None
    mine, theirs = alignment.apply(logits), other.apply(baseline)
    flips = quality.flips(mine, theirs, labels, 1 + max(*alignment.mapping, *other.mapping))
    kinds = {
        "right_to_wrong": flips.right_to_wrong,
        "wrong_to_right": flips.wrong_to_right,
        "wrong_to_wrong": flips.wrong_to_wrong,
    }
    return difference(mine == labels, theirs == labels), kinds


class _Differing(Protocol):
    """What `corrected` needs of a row: `Difference` has it, and so has every row of the store."""

    @property
    def accuracy_p(self) -> float | None: ...
    @property
    def accuracy_gained(self) -> int | None: ...
    @property
    def accuracy_lost(self) -> int | None: ...
    @property
    def examples(self) -> int | None: ...


D = TypeVar("D", bound=_Differing)


def corrected(rows: Sequence[D]) -> list[D]:
    """The rows of one experiment with `accuracy_p` corrected by Holm, and the verdict and smallest difference from it.

    What so many examples would have shown follows from how many rows are corrected together. Rows without a p value
    stay as they are.
    """
    made = list(rows)
    known = {str(index): row.accuracy_p for index, row in enumerate(rows) if row.accuracy_p is not None}
    for index, p in quality.holm(known).items():
        row = made[int(index)]
        gained, lost, examples = row.accuracy_gained or 0, row.accuracy_lost or 0, row.examples or 0
        made[int(index)] = replace(  # type: ignore[type-var]
            row,
            accuracy_p=p,
            accuracy_comparison=quality.verdict(gained, lost, p),
            detectable_difference=quality.smallest_detectable(gained + lost, examples, len(known)),
        )
    return made


def predicted_names(logits: np.ndarray, alignment: Alignment, dataset_labels: list[str] | None) -> list[str]:
    """Each example's answer by name: the data set's label where aligned, else the model's own."""
    if alignment.mapping is not None and dataset_labels:
        return [dataset_labels[i] for i in alignment.apply(logits)]
    return [alignment.model_labels[i] for i in logits.argmax(axis=1)]


def comparable(mine: Alignment, baseline: Alignment) -> bool:
    """Whether two models' answers speak of the same labels."""
    if mine.mapping is None and baseline.mapping is None:
        labels, others = mine.model_labels, baseline.model_labels
        # By name, in whatever order; but LABEL_0 is a number and no name.
        named = not any(map(label_names.generic, labels))
        return labels == others or (named and sorted(labels) == sorted(others))
    return mine.mapping is not None and baseline.mapping is not None


def agreement(mine: list[str], baseline: list[str] | None) -> dict[str, Any]:
    """Share of answers equal to the baseline's, and how many flipped; None without comparable ones."""
    if baseline is None:
        return {"agreement": None, "flips": None}
    flips = sum(a != b for a, b in zip(mine, baseline, strict=True))
    return {"agreement": 1 - flips / len(mine), "flips": flips}


def limits_row(
    blocks: list[Block], values: dict[str, Any], precision: str, device: Literal["cpu", "cuda"]
) -> bounds.Row:
    """What `engine.measurement.limits` needs to know of a measurement, from its blocks and the columns known so far."""
    timed = [b for b in blocks if b.kind == "timed"]
    calls = sum(len(b.latencies_s) for b in timed)
    shapes = {(b.samples / len(b.latencies_s), b.padded_tokens / len(b.latencies_s)) for b in timed}
    # Of calls of several shapes only the mean belongs to the mean shape.
    latency = "latency_p50_s" if len(shapes) == 1 else "latency_mean_s"
    return bounds.Row(
        precision=precision,
        device=device,
        rows=sum(b.samples for b in timed) / max(calls, 1),
        tokens=sum(b.padded_tokens for b in timed) / max(calls, 1),
        latency_s=values.get(latency),
        device_s=values.get("device_p50_s"),
        weights_bytes=values.get("weights_bytes"),
        settings=(values.get("audit") or {}).get("settings") or {},
        operators=(values.get("audit") or {}).get("operators"),
    )


def changed(logits: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """How the same examples were answered in other batches: both float32 [examples, labels]."""
    return {
        "examples": len(logits),
        "changed": int((logits.argmax(axis=1) != again.argmax(axis=1)).sum()),
        "largest_logit_change": float(np.abs(logits - again).max()),
    }


def batch_flip_rate(invariance: dict[str, Any] | None) -> float | None:
    """The largest share of answers that another way of batching changes."""
    return max((way["changed"] / way["examples"] for way in (invariance or {}).values()), default=None)


def slowdown(latencies_s: dict[tuple[str, int], float], earlier_s: dict[tuple[str, int], float]) -> float:
    """How many times as long this run's calls took as an earlier run's, where that is more than noise; else 1.

    Both map (variant, batch size) to a median of a call, `earlier_s` the shortest of runs of the same work. The
    median over the variants tells the machine from one variant's luck.
    """
    ratios = [seconds / earlier_s[key] for key, seconds in latencies_s.items() if key in earlier_s]
    slower = float(np.median(ratios)) if ratios else 1.0
    return slower if slower > 1 + SLOWER_MACHINE else 1.0


def validity(
    raw: Raw, audit: dict[str, Any] | None, min_calls: int, disturbed: int, doubts: Sequence[Doubt] = ()
) -> dict[str, Any]:
    """The columns of validity: valid, unstable or invalid, the doubts as facts, and the reason in words.

    `disturbed`: blocks that began while another worker was not yet silent; `doubts`: what else was seen that
    speaks against a steady state.
    """
    wrong = list(audit["wrong"]) if audit else ["its configuration could not be read back"]
    if raw.logits is not None and not np.isfinite(raw.logits).all():
        rows = int((~np.isfinite(raw.logits).all(axis=1)).sum())
        wrong.append(f"{rows} examples gave logits that are no finite numbers")
    if wrong:
        return {"validity": "invalid", "validity_reason": "; ".join(wrong), "doubts": None}
    timed = sorted((b for b in raw.blocks if b.kind == "timed"), key=lambda b: b.started_s)
    doubts = list(dict.fromkeys(doubts))
    calls = sum(len(b.latencies_s) for b in timed)
    if calls < min_calls:
        doubts.append(doubt(Code.FEW_CALLS, calls=calls, min_calls=min_calls))
    # Between windows of different lengths a call's latency differs by right: time per token is compared.
    per_token = np.array([np.median(b.latencies_s) * len(b.latencies_s) / b.padded_tokens for b in timed])
    if reason := stats.instability(per_token):
        doubts.append(reason)
    if disturbed > len(timed) // 10:
        doubts.append(doubt(Code.NOT_SILENT, blocks=disturbed, timed=len(timed)))
    deviations = list(audit["deviations"]) if audit else []
    verdict = "unstable" if doubts else "valid"
    return {
        "validity": verdict,
        "validity_reason": "; ".join([*in_words(doubts), *deviations]) or None,
        "doubts": [each.to_json() for each in doubts] or None,
    }
