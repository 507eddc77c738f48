"""The tables of measurements that the command line prints, as rich renderables or Markdown.

Every function takes the rows of `engine.store.measurements.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple

from engine.measurement import operators
from engine.measurement.operators import KINDS
from engine.report import changes, load, takeaways
from engine.report.load import JoinedLoad
from engine.report.markup import WORDS, Column, R, latex, marked_name, several_batch_sizes
from engine.report.sweep import sweeps
from engine.report.takeaways import Stored
from engine.report.words import (
    ACCURACY_VERDICTS,
    QUICK_WORDS,
    SPEED_VERDICTS,
    STATES,
    batch_sizes,
    batch_words,
    one_by_one,
    padding_words,
    processes_words,
    rounds_words,
)
from engine.store.rows import Row
from engine.units import (
    NOTHING,
    between,
    megabytes,
    milliseconds,
    percent,
    point_interval,
    points,
    price_per_million,
    share_percent,
    significant,
    whole,
)


def _speedup(row: Row) -> str:
    if row.baseline:
        return "1 (baseline)"
    if row.speedup is None:
        return NOTHING
    return f"{significant(row.speedup)} ({between(row.speedup_low, row.speedup_high)})"


def _verdict(row: Row) -> str:
    if row.status != "measured":
        return STATES.get(row.status, str(row.status))
    return "" if row.baseline else SPEED_VERDICTS.get(row.comparison or "", NOTHING)


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        return NOTHING
    return f"{percent(row.accuracy)} ({between(row.accuracy_low, row.accuracy_high, percent)})"


def _percentile(row: Row, key: str) -> str:
    if row.figure(key) is None and row.status == "measured":
        return "n too small"
    return milliseconds(row.figure(key))


SPEED: list[Column[Row]] = [
    ("p50 ms", lambda r: milliseconds(r.latency_p50_s)),
    ("p95 ms", lambda r: _percentile(r, "latency_p95_s")),
    ("Calls", lambda r: whole(r.calls)),
    ("Samples/s", lambda r: significant(r.throughput_samples_per_s)),
    ("Tokens/s", lambda r: significant(r.throughput_tokens_per_s)),
    ("Speed-up (95%)", _speedup),
    ("Verdict", _verdict),
]
REST: list[Column[Row]] = [
    ("Accuracy % (95%)", _accuracy),
    ("Macro F1 %", lambda r: percent(r.macro_f1)),
    ("Same answer %", lambda r: percent(r.agreement, 2)),
    ("Peak RAM MB", lambda r: megabytes(r.ram_peak_bytes)),
    ("VRAM MB", lambda r: megabytes(r.vram_peak_bytes)),
    ("Weights MB", lambda r: megabytes(r.weights_bytes)),
    ("Load s", lambda r: significant(r.load_s)),
]


def _difference(row: Row) -> str:
    if row.accuracy_difference is None:
        return "0 (baseline)" if row.baseline and row.accuracy is not None else NOTHING
    limits = point_interval(row.accuracy_difference_low, row.accuracy_difference_high)
    return f"{points(row.accuracy_difference)} ({limits})"


EVIDENCE: list[Column[Row]] = [
    ("Difference, points (95%)", _difference),
    ("p (McNemar, Holm)", lambda r: NOTHING if r.accuracy_p is None else takeaways.p_words(r.accuracy_p)),
    ("Would show (80%)", lambda r: percent(r.detectable_difference)),
    ("Accuracy", lambda r: "" if r.baseline else ACCURACY_VERDICTS.get(r.accuracy_comparison or "", NOTHING)),
    ("NLL", lambda r: significant(r.nll)),
    ("ECE %", lambda r: percent(r.ece)),
    ("Batch flips %", lambda r: percent(r.batch_flip_rate, 2)),
    ("J/1,000", lambda r: significant(r.energy_j_per_1000_examples)),
    ("Of the limit %", lambda r: share_percent(r.limit_share)),
    ("Bound by", lambda r: r.binds or NOTHING),
]


def _real(row: Row) -> str:
    real, padded = row.throughput_tokens_per_s, row.throughput_padded_tokens_per_s
    return percent(None if real is None or not padded else real / padded, 0)


BATCHES: list[Column[Row]] = [
    ("Batch", batch_words),
    ("Padding", lambda r: r.padding),
    ("Order", lambda r: r.order),
    ("Examples/call", lambda r: significant(r.examples_per_call)),
    ("Tokens/s", lambda r: significant(r.throughput_tokens_per_s)),
    ("With padding", lambda r: significant(r.throughput_padded_tokens_per_s)),
    ("Real %", _real),
]


def batched_apart(rows: Sequence[Row]) -> bool:
    """Whether variants form their batches in different ways, or by tokens: then BATCHES says more than a caption."""
    return len({(r.padding, r.order, r.max_batch_tokens) for r in rows}) > 1 or any(
        r.max_batch_tokens or r.padding == "packed" for r in rows
    )


def price(hourly_price: float) -> Column[Row]:
    """The column of what a million texts cost at `hourly_price`, in its currency."""
    return (
        "Price/M texts",
        lambda r: significant(price_per_million(hourly_price, r.throughput_samples_per_s)),
    )


def _held(row: JoinedLoad) -> str:
    if row.status != "measured":
        return NOTHING
    return significant(row.server_texts_per_s) if row.server_texts_per_s else "none"


def _ratio(row: JoinedLoad) -> str:
    if row.baseline:
        return "1 (baseline)" if row.status == "measured" else NOTHING
    if row.ratio is None:
        return NOTHING
    return f"{significant(row.ratio)} ({between(row.ratio_low, row.ratio_high)})"


def _load_verdict(row: JoinedLoad) -> str:
    if row.status != "measured":
        return STATES.get(row.status, str(row.status))
    return "" if row.baseline else load.VERDICTS.get(row.comparison or "", NOTHING)


LOAD: list[Column[JoinedLoad]] = [
    ("Single p90 ms", lambda r: milliseconds(r.single_p90_s)),
    ("Offline texts/s", lambda r: significant(r.offline_texts_per_s)),
    ("Holds texts/s", _held),
    ("Fails at", lambda r: significant(r.beyond_texts_per_s)),
    ("Ratio (bounds)", _ratio),
    ("Verdict", _load_verdict),
]
"""Columns over the rows of `engine.report.load.joined`."""


class Part(NamedTuple, Generic[R]):
    """One of a run's tables."""

    name: str
    title: str
    columns: list[Column[R]]
    rows: Sequence[R]


def parts(rows: Sequence[Row], hourly_price: float | None = None, loads: Sequence[JoinedLoad] = ()) -> list[Part[Any]]:
    """A run's tables; `hourly_price` adds what a million texts cost, `loads` (`report.load.joined`) their table."""
    found: list[Part[Any]] = [
        Part("speed", "Speed", SPEED if hourly_price is None else [*SPEED, price(hourly_price)], rows),
        *([Part("batches", "Batches", BATCHES, rows)] if batched_apart(rows) else []),
    ]
    if loads:
        title = f"Under a service's load: {load.limit_words(loads)}, {load_batches(loads)}"
        found.append(Part("load", title, LOAD, list(loads)))
    return [
        *found,
        Part("answers", "Answers and memory", REST, rows),
        Part("evidence", "What the figures carry", EVIDENCE, rows),
    ]


def load_batches(loads: Sequence[JoinedLoad]) -> str:
    """How texts under load were batched: in the words of `engine.report.load.batches` where all are alike."""
    ways = list(dict.fromkeys(map(load.batches, loads)))
    return ways[0] if len(ways) == 1 else "batches of each variant's own"


def notes(rows: Sequence[Row]) -> list[str]:
    """One sentence for each thing a reader must know about a row, in the rows' order."""
    several = several_batch_sizes(rows)
    said = []
    for row in rows:
        name = marked_name(row, several)
        if row.status != "measured":
            said.append(f"{name}: {row.status}" + (f": {row.status_reason}" if row.status_reason else ""))
        elif row.validity_reason:
            said.append(f"{name}: {row.validity}: {row.validity_reason}")
        if row.status == "measured" and row.accuracy is None and row.accuracy_reason:
            beside = ""
            if (match := takeaways.index_match(row)) is not None:
                beside = f" (comparing index with index would have said {percent(match)}%, which measures nothing)"
            said.append(f"{name}: no accuracy: {row.accuracy_reason}{beside}")
        said += [f"{name}: {flag['sentence']}" for flag in takeaways.flags(row)]
    said.extend(_cut(rows))
    said.extend(found.sentence() for found in sweeps(rows))
    return said


def _cut(rows: Sequence[Row]) -> list[str]:
    """How many texts were longer than max_length: one sentence where that is the same for all."""
    counts = {row.truncated for row in rows if row.truncated is not None}
    if len(counts) > 1:
        several = several_batch_sizes(rows)
        found = [(f"{marked_name(row, several)}: ", row) for row in rows if row.truncated]
    else:
        found = [("", row) for row in rows if row.truncated][:1]
    return [
        f"{name}{row.truncated} of {row.examples} texts {'was' if row.truncated == 1 else 'were'} "
        f"cut to {row.max_length} tokens"
        for name, row in found
    ]


def table(rows: Sequence[R], columns: list[Column[R]], title: str) -> Any:
    """A rich table: a row a measurement, figures to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    made.add_column("Variant", no_wrap=True)
    for header, _ in columns:
        made.add_column(header, justify="left" if header in WORDS else "right", no_wrap=True)
    several = several_batch_sizes(rows)
    for row in rows:
        # Text given by suites is shown as it is, not read as markup.
        from rich.text import Text

        made.add_row(Text(marked_name(row, several)), *(Text(show(row)) for _, show in columns))
    return made


def fitting(rows: Sequence[R], columns: list[Column[R]], title: str, width: int) -> list[Any]:
    """The table in as many parts as a terminal of `width` columns needs, each beginning with the variants' names."""
    from rich.console import Console
    from rich.measure import Measurement

    made = table(rows, columns, title)
    # Measured on a console that is wide enough for anything.
    console = Console(width=10_000)
    if len(columns) == 1 or Measurement.get(console, console.options, made).maximum <= width:
        return [made]
    kept = next(
        n
        for n in range(len(columns) - 1, 0, -1)
        if n == 1 or Measurement.get(console, console.options, table(rows, columns[:n], title)).maximum <= width
    )
    more = title.removesuffix(", continued") + ", continued"
    return [table(rows, columns[:kept], title), *fitting(rows, columns[kept:], more, width)]


def document(run: dict[str, Any], rows: Sequence[Row], loads: Sequence[JoinedLoad] = ()) -> str:
    """A run's tables in LaTeX, to be put into a document; its notes stand below the last, of the load below its own."""
    about = caption(run, rows)
    remarks = {"evidence": notes(rows), "load": load.notes(loads)}
    made = [
        latex(
            part.rows,
            part.columns,
            f"{part.title}. {about}",
            f"tab:{run['id'].lower()}-{part.name}",
            remarks.get(part.name, ()),
        )
        for part in parts(rows, loads=loads)
    ]
    needs = r"% Needs \usepackage{booktabs} and, with pdfLaTeX, \usepackage[T1]{fontenc}."
    return "\n\n".join([needs, *made])


def caption(run: dict[str, Any], rows: Sequence[Row]) -> str:
    """Device, work, protocol and the meaning of the intervals, in one line."""
    workload, protocol = run["spec"]["workload"], run["spec"]["protocol"]
    examples = next((row.examples for row in rows if row.examples), None)
    sizes = batch_sizes(rows)
    return (
        f"{QUICK_WORDS if protocol.get('quick') else ''}"
        f"Run {run['id']} on {run['device_name']} ({run['device']}, {run['environment'].get('threads', '–')} threads): "
        f"{examples or '–'} examples, batches of {sizes} {padding_words(rows, workload['max_length'])}, "
        f"{processes_words(rows, protocol)}, "
        f"{'one variant after another, forward and back' if one_by_one(rows) else 'interleaved rounds'}. "
        f"Speed-up: samples/s against the baseline's {rounds_words(rows)}. Parentheses: 95% intervals. "
        "~ unstable, ✗ invalid."
    )


def beside(first: Stored, second: Stored) -> Any:
    """Two runs' shared measurements: latency, speed-up against each run's own baseline, accuracy."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=f"{first[0]['id']} (A) and {second[0]['id']} (B)", box=box.SIMPLE_HEAD, title_justify="left")
    made.add_column("Variant", no_wrap=True)
    for header in (
        "p50 ms A",
        "p50 ms B",
        "Speed-up A (95%)",
        "Speed-up B (95%)",
        "Accuracy % A",
        "Accuracy % B",
    ):
        made.add_column(header, justify="right", no_wrap=True)
    several = several_batch_sizes(first[1])
    for a, b in changes.pairs(first, second):
        doubt = next((doubt for doubt in ("invalid", "unstable") if doubt in (a.validity, b.validity)), None)
        made.add_row(
            Text(marked_name(replace(a, validity=doubt), several)),
            milliseconds(a.latency_p50_s),
            milliseconds(b.latency_p50_s),
            _speedup(a),
            _speedup(b),
            percent(a.accuracy),
            percent(b.accuracy),
        )
    return made


def operators_table(found: dict[str, Any], title: str) -> Any:
    """A profile, as `engine.measurement.operators.facts` has it: each operator's calls, time and share of a call."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    made.add_column(operators.HEADS[found["by"]])
    made.add_column("Kind")
    for header in ("Calls", "ms", "%"):
        made.add_column(header, justify="right", no_wrap=True)
    for line in operators.lines(found):
        made.add_row(
            Text(line.name),
            KINDS[line.kind][0] if line.kind else "",
            line.counted,
            milliseconds(line.seconds),
            percent(line.share),
        )
    return made
