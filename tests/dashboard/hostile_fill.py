"""The runs of dashboard_fill.py with markup of every kind wherever a person, a model or a file may put text."""

from __future__ import annotations

from typing import Any

from dashboard_fill import fill
from sqlalchemy import select

from engine.store import open_store, runs
from engine.store.models import Example, ExampleSet, Load, Measurement, Run

SHORT = "<b class=hurt>"
"""For columns of 16 characters."""
NAME = '"><img src=x onerror=hurt()>'
"""For columns of 64."""
CHOICES = ("operators", "kernels")
"""What no file may say otherwise."""
TEXT = (
    '=1+1 <img src=x onerror="hurt()"><b class=hurt>b</b> [x](javascript:hurt()) $x^2$ :red[r] **s** `c` ~~d~~ # '
    "%{x} &lt; :material/home: ![x](x) https://example.org/a </script><script>hurt()</script>"
)


def fill_hostile(url: str) -> None:
    """Stores all runs in the database at `url`."""
    fill(url)
    with open_store(url) as store, store.session() as session:
        for example in session.scalars(select(Example)):
            example.text = f"{TEXT} {example.position}"
        for examples in session.scalars(select(ExampleSet)):
            examples.dataset = TEXT
            examples.label_names = _named(examples.label_names)
        for run in session.scalars(select(Run)):
            run.suite_name = NAME
            run.suite = _texts(run.suite) | {"name": NAME, "title": TEXT, "description": TEXT, "baseline": _key("fp32")}
            run.suite["variant"] = [{"name": _key("fp32"), "title": TEXT}]
            run.device_name, run.host, run.suite_path, run.notes = TEXT, TEXT, f"/{TEXT}", TEXT
            run.environment, run.ceilings = _texts(run.environment), _texts(run.ceilings)
            run.progress = _texts(run.progress)
            run.status_reason = run.status_reason and TEXT
            runs.set_tags(session, run.id, [SHORT, TEXT[:30]])
        for row in session.scalars(select(Measurement)):
            row.variant, row.title, row.model = _key(row.variant), f"{TEXT} {row.position}", TEXT
            for name in ("status_reason", "validity_reason", "accuracy_reason", "vram_source", "ram_source"):
                setattr(row, name, getattr(row, name) and TEXT)
            for name in ("memory", "limits", "audit", "labels"):
                setattr(row, name, _texts(getattr(row, name)))
            if row.quality:
                row.quality = row.quality | {"names": _named(row.quality["names"])}
            if row.prediction is not None:
                row.prediction.model_labels = _named(row.prediction.model_labels)
            if row.validity == "invalid":
                row.backend, row.precision, row.options = NAME, SHORT, {NAME: TEXT}
                row.padding = row.order = SHORT
        for load in session.scalars(select(Load)):
            load.variant = _key(load.variant)
            for name in ("status_reason", "validity_reason"):
                setattr(load, name, getattr(load, name) and TEXT)
            if load.status == "failed":
                load.padding = SHORT


def _key(variant: str) -> str:
    return f"{variant}{NAME}"


def _named(names: list[Any] | None) -> list[Any] | None:
    return names and [f"{name} {TEXT}" for name in names]


def _texts(value: Any) -> Any:
    """`value` with every text in it, but no key, replaced."""
    if isinstance(value, str):
        return value if value in CHOICES else TEXT
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    return value
