"""Place names at the marks of a chart, and leave some out, so that no name overlaps another.

Marks on one spot share a label. The most important names are placed first. A name without a free place is left out,
as overlapping names cannot be read. A chart is drawn at many widths, and labels keep their distance in pixels from
their marks. So a place counts as free only if it is free at every width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboard.style import Theme

SIZE = 13.0
HEIGHT = 17.0
"""Height of a label's line, at SIZE."""
PADDING = 6.0
"""Padding of a label, left and right together."""
SPOT = 9.0
"""Marks whose centres are this near, in x and in y, are on one spot."""
LONGEST, TOGETHER = 34, 44
"""The most letters of one name, and of the names of one spot."""
RIGHT_MARGIN = 14
"""Pixels of the figure's right margin that a label may use. That is better than a place near another mark."""
NEAR = 6
"""A label this near to another mark seems to name that mark."""
COVERED = 3
"""Cost of each square pixel of a mark that a label covers. A square pixel near another mark costs 1."""
MOST = 300.0
"""The highest cost of a place: more than half a mark covered is too much, except for the most important names."""
PASSES = 3
LEADER_POINTS = 6
STRETCHES = ((1.0, 1.0), (0.88, 1.0), (1.5, 1.0), (2.5, 1.0), (4.0, 1.0))
"""Factors of width and height by which a drawn plot may differ from the planned size; in a column it is narrower."""
IMAGE_PLOTS = tuple((width, height) for width in (844, 1043) for height in (393, 414, 435, 456, 477, 495))
"""Sizes in px of the plot in a saved image: with or without a scale beside it, below titles of different heights."""

# Widths of Arial's letters in thousandths of the size. The fonts of the pages are narrower.
_WIDTHS = {
    222: "ijl'|",
    278: " ft.,:;!/\\[]I",
    333: "r()-`·",
    500: "cksvxyzJ",
    556: "abdeghnopqu0123456789L_?$#",
    611: "FTZ+=<>~×−",
    667: "ABEKPSVXY&",
    722: "CDHNRUw",
    778: "GOQ",
    833: "mM",
    1000: "W%@…",
}
_WIDTH = {letter: width / 1000 for width, letters in _WIDTHS.items() for letter in letters}


def text_width(text: str, size: float = SIZE) -> float:
    """The largest width of `text`, in the unit of `size`."""
    wide = (_WIDTH.get(c) or (1.0 if unicodedata.east_asian_width(c) in "WF" else 0.72) for c in text)
    # Bold text is about 6% wider.
    return 1.06 * size * sum(wide)


def shortened(name: str, letters: int = LONGEST) -> str:
    """`name` in at most `letters` letters."""
    return name if len(name) <= letters else f"{name[: letters - 1].rstrip()}…"


@dataclass(frozen=True)
class Label:
    """The label of one spot. Its centre is `dx` px right of and `dy` px below the centre of the spot's first mark."""

    marks: tuple[int, ...]
    named: int
    """The number of marks whose names the label spells out."""
    dx: float
    dy: float
    width: float

    @property
    def mark(self) -> int:
        return self.marks[0]

    @property
    def more(self) -> str:
        """The text after the names: " and N more", or empty."""
        left = len(self.marks) - self.named
        return f" and {left} more" if left else ""

    def text(self, names: Sequence[str]) -> str:
        return ", ".join(names[index] for index in self.marks[: self.named]) + self.more


def arrange(
    names: Sequence[str],
    centres: Sequence[tuple[float, float]],
    sizes: Sequence[float],
    room: tuple[float, float],
    first: Sequence[int] = (),
    lines: Sequence[tuple[float, float, float, float]] = (),
    stretches: Sequence[tuple[float, float]] = STRETCHES,
    far: bool = True,
    images: bool = True,
) -> list[Label]:
    """Return the labels that fit in a plot of size `room` without overlapping at any of `stretches` or in an image.

    `names`: shortened names; a mark with an empty name gets no label, but labels avoid it. `centres`: the centres of
    the marks, from the upper left. `first`: the marks that are named first; only their labels may cover more of a mark
    than MOST allows. `lines`: boxes that labels avoid. `far`: whether a label may be so far from its mark that it
    needs a line to it. `images`: whether the plot is also saved as an image.
    """
    spots = _spots(names, centres, first)
    if not spots:
        return []
    middles, halves = np.array(centres, dtype=float), np.array(sizes, dtype=float)[:, None] / 2
    marks = np.hstack([middles - halves, middles + halves])
    drawn = np.array(lines, dtype=float).reshape(-1, 4)
    scales = np.array(stretches, dtype=float)
    if images:
        scales = np.vstack([scales, np.array(IMAGE_PLOTS, dtype=float) / room])
    offered, boxes, leaders, costs = [], [], [], []
    named, widths = [], []
    for spot in spots:
        count, width = _together([names[index] for index in spot])
        named.append(count)
        widths.append(width)
        size = sizes[spot[0]]
        offsets = np.array(_options(size, width, far))
        half = np.array([width / 2, HEIGHT / 2])
        where = middles[spot[0]] * scales[None] + offsets[:, None]
        box = np.concatenate([where - half, where + half], axis=2)
        plain = np.hstack([middles[spot[0]] + offsets - half, middles[spot[0]] + offsets + half])
        near = plain + np.array([-NEAR, -NEAR, NEAR, NEAR])
        cost = COVERED * _overlaps(plain, marks) + _overlaps(near, np.delete(marks, list(spot), axis=0))
        limit = np.inf if spot[0] in first else MOST
        cost[(cost > limit) | _outside(box, scales * np.array(room))] = np.inf
        cost += _overlaps(plain, drawn) + 2.0 * np.arange(len(offsets))
        steps = np.linspace(0, 1, LEADER_POINTS)[None, None, :, None]
        start = (middles[spot[0]] * scales)[None, :, None]
        points = start + steps * offsets[:, None, None]
        points[[not _needs_line(dy, size) for _, dy in offsets]] = np.inf
        offered.append(offsets)
        boxes.append(box)
        leaders.append(points)
        costs.append(cost)
    chosen: list[int | None] = [None] * len(spots)
    # The first pass places greedily. In later passes, early labels can make way for late ones.
    for _ in range(PASSES):
        before = list(chosen)
        for index, cost in enumerate(costs):
            others = [(i, at) for i, at in enumerate(chosen) if at is not None and i != index]
            free = cost.copy()
            if others:
                their_boxes = np.stack([boxes[i][at] for i, at in others])
                their_lines = np.stack([leaders[i][at] for i, at in others])
                free[_meets(boxes[index], leaders[index], their_boxes, their_lines)] = np.inf
            best = int(np.argmin(free))
            chosen[index] = best if np.isfinite(free[best]) else None
        if chosen == before:
            break
    return [
        Label(spot, count, float(offsets[at, 0]), float(offsets[at, 1]), width)
        for spot, count, width, offsets, at in zip(spots, named, widths, offered, chosen, strict=True)
        if at is not None
    ]


def left_out(labels: Sequence[Label], names: Sequence[str]) -> list[int]:
    """The marks whose names are not on the chart."""
    shown = {index for label in labels for index in label.marks[: label.named]}
    return [index for index, name in enumerate(names) if name and index not in shown]


def unnamed(labels: Sequence[Label], names: Sequence[str]) -> str:
    """A sentence for a subtitle on the marks without a name; empty if every mark has one."""
    count = len(left_out(labels, names))
    return f" {count} of {sum(map(bool, names))} names had no room." if count else ""


def beside(label: Label, size: float, look: Theme) -> dict[str, Any]:
    """The position of an annotation at its mark, with a line to the mark where another mark may be nearer."""
    if not _needs_line(label.dy, size):
        # The label's width is an estimate, so its text is anchored on the side of the mark.
        side = (label.dx > label.width / 2) - (label.dx < -label.width / 2)
        aside = {"xanchor": "left" if side > 0 else "right"} if side else {}
        shift = label.dx - side * (label.width - PADDING) / 2
        return {"showarrow": False, "xshift": shift, "yshift": -label.dy, **aside}
    line = {"arrowhead": 0, "arrowwidth": 1, "arrowcolor": look.line, "standoff": size / 2}
    return {"showarrow": True, "ax": label.dx, "ay": label.dy, **line}


def _needs_line(dy: float, size: float) -> bool:
    return abs(dy) > size / 2 + HEIGHT


def _spots(names: Sequence[str], centres: Sequence[tuple[float, float]], first: Sequence[int]) -> list[tuple[int, ...]]:
    """The named marks, grouped by spot, the most important first."""
    order = [*dict.fromkeys(first), *(index for index in range(len(names)) if index not in first)]
    spots: list[list[int]] = []
    for index in order:
        if not names[index]:
            continue
        x, y = centres[index]
        here = (s for s in spots if abs(centres[s[0]][0] - x) <= SPOT and abs(centres[s[0]][1] - y) <= SPOT)
        spot = next(here, None)
        if spot is None:
            spots.append([index])
        else:
            spot.append(index)
    return [tuple(spot) for spot in spots]


def _together(names: Sequence[str]) -> tuple[int, float]:
    """The number of a spot's names to spell out, and the width of the label."""
    count = len(names)
    while count > 1 and len(_joined(names, count)) > TOGETHER:
        count -= 1
    return count, text_width(_joined(names, count)) + PADDING


def _joined(names: Sequence[str], count: int) -> str:
    left = len(names) - count
    return ", ".join(names[:count]) + (f" and {left} more" if left else "")


def nearest(size: float, width: float) -> list[tuple[float, float]]:
    """Offsets of a label right of, left of, above and below its mark."""
    side, above = size / 2 + 4 + width / 2, size / 2 + 2 + HEIGHT / 2
    return [(side, 0.0), (-side, 0.0), (0.0, -above), (0.0, above)]


def _options(size: float, width: float, far: bool) -> list[tuple[float, float]]:
    """Offsets of a label from its mark, the best first."""
    near = nearest(size, width)
    side, above = near[0][0], near[3][1]
    near += [(sign * side, turn * (above - 4)) for turn in (-1, 1) for sign in (1, -1)]
    near += [(sign * width / 3, turn * above) for turn in (-1, 1) for sign in (1, -1)]
    if not far:
        return near
    near += [
        (shift, turn * (above + lines * HEIGHT))
        for lines in (1, 2, 3)
        for turn in (-1, 1)
        for shift in (0.0, width / 3, -width / 3, width / 2, -width / 2)
    ]
    return near + [
        (sign * side, turn * (above - 4 + lines * HEIGHT)) for lines in (1, 2) for turn in (-1, 1) for sign in (1, -1)
    ]


def _meets(box: np.ndarray, line: np.ndarray, boxes: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Which options [options, scales, ...] touch the placed labels and lines [labels, scales, ...]. bool [options]."""
    mine, theirs = box[:, None], boxes[None]
    across = np.minimum(mine[..., 2:], theirs[..., 2:]) - np.maximum(mine[..., :2], theirs[..., :2])
    met = (across > 0).all(axis=-1).any(axis=(1, 2))
    met = met | _inside(line[:, None], theirs[..., None, :]).any(axis=(1, 2, 3))
    met = met | _inside(lines[None], mine[..., None, :]).any(axis=(1, 2, 3))
    with np.errstate(invalid="ignore"):
        a, b = line[:, None, :, 0], line[:, None, :, -1]
        c, d = lines[None, :, :, 0], lines[None, :, :, -1]
        crossed = (_turn(a, b, c) * _turn(a, b, d) < 0) & (_turn(c, d, a) * _turn(c, d, b) < 0)
    return np.asarray(met | crossed.any(axis=(1, 2)))


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.asarray(((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(axis=-1))


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """A number whose sign says on which side of the line from `a` to `b` each `c` lies."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The square pixels of `others` that each box covers, [n]. Boxes [n, 4], others [m, 4]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)


def _outside(boxes: np.ndarray, rooms: np.ndarray) -> np.ndarray:
    """Which options [options, scales, 4] stick out of the plot and its right margin, at any scale. bool [options]."""
    beyond = (boxes[..., :2] < 0) | (boxes[..., 2:] > rooms + np.array([RIGHT_MARGIN, 0]))
    return np.asarray(beyond.any(axis=(1, 2)))
