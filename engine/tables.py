"""What the command line prints: tables of measurements for people, as rich renderables or Markdown.

Every function takes the flat dictionaries of `engine.store.queries.flat`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from engine import operators, serving, takeaways
from engine.operators import KINDS
from engine.sweep import sweeps
from engine.takeaways import Row, Stored
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

SPEED_VERDICTS = {
    "better": "▲ faster",
    "worse": "▼ slower",
    "no_difference": "= no difference shown",
}
ACCURACY_VERDICTS = {
    "better": "▲ more accurate",
    "worse": "▼ less accurate",
    "no_difference": "= no difference shown",
}
"""A sign and words for each verdict, so that colour is never alone."""
STATES = {
    "failed": "✗ failed",
    "unavailable": "○ unavailable",
    "cancelled": "◌ cancelled",
    "pending": "… pending",
}


def _name(row: Row, several: bool) -> str:
    mark = {"unstable": " ~", "invalid": " ✗"}.get(row["validity"] or "", "")
    return f"{takeaways.sized(row) if several else row['title']}{mark}"


def _speedup(row: Row) -> str:
    if row["baseline"]:
        return "1 (baseline)"
    if row["speedup"] is None:
        return NOTHING
    return f"{significant(row['speedup'])} ({between(row['speedup_low'], row['speedup_high'])})"


def _verdict(row: Row) -> str:
    if row["status"] != "measured":
        return STATES.get(row["status"], str(row["status"]))
    return "" if row["baseline"] else SPEED_VERDICTS.get(row["comparison"], NOTHING)


def _accuracy(row: Row) -> str:
    if row["accuracy"] is None:
        return NOTHING
    return f"{percent(row['accuracy'])} ({between(row['accuracy_low'], row['accuracy_high'], percent)})"


def _percentile(row: Row, key: str) -> str:
    if row[key] is None and row["status"] == "measured":
        return "n too small"
    return milliseconds(row[key])


Column = tuple[str, Callable[[Row], str]]
WORDS = ("Verdict", "Accuracy", "Bound by", "Batch", "Padding", "Order")
"""Columns of words, which are set to the left."""

SPEED: list[Column] = [
    ("p50 ms", lambda r: milliseconds(r["latency_p50_s"])),
    ("p95 ms", lambda r: _percentile(r, "latency_p95_s")),
    ("Calls", lambda r: whole(r["calls"])),
    ("Samples/s", lambda r: significant(r["throughput_samples_per_s"])),
    ("Tokens/s", lambda r: significant(r["throughput_tokens_per_s"])),
    ("Speed-up (95%)", _speedup),
    ("Verdict", _verdict),
]
REST: list[Column] = [
    ("Accuracy % (95%)", _accuracy),
    ("Macro F1 %", lambda r: percent(r["macro_f1"])),
    ("Same answer %", lambda r: percent(r["agreement"], 2)),
    ("Peak RAM MB", lambda r: megabytes(r["ram_peak_bytes"])),
    ("VRAM MB", lambda r: megabytes(r["vram_peak_bytes"])),
    ("Weights MB", lambda r: megabytes(r["weights_bytes"])),
    ("Load s", lambda r: significant(r["load_s"])),
]


def _difference(row: Row) -> str:
    if row["accuracy_difference"] is None:
        return "0 (baseline)" if row["baseline"] and row["accuracy"] is not None else NOTHING
    limits = point_interval(row["accuracy_difference_low"], row["accuracy_difference_high"])
    return f"{points(row['accuracy_difference'])} ({limits})"


EVIDENCE: list[Column] = [
    ("Difference, points (95%)", _difference),
    ("p (McNemar, Holm)", lambda r: NOTHING if r["accuracy_p"] is None else takeaways.p_words(r["accuracy_p"])),
    ("Would show (80%)", lambda r: percent(r["detectable_difference"])),
    ("Accuracy", lambda r: "" if r["baseline"] else ACCURACY_VERDICTS.get(r["accuracy_comparison"], NOTHING)),
    ("NLL", lambda r: significant(r["nll"])),
    ("ECE %", lambda r: percent(r["ece"])),
    ("Batch flips %", lambda r: percent(r["batch_flip_rate"], 2)),
    ("J/1,000", lambda r: significant(r["energy_j_per_1000_examples"])),
    ("Of the limit %", lambda r: share_percent(r["limit_share"])),
    ("Bound by", lambda r: r["binds"] or NOTHING),
]


def batch_words(row: Row) -> str:
    """How many examples a batch has: "8", or "64 (at most 2,048 tokens)"."""
    budget = row["max_batch_tokens"]
    return f"{row['batch_size']}" + (f" (at most {budget:,} tokens)" if budget else "")


def batch_sizes(rows: Sequence[Row]) -> str:
    """The batches of all `rows`, each once, the smallest first."""
    return ", ".join(dict.fromkeys(batch_words(row) for row in sorted(rows, key=lambda row: row["batch_size"])))


def padding_words(rows: Sequence[Row], max_length: int) -> str:
    """How the sequences of `rows` are padded, each way once, and how long they are at most."""
    words = {"max_length": f"to {max_length} tokens", "longest": "to the longest", "packed": "not at all"}
    ways = [words[way] for way in words if any(row["padding"] == way for row in rows)]
    most = "" if ways[:1] == [words["max_length"]] else f", at most {max_length} tokens"
    return f"padded {' or '.join(ways) or words['longest']}{most}"


def _real(row: Row) -> str:
    real, padded = row["throughput_tokens_per_s"], row["throughput_padded_tokens_per_s"]
    return percent(None if real is None or not padded else real / padded, 0)


BATCHES: list[Column] = [
    ("Batch", batch_words),
    ("Padding", lambda r: r["padding"]),
    ("Order", lambda r: r["order"]),
    ("Examples/call", lambda r: significant(r["examples_per_call"])),
    ("Tokens/s", lambda r: significant(r["throughput_tokens_per_s"])),
    ("With padding", lambda r: significant(r["throughput_padded_tokens_per_s"])),
    ("Real %", _real),
]


def batched_apart(rows: list[Row]) -> bool:
    """Whether variants form their batches in different ways, or by tokens: then BATCHES says more than a caption."""
    return len({(r["padding"], r["order"], r["max_batch_tokens"]) for r in rows}) > 1 or any(
        r["max_batch_tokens"] or r["padding"] == "packed" for r in rows
    )


def price(hourly_price: float) -> Column:
    """The column of what a million texts cost at `hourly_price`, in its currency."""
    return (
        "Price/M texts",
        lambda r: significant(price_per_million(hourly_price, r["throughput_samples_per_s"])),
    )


def _held(row: Row) -> str:
    if row["status"] != "measured":
        return NOTHING
    return significant(row["server_texts_per_s"]) if row["server_texts_per_s"] else "none"


def _ratio(row: Row) -> str:
    if row["baseline"]:
        return "1 (baseline)" if row["status"] == "measured" else NOTHING
    if row["ratio"] is None:
        return NOTHING
    return f"{significant(row['ratio'])} ({between(row['ratio_low'], row['ratio_high'])})"


def _load_verdict(row: Row) -> str:
    if row["status"] != "measured":
        return STATES.get(row["status"], str(row["status"]))
    return "" if row["baseline"] else serving.VERDICTS.get(row["comparison"], NOTHING)


LOAD: list[Column] = [
    ("Single p90 ms", lambda r: milliseconds(r["single_p90_s"])),
    ("Offline texts/s", lambda r: significant(r["offline_texts_per_s"])),
    ("Holds texts/s", _held),
    ("Fails at", lambda r: significant(r["beyond_texts_per_s"])),
    ("Ratio (bounds)", _ratio),
    ("Verdict", _load_verdict),
]
"""Of the rows of `engine.serving.joined`."""


class Part(NamedTuple):
    """One of a run's tables."""

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]


def parts(rows: list[Row], hourly_price: float | None = None, loads: Sequence[Row] = ()) -> list[Part]:
    """A run's tables; `hourly_price` adds what a million texts cost, `loads` (`engine.serving.joined`) their table."""
    found = [
        Part("speed", "Speed", SPEED if hourly_price is None else [*SPEED, price(hourly_price)], rows),
        *([Part("batches", "Batches", BATCHES, rows)] if batched_apart(rows) else []),
    ]
    if loads:
        title = f"Under a service's load: {serving.limit_words(loads)}, {load_batches(loads)}"
        found.append(Part("load", title, LOAD, list(loads)))
    return [
        *found,
        Part("answers", "Answers and memory", REST, rows),
        Part("evidence", "What the figures carry", EVIDENCE, rows),
    ]


def load_batches(loads: Sequence[Row]) -> str:
    """How texts under load were batched: in the words of `engine.serving.batches` where all are alike."""
    ways = list(dict.fromkeys(map(serving.batches, loads)))
    return ways[0] if len(ways) == 1 else "batches of each variant's own"


def notes(rows: list[Row]) -> list[str]:
    """One sentence for each thing a reader must know about a row, in the rows' order."""
    several = _several(rows)
    said = []
    for row in rows:
        name = _name(row, several)
        if row["status"] != "measured":
            said.append(f"{name}: {row['status']}" + (f": {row['status_reason']}" if row["status_reason"] else ""))
        elif row["validity_reason"]:
            said.append(f"{name}: {row['validity']}: {row['validity_reason']}")
        if row["status"] == "measured" and row["accuracy"] is None and row["accuracy_reason"]:
            beside = ""
            if (match := takeaways.index_match(row)) is not None:
                beside = f" (comparing index with index would have said {percent(match)}%, which measures nothing)"
            said.append(f"{name}: no accuracy: {row['accuracy_reason']}{beside}")
        said += [f"{name}: {flag['sentence']}" for flag in takeaways.flags(row)]
    said.extend(_cut(rows))
    said.extend(found.sentence() for found in sweeps(rows))
    return said


def _cut(rows: list[Row]) -> list[str]:
    """How many texts were longer than max_length: one sentence where that is the same for all."""
    counts = {row["truncated"] for row in rows if row["truncated"] is not None}
    if len(counts) > 1:
        several = _several(rows)
        found = [(f"{_name(row, several)}: ", row) for row in rows if row["truncated"]]
    else:
        found = [("", row) for row in rows if row["truncated"]][:1]
    return [
        f"{name}{row['truncated']} of {row['examples']} texts {'was' if row['truncated'] == 1 else 'were'} "
        f"cut to {row['max_length']} tokens"
        for name, row in found
    ]


def _several(rows: list[Row]) -> bool:
    return len({row["batch_size"] for row in rows}) > 1


def table(rows: list[Row], columns: list[Column], title: str) -> Any:
    """A rich table: a row a measurement, figures to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    made.add_column("Variant", no_wrap=True)
    for header, _ in columns:
        made.add_column(header, justify="left" if header in WORDS else "right", no_wrap=True)
    several = _several(rows)
    for row in rows:
        # Text given by suites is shown as it is, not read as markup.
        from rich.text import Text

        made.add_row(Text(_name(row, several)), *(Text(show(row)) for _, show in columns))
    return made


def fitting(rows: list[Row], columns: list[Column], title: str, width: int) -> list[Any]:
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


def markdown(rows: list[Row], columns: list[Column]) -> str:
    """The same as a Markdown table."""
    several = _several(rows)
    lines = [
        "| " + " | ".join(["Variant", *(header for header, _ in columns)]) + " |",
        "|" + " --- |" + " ---: |" * len(columns),
    ]
    for row in rows:
        cells = [_name(row, several), *(show(row) for _, show in columns)]
        lines.append("| " + " | ".join(map(literal, cells)) + " |")
    return "\n".join(lines)


def literal(text: str) -> str:
    """`text` in one line, as Markdown shows it unchanged, also in a table."""
    return re.sub(r"([\\|<>*_`~\[\]])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    # A row that begins with one of these would be an argument of the line end before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # A hyphen after another: the two would become a dash.
    "\0": "{}-",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "±": r"$\pm$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "✗": r"$\times$",
    "○": r"$\circ$",
    "◌": r"$\circ$",
}
"""What LaTeX would read as its own, and the signs of these tables that its text fonts lack."""


def latex_literal(text: str) -> str:
    """`text` in one line, as LaTeX sets it unchanged."""
    shown = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return "".join(LATEX.get(sign, sign) for sign in re.sub("(?<=-)-", "\0", shown))


def latex(rows: list[Row], columns: list[Column], about: str, label: str, remarks: Sequence[str] = ()) -> str:
    """The same as a LaTeX table with booktabs; `about` is its caption, `remarks` stand below it."""
    several = _several(rows)
    sides = "".join("l" if header in WORDS else "r" for header, _ in columns)
    heads = ["Variant", *(header for header, _ in columns)]
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{latex_literal(about)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}l{sides}@{{}}}}",
        r"\toprule",
        " & ".join(map(latex_literal, heads)) + r" \\",
        r"\midrule",
        *(
            " & ".join(map(latex_literal, [_name(row, several), *(show(row) for _, show in columns)])) + r" \\"
            for row in rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if remarks:
        said = r" \\ ".join(map(latex_literal, remarks))
        lines.append(rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\raggedright {said}\end{{minipage}}")
    return "\n".join([*lines, r"\end{table}"])


def document(run: dict[str, Any], rows: list[Row], loads: Sequence[Row] = ()) -> str:
    """A run's tables in LaTeX, to be put into a document; its notes stand below the last, of the load below its own."""
    about = caption(run, rows)
    remarks = {"evidence": notes(rows), "load": serving.notes(loads)}
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


QUICK_WORDS = "A first look: few rounds and examples, so wide intervals. "


def caption(run: dict[str, Any], rows: list[Row]) -> str:
    """Device, work, protocol and the meaning of the intervals, in one line."""
    workload, protocol = run["spec"]["workload"], run["spec"]["protocol"]
    examples = next((row["examples"] for row in rows if row["examples"]), None)
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


def one_by_one(rows: Sequence[Row]) -> bool:
    """Whether the variants were measured one after another, as they did not fit beside each other."""
    return any(row["schedule"] == "sequential" for row in rows)


def processes_words(rows: Sequence[Row], protocol: dict[str, Any]) -> str:
    """Of how many processes each variant's rounds are: twice as many where it was measured forward and back."""
    count = protocol["processes"] * (2 if one_by_one(rows) else 1)
    return f"{count} process{'es' if count > 1 else ''} a variant"


def rounds_words(rows: Sequence[Row]) -> str:
    """Which rounds a speed-up is of."""
    return "over all rounds" if one_by_one(rows) else "in the same rounds, the calm third"


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
    several = _several(first[1])
    for a, b in takeaways.pairs(first, second):
        doubt = next((doubt for doubt in ("invalid", "unstable") if doubt in (a["validity"], b["validity"])), None)
        made.add_row(
            Text(_name(a | {"validity": doubt}, several)),
            milliseconds(a["latency_p50_s"]),
            milliseconds(b["latency_p50_s"]),
            _speedup(a),
            _speedup(b),
            percent(a["accuracy"]),
            percent(b["accuracy"]),
        )
    return made


def operators_table(found: dict[str, Any], title: str) -> Any:
    """A profile, as `engine.operators.facts` has it: each operator's calls, time and share of a call."""
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
