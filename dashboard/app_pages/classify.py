"""Classify page: classify one text or many, and show every variant's answer as it arrives."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from dashboard.controls import choices, link, widgets
from dashboard.data import reads
from dashboard.export import sheets
from dashboard.findings import headlines
from dashboard.style import OfSuite, marks
from dashboard.tables import answers
from engine.classify import answering, warm
from engine.classify.answering import Answer
from engine.errors import RequestError, one_line
from engine.machine import devices, gpus
from engine.machine.devices import Device
from engine.machine.locks import DeviceBusy
from engine.suite.spec import Suite

TEXT, LINES, KEPT, EXAMPLE, FILE = "text", "lines", "kept", "example", "file"
CHOSEN = "chosen_example"
URL_CHARACTERS = 1500
"""The server keeps longer texts, and the URL holds only their name."""
KEPT_TEXTS = 32
KEPT_ANSWERS = 8
"""Answered requests kept per session, so that the browser's Back shows their answers again."""
KEPT_FILES = 8
ROWS_SHOWN = 100
"""The page shows at most this many texts; the CSV file holds all of them."""
NO_LABELS = "none"
NO_HINT = "<style>.st-key-text [data-testid=InputInstructions]{display:none}</style>"
"""Hides Streamlit's hint "Press Ctrl+Enter", which covers the last lines of a long text."""
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
class Request:
    """A request and its answers."""

    suite: Suite
    texts: list[str]
    device: Device
    labels: list[str] | None = None
    """The correct label of each text."""
    parts: dict[str, list[Answer]] = field(default_factory=dict)
    """Variant -> its answer to each batch."""
    problem: str | None = None
    busy: bool = False

    def take(self, batch: int, answer: Answer) -> None:
        """Store an answer to batch number `batch`; a variant's timed answer replaces its untimed one."""
        self.parts[answer.variant] = [*self.parts.get(answer.variant, [])[:batch], answer]

    @property
    def device_name(self) -> str:
        return f"{self.device.name} ({self.device.spec})"


@st.cache_resource(show_spinner=False, on_release=lambda pool: pool.close())
def _pool() -> warm.WarmPool:
    """The warm workers, shared by all sessions of this dashboard."""
    return warm.WarmPool()


@st.cache_resource(show_spinner=False)
def _long_texts() -> OrderedDict[str, str]:
    """Texts that are too long for a URL, by the name that the URL holds."""
    return OrderedDict()


@st.cache_resource(show_spinner=False)
def _files() -> OrderedDict[str, tuple[str, sheets.Sheet]]:
    """Uploaded tables with their file names, kept for a reload of the page."""
    return OrderedDict()


def _keep(store: OrderedDict[str, Any], name: str, value: object, most: int) -> None:
    store[name] = value
    while len(store) > most:
        store.popitem(last=False)


def main() -> None:
    _restore()
    left, right = st.columns([58, 42], gap="large")
    with right:
        chosen = _controls()
        warmth = st.empty()
        warmth.caption(_warm_sentence())
    with left:
        asked = _question()
        from_file = _file()
    status, headline, table = st.empty(), st.container(), st.container()
    slots = (headline.empty(), headline.empty(), headline.empty(), table.empty(), table.empty())
    if asked or from_file is not None:
        st.session_state.pop("asked", None)
        if chosen is not None:
            _remember()
            texts, labels = from_file or (_texts(), None)
            request = Request(chosen[0], texts, chosen[1], labels)
            _ask(request, status, slots)
            st.session_state["asked"] = request
            st.session_state["answered"] = [*st.session_state.get("answered", []), request][-KEPT_ANSWERS:]
            warmth.caption(_warm_sentence())
            return
    if (answered := st.session_state.get("asked")) is not None:
        _show(answered, slots, {}, done=True)
        _say_problem(answered, status)
    else:
        status.caption("Ctrl+Enter or the button asks every chosen variant; models that are not warm are loaded first.")


def _restore() -> None:
    """Restore the text after a reload, a link or Back.

    The URL holds the text itself, the name of a text kept by the server, or an example of a run.
    """
    moved = [link.moved(name) for name in (TEXT, KEPT, EXAMPLE, LINES)]
    if TEXT not in st.session_state:
        _read_text()
    elif any(moved):
        _read_text()
        answered = reversed(st.session_state.get("answered", []))
        st.session_state["asked"] = next((each for each in answered if each.texts == _texts()), None)
    # The chosen example is the one whose text is in the field.
    st.session_state[CHOSEN] = next((n for n, text in EXAMPLES.items() if text == st.session_state[TEXT]), None)


def _read_text() -> None:
    if example := st.query_params.get(EXAMPLE):
        st.session_state[TEXT] = _example(example)
    elif long := st.query_params.get(KEPT):
        st.session_state[TEXT] = _long_texts().get(long, "")
    else:
        st.session_state[TEXT] = st.query_params.get(TEXT, "")
    st.session_state[LINES] = st.query_params.get(LINES) == "1"


def _example(reference: str) -> str:
    """Return the text that "run:position" names, or an empty string if there is none."""
    run_id, _, position = reference.partition(":")
    try:
        found = reads.examples_at(reads.run(run_id)["example_set_id"], [int(position[:9])])
    except (RequestError, ValueError):
        return ""
    return str(found[0]["text"]) if found else ""


def _remember() -> None:
    """Write the text and the switch into the URL; a long text is kept on the server and written as a name."""
    text, name = st.session_state[TEXT] or "", ""
    if len(text) > URL_CHARACTERS:
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        _keep(_long_texts(), name, text, KEPT_TEXTS)
    link.remember(EXAMPLE, "", "")
    link.remember(KEPT, name, "")
    link.remember(TEXT, text if text.strip() and not name else "", "")
    link.remember(LINES, "1" if st.session_state[LINES] else "", "")


def _question() -> bool:
    """Draw the text field and its button, and return whether to ask now."""
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
        key=CHOSEN,
        on_change=_take_example,
        label_visibility="collapsed",
        wrap=True,
    )
    return asked or (st.session_state.pop("ask_now", False) and picked is not None)


def _take_example() -> None:
    name = st.session_state[CHOSEN]
    if name in EXAMPLES:
        st.session_state[TEXT] = EXAMPLES[name]
        st.session_state[LINES] = "\n" in EXAMPLES[name]
        st.session_state["ask_now"] = True


def _texts() -> list[str]:
    text = st.session_state[TEXT] or ""
    if not st.session_state[LINES]:
        return [text]
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()] or [text]


def _file() -> tuple[list[str], list[str] | None] | None:
    """Draw the upload of a table, its columns and its button. Return texts and labels to ask now, otherwise None."""
    files = _files()
    with st.expander("Many texts from a CSV file", expanded=st.query_params.get(FILE) in files, key="csv"):
        uploaded = st.file_uploader(
            "CSV file",
            type=["csv", "tsv", "txt"],
            key="upload",
            max_upload_size=int(sheets.MAX_BYTES / 1e6),
            help=f"UTF-8, the first line names the columns; up to {sheets.MAX_ROWS:,} rows and "
            f"{sheets.MAX_BYTES / 1e6:.0f} MB. This server keeps it in memory, so that a reload finds it.",
        )
        try:
            if uploaded is not None:
                content = uploaded.getvalue()
                name = hashlib.sha256(content).hexdigest()[:12]
                if name not in files:
                    _keep(files, name, (uploaded.name, sheets.read(content)), KEPT_FILES)
                st.query_params[FILE] = st.session_state["uploaded"] = name
            elif st.session_state.pop("uploaded", None):
                st.query_params.pop(FILE, None)
            found = files.get(st.query_params.get(FILE, ""))
            if found is None:
                return None
            return _columns(*found)
        except RequestError as error:
            st.query_params.pop(FILE, None)
            message = one_line(error)
            st.error(headlines.literal(message[:1].upper() + message[1:]))
            return None


def _columns(name: str, sheet: sheets.Sheet) -> tuple[list[str], list[str] | None] | None:
    """Draw the choice of columns. Return texts and labels if the button was pressed, otherwise None."""
    text, label = sheets.guessed(sheet)
    left, right = st.columns(2)
    column = left.selectbox(
        "Column of texts", sheet.names, index=sheet.names.index(text), key="csv_text", bind="query-params"
    )
    options = [NO_LABELS, *(name for name in sheet.names if name != NO_LABELS)]
    judged = right.selectbox(
        "Column of labels",
        options,
        index=options.index(label) if label else 0,
        key="csv_label",
        bind="query-params",
        help="Marks each answer as right or wrong, by the label's name.",
    )
    texts, labels = sheets.texts(sheet, column, None if judged == NO_LABELS else judged)
    skipped = len(sheet.rows) - len(texts)
    blank = f", {skipped:,} without text left out" if skipped else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = st.button(f"Classify {len(texts):,} texts", key="ask_file", type="primary")
        if st.session_state.get("upload") is None and st.button("Remove", key="remove_file", type="tertiary"):
            st.query_params.pop(FILE, None)
            st.rerun()
    st.caption(headlines.literal(f"{name}: {len(sheet.rows):,} rows{blank}."))
    return (texts, labels) if asked else None


def _controls() -> tuple[Suite, Device] | None:
    """Return the suite with the chosen variants, and the device; None if either is not available."""
    found = choices.choose_suite()
    if found is None:
        return None
    suite, _ = found
    chosen = choices.choose_variants(suite, "asked", "always answers")
    device = choices.choose_device() if gpus.visible_gpus() else "auto"
    try:
        return suite.select(chosen), devices.resolve_device(device)
    except RequestError as error:
        st.error(headlines.literal(one_line(error)))
        return None


def _warm_sentence() -> str:
    loaded = _pool().loaded()
    if not loaded:
        return "No worker is warm: the first answer waits until its model is loaded."
    return (
        f"{warm.summary(loaded)}; they leave when a run starts, or after {int(warm.IDLE_SECONDS / 60)} quiet minutes."
    )


Slots = tuple[Any, Any, Any, Any, Any]
"""Headline, caption, download and two tables. One text uses the first table; several texts use one for variants, one
for texts."""


def _ask(request: Request, status: Any, slots: Slots) -> None:
    """Ask the pool batch by batch, and draw each answer as it arrives."""
    n = len(request.texts)
    try:
        answering.check_texts(request.texts, sheets.MAX_ROWS, sheets.MAX_BYTES)
        batches = answering.batches(request.texts)
        calls = answering.CALLS if len(batches) == 1 else 1
        for number, batch in enumerate(batches):
            waiting = {variant.name: variant.shown for variant in answering.in_order(request.suite)}
            timed = 0
            with closing(_pool().ask(request.suite, batch, request.device.spec, calls=calls)) as events:
                for event in events:
                    if isinstance(event, Answer):
                        request.take(number, event)
                        waiting.pop(event.variant, None)
                        timed += event.latency_s is not None
                    # Later batches are drawn when complete: drawing a table of many texts costs more than one call.
                    if not number and (isinstance(event, Answer) or not request.parts):
                        _show(request, slots, waiting)
                    if not isinstance(event, Answer):
                        variants = len(request.suite.variant)
                        share = (variants - len(waiting) + timed) / (2 * variants)
                        text = event.text
                        if len(batches) > 1:
                            text = f"{number * answering.BATCH_TEXTS:,} of {n:,} texts answered; {text}"
                        status.progress(min((number + share) / len(batches), 1.0), text=headlines.literal(text))
            if number:
                _show(request, slots, {})
    except DeviceBusy as error:
        request.problem, request.busy = one_line(error), True
    except RequestError as error:
        request.problem = one_line(error)
    status.empty()
    _say_problem(request, status)
    _show(request, slots, {}, done=True)


def _say_problem(request: Request, status: Any) -> None:
    if request.problem:
        message = headlines.literal(request.problem[:1].upper() + request.problem[1:])
        (status.info if request.busy else status.error)(message)


def _show(request: Request, slots: Slots, waiting: dict[str, str], done: bool = False) -> None:
    """Draw tables of the answers so far; with `done`, also headline, caption and download."""
    suite = request.suite
    shades = marks(OfSuite.all(suite), widgets.look())
    about = {v.name: f"{v.backend} {v.precision}" for v in suite.variant}
    parts = {v.name: request.parts[v.name] for v in answering.in_order(suite) if v.name in request.parts}
    found = [answering.joined(answered) for answered in parts.values()]
    title, note, save, main_table, more = slots
    if not found and not waiting:
        return
    n = len(request.texts)
    shown = answers.order(n, found if done else [], request.labels, ROWS_SHOWN)
    if done:
        title.subheader(headlines.literal(answers.headline(found, suite.baseline, n)), anchor=False)
        caption = answers.caption(parts, request.device_name, any(v.precision == "int8" for v in suite.variant))
        if n == 1:
            caption = f"“{answers.shortened(request.texts[0], 90)}” · {caption}"
        elif len(shown) < n:
            first = "texts with differing or wrong answers first; the file has all"
            caption = f"{len(shown)} of {n:,} texts, {first}. {caption}"
        note.caption(headlines.literal(caption))
    if n == 1:
        main_table.html(answers.one_text(found, waiting, shades, about, suite.baseline))
        return
    main_table.html(answers.by_variant(found, waiting, shades, about, suite.baseline, request.labels))
    more.html(answers.several_texts(request.texts, found, shades, about, request.labels, shown))
    if done:
        save.download_button(
            f"{n:,} texts with every answer as CSV",
            data=partial(_csv, request, parts),
            file_name=f"{suite.name}-answers.csv",
            mime="text/csv",
            on_click="ignore",
            key="answers_csv",
        )


def _csv(request: Request, parts: dict[str, list[Answer]]) -> bytes:
    return sheets.written(
        *answers.sheet(request.texts, request.labels, parts, request.suite.baseline, request.device_name)
    )


widgets.behind_the_door()
main()
