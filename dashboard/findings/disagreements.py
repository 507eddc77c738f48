"""Where variants answer otherwise: from the logits of a run to answers, kinds of flip, filters and counts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from dashboard.data.answers import Answers
from dashboard.findings.headlines import joined

Kind = Literal["other", "lost", "gained", "swapped", "split", "wrong", "same", "all"]

KINDS: dict[Kind, str] = {
    "other": "≠ other answer",
    "lost": "✓→✗ right to wrong",
    "gained": "✗→✓ wrong to right",
    "swapped": "✗→✗ another wrong one",
    "split": "≠ among themselves",
    "wrong": "✗ all wrong",
    "same": "= all the same",
    "all": "all texts",
}
"""Kind of text -> what a reader calls it; from "other" to "swapped" against the reference, one variant at a time."""
FLIPS: tuple[Kind, ...] = ("other", "lost", "gained", "swapped")
LABELLED: tuple[Kind, ...] = ("lost", "gained", "swapped", "wrong")
"""The kinds that need to know what is right."""


# Filters


class Wanted(NamedTuple):
    """Which texts to show; None leaves a condition out."""

    kind: Kind = "other"
    label: int | None = None
    """The right label."""
    was: int | None = None
    """The reference's answer."""
    said: int | None = None
    """The answer of a compared variant: of the one that makes the text of its kind."""


def kinds(found: Answers, others: Sequence[int]) -> list[Kind]:
    """The kinds that can be told here; `others` are the compared columns."""
    return [
        kind
        for kind in KINDS
        if (found.truth is not None or kind not in LABELLED) and (kind != "split" or len(others) > 1)
    ]


def flags(found: Answers, kind: Kind, reference: int, others: Sequence[int]) -> np.ndarray:
    """bool [examples, others]: whether each compared answer makes the text one of `kind`.

    `reference` and `others` are columns. Raises ValueError for a kind that needs labels where there are none.
    """
    mine = found.answers[:, list(others)]
    base = found.answers[:, [reference]]
    if kind == "all":
        return np.ones(mine.shape, bool)
    if kind == "split":
        return _wide((mine != mine[:, :1]).any(axis=1), mine)
    if kind == "same":
        return _wide((mine == base).all(axis=1), mine)
    differs = mine != base
    if kind == "other":
        return differs
    if found.truth is None:
        raise ValueError(f"{kind!r} needs labelled texts")
    truth = found.truth[:, None]
    if kind == "wrong":
        return _wide((mine != truth).all(axis=1) & (base != truth)[:, 0], mine)
    if kind == "lost":
        return differs & (base == truth)
    if kind == "gained":
        return differs & (mine == truth)
    return differs & (base != truth) & (mine != truth)


def _wide(texts: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(texts[:, None], like.shape)


def chosen(
    found: Answers, wanted: Wanted, reference: int, others: Sequence[int], among: np.ndarray | None = None
) -> np.ndarray:
    """int64 [found], ascending: positions of the texts that are `wanted`; `among` are positions to choose from."""
    made = flags(found, wanted.kind, reference, others)
    if wanted.said is not None:
        made = made & (found.answers[:, list(others)] == wanted.said)
    kept: np.ndarray = np.asarray(made.any(axis=1))
    if wanted.label is not None and found.truth is not None:
        kept &= found.truth == wanted.label
    if wanted.was is not None:
        kept &= found.answers[:, reference] == wanted.was
    if among is not None:
        there: np.ndarray = np.zeros(len(kept), dtype=np.bool_)
        there[among[among < len(kept)]] = True
        kept &= there
    return np.flatnonzero(kept).astype(np.int64)


def counts(
    found: Answers, wanted: Wanted, reference: int, others: Sequence[int], among: np.ndarray | None = None
) -> dict[Kind, int]:
    """How many texts there are of each kind, the other conditions of `wanted` holding."""
    return {
        kind: len(chosen(found, wanted._replace(kind=kind), reference, others, among)) for kind in kinds(found, others)
    }


def by_variant(found: Answers, reference: int, others: Sequence[int]) -> list[dict[Kind, int]]:
    """Of each compared column, how many texts are of each of FLIPS that can be told."""
    told = [kind for kind in FLIPS if found.truth is not None or kind not in LABELLED]
    sums = {kind: flags(found, kind, reference, others).sum(axis=0) for kind in told}
    return [{kind: int(sums[kind][at]) for kind in told} for at in range(len(others))]


def foremost(found: Answers, reference: int, others: Sequence[int], most: int) -> list[int]:
    """Of more than `most` compared columns those that differ most from the reference, in the order of `others`."""
    if len(others) <= most:
        return list(others)
    differing = flags(found, "other", reference, others).sum(axis=0)
    kept = sorted(np.argsort(-differing, kind="stable")[:most])
    return [others[at] for at in kept]


def confusion(found: Answers, column: int, rows: int | None) -> np.ndarray:
    """int64 [labels, labels]: a line a label (`rows` None) or an answer of column `rows`, a column an answer."""
    given = found.truth if rows is None else found.answers[:, rows]
    if given is None:
        raise ValueError("a confusion matrix against labels needs labelled texts")
    # `quality.confusion` would import scikit-learn, which takes longer than the whole page.
    count = len(found.names)
    cells = given.astype(np.int64) * count + found.answers[:, column]
    return np.bincount(cells, minlength=count * count).reshape(count, count)


# Words


def headline(found: Answers, titles: dict[int, str], reference: int, others: Sequence[int]) -> str:
    """What the compared answers come to, in one sentence; `titles`: column -> name."""
    n, base = len(found.answers), titles[reference]
    if not others:
        return f"Nothing answers beside {base}"
    each = by_variant(found, reference, others)
    most = max(count["other"] for count in each)
    if not most:
        who = titles[others[0]] if len(others) == 1 else f"Each of {len(others)} variants"
        return f"{who} answers all {n:,} texts as {base} does"
    if len(others) == 1:
        count = each[0]
        said = f"{titles[others[0]]} answers {most:,} of {n:,} texts otherwise than {base}"
        if found.truth is None:
            return said
        parts = ((count["lost"], "right to wrong"), (count["gained"], "wrong to right"))
        told = [f"{number:,} {words}" for number, words in (*parts, (count["swapped"], "wrong to another wrong"))]
        return f"{said}: {', '.join(told)}"
    texts = len(chosen(found, Wanted("other"), reference, others))
    ranked = sorted(zip(others, each, strict=True), key=lambda pair: -pair[1]["other"])
    some = [(titles[column], count["other"]) for column, count in ranked if count["other"]]
    told = [f"{number:,} by {title}" for title, number in some[:5]]
    more = [f"at most {some[5][1]:,} by each of {len(some) - 5} more"] if len(some) > 5 else []
    if none := len(ranked) - len(some):
        more.append("none by the other" + (f" {none}" if none > 1 else ""))
    return (
        f"On {texts:,} of {n:,} texts at least one of {len(others)} variants answers otherwise than {base}: "
        f"{joined([*told, *more])}"
    )
