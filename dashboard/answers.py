"""Answers of Classify as HTML tables and sentences of our own. Pure; whatever a person typed is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from dashboard import scorecard
from dashboard.style import Mark
from engine.answering import CALLS, Answer
from engine.units import between, milliseconds, percent

SHOWN_CHARACTERS = 160
JOINERS = "\u200c\u200d"
"""Not printable by themselves, but families of emoji and Persian words fall apart without them."""
LABELS_SHOWN = 6
"""How many labels of one answer get a bar; the rest is summed up."""
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
"""


def headline(answers: Sequence[Answer], baseline: str, texts: int) -> str:
    """What the answers say together, in one sentence."""
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
    compared = [answer for answer in said if answer.agrees is not None]
    if first is None or not compared:
        return f"{len(said)} variants answered {texts} texts"
    differing = sum(any(a.agrees is not None and not a.agrees[i] for a in compared) for i in range(texts))
    if not differing:
        return f"On all {texts} texts every variant answers as {first.title} does"
    verb = "at least one variant answers otherwise than"
    return f"On {differing} of {texts} texts {verb} {first.title}"


def caption(answers: Sequence[Answer], device: str, int8: bool) -> str:
    """How the latencies were taken; `int8`: whether INT8 is among the variants."""
    shapes = sorted({tuple(answer.shape) for answer in answers if answer.shape})
    if not shapes:
        return ""
    listed = " and ".join(f"{rows} × {tokens} tokens" for rows, tokens in shapes)
    told = (
        f"One batch of {listed}, padded to the longest text, on {device}; latency is the median of {CALLS} calls after "
        "one untimed, with the fastest and the slowest below."
    )
    return told + (" INT8's answers depend on batch and padding: in a run a label can differ." if int8 else "")


def one_text(
    answers: Sequence[Answer],
    waiting: Mapping[str, str],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    baseline: str,
) -> str:
    """One row a variant: answer, agreement, probabilities, latency. `waiting`: variant -> title, not yet answered."""
    head = _head(
        ("Variant", "Answer", "Against the baseline", "Probability", "Latency", "Tokenising"),
        {"Latency": "ms", "Tokenising": "ms", "Probability": "%"},
    )
    body = ""
    for answer in answers:
        name = _name(answer, shades[answer.variant], about[answer.variant], answer.variant == baseline)
        row = ' class="ib-base"' if answer.variant == baseline else ""
        if answer.status != "measured" or not answer.labels or not answer.probabilities:
            body += f"<tr{row}>{name}{_refused(answer, 5)}</tr>"
            continue
        cut = (
            "<span class=ib-sub>✂ the text was cut to the maximum length</span>" if any(answer.truncated or []) else ""
        )
        body += (
            f'<tr{row}>{name}<td class="ib-left ib-said">{escape(answer.labels[0])}{cut}</td>'
            f'<td class="ib-left">{_agreement(answer, 0, baseline)}</td>'
            f'<td class="ib-left">{_bars(answer.probabilities[0], answer.labels[0], shades[answer.variant])}</td>'
            f"{_latency(answer)}</tr>"
        )
    body += _waiting(waiting, shades, about, 5)
    return _table("Answers", head, body)


def several_texts(
    texts: Sequence[str],
    answers: Sequence[Answer],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    baseline: str,
) -> str:
    """One row a text, one column a variant that answered."""
    said = [answer for answer in answers if answer.labels and answer.probabilities]
    head = '<th scope="col" class="ib-left">Text</th>' + "".join(
        f'<th scope="col" class="ib-left">{_mark(answer, shades[answer.variant])}{escape(answer.title)}'
        f"<span class=ib-sub>{escape(about[answer.variant])}</span></th>"
        for answer in said
    )
    body = ""
    for index, text in enumerate(texts):
        cells = "".join(_cell(answer, index, shades[answer.variant], baseline) for answer in said)
        body += f'<tr><th scope="row" class="ib-text" dir="auto">{escape(shortened(text))}</th>{cells}</tr>'
    return _table("Answers by text", head, body)


def by_variant(
    answers: Sequence[Answer],
    waiting: Mapping[str, str],
    shades: Mapping[str, Mark],
    about: Mapping[str, str],
    baseline: str,
) -> str:
    """One row a variant over several texts: agreement, cut texts, latency of the batch."""
    head = _head(
        ("Variant", "Against the baseline", "Cut", "Latency", "Tokenising"),
        {"Latency": "ms a batch", "Tokenising": "ms a batch", "Cut": "texts"},
    )
    body = ""
    for answer in answers:
        name = _name(answer, shades[answer.variant], about[answer.variant], answer.variant == baseline)
        row = ' class="ib-base"' if answer.variant == baseline else ""
        if answer.status != "measured" or not answer.labels:
            body += f"<tr{row}>{name}{_refused(answer, 4)}</tr>"
            continue
        if answer.agrees is None:
            same = "baseline" if answer.variant == baseline else "– not comparable"
        elif all(answer.agrees):
            same = f"= same on all {len(answer.agrees)}"
        else:
            same = f"<span class=ib-not>≠ other on {answer.agrees.count(False)} of {len(answer.agrees)}</span>"
        cut = sum(answer.truncated or [])
        body += (
            f'<tr{row}>{name}<td class="ib-left">{same}</td><td>{f"✂ {cut}" if cut else "0"}</td>'
            f"{_latency(answer)}</tr>"
        )
    body += _waiting(waiting, shades, about, 4)
    return _table("Variants", head, body)


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """`text` in one line of at most `limit` characters, with control characters made visible."""
    shown = "".join(c if c.isprintable() or c.isspace() or c in JOINERS else "␦" for c in text[: 4 * limit])
    line = " ".join(shown.split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"


def _head(names: Sequence[str], units: Mapping[str, str]) -> str:
    numbers = ("Latency", "Tokenising", "Cut")
    return "".join(
        f'<th scope="col"{"" if name in numbers else " class=ib-left"}>{name}'
        f"{f'<span class=ib-sub>{units[name]}</span>' if name in units else ''}</th>"
        for name in names
    )


def _mark(answer: Answer, mark: Mark) -> str:
    return scorecard.glyph(mark, {"status": answer.status, "validity": None})


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
    """Every label with its share, in the model's order; the largest few where there are many."""
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


def _cell(answer: Answer, index: int, mark: Mark, baseline: str) -> str:
    assert answer.labels and answer.probabilities
    label = answer.labels[index]
    share = answer.probabilities[index].get(label, 0.0)
    sign = ""
    if answer.agrees is not None:
        sign = "= " if answer.agrees[index] else "≠ "
    css = " ib-not" if sign == "≠ " else ""
    cut = " ✂ cut" if answer.truncated and answer.truncated[index] else ""
    return (
        f'<td class="ib-left{css}">{sign}{escape(label)} <span class=ib-sub>{percent(share)} %{cut}</span>'
        f'<span class=ib-thin><i style="width:{share * 100:.0f}%;background:{mark.color}"></i></span></td>'
    )


def _latency(answer: Answer) -> str:
    if answer.latency_s is None:
        return '<td class="ib-wait">timing …</td><td class="ib-wait">…</td>'
    note = f"<span class=ib-sub>~ {escape(answer.note)}</span>" if answer.note else ""
    low, high = answer.latency_range_s or (None, None)
    limits = between(low, high, milliseconds)
    spread = f"<span class=ib-sub>{limits}</span>" if limits else ""
    return f"<td>{milliseconds(answer.latency_s)}{spread}{note}</td><td>{milliseconds(answer.tokenize_s)}</td>"


def _table(label: str, head: str, body: str) -> str:
    return (
        f'<style>{scorecard.CSS}{CSS}</style><div class="ib-card ib-ans"><table aria-label="{escape(label)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
