"""The texts on which variants answer differently: kinds of flip, filters, counts and a headline. Pure."""

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
"""Kind of text -> shown name. "other" to "swapped" compare one variant at a time with the reference."""
FLIPS: tuple[Kind, ...] = ("other", "lost", "gained", "swapped")
LABELLED: tuple[Kind, ...] = ("lost", "gained", "swapped", "wrong")
"""The kinds that need labelled texts."""


# Filters


class Wanted(NamedTuple):
    """The filter of the texts to show; None means no condition."""

    kind: Kind = "other"
    label: int | None = None
    """The right label."""
    was: int | None = None
    """The reference's answer."""
    said: int | None = None
    """The answer of the compared variant that puts the text in `kind`."""


def kinds(found: Answers, others: Sequence[int]) -> list[Kind]:
    """The kinds that can be determined here; `others` are the compared columns."""
    return [
        kind
        for kind in KINDS
        if (found.truth is not None or kind not in LABELLED) and (kind != "split" or len(others) > 1)
    ]


def flags(found: Answers, kind: Kind, reference: int, others: Sequence[int]) -> np.ndarray:
    """bool [examples, others]: whether each compared answer puts its text in `kind`.

    `reference` and `others` are columns. Raises ValueError if `kind` needs labels and there are none.
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
    """int64 [matches], ascending: positions of the texts that match `wanted`; `among`: the positions to choose from."""
    of_kind = flags(found, wanted.kind, reference, others)
    if wanted.said is not None:
        of_kind = of_kind & (found.answers[:, list(others)] == wanted.said)
    matches: np.ndarray = np.asarray(of_kind.any(axis=1))
    if wanted.label is not None and found.truth is not None:
        matches &= found.truth == wanted.label
    if wanted.was is not None:
        matches &= found.answers[:, reference] == wanted.was
    if among is not None:
        allowed: np.ndarray = np.zeros(len(matches), dtype=np.bool_)
        allowed[among[among < len(matches)]] = True
        matches &= allowed
    return np.flatnonzero(matches).astype(np.int64)


def counts(
    found: Answers, wanted: Wanted, reference: int, others: Sequence[int], among: np.ndarray | None = None
) -> dict[Kind, int]:
    """The number of texts of each kind that match the other conditions of `wanted`."""
    return {
        kind: len(chosen(found, wanted._replace(kind=kind), reference, others, among)) for kind in kinds(found, others)
    }


def by_variant(found: Answers, reference: int, others: Sequence[int]) -> list[dict[Kind, int]]:
    """For each compared column, the number of texts of each kind in FLIPS that can be determined."""
    known = [kind for kind in FLIPS if found.truth is not None or kind not in LABELLED]
    sums = {kind: flags(found, kind, reference, others).sum(axis=0) for kind in known}
    return [{kind: int(sums[kind][at]) for kind in known} for at in range(len(others))]


def foremost(found: Answers, reference: int, others: Sequence[int], most: int) -> list[int]:
    """At most `most` of the compared columns: those that differ most from the reference, in the order of `others`."""
    if len(others) <= most:
        return list(others)
    differing = flags(found, "other", reference, others).sum(axis=0)
    kept = sorted(np.argsort(-differing, kind="stable")[:most])
    return [others[at] for at in kept]


def confusion(found: Answers, column: int, rows: int | None) -> np.ndarray:
    """int64 [labels, labels]: the answers of `column` against the labels, or against the answers of column `rows`.

    The first axis is the label (`rows` None) or the answer of `rows`, the second the answer of `column`. Raises
    ValueError if `rows` is None and the texts have no labels.
    """
    given = found.truth if rows is None else found.answers[:, rows]
    if given is None:
        raise ValueError("a confusion matrix against labels needs labelled texts")
    # `quality.confusion` would import scikit-learn, which takes longer than the whole page.
    count = len(found.names)
    cells = given.astype(np.int64) * count + found.answers[:, column]
    return np.bincount(cells, minlength=count * count).reshape(count, count)


# Words


def headline(found: Answers, titles: dict[int, str], reference: int, others: Sequence[int]) -> str:
    """The result of comparing the answers, in one sentence; `titles`: column -> name."""
    n, base = len(found.answers), titles[reference]
    if not others:
        return f"No variant is compared with {base}"
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
