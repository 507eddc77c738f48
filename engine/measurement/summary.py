"""Derives the figures of a row from a measurement's raw values. Pure: the stored arrays give the same figures."""

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
"""How much slower calls may be than in the fastest earlier run before the machine is called slower."""


@dataclass(frozen=True)
class Raw:
    """The raw values of one measurement, before anything is derived."""

    blocks: list[Block] = field(default_factory=list)
    logits: np.ndarray | None = None
    """float32 [examples, model labels]."""

    def rates(self) -> list[np.ndarray]:
        """Samples/s: one float64 [rounds] array per process, NaN where a round has no block."""
        return self._by_round(lambda block: block.samples / float(block.latencies_s.sum()))

    def median_rates(self) -> list[np.ndarray]:
        """Calls/s by each round's median call, in the same form. A few slow calls do not move the median."""
        return self._by_round(lambda block: 1 / float(np.median(block.latencies_s)))

    def _by_round(self, figure: Callable[[Block], float]) -> list[np.ndarray]:
        processes = 1 + max((b.process for b in self.blocks), default=-1)
        rounds = 1 + max((b.round for b in self.blocks), default=-1)
        figures = [np.full(rounds, np.nan) for _ in range(processes)]
        for b in self.blocks:
            if b.kind == "timed":
                figures[b.process][b.round] = figure(b)
        return figures

    def latencies_s(self) -> np.ndarray:
        """float64 [calls]: the timed calls in order."""
        timed = [b.latencies_s for b in self.blocks if b.kind == "timed"]
        return np.concatenate(timed) if timed else np.empty(0)


def speed(raw: Raw) -> dict[str, Any]:
    """The columns of latency and throughput."""
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
    """The 95% limits: of the median call, scaled by the rounds' median calls; of throughput, by the rounds' rates."""
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
    """The speed-up columns against the baseline over the `calm` rounds; None if the baseline has no rounds.

    `sequential`: the two variants were timed one after another. Then no round was calm for both, and all rounds are
    used. `slower`: the machine's `slowdown`. A slower machine slows a variant between not at all and about twice as
    much as the median variant, so the interval is widened by that factor on both sides.
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
    """The columns of accuracy, or the reason why there are none.

    `logits`: float32 [examples, model labels]; `labels`: int64 [examples] or None; `head`: the flag from
    `artefacts.heads.fresh`, which is ignored if `random_weights` is true.
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
    """A variant's accuracy against a baseline's on the same examples; the fields are columns of a measurement."""

    examples: int
    accuracy_difference: float
    accuracy_difference_low: float
    accuracy_difference_high: float
    accuracy_gained: int
    accuracy_lost: int
    accuracy_p: float | None
    """p of the exact two-sided McNemar test; `corrected` corrects it."""
    accuracy_comparison: str | None = None
    """better, worse or no_difference. `corrected` sets this and `detectable_difference`."""
    detectable_difference: float | None = None


def difference(right: np.ndarray, baseline: np.ndarray) -> Difference:
    """The accuracy against a baseline. Both arrays are bool [examples]: whether each is answered right."""
    pair = quality.compare(right, baseline)
    return Difference(len(right), pair.difference, pair.low, pair.high, pair.gained, pair.lost, pair.p)


def paired(
    logits: np.ndarray, alignment: Alignment, baseline: np.ndarray, other: Alignment, labels: np.ndarray
) -> tuple[Difference, dict[str, Any]] | None:
    """A variant's answers against the baseline's: the difference in accuracy, and the changed answers by kind.

    Both logits are float32 [examples, model labels]. None if either model's labels are not aligned.
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
    """The fields of a row that `corrected` needs. `Difference` and the rows of the store have them."""

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
    """The rows of one experiment with `accuracy_p` corrected by Holm, the verdict, and the detectable difference.

    The detectable difference depends on how many rows are corrected together. Rows without a p-value stay unchanged.
    """
    result = list(rows)
    known = {str(index): row.accuracy_p for index, row in enumerate(rows) if row.accuracy_p is not None}
    for index, p in quality.holm(known).items():
        row = result[int(index)]
        gained, lost, examples = row.accuracy_gained or 0, row.accuracy_lost or 0, row.examples or 0
        result[int(index)] = replace(  # type: ignore[type-var]
            row,
            accuracy_p=p,
            accuracy_comparison=quality.verdict(gained, lost, p),
            detectable_difference=quality.smallest_detectable(gained + lost, examples, len(known)),
        )
    return result


def predicted_names(logits: np.ndarray, alignment: Alignment, dataset_labels: list[str] | None) -> list[str]:
    """Each example's answer by name: the data set's label if the labels are aligned, else the model's own."""
    if alignment.mapping is not None and dataset_labels:
        return [dataset_labels[i] for i in alignment.apply(logits)]
    return [alignment.model_labels[i] for i in logits.argmax(axis=1)]


def comparable(mine: Alignment, baseline: Alignment) -> bool:
    """Whether two models' answers refer to the same labels."""
    if mine.mapping is None and baseline.mapping is None:
        labels, others = mine.model_labels, baseline.model_labels
        # Names may be in any order; but LABEL_0 is a number, not a name.
        named = not any(map(label_names.generic, labels))
        return labels == others or (named and sorted(labels) == sorted(others))
    return mine.mapping is not None and baseline.mapping is not None


def agreement(mine: list[str], baseline: list[str] | None) -> dict[str, Any]:
    """The share of answers equal to the baseline's, and the number of flips; None without comparable answers."""
    if baseline is None:
        return {"agreement": None, "flips": None}
    flips = sum(a != b for a, b in zip(mine, baseline, strict=True))
    return {"agreement": 1 - flips / len(mine), "flips": flips}


def limits_row(
    blocks: list[Block], values: dict[str, Any], precision: str, device: Literal["cpu", "cuda"]
) -> bounds.Observation:
    """The facts that `engine.measurement.limits` needs, from a measurement's blocks and the columns known so far."""
    timed = [b for b in blocks if b.kind == "timed"]
    calls = sum(len(b.latencies_s) for b in timed)
    shapes = {(b.samples / len(b.latencies_s), b.padded_tokens / len(b.latencies_s)) for b in timed}
    # If calls have several shapes, only the mean latency belongs to the mean shape.
    latency = "latency_p50_s" if len(shapes) == 1 else "latency_mean_s"
    return bounds.Observation(
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


def changed(logits: np.ndarray, second_logits: np.ndarray) -> dict[str, Any]:
    """How answers to the same examples differ between two ways of batching. Both: float32 [examples, labels]."""
    return {
        "examples": len(logits),
        "changed": int((logits.argmax(axis=1) != second_logits.argmax(axis=1)).sum()),
        "largest_logit_change": float(np.abs(logits - second_logits).max()),
    }


def batch_flip_rate(invariance: dict[str, Any] | None) -> float | None:
    """The largest share of answers that another way of batching changes; None if none was tried."""
    return max((way["changed"] / way["examples"] for way in (invariance or {}).values()), default=None)


def slowdown(latencies_s: dict[tuple[str, int], float], earlier_s: dict[tuple[str, int], float]) -> float:
    """How many times as long this run's calls took as an earlier run's, if that is more than noise; else 1.

    Both arguments map (variant, batch size) to the median of a call in seconds. `earlier_s` has the shortest median of
    earlier runs of the same work. The median over the variants separates the machine from one variant's luck.
    """
    ratios = [seconds / earlier_s[key] for key, seconds in latencies_s.items() if key in earlier_s]
    slower = float(np.median(ratios)) if ratios else 1.0
    return slower if slower > 1 + SLOWER_MACHINE else 1.0


def validity(
    raw: Raw, audit: dict[str, Any] | None, min_calls: int, disturbed: int, doubts: Sequence[Doubt] = ()
) -> dict[str, Any]:
    """The columns of validity: valid, unstable or invalid; the doubts as facts; the reason in words.

    `disturbed`: the number of blocks that began while another worker was not yet silent; `doubts`: other reasons to
    doubt a steady state.
    """
    wrong = list(audit["wrong"]) if audit else ["its configuration could not be read back"]
    if raw.logits is not None and not np.isfinite(raw.logits).all():
        rows = int((~np.isfinite(raw.logits).all(axis=1)).sum())
        wrong.append(f"{rows} examples gave logits that are not finite")
    if wrong:
        return {"validity": "invalid", "validity_reason": "; ".join(wrong), "doubts": None}
    timed = sorted((b for b in raw.blocks if b.kind == "timed"), key=lambda b: b.started_s)
    doubts = list(dict.fromkeys(doubts))
    calls = sum(len(b.latencies_s) for b in timed)
    if calls < min_calls:
        doubts.append(doubt(Code.FEW_CALLS, calls=calls, min_calls=min_calls))
    # Windows of different lengths rightly differ in latency per call, so time per token is compared.
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
