"""Tables as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.report import takeaways
from engine.report.load import JoinedLoad
from engine.store.rows import Row


def marked_name(row: AnyRow, several: bool) -> str:
    mark = {"unstable": " ~", "invalid": " ✗"}.get(row.validity or "", "")
    return f"{takeaways.sized(row) if several else row.title}{mark}"


AnyRow = Row | JoinedLoad
R = TypeVar("R", bound=AnyRow)
Column = tuple[str, Callable[[R], str]]
"""A heading, and what a row has in the column."""
WORDS = ("Verdict", "Accuracy", "Bound by", "Batch", "Padding", "Order")
"""Columns of words, which are set to the left."""


def several_batch_sizes(rows: Sequence[AnyRow]) -> bool:
    return len({row.batch_size for row in rows}) > 1


def markdown(rows: Sequence[R], columns: list[Column[R]]) -> str:
    """The same as a Markdown table."""
    several = several_batch_sizes(rows)
    lines = [
        "| " + " | ".join(["Variant", *(header for header, _ in columns)]) + " |",
        "|" + " --- |" + " ---: |" * len(columns),
    ]
    for row in rows:
        cells = [marked_name(row, several), *(show(row) for _, show in columns)]
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
"""Replacements for characters that LaTeX would interpret, and for signs that its text fonts lack."""


def latex_literal(text: str) -> str:
    """`text` in one line, as LaTeX sets it unchanged."""
    shown = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return "".join(LATEX.get(sign, sign) for sign in re.sub("(?<=-)-", "\0", shown))


def latex(rows: Sequence[R], columns: list[Column[R]], about: str, label: str, remarks: Sequence[str] = ()) -> str:
    """The same as a LaTeX table with booktabs; `about` is its caption, `remarks` stand below it."""
    several = several_batch_sizes(rows)
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
            " & ".join(map(latex_literal, [marked_name(row, several), *(show(row) for _, show in columns)])) + r" \\"
            for row in rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if remarks:
        said = r" \\ ".join(map(latex_literal, remarks))
        lines.append(rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\raggedright {said}\end{{minipage}}")
    return "\n".join([*lines, r"\end{table}"])
