"""Classify: each variant of a suite answers texts that somebody typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import paths
from engine.artefacts.builder import BuildError
from engine.artefacts.preparer import Prepared, Preparer
from engine.errors import RequestError, UnavailableError, one_line
from engine.machine import devices, host, locks
from engine.machine.devices import Device
from engine.machine.holders import Holder, Kind
from engine.measurement import summary
from engine.measurement.labels import align
from engine.run.state import Listener, Progress
from engine.suite import corpus
from engine.suite.spec import Suite, Variant
from engine.worker import handle
from engine.worker.handle import Worker, WorkerError
from engine.worker.messages import Classified, Classify

if TYPE_CHECKING:
    pass

CALLS = 5
"""Timed calls an answer's latency is the median of, after one that is not timed."""
MAX_TEXT_BYTES = 1_000_000
MAX_TEXTS = 256
"""In one batch."""
BATCH_TEXTS = 32
"""Many texts are asked in batches of so many: their memory is bounded, and answers come while the rest waits."""
BLANK = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode's categories of what leaves no ink: control and format characters, separators."""


@dataclass(frozen=True)
class Answer:
    """The answers of one variant to some texts, all in one batch."""

    variant: str
    title: str
    status: str
    """measured, unavailable or failed."""
    reason: str | None = None
    labels: list[str] | None = None
    """One answer a text."""
    probabilities: list[dict[str, float]] | None = None
    """One map a text: label -> softmax of the logits."""
    latency_s: float | None = None
    """Median of the model's call over the batch."""
    latency_range_s: list[float] | None = None
    """The fastest and the slowest of these calls."""
    tokenize_s: float | None = None
    """Median of tokenising the batch."""
    shape: list[int] | None = None
    """[texts, tokens] of the batch that was answered."""
    truncated: list[bool] | None = None
    agrees: list[bool] | None = None
    """Whether each answer is the baseline's; None for the baseline and where labels are not comparable."""
    note: str | None = None
    """A remark that a reader of the latency needs."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def blank(text: str) -> bool:
    """Whether `text` leaves no ink: it is empty, or blanks and control characters alone."""
    return all(unicodedata.category(character) in BLANK for character in text)


def batches(texts: list[str]) -> list[list[str]]:
    """`texts` in order, in parts of at most BATCH_TEXTS and MAX_TEXT_BYTES."""
    parts: list[list[str]] = []
    size = 0
    for text in texts:
        count = len(text.encode("utf-8", "surrogatepass"))
        if not parts or len(parts[-1]) == BATCH_TEXTS or size + count > MAX_TEXT_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += count
    return parts


def check_texts(texts: list[str], most: int = MAX_TEXTS, together_bytes: int = MAX_TEXT_BYTES) -> None:
    """Raises RequestError for texts that no classifier could be asked."""
    if not texts:
        raise RequestError("no text given; type at least one")
    if len(texts) > most:
        raise RequestError(f"{len(texts):,} texts are too many at once; allowed: up to {most:,}")
    for number, text in enumerate(texts, 1):
        which = f"text {number}" if len(texts) > 1 else "the text"
        if blank(text):
            raise RequestError(f"{which} is empty or holds only blanks and control characters; type some words")
        if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            raise RequestError(f"{which} is longer than {MAX_TEXT_BYTES:,} bytes; shorten it")
        if re.search(r"[\ud800-\udfff]", text):
            raise RequestError(f"{which} is not valid Unicode; save it as UTF-8 and try again")
    if sum(len(text.encode("utf-8")) for text in texts) > together_bytes:
        raise RequestError(f"the texts are longer than {together_bytes:,} bytes together; send fewer at once")


def label_names(suite: Suite, offline: bool) -> list[str] | None:
    """The names of the workload's labels; None if it is unlabelled."""
    return suite.workload.labels or corpus.load(suite, suite.workload, offline=offline).label_names


def in_order(suite: Suite) -> list[Variant]:
    """The variants as they are asked: the baseline first."""
    return sorted(suite.variant, key=lambda v: v.name != suite.baseline)


def classify(suite: Suite, texts: list[str], device_request: str, offline: bool, listener: Listener) -> list[Answer]:
    """Each variant's answer to `texts`, one variant loaded after another; in the suite's order.

    The texts go as one batch, padded to the longest of them. Raises RequestError as a run would.
    """
    device = devices.resolve_device(device_request)
    threads = suite.protocol.threads or host.usable_cores()
    names = label_names(suite, offline)
    answers: dict[str, Answer] = {}
    with ExitStack() as stack:
        try:
            # From before a model is loaded: a run that begins meanwhile waits, and is not disturbed.
            stack.enter_context(locks.device_lock(device, Holder(Kind.CLASSIFY), timeout_s=5))
        except locks.DeviceBusy as error:
            if error.holder is None or not error.holder.needs_all_memory:
                raise
            raise locks.DeviceBusy(busy_sentence(error.holder, device), error.holder) from error
        report = lambda text, share: listener(Progress("preparing", text, share))  # noqa: E731
        preparer = stack.enter_context(Preparer(suite, device.spec, threads, offline, report))
        for variant in in_order(suite):
            try:
                if reason := handle.refusal(variant, device, preparer.model(variant)[0]):
                    raise UnavailableError(reason)
                prepared = preparer.prepare(variant)
                listener(Progress("answering", f"{variant.shown}: loading and answering", None, None, variant.name))
                log = paths.local_folder("logs") / f"classify-{variant.name}.log"
                with Worker(variant, device, threads, log) as worker:
                    worker.start()
                    worker.finish()
                    worker.load(prepared, suite.workload.max_length)
                    reply = worker.ask(Classify(texts, "longest", CALLS))
                found = answer(variant, prepared, reply, names)
            except (UnavailableError, WorkerError, BuildError) as error:
                found = no_answer(variant, error)
            answers[variant.name] = compared(found, answers.get(suite.baseline))
    return [answers[variant.name] for variant in suite.variant]


def busy_sentence(holder: Holder, device: Device) -> str:
    """One sentence on who holds `device`: of a run with its progress, where the store knows it."""
    from engine.jobs import queue
    from engine.store import open_store, runs

    about = f"busy: {holder.words}"
    if holder.kind is not Kind.RUN:
        return f"{about} has {device.name} to itself; Classify answers when it has ended"
    try:
        with open_store(create=False) as store, store.session() as session:
            run = runs.get_run(session, holder.name)
            about += f" ({run.suite_name}), {queue.standing(run.status, run.progress)}"
    except RequestError:
        about += " (of another database)"
    return f"{about}, has {device.name} to itself; Classify answers when it has ended"


def no_answer(variant: Variant, error: Exception) -> Answer:
    """A variant that cannot run here (UnavailableError), or failed (anything else)."""
    status = "unavailable" if isinstance(error, UnavailableError) else "failed"
    return Answer(variant.name, variant.shown, status, one_line(error))


def answer(variant: Variant, prepared: Prepared, reply: Classified, names: list[str] | None) -> Answer:
    """A worker's reply in words; `names` are the workload's labels."""
    logits = reply.logits.astype(np.float64)
    alignment = align(prepared.labels, names, variant.labels)
    shown = prepared.labels
    if alignment.mapping is not None and names:
        shown = [names[index] for index in alignment.mapping]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    probabilities = []
    for line in shares:
        summed: dict[str, float] = {}
        for label, share in zip(shown, line, strict=True):
            summed[label] = summed.get(label, 0.0) + float(share)
        probabilities.append(summed)
    return Answer(
        variant.name,
        variant.shown,
        "measured",
        labels=summary.predicted_names(logits, alignment, names),
        probabilities=probabilities,
        latency_s=float(np.median(reply.latencies_s)),
        latency_range_s=[float(np.min(reply.latencies_s)), float(np.max(reply.latencies_s))],
        tokenize_s=float(np.median(reply.tokenize_s)),
        shape=reply.shape,
        truncated=[bool(cut) for cut in reply.truncated],
    )


def compared(found: Answer, baseline: Answer | None) -> Answer:
    """`found` with its agreement with the baseline's answer, where both speak of the same labels."""
    if baseline is None or baseline.variant == found.variant or not (baseline.labels and found.labels):
        return found
    assert baseline.probabilities and found.probabilities
    if set(baseline.probabilities[0]) != set(found.probabilities[0]):
        return found
    pairs = zip(found.labels, baseline.labels, strict=True)
    return replace(found, agrees=[mine == theirs for mine, theirs in pairs])


def joined(parts: Sequence[Answer]) -> Answer:
    """One variant's answers to one batch after another as one; latencies are medians over the batches.

    Answers end where a batch got none, and that batch's status and reason are the whole's. `shape` is the most texts
    and the most tokens of any batch.
    """
    ended = next((index for index, part in enumerate(parts) if part.status != "measured"), len(parts))
    said = parts[:ended]
    last = parts[min(ended, len(parts) - 1)]
    if not said:
        return last
    timed = [part for part in said if part.latency_s is not None]
    ranges_s = [limit for part in timed for limit in part.latency_range_s or []]
    return replace(
        last,
        labels=[label for part in said for label in part.labels or []],
        probabilities=[shares for part in said for shares in part.probabilities or []],
        latency_s=_median([part.latency_s for part in timed]),
        latency_range_s=[min(ranges_s), max(ranges_s)] if ranges_s else None,
        tokenize_s=_median([part.tokenize_s for part in timed]),
        shape=[max(side) for side in zip(*(part.shape or [0, 0] for part in said), strict=True)],
        truncated=[cut for part in said for cut in part.truncated or []],
        agrees=None if any(p.agrees is None for p in said) else [same for part in said for same in part.agrees or []],
        note=next((part.note for part in said if part.note), None),
    )


def _median(seconds: list[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return float(np.median(known)) if known else None
