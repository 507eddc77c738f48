"""The Classify page by AppTest, over a pool that answers without models; tests/test_warm.py has the real one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.controls import choices
from dashboard.style import Mark
from dashboard.tables import answers
from engine.classify import answering, warm
from engine.classify.answering import Answer
from engine.errors import RequestError
from engine.machine.locks import DeviceBusy
from engine.run.state import Progress
from engine.suite.spec import Suite

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
HTML = '<script>alert("x")</script> **bold** :material/home: [a](http://x) $x$'


class Pool:
    """Answers every text with Sports, the variant "int8" with World; fails where it is told to."""

    asked: list[tuple[Suite, list[str]]] = []
    raises: Exception | None = None
    cut = False

    def ask(
        self, suite: Suite, texts: list[str], device: str = "auto", offline: bool = True, calls: int = 5
    ) -> Iterator[Any]:
        answering.check_texts(texts)
        self.asked.append((suite, texts))
        first: Answer | None = None
        for variant in answering.in_order(suite):
            yield Progress("loading", f"{variant.shown}: loading", variant=variant.name)
            if variant.precision == "nf4":
                yield Answer(variant.name, variant.shown, "unavailable", "needs <b>bitsandbytes</b>")
                continue
            label = "World" if variant.precision == "int8" else "Sports"
            made = Answer(
                variant.name,
                variant.shown,
                "measured",
                labels=[label] * len(texts),
                probabilities=[{"World": 0.25, "Sports": 0.75}] * len(texts),
                latency_s=0.00123,
                latency_range_s=[0.001, 0.002],
                tokenize_s=0.0004,
                shape=[len(texts), 17],
                truncated=[self.cut] * len(texts),
            )
            first = first or made
            yield answering.compared(made, first)
            if self.raises:
                raise self.raises

    def loaded(self) -> list[warm.Loaded]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Pool]]:
    monkeypatch.setattr(warm, "WarmPool", Pool)
    st.cache_resource.clear()
    Pool.asked, Pool.raises, Pool.cut = [], None, False
    yield Pool
    st.cache_resource.clear()


def page(**parameters: str) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in parameters.items():
        test.query_params[name] = value
    test.switch_page("app_pages/classify.py").run()
    assert not test.exception, test.exception
    return test


def ask(test: AppTest, text: str, lines: bool = False) -> AppTest:
    test.text_area(key="text").set_value(text)
    test.toggle(key="lines").set_value(lines)
    test.get("form_submit_button")[0].click().run()
    assert not test.exception, test.exception
    return test


def html(test: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in test.get("html"))


def test_every_variant_answers(pool: type[Pool], empty: Path) -> None:
    test = ask(page(), "The keeper saved two penalties.")
    table = html(test)
    assert table.count(">Sports</td>") == 3 and table.count(">World</td>") == 1
    assert "= same answer" in table and "≠ other answer" in table and ">baseline<" in table
    assert "○ unavailable" in table and "&lt;b&gt;bitsandbytes" in table and "<b>bitsandbytes" not in table
    assert "1.23<span class=ib-sub>1.00 to 2.00</span>" in table and "0.400" in table
    assert test.subheader[0].value.replace("\\", "") == "3 of 4 variants answer Sports; ONNX INT8 World"
    assert any("1 × 17 tokens" in str(c.value) and "median of 5 calls" in str(c.value) for c in test.caption)
    assert test.query_params["text"] == "The keeper saved two penalties."


def test_lines_are_texts_of_their_own(pool: type[Pool], empty: Path) -> None:
    test = ask(page(), "one\n\n  \ntwo\r\nthree", lines=True)
    assert pool.asked[-1][1] == ["one", "two", "three"]
    assert "≠ other on 3 of 3" in html(test) and "= same on all 3" in html(test)
    assert "On 3 of 3 texts" in test.subheader[0].value
    assert test.query_params["lines"] == "1"
    ask(test, "one\n\ntwo")
    assert pool.asked[-1][1] == ["one\n\ntwo"]
    assert "lines" not in test.query_params


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("", "empty"),
        (" \n\t \u2003", "empty"),
        ("\x00\x01\u200b", "control characters"),
        ("x" * 1_000_001, "longer than 1,000,000 bytes"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_texts_that_get_one_sentence(text: str, say: str, lines: bool, pool: type[Pool], empty: Path) -> None:
    test = ask(page(), text, lines)
    assert len(test.error) == 1 and say in test.error[0].value.replace("\\", "")
    assert not html(test).count("<tbody>") and not pool.asked


def test_too_many_lines(pool: type[Pool], empty: Path) -> None:
    test = ask(page(), "word\n" * 1001, lines=True)
    assert "1,001 texts are too many" in test.error[0].value and not pool.asked


@pytest.mark.parametrize("text", ["🙂 🏳️‍🌈", "مرحبا \u202e بالعالم", "a\x00b\x1b[31m\x07", "é" * 400_000, HTML])
@pytest.mark.parametrize("lines", [False, True])
def test_strange_texts_get_an_answer_and_are_no_markup(text: str, lines: bool, pool: type[Pool], empty: Path) -> None:
    test = ask(page(), text, lines)
    assert not test.error and pool.asked[-1][1] == [text]
    assert "<tbody>" in html(test) and "<script>" not in html(test)
    for element in [*test.caption, *test.subheader]:
        assert not re.search(r"(?<!\\)(<script|\*\*|\[a\]|:material)", str(element.value))


def test_a_long_text_survives_a_reload_too(pool: type[Pool], empty: Path) -> None:
    text = "word " * 1000
    name = ask(page(), text).query_params["kept"]
    assert page(kept=name).text_area(key="text").value == text
    assert page(kept="nothing").text_area(key="text").value == ""


def test_the_input_survives_a_reload(pool: type[Pool], empty: Path) -> None:
    test = page(text="from the URL <b>", lines="1")
    assert test.text_area(key="text").value == "from the URL <b>"
    assert test.toggle(key="lines").value is True
    assert not pool.asked


def test_an_example_is_asked_at_once(pool: type[Pool], empty: Path) -> None:
    test = page()
    next(g for g in test.get("button_group") if g.key == "chosen_example").set_value("Three lines").run()
    assert not test.exception
    assert len(pool.asked[-1][1]) == 3 and test.toggle(key="lines").value is True
    # The link says which by its text.
    again = page(text=test.query_params["text"], lines="1")
    assert next(g for g in again.get("button_group") if g.key == "chosen_example").value == "Three lines"
    assert next(g for g in page(text="other").get("button_group") if g.key == "chosen_example").value is None


def test_answers_stay_when_something_else_changes(pool: type[Pool], empty: Path) -> None:
    test = ask(page(), "a text")
    test.run()
    assert len(pool.asked) == 1 and "= same answer" in html(test)


def test_back_brings_an_earlier_text_and_its_answers(pool: type[Pool], empty: Path) -> None:
    test = page()
    long = "word " * 1000
    ask(test, long)
    earlier = test.query_params["kept"]
    ask(test, "One.\nTwo.", lines=True)
    ask(test, "The last one.")
    assert "kept" not in test.query_params and "lines" not in test.query_params
    del test.query_params["text"]
    test.query_params["kept"] = earlier
    test.run()
    assert test.text_area(key="text").value == long and test.toggle(key="lines").value is False
    assert "= same answer" in html(test) and len(pool.asked) == 3, "it is answered already"
    del test.query_params["kept"]
    test.query_params["text"], test.query_params["lines"] = "One.\nTwo.", "1"
    test.run()
    assert test.text_area(key="text").value == "One.\nTwo." and test.toggle(key="lines").value is True
    # What nobody has asked here has no answers.
    test.query_params["text"] = "From elsewhere."
    test.run()
    assert test.text_area(key="text").value == "From elsewhere." and "= same answer" not in html(test)
    assert ask(test, "Once more.").query_params["text"] == "Once more." and len(pool.asked) == 4


def test_only_the_chosen_variants_are_asked(pool: type[Pool], empty: Path) -> None:
    test = page()
    next(g for g in test.get("button_group") if g.key.startswith("asked:")).set_value(["onnx-int8"])
    ask(test, "a text")
    assert [v.name for v in pool.asked[-1][0].variant] == ["fp32", "onnx-int8"]


def test_busy_is_one_calm_sentence(pool: type[Pool], empty: Path) -> None:
    pool.raises = DeviceBusy("busy: run 01K (demo), timing round 3 of 30, has the *CPU* to itself")
    test = ask(page(), "a text")
    assert not test.error
    assert test.info[0].value.replace("\\", "").startswith("Busy: run 01K (demo), timing round 3")
    assert ">Sports</td>" in html(test), "what had been answered stays"


def test_a_refused_request_is_one_sentence(pool: type[Pool], empty: Path) -> None:
    pool.raises = RequestError("the data folder is not writable")
    assert "not writable" in ask(page(), "a text").error[0].value


def test_truncation_is_shown(pool: type[Pool], empty: Path) -> None:
    pool.cut = True
    assert "✂ the text was cut" in html(ask(page(), "a text"))
    assert "✂ cut" in html(ask(page(), "a text\nmore", lines=True))


def test_a_suite_that_is_not_there(pool: type[Pool], empty: Path) -> None:
    test = page()
    test.session_state["suite"] = choices.FILE
    test.session_state["suite_file"] = "/nowhere/<b>.toml"
    ask(test, "a text")
    assert "no such file" in test.error[0].value and "\\<b\\>" in test.error[0].value
    assert not pool.asked


NEWS = (
    "label,headline\n"
    + "\n".join(f'{"Sports" if i % 2 else "world"},"words, number {i}"' for i in range(70))
    + "\n ,\u2003\n"
)


def upload(test: AppTest, content: bytes, name: str = "news.csv") -> AppTest:
    test.file_uploader(key="upload").set_value((name, content, "text/csv")).run()
    assert not test.exception, test.exception
    return test


def test_a_file_is_asked_in_batches(pool: type[Pool], empty: Path) -> None:
    test = upload(page(), NEWS.encode())
    assert test.selectbox(key="csv_text").value == "headline" and test.selectbox(key="csv_label").value == "label"
    test.button(key="ask_file").click().run()
    assert not test.exception and not test.error
    assert [len(texts) for _, texts in pool.asked] == [32, 32, 6]
    assert [text for _, texts in pool.asked for text in texts] == [f"words, number {i}" for i in range(70)]
    said = "\n".join(str(c.value) for c in test.caption)
    assert "3 batches of up to 32 texts" in said and "each called once" in said
    table = html(test)
    assert table.count('dir="auto"') == 70 and "✓ Sports" in table and "✗ Sports" in table
    # Sports is right for every other text, World is what INT8 says to all.
    assert table.count("50.0<span class=ib-sub>38.6 to 61.4, n = 70</span>") == 4
    assert len(test.get("download_button")) == 1


def test_a_file_survives_a_reload(pool: type[Pool], empty: Path) -> None:
    name = upload(page(), NEWS.encode()).query_params["file"]
    again = page(file=name)
    assert again.button(key="ask_file").label == "Classify 70 texts"
    again.button(key="remove_file").click().run()
    assert not again.exception and "file" not in again.query_params
    assert "ask_file" not in [button.key for button in page(file="nothing").button]


@pytest.mark.parametrize(
    ("content", "say"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"text\n", "no rows"), (b"text\n" + b"x\n" * 1001, "more than 1,000 rows")],
)
def test_a_file_that_cannot_be_read_gets_one_line(content: bytes, say: str, pool: type[Pool], empty: Path) -> None:
    test = upload(page(), content)
    assert len(test.error) == 1 and say in test.error[0].value.replace("\\", "")
    assert "file" not in test.query_params and not pool.asked


def test_a_files_columns_are_no_markup(pool: type[Pool], empty: Path) -> None:
    content = f'"{HTML.replace(chr(34), chr(39))}",label\n<img src=x>,"<b>Sports</b>"\nmore,Sports\n'
    test = upload(page(), content.encode(), "<script>.csv")
    test.button(key="ask_file").click().run()
    assert not test.exception and "<img" not in html(test) and "<b>Sports" not in html(test)
    for element in test.caption:
        assert not re.search(r"(?<!\\)<script", str(element.value))


def test_a_run_that_starts_in_between_leaves_what_was_answered(
    pool: type[Pool], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Pool.ask

    def ask(self: Pool, *args: Any, **options: Any) -> Iterator[Any]:
        if pool.asked:
            raise DeviceBusy("busy: run 01K")
        return first(self, *args, **options)

    monkeypatch.setattr(Pool, "ask", ask)
    test = upload(page(), NEWS.encode())
    test.button(key="ask_file").click().run()
    assert not test.exception and test.info[0].value.startswith("Busy")
    assert html(test).count("= Sports") + html(test).count("= ✓ Sports") + html(test).count("= ✗ Sports") > 0
    assert ">…</td>" in html(test) and len(test.get("download_button")) == 1


def test_an_example_of_a_run_can_be_named(pool: type[Pool], database: str) -> None:
    from dashboard_fill import FULL

    assert page(example=f"{FULL}:3").text_area(key="text").value == "example 3"
    for wrong in (f"{FULL}:99999", f"{FULL}:x", "01JNOTHING:3", ":", f"{FULL}:-1"):
        assert page(example=wrong).text_area(key="text").value == ""


# Plain functions


def test_the_file_holds_every_answer() -> None:
    parts = {
        "a": [
            made("a", "Sports", shape=[1, 9], latency_s=0.002, tokenize_s=0.0001),
            made("a", "World", shape=[1, 7], latency_s=0.001, tokenize_s=0.0001),
        ],
        "b": [made("b", "World", shape=[1, 9], latency_s=0.004, agrees=[False]), Answer("b", "B", "failed", "died")],
    }
    head, rows = answers.sheet(["one", "two"], ["sports", "?"], parts, "a", "CPU (cpu)")
    first, second = (dict(zip(head, row, strict=True)) for row in rows)
    assert first["text"] == "one" and first["label"] == "sports" and first["device"] == "CPU (cpu)"
    assert first["A: answer"] == "Sports" and first["A: right"] == "yes" and first["A: model a batch (ms)"] == 2.0
    assert first["B: same as baseline"] == "no" and first["B: batch tokens"] == 9
    assert second["A: batch"] == 2 and second["A: right"] == "" and second["B: answer"] == "failed"


def test_texts_on_which_somebody_errs_are_shown_first() -> None:
    whole = Answer(
        "b", "B", "measured", labels=["x"] * 5, probabilities=[{"x": 0.9, "y": 0.1}] * 5, agrees=[True] * 4 + [False]
    )
    assert answers.order(5, [whole], None, 2) == [4, 0]
    assert answers.order(5, [whole], ["x", "x", "y", "x", "x"], 2) == [2, 4]
    assert answers.order(2, [whole], None, 2) == [0, 1]


def test_latency_is_split_on_one_scale() -> None:
    mark = {name: Mark("#123456", "circle", "baseline", "pytorch") for name in "ab"}
    table = answers.one_text(
        [made("a", "x", latency_s=0.006, tokenize_s=0.002), made("b", "x", latency_s=0.003, tokenize_s=0.001)],
        {}, mark, {"a": "", "b": ""}, "a",
    )  # fmt: skip
    assert re.findall(r"width:([\d.]+%)(?:\"|;background:#123456)", table.replace("color-mix", "")) [-4:] == [
        "25.0%", "75.0%", "12.5%", "37.5%",
    ]  # fmt: skip
    assert "8.00<span class=ib-split" in table and "4.00<span class=ib-split" in table


def made(name: str, label: str, **columns: Any) -> Answer:
    return Answer(name, name.upper(), "measured", labels=[label], probabilities=[{label: 1.0}], **columns)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([], "No variant could answer"),
        ([made("a", "Sports")], "A answers Sports"),
        ([made("a", "Sports"), made("b", "Sports")], "All 2 variants answer Sports"),
        (
            [made("a", "Sports"), made("b", "World"), made("c", "World")],
            "1 of 3 variants answer Sports; B, C World",
        ),
    ],
)
def test_headlines(found: list[Answer], sentence: str) -> None:
    assert answers.headline(found, "a", 1) == sentence


def test_many_labels_are_summed_up() -> None:
    shares = {f"label{i}": 0.1 for i in range(10)}
    answer = Answer("a", "A", "measured", labels=["label3"], probabilities=[shares])
    table = answers.one_text([answer], {}, {"a": Mark("#000000", "circle", "baseline", "pytorch")}, {"a": ""}, "a")
    assert "5 others" in table and "50.0" in table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\t c", "a b c"),
        ("a\x00b\u202ec", "a␦b␦c"),
        ("x" * 200, "x" * 159 + "…"),
        ("مرحبا", "مرحبا"),
        ("👩\u200d👧", "👩\u200d👧"),
    ],
)
def test_shortened(text: str, shown: str) -> None:
    assert answers.shortened(text) == shown


def test_a_page_imports_no_model_library(pool: type[Pool], empty: Path, run_python: Callable[[str], str]) -> None:
    code = (
        "import sys\n"
        "from dashboard.server import door\n"
        "from streamlit.testing.v1 import AppTest\n"
        "door._standing = True\n"
        f"test = AppTest.from_file({str(APP)!r}, default_timeout=60).run()\n"
        "for name in ('run', 'classify'):\n"
        "    test.switch_page(f'app_pages/{name}.py').run()\n"
        "    assert not test.exception\n"
        "print([m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    assert run_python(code).strip().endswith("[]")


@pytest.fixture
def run_python() -> Callable[[str], str]:
    import subprocess
    import sys

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=APP.parents[1], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
