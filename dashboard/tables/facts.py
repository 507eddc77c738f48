"""Tables of a run's facts: its environment, ceilings, audits and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dashboard.run_rows import Row
from dashboard.tables.html import KINDS, sub_line, table
from engine.report.words import STATES, batch_words
from engine.units import (
    NOTHING,
    significant,
)


def notes_table(said: Sequence[tuple[str, str, str]]) -> str:
    """Variant, kind and text of each note."""
    head = "".join(f'<th scope="col" class="ib-left">{text}</th>' for text in ("Variant", "What", "Why"))
    body = "".join(
        f'<tr><th scope="row" class="ib-who">{escape(name)}</th>'
        f'<td class="ib-left">{escape(KINDS.get(kind, kind))}</td>'
        f'<td class="ib-left ib-why">{escape(text)}</td></tr>'
        for name, kind, text in said
    )
    return table("Notes on the variants", head, body)


def facts_table(facts: Mapping[str, str]) -> str:
    """A table of names and texts, one line each."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="ib-left ib-why">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return table("Facts", "", body)


def ceilings_table(ceilings: Mapping[str, Any]) -> str:
    """Every way to multiply or copy tried on the device: best and median rate, repeats, and the reason of a failure."""
    products = ceilings.get("products")
    if not products:
        return facts_table({"Not measured": str(ceilings.get("reason") or "no reason was stored")})
    rates = [
        (dtype.upper(), way, way.get("operations_per_s"), way.get("median_operations_per_s"), 1e9, "G operations/s")
        for dtype, found in products.items()
        for way in found["ways"] or [found]
    ]
    rates += [
        (label, ceilings[key], ceilings[key].get("bytes_per_s"), ceilings[key].get("median_bytes_per_s"), 1e9, "GB/s")
        for key, label in (("copy", "Copy"), ("host_to_device", "Host to device"))
        if ceilings.get(key)
    ]
    heads = ("What", "How", "Best", "Median", "Unit", "Repeats")
    head = "".join(
        f'<th scope="col"{" class=ib-left" if text in ("How", "Unit") else ""}>{text}</th>' for text in heads
    )
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        f'<td class="ib-left ib-why">{escape(str(way.get("how") or way.get("reason") or NOTHING))}</td>'
        f"<td>{significant(None if best is None else best / scale)}</td>"
        f"<td>{significant(None if median is None else median / scale)}</td>"
        f'<td class="ib-left">{unit if best is not None else ""}</td><td>{way.get("repeats") or ""}</td></tr>'
        for label, way, best, median, scale, unit in rates
    )
    return table("What the device was measured to do", head, body)


def audit_table(rows: Sequence[Row]) -> str:
    """The requested settings of each variant beside those found after its warm-up, and the verdict on its row."""
    heads = ("Variant", "Asked for", "Found after warm-up", "Verdict on the row")
    head = "".join(f'<th scope="col" class="ib-left">{text}</th>' for text in heads)
    body = ""
    for row in rows:
        audit = row.audit or {}
        settings = audit.get("settings") or {}
        asked = {
            "backend": row.backend,
            "precision": row.precision,
            "batch": batch_words(row),
            "padding": row.padding,
            "order": row.order,
            **(row.options or {}),
        }
        said = [*(audit.get("wrong") or []), *(audit.get("deviations") or [])]
        state = str(row.validity or STATES.get(row.status, row.status))
        why = row.validity_reason or row.status_reason or "; ".join(said)
        body += (
            f'<tr><th scope="row">{escape(row.name)}{sub_line(escape(row.model))}</th>'
            f'<td class="ib-left ib-asked">{_facts(asked)}</td>'
            f'<td class="ib-left ib-why">{_facts(settings) or NOTHING}</td>'
            f'<td class="ib-left ib-why">{escape(KINDS.get(state, state))}{sub_line(escape(why or ""))}</td></tr>'
        )
    return table("Asked for and found", head, body)


def _facts(values: Mapping[str, object]) -> str:
    return "<br>".join(
        f"{escape(key.replace('_', ' '))}: <b>{escape(_plain(value))}</b>" for key, value in values.items()
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
