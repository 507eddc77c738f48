"""The settings of runs side by side, and which of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.findings.comparing import FOUND, Side
from dashboard.run_rows import Row
from engine.units import NOTHING

MOMENTARY = ("preparing_s", "load_average", "available_bytes", "executable", "variables")
"""Keys of an environment that describe one moment or the path of a program, not the machine."""


# Settings


@dataclass(frozen=True)
class Setting:
    """A setting whose values differ."""

    group: str
    name: str
    values: list[tuple[str, list[str]]]
    """Each value with the names of the runs or rows that have it, the commonest value first."""
    partial: bool = False
    """Only some rows have the setting, all with the same value: other backends do not report it."""


def settings(sides: Sequence[Side], rows: Sequence[Row]) -> list[Setting]:
    """The settings that differ among `rows`: of their runs, their variants, their audits and their machines."""
    shown = {row.run for row in rows}
    runs = [side for side in sides if side.letter in shown]
    measured = [row for row in rows if row.status == "measured"]
    groups: dict[str, list[tuple[str, dict[str, str]]]] = {
        "Workload": [(f"run {side.letter}", dict(_flat(side.summary["spec"]["workload"]))) for side in runs],
        "Protocol": [(f"run {side.letter}", dict(_flat(side.summary["spec"]["protocol"]))) for side in runs],
        "Variant": [(row.name, dict(_requested(row))) for row in rows],
        FOUND: [(row.name, dict(_audited(row))) for row in measured],
        "Environment": [(f"run {side.letter}", dict(_environment(side.summary))) for side in runs],
    }
    differing = []
    for group, holders in groups.items():
        for key in dict.fromkeys(key for _, values in holders for key in values):
            by_value: dict[str, list[str]] = {}
            for name, values in holders:
                by_value.setdefault(values.get(key, NOTHING), []).append(name)
            if len(by_value) > 1:
                if group == FOUND:
                    by_value.pop(NOTHING, None)
                values_of = sorted(by_value.items(), key=lambda item: -len(item[1]))
                differing.append(Setting(group, key, values_of, partial=len(by_value) == 1))
    return differing


def _requested(row: Row) -> Iterator[tuple[str, str]]:
    for key in ("model", "backend", "precision", "batch_size", "padding", "order", "max_length"):
        yield key.replace("_", " "), _text(row.figure(key))
    yield from _flat(row.options or {})


def _audited(row: Row) -> Iterator[tuple[str, str]]:
    for key, value in ((row.audit or {}).get("settings") or {}).items():
        yield key.replace("_", " "), _text(value)


def _environment(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from {"device": run["device"], "device name": run["device_name"], "host": run["host"]}.items()
    known = {key: value for key, value in run["environment"].items() if key not in ("host", *MOMENTARY)}
    yield from _flat(known)
    yield from _flat({"": {k: v for k, v in (run["environment"].get("host") or {}).items() if k != "name"}})


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of nested settings. A name joins the keys: "cpu features", "distributions torch"."""
    for key, value in values.items():
        if key in MOMENTARY:
            continue
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, name)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from _flat(item if isinstance(item, dict) else {"": item}, f"{name} {index}")
        else:
            yield name, _text(value)


def _text(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or NOTHING
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or NOTHING
    return value if isinstance(value, str) else json.dumps(value)
