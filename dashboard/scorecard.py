"""The scorecard: every variant against the baseline, as an HTML table of our own. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from dashboard.comparing import Setting
from dashboard.frame import Row, baseline_of
from dashboard.style import TECHNIQUES, Mark, Theme, marks
from engine.tables import ACCURACY_VERDICTS, SPEED_VERDICTS, STATES, batch_words
from engine.takeaways import p_words
from engine.units import (
    NOTHING,
    between,
    megabytes,
    milliseconds,
    percent,
    point_interval,
    points,
    price_per_million,
    share_percent,
    significant,
    times,
)

KINDS = STATES | {
    "invalid": "✗ invalid",
    "unstable": "~ unstable",
    "deviation": "≠ not as asked",
    "no accuracy": "– no accuracy",
    "index match": "– index match",
    "labels": "⚑ labels",
    "truncated": "✂ cut",
    "sequential": "→ sequential",
}
GLYPHS = {
    "circle": "●○",
    "diamond": "◆◇",
    "square": "■□",
    "triangle-up": "▲△",
    "triangle-down": "▼▽",
    "pentagon": "⬟⬠",
    "hexagon": "⬢⬡",
}
"""Symbol -> its solid and its hollow character. Streamlit's sanitiser takes SVG away."""
BESIDE_VERDICTS = {
    "better": "▲ larger speed-up",
    "worse": "▼ smaller speed-up",
    "no_difference": "= speed-up: no difference shown",
}
FEW = 8
"""Names in a cell; the rest is its tooltip."""
LONGEST_VALUE = 240
"""Characters of a setting's value; the rest is its tooltip."""
CSS = """
.ib-card{overflow-x:auto}
.ib-card table{border-collapse:collapse;width:100%;font-size:.94rem;line-height:1.25;
  font-variant-numeric:tabular-nums lining-nums}
.ib-card th,.ib-card td{padding:.4rem .38rem;border:0;border-bottom:1px solid
  color-mix(in srgb,currentColor 12%,transparent);text-align:right;vertical-align:top;white-space:nowrap}
.ib-card thead th{font-weight:600;font-size:.82rem;vertical-align:bottom;padding-top:0;
  border-bottom:1.5px solid color-mix(in srgb,currentColor 45%,transparent)}
.ib-card thead th span{font-weight:400}
.ib-card th:first-child,.ib-card td.ib-left,.ib-card thead th.ib-left{text-align:left}
.ib-card tbody th{font-weight:600;padding-left:0}
.ib-card thead th:first-child{padding-left:0}
.ib-card .ib-sub{display:block;font-size:.8rem;font-weight:400;opacity:.72}
.ib-card .ib-mark{display:inline-block;width:1.15rem;font-weight:400}
.ib-card .ib-why{white-space:normal;opacity:.92}
.ib-card .ib-who{white-space:normal;min-width:11rem;max-width:24rem}
.ib-card .ib-open{border-bottom:0;padding-bottom:0}
.ib-card .ib-told{padding:.1rem .38rem .5rem 1.15rem;font-size:.88rem;line-height:1.35}
.ib-card .ib-mark~.ib-sub{padding-left:1.15rem}
.ib-card tbody th:has(>.ib-mark){white-space:normal;min-width:9.5rem;padding-left:1.15rem;text-indent:-1.15rem}
.ib-card tbody th>.ib-mark,.ib-card tbody th>.ib-mark~.ib-sub{padding-left:0;text-indent:0;white-space:nowrap}
.ib-card .ib-verdict{white-space:normal;min-width:6.6rem}
.ib-card .ib-strong{font-weight:600}
.ib-card .ib-asked{white-space:normal;min-width:10.5rem}
.ib-card .ib-value{max-width:26rem;font-weight:600;overflow-wrap:anywhere}
.ib-card .ib-name{overflow-wrap:anywhere;min-width:9rem}
.ib-said{margin:0 0 .6rem;padding-left:1.1rem;line-height:1.4;max-width:72rem}
.ib-said li{margin:.15rem 0}
.ib-muted{opacity:.75;font-size:.92rem}
.ib-card tr.ib-base{background:color-mix(in srgb,currentColor 4%,transparent)}
"""


def scorecard(rows: Sequence[Row], look: Theme) -> str:
    """The table of one batch size, the baseline first."""
    ordered = [*(row for row in rows if row["baseline"]), *(row for row in rows if not row["baseline"])]
    shades = marks(ordered, look)
    kind = "VRAM" if any(row["memory_kind"] == "vram" for row in rows) else "RAM"
    labelled = any(row["accuracy"] is not None for row in rows)
    answers = "Accuracy" if labelled else "Same answer"
    heads = [
        ("Variant", ""),
        ("Latency", "ms, p50"),
        ("Throughput", "samples/s"),
        ("Speed-up", "× (95%)"),
        (answers, "% (95%)"),
        *([("Difference", "points (95%)")] if labelled else []),
        (f"Peak {kind}", "MB, ratio"),
        ("Verdict", "against the baseline"),
    ]
    head = "".join(
        f'<th scope="col"{" class=ib-left" if label == "Verdict" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit in heads
    )
    body = "".join(_row(row, shades[row["variant"]], len(heads), labelled) for row in ordered)
    baseline = baseline_of(rows)
    label = f"Each variant against {baseline['title']}" if baseline else "Each variant"
    return table(label, head, body)


def _row(row: Row, mark: Mark, columns: int, labelled: bool) -> str:
    about = TECHNIQUES[mark.technique]
    return _row_of(row, row["title"], mark, about, columns, _figures(row, labelled))


def _row_of(row: Row, name: str, mark: Mark, about: str, columns: int, cells: Sequence[str]) -> str:
    """A line of a scorecard: `name`, then `cells`; the reason across all columns where it was not measured."""
    about = f"{about} · {row['backend']} {row['precision']}"
    name = f'<th scope="row">{glyph(mark, row)}{escape(name)}{_sub(escape(about))}</th>'
    if row["status"] != "measured":
        state = str(STATES.get(row["status"], row["status"]))
        reason = row["status_reason"] or ""
        short = reason if len(reason) <= 110 else reason[:107].rstrip() + "…"
        return (
            f'<tr>{name}<td class="ib-left ib-why" colspan="{columns - 1}" title="{escape(reason)}">'
            f"{escape(state)}{_sub(escape(short))}</td></tr>"
        )
    css = ' class="ib-base"' if row["baseline"] else ""
    return f"<tr{css}>{name}{''.join(cells)}</tr>"


def _figures(row: Row, labelled: bool) -> list[str]:
    p95 = "" if row["latency_p95_s"] is None else f"p95 {milliseconds(row['latency_p95_s'])}"
    cells = [
        _cell(milliseconds(row["latency_p50_s"]), p95 or "p95: few calls"),
        _cell(
            significant(row["throughput_samples_per_s"]),
            between(row["throughput_samples_per_s_low"], row["throughput_samples_per_s_high"]),
        ),
        _cell("1", "baseline")
        if row["baseline"]
        else _cell(significant(row["speedup"]), between(row["speedup_low"], row["speedup_high"])),
    ]
    return [*cells, *_answers_and_memory(row, labelled)]


def _answers_and_memory(row: Row, labelled: bool) -> list[str]:
    """The cells that end a line of a scorecard: accuracy or agreement, memory, verdict."""
    cells = []
    if labelled:
        cells.append(_cell(percent(row["accuracy"]), between(row["accuracy_low"], row["accuracy_high"], percent)))
        if row["accuracy_difference"] is not None:
            limits = point_interval(row["accuracy_difference_low"], row["accuracy_difference_high"])
            cells.append(_cell(points(row["accuracy_difference"]), limits))
        else:
            cells.append(_cell("", "") if row["baseline"] else _cell(NOTHING, ""))
    else:
        limits = between(row["agreement_low"], row["agreement_high"], percent)
        cells.append(_cell(percent(row["agreement"]), limits))
    ratio = "" if row["baseline"] or row["memory_ratio"] is None else times(row["memory_ratio"])
    cells.append(_cell(megabytes(row["memory_bytes"]), ratio))
    cells.append(f'<td class="ib-left ib-verdict">{_verdicts(row)}</td>')
    return cells


def _verdicts(row: Row) -> str:
    doubt = {"invalid": "✗ invalid", "unstable": "~ unstable"}.get(row["validity"] or "", "")
    if doubt:
        reason = escape(row["validity_reason"] or "")
        doubt = f'<span title="{reason}">{doubt}</span>'
    if row["baseline"]:
        return f"baseline{_sub(doubt)}"
    if row.get("beside") is not None:
        words = SPEED_VERDICTS if row["beside_own"] else BESIDE_VERDICTS
        speed = f"{words[row['beside_comparison']]} †"
    elif row.get("own_baseline") and row["speedup"] is None:
        speed = f"baseline of {row['run']}"
    else:
        speed = SPEED_VERDICTS.get(row["comparison"], NOTHING)
        if speed.startswith("="):
            speed = "= speed: no difference shown"
    said = f'<span class="{"ib-strong" if speed[0] in "▲▼" else ""}">{speed}</span>'
    below = ACCURACY_VERDICTS.get(row["accuracy_comparison"], "")
    if below.startswith("="):
        below = "= accuracy: no difference shown"
    parts = [part for part in (below, doubt) if part]
    return said + "".join(_sub(part) for part in parts)


def comparison(rows: Sequence[Row], look: Theme) -> str:
    """The table of `comparing.against`: value, ratio and verdict of each row against the first, the baseline."""
    shades = marks(rows, look)
    kind = "VRAM" if any(row["memory_kind"] == "vram" for row in rows) else "RAM"
    labelled = any(row["accuracy"] is not None for row in rows)
    heads = [
        ("Variant", ""),
        ("Latency p50", "ms (95%)"),
        ("p95", "ms, p99"),
        ("Throughput", "samples/s (95%)"),
        ("Speed-up", "× (95%)"),
        ("Accuracy" if labelled else "Same answer", "% (95%)"),
        *([("Difference", "points (95%)")] if labelled else []),
        (f"Peak {kind}", "MB, ratio"),
        ("Verdict", "against the baseline"),
    ]
    head = "".join(
        f'<th scope="col"{" class=ib-left" if label == "Verdict" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit in heads
    )
    baseline = baseline_of(rows)
    body = ""
    for row in rows:
        mark = shades[row["variant"]]
        about = TECHNIQUES[mark.technique]
        if baseline is not None and mark.technique == "options" and row["run"] != baseline["run"]:
            about = "the same in another run"
        body += _row_of(row, row["name"], mark, about, len(heads), _compared(row, labelled))
    label = f"Each row against {baseline['title']}" if baseline else "Each row"
    return table(label, head, body)


def _compared(row: Row, labelled: bool) -> list[str]:
    p95, p99 = (NOTHING if row[key] is None else milliseconds(row[key]) for key in ("latency_p95_s", "latency_p99_s"))
    cells = [
        _cell(
            milliseconds(row["latency_p50_s"]),
            between(row["latency_p50_low_s"], row["latency_p50_high_s"], milliseconds),
        ),
        _cell(p95, "few calls" if row["latency_p99_s"] is None else f"p99 {p99}"),
        _cell(
            significant(row["throughput_samples_per_s"]),
            between(row["throughput_samples_per_s_low"], row["throughput_samples_per_s_high"]),
        ),
    ]
    if row["baseline"]:
        cells.append(_cell("1", "baseline"))
    elif row["beside"] is not None:
        cells.append(_cell(f"† {significant(row['beside'])}", between(row["beside_low"], row["beside_high"])))
    elif row["own_baseline"] and row["speedup"] is None:
        cells.append(_cell(NOTHING, f"baseline of {row['run']}"))
    else:
        cells.append(_cell(significant(row["speedup"]), between(row["speedup_low"], row["speedup_high"])))
    return [*cells, *_answers_and_memory(row, labelled)]


def settings(differing: Sequence[Setting]) -> str:
    """Each setting that differs: its values, and what has each of them."""
    head = "".join(f'<th scope="col" class="ib-left">{text}</th>' for text in ("Setting", "Value", "Of"))
    body = ""
    for found in differing:
        span = len(found.values)
        first = f'<th scope="rowgroup" rowspan="{span}">{escape(found.name)}{_sub(escape(found.group))}</th>'
        for value, holders in found.values:
            short = value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - 1].rstrip() + "…"
            body += (
                f'<tr>{first}<td class="ib-left ib-why ib-value" title="{escape(value)}">{escape(short)}</td>'
                f'<td class="ib-left ib-why" title="{escape(", ".join(holders))}">{escape(_few(holders))}</td></tr>'
            )
            first = ""
    return table("Settings that differ", head, body)


def _few(names: Sequence[str]) -> str:
    """`names`, of many the first."""
    if len(names) <= FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:FEW])} and {len(names) - FEW} more"


def evidence(rows: Sequence[Row], look: Theme, hourly_price: float | None = None) -> str:
    """What each measured row's figures carry: paired accuracy, calibration, batch, energy, the hardware's limit."""
    measured = [row for row in rows if row["status"] == "measured"]
    ordered = [*(row for row in measured if row["baseline"]), *(row for row in measured if not row["baseline"])]
    shades = marks(list(rows), look)
    energy = any(row["energy_j_per_1000_examples"] is not None for row in measured)
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        ("McNemar", "p, Holm", _p),
        ("Lost, gained", "examples", _exchanged),
        ("Would show", "points, 80% power", lambda r: percent(r["detectable_difference"])),
        ("Macro F1", "%", lambda r: percent(r["macro_f1"])),
        ("NLL", "nats", lambda r: significant(r["nll"])),
        ("ECE", "%", lambda r: percent(r["ece"])),
        ("Batch flips", "% of answers", _batch_flips),
        *([("Energy", "J/1,000", lambda r: significant(r["energy_j_per_1000_examples"]))] if energy else []),
        *([("Price", "a million texts", _price(hourly_price))] if hourly_price else []),
        ("Of the limit", "%", lambda r: share_percent(r["limit_share"])),
        ("Bound by", "", lambda r: r["binds"] or NOTHING),
    ]
    # A run without labels, or of random weights, has nothing of its answers to carry.
    columns = [column for column in columns if any(column[2](row) not in ("", NOTHING) for row in ordered)]
    head = '<th scope="col">Variant</th>' + "".join(
        f'<th scope="col"{" class=ib-left" if label == "Bound by" else ""}>{label}'
        f"{f'<span class=ib-sub>{unit}</span>' if unit else ''}</th>"
        for label, unit, _ in columns
    )
    body = ""
    for row in ordered:
        cells = "".join(
            f"<td{' class=ib-left' if label == 'Bound by' else ''}>{escape(show(row))}</td>"
            for label, _, show in columns
        )
        css = ' class="ib-base"' if row["baseline"] else ""
        name = f'<th scope="row">{glyph(shades[row["variant"]], row)}{escape(row["name"])}</th>'
        body += f"<tr{css}>{name}{cells}</tr>"
    return table("What the figures carry", head, body)


def _p(row: Row) -> str:
    return "" if row["accuracy_p"] is None else p_words(row["accuracy_p"]).removeprefix("= ")


def _exchanged(row: Row) -> str:
    return "" if row["accuracy_lost"] is None else f"{row['accuracy_lost']}, {row['accuracy_gained']}"


def _batch_flips(row: Row) -> str:
    ways = (row["invariance"] or {}).values()
    most = max((way["examples"] for way in ways), default=0)
    return NOTHING if not most else f"{percent(row['batch_flip_rate'])} (n = {most})"


def _price(hourly_price: float) -> Callable[[Row], str]:
    return lambda row: significant(price_per_million(hourly_price, row["throughput_samples_per_s"]))


def by_label(rows: Sequence[Row], look: Theme) -> str:
    """Each labelled row's precision, recall and F1, label by label; empty where no row has any."""
    known = [row for row in rows if row["status"] == "measured" and (row["quality"] or {}).get("labels")]
    if not known:
        return ""
    shades = marks(list(rows), look)
    names = known[0]["quality"]["names"]
    support = [score["support"] for score in known[0]["quality"]["labels"]]
    head = '<th scope="col">Variant</th>' + "".join(
        f'<th scope="col">{escape(name)}<span class=ib-sub>F1, n = {n:,}</span></th>'
        for name, n in zip(names, support, strict=True)
    )
    body = ""
    for row in known:
        cells = "".join(
            _cell(percent(score["f1"]), f"P {percent(score['precision'])} · R {percent(score['recall'])}")
            for score in row["quality"]["labels"]
        )
        name = f'<th scope="row">{glyph(shades[row["variant"]], row)}{escape(row["name"])}</th>'
        body += f"<tr{' class=ib-base' if row['baseline'] else ''}>{name}{cells}</tr>"
    return table("F1, precision and recall by label", head, body)


def confusion(row: Row) -> str:
    """One row's confusion matrix: a line a label, a column an answer."""
    found = row["quality"]
    head = '<th scope="col">Label</th>' + "".join(f'<th scope="col">{escape(name)}</th>' for name in found["names"])
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td{' class=ib-strong' if i == j else ''}>{count:,}</td>" for j, count in enumerate(found["confusion"][i])
        )
        + "</tr>"
        for i, name in enumerate(found["names"])
    )
    return table(f"Confusion matrix of {row['name']}", head, body)


def sentences(said: Sequence[str], muted: bool = False) -> str:
    """A list of sentences."""
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f"<style>{CSS}</style><ul class='ib-said{' ib-muted' if muted else ''}'>{items}</ul>"


def glyph(mark: Mark, row: Row) -> str:
    """The variant's mark as a coloured character: hollow where the row is not valid or not measured."""
    solid, hollow = tuple(GLYPHS.get(mark.symbol, "★☆"))
    shown = solid if row["status"] == "measured" and row["validity"] != "invalid" else hollow
    return f'<span class=ib-mark style="color:{mark.color}" aria-hidden="true">{shown}</span>'


def _cell(value: str, below: str) -> str:
    return f"<td>{value}{_sub(below)}</td>"


def _sub(text: str) -> str:
    return f"<span class=ib-sub>{text}</span>" if text else ""


def published_table(pairs: Sequence[tuple[Row, Row, Row]]) -> str:
    """What was published, in its own figures."""
    heads = ("Published", "Latency (ms)", "Padded tokens/s", "VRAM (MB)", "Accuracy (%)", "Beside")
    head = "".join(f'<th scope="col"{" class=ib-left" if text == "Beside" else ""}>{text}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(theirs["title"])}</th>'
        f"<td>{milliseconds(theirs['latency_s'])}</td>"
        f"<td>{significant(theirs['throughput_padded_tokens_per_s'], 5)}</td>"
        f"<td>{megabytes(theirs['vram_bytes'])}</td>"
        f"<td>{percent(theirs['accuracy'])}{'' if theirs['accuracy_meaningful'] else ' (chance)'}</td>"
        f'<td class="ib-left">{escape(row["title"])}</td></tr>'
        for row, theirs, _ in pairs
    )
    return table("Published results", head, body)


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


def table(label: str, head: str, body: str) -> str:
    """An HTML table of ours, called `label`, that scrolls by itself where it is too wide."""
    return (
        f'<style>{CSS}</style><div class=ib-card><table aria-label="{escape(label)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts_table(facts: Mapping[str, str]) -> str:
    """Names and texts, a line each."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="ib-left ib-why">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return table("Facts", "", body)


def ceilings_table(ceilings: Mapping[str, Any]) -> str:
    """Every way to multiply or copy that was tried on the device: its best and median rate, repeats and reason."""
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
    """What each variant was asked to be beside what it was found to be after its warm-up."""
    heads = ("Variant", "Asked for", "Found after warm-up", "Verdict on the row")
    head = "".join(f'<th scope="col" class="ib-left">{text}</th>' for text in heads)
    body = ""
    for row in rows:
        audit = row["audit"] or {}
        settings = audit.get("settings") or {}
        asked = {
            "backend": row["backend"],
            "precision": row["precision"],
            "batch": batch_words(row),
            "padding": row["padding"],
            "order": row["order"],
            **(row["options"] or {}),
        }
        said = [*(audit.get("wrong") or []), *(audit.get("deviations") or [])]
        state = str(row["validity"] or STATES.get(row["status"], row["status"]))
        why = row["validity_reason"] or row["status_reason"] or "; ".join(said)
        body += (
            f'<tr><th scope="row">{escape(row["name"])}{_sub(escape(row["model"]))}</th>'
            f'<td class="ib-left ib-asked">{_facts(asked)}</td>'
            f'<td class="ib-left ib-why">{_facts(settings) or NOTHING}</td>'
            f'<td class="ib-left ib-why">{escape(KINDS.get(state, state))}{_sub(escape(why or ""))}</td></tr>'
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
