"""Classify: a text, and every variant's answer as it comes."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from dashboard import answers, choices, findings, widgets
from dashboard.style import marks
from engine import answering, hardware, warm
from engine.answering import Answer
from engine.errors import RequestError, one_line
from engine.hardware import Device
from engine.pool import DeviceBusy
from engine.spec import Suite

TEXT, LINES, KEPT = "text", "lines", "kept"
URL_CHARACTERS = 1500
"""Longer texts are kept by the server, and the URL names them."""
KEPT_TEXTS = 32
NO_HINT = "<style>.st-key-text [data-testid=InputInstructions]{display:none}</style>"
"""Streamlit writes "Press Ctrl+Enter" over the last lines of a long text."""
EXAMPLES = {
    "Markets": "Shares in the chip maker fell 7 percent on Monday after it cut its sales forecast for the third time "
    "this year and said that customers were postponing orders.",
    "Money in sport": "The club's owners approved a 240 million loan to pay for two new strikers, although auditors "
    "had warned that wages already exceed what the stadium earns in a season.",
    "Politics of technology": "The parliament voted to oblige makers of phones to open their app stores, a law that "
    "three companies had lobbied against and that ministers call a model for the continent.",
    "Three lines": "The keeper saved two penalties and sent the final into extra time.\n"
    "Telescope finds water vapour around a planet the size of Neptune.\n"
    "Ministers from eleven countries met to discuss the ceasefire at the border.",
    "العربية": "ارتفعت أسعار النفط اليوم بعد قرار خفض الإنتاج",
    "Emoji": "🚀🛰️ launch at dawn, 🌕 next week!",
}


@dataclass
class Asked:
    """A request and what came of it."""

    suite: Suite
    texts: list[str]
    device: Device
    answers: dict[str, Answer] = field(default_factory=dict)
    problem: str | None = None
    busy: bool = False


@st.cache_resource(show_spinner=False, on_release=lambda made: made.close())
def _pool() -> warm.WarmPool:
    """The warm workers of all who look at this dashboard."""
    return warm.WarmPool()


@st.cache_resource(show_spinner=False)
def _kept() -> OrderedDict[str, str]:
    """Texts that are too long for a URL."""
    return OrderedDict()


def main() -> None:
    _restore()
    left, right = st.columns([58, 42], gap="large")
    with right:
        chosen = _controls()
        warmth = st.empty()
        warmth.caption(_warm_sentence())
    with left:
        asked = _question()
    status, headline, table = st.empty(), st.container(), st.container()
    if asked:
        st.session_state.pop("asked", None)
        if chosen is not None:
            _remember()
            request = Asked(chosen[0], _texts(), chosen[1])
            slots = (headline.empty(), headline.empty(), table.empty(), table.empty())
            _ask(request, status, slots)
            st.session_state["asked"] = request
            warmth.caption(_warm_sentence())
            return
    if (done := st.session_state.get("asked")) is not None:
        _show(done, (headline.empty(), headline.empty(), table.empty(), table.empty()), {})
        _say_problem(done, status)
    else:
        status.caption("Ctrl+Enter or the button asks every chosen variant; what is not warm yet is loaded first.")


def _restore() -> None:
    """A reload begins with the text that the URL names."""
    if TEXT in st.session_state:
        return
    long = st.query_params.get(KEPT)
    st.session_state[TEXT] = _kept().get(long, "") if long else st.query_params.get(TEXT, "")
    st.session_state[LINES] = st.query_params.get(LINES) == "1"


def _remember() -> None:
    """Write text and switch into the URL, or keep the text here where it is long."""
    text = st.session_state[TEXT] or ""
    st.query_params.pop(KEPT, None)
    st.query_params.pop(TEXT, None)
    if len(text) <= URL_CHARACTERS:
        if text.strip():
            st.query_params[TEXT] = text
    else:
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        kept = _kept()
        kept[name] = text
        while len(kept) > KEPT_TEXTS:
            kept.popitem(last=False)
        st.query_params[KEPT] = name
    if st.session_state[LINES]:
        st.query_params[LINES] = "1"
    else:
        st.query_params.pop(LINES, None)


def _question() -> bool:
    """The text and its button; whether to ask now."""
    st.html(NO_HINT)
    with st.form("question", border=False):
        st.text_area(
            "Text",
            key=TEXT,
            height=112,
            placeholder="Type or paste a text, then press Ctrl+Enter",
            label_visibility="collapsed",
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            asked = st.form_submit_button("Classify", type="primary")
            st.toggle("Each line is a text", key=LINES)
    picked = st.pills(
        "Examples",
        list(EXAMPLES),
        key="example",
        on_change=_take_example,
        label_visibility="collapsed",
        wrap=True,
    )
    return asked or (st.session_state.pop("ask_now", False) and picked is not None)


def _take_example() -> None:
    name = st.session_state["example"]
    if name in EXAMPLES:
        st.session_state[TEXT] = EXAMPLES[name]
        st.session_state[LINES] = "\n" in EXAMPLES[name]
        st.session_state["ask_now"] = True


def _texts() -> list[str]:
    text = st.session_state[TEXT] or ""
    if not st.session_state[LINES]:
        return [text]
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()] or [text]


def _controls() -> tuple[Suite, Device] | None:
    """The suite with the chosen variants, and the device; None where they cannot be had."""
    found = choices.choose_suite()
    if found is None:
        return None
    suite, _ = found
    chosen = choices.choose_variants(suite, "asked", "always answers")
    device = choices.choose_device() if hardware.gpus() else "auto"
    try:
        return suite.select(chosen), hardware.resolve_device(device)
    except RequestError as error:
        st.error(findings.literal(one_line(error)))
        return None


def _warm_sentence() -> str:
    loaded = _pool().loaded()
    if not loaded:
        return "No worker is warm: the first answer waits until its model is loaded."
    return (
        f"{warm.summary(loaded)}; they leave when a run starts, or after {int(warm.IDLE_SECONDS / 60)} quiet minutes."
    )


Slots = tuple[Any, Any, Any, Any]


def _ask(request: Asked, status: Any, slots: Slots) -> None:
    """Ask the pool, and draw each answer as it comes."""
    waiting = {variant.name: variant.shown for variant in answering.in_order(request.suite)}
    try:
        answering.check_texts(request.texts)
        with closing(_pool().ask(request.suite, request.texts, request.device.spec)) as events:
            for event in events:
                if isinstance(event, Answer):
                    request.answers[event.variant] = event
                    waiting.pop(event.variant, None)
                    _show(request, slots, waiting)
                    continue
                if not request.answers:
                    _show(request, slots, waiting)
                there = [answer.latency_s is not None for answer in request.answers.values()]
                share = (len(there) + sum(there)) / (2 * len(request.suite.variant))
                status.progress(min(share, 1.0), text=findings.literal(event.text))
    except DeviceBusy as error:
        request.problem, request.busy = one_line(error), True
    except RequestError as error:
        request.problem = one_line(error)
    status.empty()
    _say_problem(request, status)
    _show(request, slots, {})


def _say_problem(request: Asked, status: Any) -> None:
    if request.problem:
        said = findings.literal(request.problem[:1].upper() + request.problem[1:])
        (status.info if request.busy else status.error)(said)


def _show(request: Asked, slots: Slots, waiting: dict[str, str]) -> None:
    """Headline, caption and tables of what is there so far."""
    suite = request.suite
    rows = [
        {
            "variant": v.name,
            "model": v.model,
            "backend": v.backend,
            "precision": v.precision,
            "baseline": v.name == suite.baseline,
        }
        for v in suite.variant
    ]
    shades = marks(rows, widgets.look())
    about = {v.name: f"{v.backend} {v.precision}" for v in suite.variant}
    found = [request.answers[v.name] for v in answering.in_order(suite) if v.name in request.answers]
    title, note, main_table, more = slots
    if not found and not waiting:
        return
    several = len(request.texts) > 1
    if not waiting:
        title.subheader(findings.literal(answers.headline(found, suite.baseline, len(request.texts))), anchor=False)
        device = f"{request.device.name} ({request.device.spec})"
        said = answers.caption(found, device, any(v.precision == "int8" for v in suite.variant))
        if not several:
            said = f"“{answers.shortened(request.texts[0], 90)}” · {said}"
        note.caption(findings.literal(said))
    if several:
        main_table.html(answers.several_texts(request.texts, found, shades, about, suite.baseline))
        more.html(answers.by_variant(found, waiting, shades, about, suite.baseline))
    else:
        main_table.html(answers.one_text(found, waiting, shades, about, suite.baseline))


main()
