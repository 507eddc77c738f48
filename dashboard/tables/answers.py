"""The answers on the page Classify, as HTML tables and sentences. Pure. Text from the user is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from dashboard.style import Mark
from dashboard.tables import html, scorecard
from engine.classify.answering import CALLS, Answer
from engine.measurement import stats
from engine.measurement.labels import Names
from engine.units import between, milliseconds, percent

SHOWN_CHARACTERS = 160
JOINERS = "\u200c\u200d"
"""Zero-width joiners. They are not printable, but emoji families and Persian words fall apart without them."""
YES_NO = {True: "yes", False: "no", None: ""}
LABELS_SHOWN = 6
"""The most bars of one answer. With more labels, the last bar is the sum of the rest."""
CSS = """
.ib-ans td,.ib-ans tbody th{vertical-align:middle;padding-top:.3rem;padding-bottom:.3rem}
.ib-ans .ib-bars{display:grid;grid-template-columns:max-content minmax(5rem,1fr) 3.2rem;gap:.1rem .5rem;
  align-items:center;font-size:.8rem;line-height:1.15;min-width:15rem}
.ib-ans .ib-bars b{font-weight:600}
.ib-ans .ib-bars i{display:block;height:.5rem;min-width:1px}
.ib-ans .ib-bars u{text-decoration:none;text-align:right}
.ib-ans td.ib-said{font-size:1.05rem;font-weight:600}
.ib-ans .ib-not{font-weight:600}
.ib-ans td.ib-text,.ib-ans th.ib-text{white-space:normal;text-align:left;min-width:16rem;max-width:34rem;
  unicode-bidi:plaintext;overflow-wrap:anywhere;font-weight:400}
.ib-ans .ib-wait{opacity:.66}
.ib-ans .ib-thin{display:block;height:3px;margin-top:.25rem;background:color-mix(in srgb,currentColor 12%,transparent)}
.ib-ans .ib-thin i{display:block;height:3px}
.ib-ans .ib-split{display:flex;height:.5rem;width:7rem;margin:.2rem 0 0 auto}
.ib-ans .ib-split i{display:block;height:100%;min-width:1px}
.ib-ans .ib-split i:first-child{background:repeating-linear-gradient(135deg,currentColor 0 1px,transparent 1px 3px);
  outline:1px solid currentColor;outline-offset:-1px}
"""


def headline(answers: Sequence[Answer], baseline: str, texts: int) -> str:
    """The answers of all variants, in one sentence."""
    said = [answer for answer in answers if answer.labels]
    if not said:
        return "No variant could answer"
    if texts == 1:
        votes = Counter(answer.labels[0] for answer in said if answer.labels)
        if len(votes) == 1:
            label = next(iter(votes))
            return f"All {len(said)} variants answer {label}" if len(said) > 1 else f"{said[0].title} answers {label}"
        usual = next((a.labels[0] for a in said if a.labels and a.variant == baseline), votes.most_common(1)[0][0])
        others = [
            f"{', '.join(a.title for a in said if a.labels and a.labels[0] == label)} {label}"
            for label, _ in votes.most_common()
            if label != usual
        ]
        return f"{votes[usual]} of {len(said)} variants answer {usual}; {'; '.join(others)}"
    first = next((answer for answer in said if answer.variant == baseline), None)
    compared = [answer.agrees for answer in said if answer.agrees is not None]
    answered = max(len(answer.labels or []) for answer in said)
    # If a run started meanwhile or a variant failed, not all texts are answered.
    the, of_texts = ("", f"{texts:,} texts") if answered == texts else ("the ", f"{answered:,} texts answered")
    if first is None or not compared:
        return f"{len(said)} variants answered {answered:,} of {texts:,} texts"
    differing = len({index for agrees in compared for index, same in enumerate(agrees) if not same})
    if not differing:
        return f"On all {of_texts} every variant answers as {first.title} does"
    return f"On {differing:,} of {the}{of_texts} at least one variant answers otherwise than {first.title}"


def caption(parts: Mapping[str, Sequence[Answer]], device: str, int8: bool) -> str:
    """A caption on how latencies were taken; empty without answers.

    `parts`: variant -> its answer to each batch; `int8`: whether INT8 is among the variants.
    """
    shapes = sorted({tuple(part.shape) for found in parts.values() for part in found if part.shape})
    if not shapes:
        return ""
    most = max(map(len, parts.values()))
    if most > 1:
        tokens = [shape[1] for shape in shapes]
        spread = f"{min(tokens)} to {max(tokens)}" if min(tokens) < max(tokens) else f"{tokens[0]}"
        told = (
            f"{most} batches of up to {max(rows for rows, _ in shapes)} texts, each padded to its longest text "
            f"({spread} tokens), on {device}; latency is the median batch's, each called once "
            "after one untimed call, with the fastest and the slowest below."
        )
    else:
        listed = " and ".join(f"{rows} × {tokens} tokens" for rows, tokens in shapes)
        told = (
            f"One batch of {listed}, padded to the longest text, on {device}; latency is the median of {CALLS} calls "
            "after one untimed, with the fastest and the slowest below."
        )
    told += " Text to label: tokenising (hatched) and model (solid), all on one scale."
    return told + (" INT8's answers depend on batch and padding: in a run a label can differ." if int8 else "")


def right(answer: Answer, labels: Sequence[str]) -> list[bool | None]:
    """Whether each answer is its text's label, by name; None if the model does not know the label."""
    if not answer.labels or not answer.probabilities:
        return []
    known = list(answer.probabilities[0])
    names = Names(known)
    indices = [names.find(label) for label in labels[: len(answer.labels)]]
    pairs = zip(answer.labels, indices, strict=True)
    return [None if index is None else label == known[index] for label, index in pairs]


def order(texts: int, answers: Sequence[Answer], labels: Sequence[str] | None, most: int) -> list[int]:
    """The indices of the texts that a page shows, at most `most`.

    If there are more texts, those that a variant answers wrongly or differently from the baseline come first.
    """
    if texts <= most:
        return list(range(texts))
    marked: set[int] = set()
    for answer in answers:
        marked |= {index for index, same in enumerate(answer.agrees or []) if not same}
        if labels is not None:
            marked |= {index for index, hit in enumerate(right(answer, labels)) if hit is False}
    return sorted(range(texts), key=lambda index: index not in marked)[:most]


def one_text(
    answers: Sequence[Answer],
    waiting: Mapping[str, str],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    baseline: str,
) -> str:
    """One row per variant: answer, agreement, probabilities, latency.

    `waiting`: variant -> title of the variants that have not answered yet.
    """
    head = _head(
        ("Variant", "Answer", "Against the baseline", "Probability", "Model", "Tokenising", "Text to label"),
        {"Model": "ms", "Tokenising": "ms", "Text to label": "ms", "Probability": "%"},
    )
    body, slowest_s = "", _slowest_s(answers)
    for answer in answers:
        name = _name(answer, shades[answer.variant], about[answer.variant], answer.variant == baseline)
        row = ' class="ib-base"' if answer.variant == baseline else ""
        if answer.status != "measured" or not answer.labels or not answer.probabilities:
            body += f"<tr{row}>{name}{_refused(answer, 6)}</tr>"
            continue
        cut = (
            "<span class=ib-sub>✂ the text was cut to the maximum length</span>" if any(answer.truncated or []) else ""
        )
        body += (
            f'<tr{row}>{name}<td class="ib-left ib-said">{escape(answer.labels[0])}{cut}</td>'
            f'<td class="ib-left">{_agreement(answer, 0, baseline)}</td>'
            f'<td class="ib-left">{_bars(answer.probabilities[0], answer.labels[0], shades[answer.variant])}</td>'
            f"{_latency(answer, shades[answer.variant], slowest_s)}</tr>"
        )
    body += _waiting(waiting, shades, about, 6)
    return _table("Answers", head, body)


def several_texts(
    texts: Sequence[str],
    answers: Sequence[Answer],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    labels: Sequence[str] | None = None,
    shown: Sequence[int] | None = None,
) -> str:
    """One row per text, one column per variant that answered.

    `labels`: the right answers; `shown`: the indices of the texts to show, in order.
    """
    said = [answer for answer in answers if answer.labels and answer.probabilities]
    hits = [right(answer, labels) if labels is not None else [] for answer in said]
    head = '<th scope="col" class="ib-left">Text</th>'
    head += '<th scope="col" class="ib-left">Label</th>' if labels is not None else ""
    head += "".join(
        f'<th scope="col" class="ib-left">{_mark(answer, shades[answer.variant])}{escape(answer.title)}'
        f"<span class=ib-sub>{escape(about[answer.variant])}</span></th>"
        for answer in said
    )
    body = ""
    for index in range(len(texts)) if shown is None else shown:
        cells = "" if labels is None else f'<td class="ib-left">{escape(shortened(labels[index], 40))}</td>'
        for answer, hit in zip(said, hits, strict=True):
            cells += _cell(answer, index, shades[answer.variant], hit)
        body += f'<tr><th scope="row" class="ib-text" dir="auto">{escape(shortened(texts[index]))}</th>{cells}</tr>'
    return _table("Answers by text", head, body)


def by_variant(
    answers: Sequence[Answer],
    waiting: Mapping[str, str],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    baseline: str,
    labels: Sequence[str] | None = None,
) -> str:
    """One row per variant over several texts: agreement, right answers, cut texts, latency of a batch."""
    a_batch = ("Model", "Tokenising", "Text to label")
    judged = ("Right",) if labels is not None else ()
    head = _head(
        ("Variant", "Against the baseline", *judged, "Cut", *a_batch),
        {"Cut": "texts", "Right": "% (95%)"} | dict.fromkeys(a_batch, "ms a batch"),
    )
    body, slowest_s, columns = "", _slowest_s(answers), 5 + len(judged)
    for answer in answers:
        name = _name(answer, shades[answer.variant], about[answer.variant], answer.variant == baseline)
        row = ' class="ib-base"' if answer.variant == baseline else ""
        if answer.status != "measured" or not answer.labels:
            body += f"<tr{row}>{name}{_refused(answer, columns)}</tr>"
            continue
        if answer.agrees is None:
            same = "baseline" if answer.variant == baseline else "– not comparable"
        elif all(answer.agrees):
            same = f"= same on all {len(answer.agrees)}"
        else:
            same = f"<span class=ib-not>≠ other on {answer.agrees.count(False)} of {len(answer.agrees)}</span>"
        cut = sum(answer.truncated or [])
        body += (
            f'<tr{row}>{name}<td class="ib-left">{same}</td>{_share_right(answer, labels)}'
            f"<td>{f'✂ {cut}' if cut else '0'}</td>{_latency(answer, shades[answer.variant], slowest_s)}</tr>"
        )
    body += _waiting(waiting, shades, about, columns)
    return _table("Variants", head, body)


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """`text` in one line of at most `limit` characters, with control characters made visible."""
    shown = "".join(c if c.isprintable() or c.isspace() or c in JOINERS else "␦" for c in text[: 4 * limit])
    line = " ".join(shown.split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"


def _head(names: Sequence[str], units: Mapping[str, str]) -> str:
    numbers = ("Model", "Tokenising", "Text to label", "Cut", "Right")
    return "".join(
        f'<th scope="col"{"" if name in numbers else " class=ib-left"}>{name}'
        f"{f'<span class=ib-sub>{units[name]}</span>' if name in units else ''}</th>"
        for name in names
    )


def _mark(answer: Answer, mark: Mark) -> str:
    return html.glyph(mark, answer.status == "measured")


def _name(answer: Answer, mark: Mark, about: str, baseline: bool) -> str:
    told = f"{'baseline · ' if baseline else ''}{about}"
    return f'<th scope="row">{_mark(answer, mark)}{escape(answer.title)}<span class=ib-sub>{escape(told)}</span></th>'


def _refused(answer: Answer, columns: int) -> str:
    sign = scorecard.STATES.get(answer.status, answer.status)
    return (
        f'<td class="ib-left ib-why" colspan="{columns}">{escape(sign)}'
        f"<span class=ib-sub>{escape(answer.reason or '')}</span></td>"
    )


def _waiting(waiting: Mapping[str, str], shades: Mapping[str, Mark], about: Mapping[str, str], columns: int) -> str:
    return "".join(
        f'<tr class="ib-wait"><th scope="row">{_mark(Answer(name, title, "measured"), shades[name])}{escape(title)}'
        f'<span class=ib-sub>{escape(about[name])}</span></th><td class="ib-left" colspan="{columns}">…</td></tr>'
        for name, title in waiting.items()
    )


def _agreement(answer: Answer, index: int, baseline: str) -> str:
    if answer.variant == baseline:
        return "baseline"
    if answer.agrees is None:
        return "– not comparable"
    return "= same answer" if answer.agrees[index] else "<span class=ib-not>≠ other answer</span>"


def _bars(probabilities: Mapping[str, float], chosen: str, mark: Mark) -> str:
    """Bars of all labels with their shares, in the model's order. Of many labels, the largest come first."""
    shown = list(probabilities.items())
    if len(shown) > LABELS_SHOWN:
        shown = sorted(shown, key=lambda item: -item[1])[: LABELS_SHOWN - 1]
        shown.append((f"{len(probabilities) - len(shown)} others", 1 - sum(share for _, share in shown)))
    lines = ""
    for label, share in shown:
        name = f"<b>{escape(label)}</b>" if label == chosen else f"<span>{escape(label)}</span>"
        strength = 100 if label == chosen else 45
        color = f"color-mix(in srgb,{mark.color} {strength}%,transparent)"
        lines += f'{name}<i style="width:{share * 100:.1f}%;background:{color}"></i><u>{percent(share)}</u>'
    return f"<div class=ib-bars>{lines}</div>"


def _share_right(answer: Answer, labels: Sequence[str] | None) -> str:
    """The cell with the share of right answers, over the texts whose label the model knows; empty without labels."""
    if labels is None:
        return ""
    known = [hit for hit in right(answer, labels) if hit is not None]
    if not known:
        return "<td>–<span class=ib-sub>no label is one of its answers</span></td>"
    limits = stats.wilson(sum(known), len(known))
    spread = between(limits.low, limits.high, percent)
    return f"<td>{percent(sum(known) / len(known))}<span class=ib-sub>{spread}, n = {len(known):,}</span></td>"


def _cell(answer: Answer, index: int, mark: Mark, hits: Sequence[bool | None]) -> str:
    assert answer.labels and answer.probabilities
    if index >= len(answer.labels):
        return '<td class="ib-left ib-wait">…</td>' if answer.status == "measured" else '<td class="ib-left">–</td>'
    label = answer.labels[index]
    share = answer.probabilities[index].get(label, 0.0)
    agrees = answer.agrees[index] if answer.agrees is not None else None
    sign = {True: "= ", False: "≠ ", None: ""}[agrees]
    css = " ib-not" if agrees is False else ""
    hit = {True: "✓ ", False: "✗ ", None: ""}[hits[index] if hits else None]
    cut = " ✂ cut" if answer.truncated and answer.truncated[index] else ""
    return (
        f'<td class="ib-left{css}">{sign}{hit}{escape(label)} <span class=ib-sub>{percent(share)} %{cut}</span>'
        f'<span class=ib-thin><i style="width:{share * 100:.0f}%;background:{mark.color}"></i></span></td>'
    )


def _slowest_s(answers: Sequence[Answer]) -> float:
    """The longest time from text to label, which is the scale of the bars."""
    return max((a.latency_s + (a.tokenize_s or 0) for a in answers if a.latency_s is not None), default=0.0)


def _latency(answer: Answer, mark: Mark, slowest_s: float) -> str:
    if answer.latency_s is None:
        return '<td class="ib-wait">timing …</td><td class="ib-wait">…</td><td class="ib-wait">…</td>'
    note = f"<span class=ib-sub>~ {escape(answer.note)}</span>" if answer.note else ""
    low, high = answer.latency_range_s or (None, None)
    limits = between(low, high, milliseconds)
    spread = f"<span class=ib-sub>{limits}</span>" if limits else ""
    tokenize_s = answer.tokenize_s or 0.0
    widths = [f"{100 * part / slowest_s:.1f}%" for part in (tokenize_s, answer.latency_s)] if slowest_s else ["0", "0"]
    return (
        f"<td>{milliseconds(answer.latency_s)}{spread}{note}</td><td>{milliseconds(answer.tokenize_s)}</td>"
        f"<td>{milliseconds(answer.latency_s + tokenize_s)}<span class=ib-split aria-hidden=true>"
        f'<i style="width:{widths[0]}"></i><i style="width:{widths[1]};background:{mark.color}"></i></span></td>'
    )


def sheet(
    texts: Sequence[str],
    labels: Sequence[str] | None,
    parts: Mapping[str, Sequence[Answer]],
    baseline: str,
    device: str,
) -> tuple[list[str], list[list[object]]]:
    """Header and rows of a file, one row per text: every variant's answer, and the latency and shape of its batch.

    `parts`: variant -> its answer to each batch, in the order of `texts`.
    """
    head = ["text", *(["label"] if labels is not None else []), "device"]
    columns: list[tuple[list[list[object]], list[object]]] = []
    for variant, found in parts.items():
        names = ["answer", "probability"]
        names += [] if variant == baseline else ["same as baseline"]
        names += ["right"] if labels is not None else []
        names += ["batch", "batch texts", "batch tokens", "model a batch (ms)", "tokenising a batch (ms)"]
        head += [f"{found[0].title}: {name}" for name in names]
        without: list[object] = [found[-1].status, *[""] * (len(names) - 1)]
        columns.append((_lines(found, labels, variant == baseline), without))
    rows: list[list[object]] = []
    for index, text in enumerate(texts):
        row: list[object] = [text, *([labels[index]] if labels is not None else []), device]
        for lines, without in columns:
            row += lines[index] if index < len(lines) else without
        rows.append(row)
    return head, rows


def _lines(parts: Sequence[Answer], labels: Sequence[str] | None, baseline: bool) -> list[list[object]]:
    """The cells of one variant, one line per text. They end at the first batch that the variant did not answer."""
    lines: list[list[object]] = []
    for number, part in enumerate(parts, 1):
        if part.status != "measured" or not part.labels or not part.probabilities:
            break
        rows, tokens = part.shape or (None, None)
        hits = right(part, labels[len(lines) : len(lines) + len(part.labels)]) if labels is not None else []
        timing = [None if seconds is None else round(seconds * 1e3, 4) for seconds in (part.latency_s, part.tokenize_s)]
        for index, label in enumerate(part.labels):
            line: list[object] = [label, round(part.probabilities[index].get(label, 0.0), 4)]
            if not baseline:
                line.append(YES_NO[part.agrees[index] if part.agrees else None])
            if labels is not None:
                line.append(YES_NO[hits[index]])
            lines.append([*line, number, rows, tokens, *timing])
    return lines


def _table(label: str, head: str, body: str) -> str:
    return (
        f'<style>{html.CSS}{CSS}</style><div class="ib-card ib-ans"><table aria-label="{escape(label)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
