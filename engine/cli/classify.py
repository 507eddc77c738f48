"""How `classify` shows its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.classify.answering import CALLS, Answer

if TYPE_CHECKING:
    from rich.console import Console


def show(console: Console, texts: list[str], answers: list[Answer]) -> None:
    """One table a text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine.units import milliseconds, percent

    for index, text in enumerate(texts):
        line = " ".join(text.split())
        title = Text(line if len(line) <= 100 else line[:99] + "…")
        made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for header in ("Variant", "Answer", "Probability %", "As baseline", "Model ms", "Tokenise ms"):
            made.add_column(header, justify="left" if header in ("Variant", "Answer", "As baseline") else "right")
        for answer in answers:
            if answer.status != "measured" or not answer.labels or not answer.probabilities:
                made.add_row(Text(answer.title), answer.status)
                continue
            label = answer.labels[index]
            same = {True: "= same", False: "≠ other", None: ""}[answer.agrees[index] if answer.agrees else None]
            made.add_row(
                Text(answer.title),
                Text(label),
                percent(answer.probabilities[index].get(label)),
                same,
                milliseconds(answer.latency_s),
                milliseconds(answer.tokenize_s),
            )
        console.print(made)
    for answer in answers:
        if answer.reason:
            console.print(f"· {answer.title}: {answer.reason}", markup=False, highlight=False)
        if answer.truncated and any(answer.truncated):
            console.print(
                f"· {answer.title}: {sum(answer.truncated)} of {len(texts)} texts were cut to the maximum length",
                markup=False,
                highlight=False,
            )
    shape = next((a.shape for a in answers if a.shape), None)
    if shape:
        console.print(
            f"One batch of {shape[0]} x {shape[1]} tokens, padded to the longest text; medians of {CALLS} calls.",
            style="dim",
        )
