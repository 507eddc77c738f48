"""Sets of examples, stored once and shared by runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from engine.store.models import Example, ExampleSet

if TYPE_CHECKING:
    import numpy as np

CHUNK = 500
"""How many values one statement binds at most: old SQLite allows 999."""


def add_example_set(
    session: Session,
    set_id: str,
    dataset: str,
    label_names: Sequence[str] | None,
    texts: Sequence[str],
    labels: Iterable[int | None] | None,
    source_indices: Iterable[int],
) -> None:
    """Stores the examples of set `set_id`, in order, unless they are there already.

    texts, labels and source_indices are [examples]; labels is None where nothing is labelled.
    """
    if session.get(ExampleSet, set_id) is not None:
        return
    given = [None] * len(texts) if labels is None else labels
    rows = [
        {
            "set_id": set_id,
            "position": position,
            "source_index": int(source),
            "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "text": text,
            "label": None if label is None else int(label),
        }
        for position, (text, label, source) in enumerate(zip(texts, given, source_indices, strict=True))
    ]
    try:
        with session.begin_nested():
            session.execute(
                insert(ExampleSet).values(
                    id=set_id,
                    dataset=dataset,
                    count=len(rows),
                    label_names=None if label_names is None else list(label_names),
                )
            )
            if rows:
                session.execute(insert(Example), rows)
    except IntegrityError:
        # Another run over the same examples stored them in between.
        if session.get(ExampleSet, set_id) is None:
            raise


def examples(session: Session, set_id: str) -> list[Example]:
    """The examples of a set in order: element i belongs to row i of the logits."""
    return list(session.scalars(select(Example).where(Example.set_id == set_id).order_by(Example.position)))


def example_labels(session: Session, set_id: str) -> np.ndarray | None:
    """int64 [examples], without reading a text; None where an example has no label, or there are none."""
    import numpy as np

    query = select(Example.label).where(Example.set_id == set_id).order_by(Example.position)
    labels = session.scalars(query).all()
    return None if not labels or None in labels else np.array(labels, np.int64)


def examples_at(session: Session, set_id: str, positions: Sequence[int] | np.ndarray) -> list[Example]:
    """The examples at `positions` of a set, in that order; a position that the set has not is left out."""
    found: dict[int, Example] = {}
    for start in range(0, len(positions), CHUNK):
        chunk = [int(position) for position in positions[start : start + CHUNK]]
        query = select(Example).where(Example.set_id == set_id, Example.position.in_(chunk))
        found |= {example.position: example for example in session.scalars(query)}
    return [found[position] for position in map(int, positions) if position in found]


def positions_with(session: Session, set_id: str, words: Sequence[str]) -> np.ndarray:
    """int64 [found]: positions of the set's texts that contain every one of `words`, ascending.

    Case is ignored as the database ignores it: in SQLite that of ASCII letters alone.
    """
    import numpy as np

    query = select(Example.position).where(Example.set_id == set_id).order_by(Example.position)
    for word in words:
        query = query.where(Example.text.icontains(word, autoescape=True))
    return np.array(session.scalars(query).all(), np.int64)
