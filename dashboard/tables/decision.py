"""HTML tables of the pages Decide and Ship it: variants beside limits, costs of limits, a folder's files. Pure."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from dashboard.findings.deciding import SIGNS, Cost, Decision, Judged, Quantity
from dashboard.findings.decision_words import cost_words
from dashboard.run_rows import Row, usable
from dashboard.style import Theme, marks
from dashboard.tables.html import KINDS, glyph, table
from engine.units import NOTHING, between, significant

WORDS = {"within": "within", "beyond": "beyond", "not shown": "not shown to be within", "unknown": "not within"}


def verdicts(decision: Decision, look: Theme) -> str:
    """One row per variant, the baseline first; one column per quantity."""
    shown = [
        quantity
        for key, quantity in decision.quantities.items()
        if key in decision.limits.given or any(quantity.read(j.row) for j in decision.judged if not j.row.baseline)
    ]
    ordered = sorted(decision.judged, key=lambda judged: not judged.row.baseline)
    shades = marks([judged.row for judged in ordered], look)
    heads = [
        '<th scope="col">Variant</th>',
        '<th scope="col">Speed-up<span class=ib-sub>× (95%)</span></th>',
        *(_head(quantity, decision) for quantity in shown),
        '<th scope="col" class=ib-left>Remains</th>',
    ]
    body = ""
    for judged in ordered:
        row = judged.row
        name = f'<th scope="row">{glyph(shades[row.variant], usable(row))}{escape(row.name)}</th>'
        css = ' class="ib-base"' if row.baseline else ""
        if row.status != "measured":
            why = escape(row.status_reason or "")
            body += (
                f'<tr{css}>{name}<td class="ib-left ib-why" colspan="{len(shown) + 2}" title="{why}">'
                f"{escape(str(KINDS.get(row.status, row.status)))}</td></tr>"
            )
            continue
        cells = "".join(_cell(quantity, judged) for quantity in shown)
        body += f"<tr{css}>{name}{_speed(row)}{cells}{_remains(judged, decision)}</tr>"
    return table("Each variant beside the limits", "".join(heads), body)


def _head(quantity: Quantity, decision: Decision) -> str:
    allowed = decision.limits.given.get(quantity.key)
    limit = f"{quantity.unit}, no limit" if allowed is None else f"at most {quantity.amount(allowed)}"
    return f'<th scope="col">{escape(quantity.label)}<span class=ib-sub>{escape(limit)}</span></th>'


def _speed(row: Row) -> str:
    if row.baseline:
        return "<td>1<span class=ib-sub>baseline</span></td>"
    limits = between(row.speedup_low, row.speedup_high)
    return f"<td>{significant(row.speedup)}<span class=ib-sub>{limits}</span></td>"


def _cell(quantity: Quantity, judged: Judged) -> str:
    figure = quantity.read(judged.row)
    judgement = judged.judgements.get(quantity.key)
    value = NOTHING if figure is None else quantity.text(figure.estimate)
    limits = ""
    if figure is not None and figure.low < figure.high:
        limits = between(figure.low * quantity.factor, figure.high * quantity.factor, quantity.show)
    below = [limits] if limits else []
    if judgement is not None:
        value = f"{SIGNS[judgement.state]} {value}" if figure is not None else value
        below.append(WORDS[judgement.state])
    if figure is None:
        reason = quantity.missing(judged.row)
        below.append(reason if len(reason) <= 24 else "not measured")
        strong = f' title="{escape(reason)}"'
    else:
        strong = " class=ib-strong" if judgement and not judgement.holds(judged.strict) else ""
    return f"<td{strong}>{value}{''.join(f'<span class=ib-sub>{escape(text)}</span>' for text in below)}</td>"


def _remains(judged: Judged, decision: Decision) -> str:
    row = judged.row
    if judged.problem is not None:
        said, why = str(KINDS.get(judged.problem, judged.problem)), row.validity_reason or ""
        return f'<td class="ib-left ib-verdict" title="{escape(why)}">{escape(said)}</td>'
    sub = "<span class=ib-sub>~ unstable</span>" if row.validity == "unstable" else ""
    if not judged.remains:
        return f'<td class="ib-left ib-verdict">✗ out{sub}</td>'
    rivals = [rival for rival, _ in decision.rivals]
    if row is decision.fastest:
        said = "✓ fastest" if not rivals else "✓ may be fastest"
        return f'<td class="ib-left ib-verdict"><span class=ib-strong>{said}</span>{sub}</td>'
    return f'<td class="ib-left ib-verdict">{"✓ may be as fast" if row in rivals else "✓ remains"}{sub}</td>'


def costs(decision: Decision) -> str:
    """One row per limit: the variants that only this limit keeps out, and the cost of the limit."""
    columns: list[tuple[str, Callable[[Cost], str]]] = [
        ("At most", lambda cost: cost.quantity.amount(cost.allowed)),
        ("Keeps out by itself", lambda cost: ", ".join(row.name for row in cost.kept_out) or "no variant"),
        ("Costs", lambda cost: cost_words(cost, decision.fastest)),
    ]
    head = '<th scope="col">Limit</th>' + "".join(
        f'<th scope="col"{"" if label == "At most" else " class=ib-left"}>{label}</th>' for label, _ in columns
    )
    body = ""
    for cost in decision.costs:
        cells = "".join(
            f"<td>{escape(show(cost))}</td>"
            if label == "At most"
            else f'<td class="ib-left ib-why">{escape(show(cost))}</td>'
            for label, show in columns
        )
        body += f'<tr><th scope="row">{escape(cost.quantity.label)}</th>{cells}</tr>'
    return table("What each limit costs", head, body)


def files(sizes: dict[str, int], checksums: dict[str, str]) -> str:
    """The files of a shipped folder: name, bytes, sha256."""
    head = '<th scope="col">File</th><th scope="col">Bytes</th><th scope="col" class=ib-left>sha256</th>'
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{size:,}</td>'
        f'<td class="ib-left ib-why" style="word-break:break-all;font-size:.8rem">{escape(checksums[name])}</td></tr>'
        for name, size in sorted(sizes.items())
    )
    return table("Files of the folder", head, body)
