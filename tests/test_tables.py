"""What the command line prints, from rows as the store gives them."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from row_builder import stored_row

from engine.report import markup, tables, words
from engine.store.rows import COLUMNS, Row
from engine.units import NOTHING, between, megabytes, milliseconds, percent, significant, whole

quick = settings(deadline=None)
ODD = "[bold red]A[/] | <b>b</b> *c* _d_ `e` [f](g) \\| \\"
RUN = {
    "id": "01KAVRUN000000000000000001",
    "suite": "tiny",
    "device": "cpu",
    "device_name": "a [fast] processor",
    "host": "here",
    "environment": {"threads": 2},
    "spec": {"workload": {"padding": "max_length", "max_length": 48}, "protocol": {"processes": 1}},
}


def row(**changes: Any) -> Row:
    """A measurement as `engine.store.measurements.flat` gives it."""
    measured = {
        "variant": "fp32",
        "title": "FP32",
        "baseline": False,
        "batch_size": 8,
        "max_length": 48,
        "status": "measured",
        "validity": "valid",
        "calls": 1200,
        "latency_p50_s": 0.0123456,
        "latency_p95_s": 0.02,
        "throughput_samples_per_s": 650.4,
        "throughput_tokens_per_s": 31_234.5,
        "speedup": 1.5,
        "speedup_low": 1.2,
        "speedup_high": 1.8,
        "comparison": "better",
        "accuracy": 0.9,
        "accuracy_low": 0.85,
        "accuracy_high": 0.935,
        "macro_f1": 0.88,
        "agreement": 0.9975,
        "examples": 400,
        "truncated": 0,
        "ram_peak_bytes": 512_000_000,
        "weights_bytes": 268_000_000,
        "load_s": 0.456,
        "schedule": "interleaved",
    }
    return stored_row(**measured | changes)


def unmeasured(status: str, **changes: Any) -> Row:
    kept = {"variant", "title", "baseline", "batch_size", "max_length", "model", "backend", "precision", "device"}
    nothing = {key: None for key in COLUMNS if key not in kept}
    return row(**nothing | {"status": status, "status_reason": "it needs a GPU"} | changes)


BASELINE = row(
    variant="base", title="Base", baseline=True, speedup=1.0, speedup_low=1.0, speedup_high=1.0, comparison=None
)


def printed(renderable: Any, width: int = 300) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def cells(columns: list[markup.Column], item: dict[str, Any]) -> dict[str, str]:
    return {header: show(item) for header, show in columns}


# Cells


def test_a_measured_row():
    assert cells(tables.SPEED, row()) == {
        "p50 ms": "12.3",
        "p95 ms": "20.0",
        "Calls": "1,200",
        "Samples/s": "650",
        "Tokens/s": "31,200",
        "Speed-up (95%)": "1.50 (1.20 to 1.80)",
        "Verdict": "▲ faster",
    }
    assert cells(tables.REST, row()) == {
        "Accuracy % (95%)": "90.0 (85.0 to 93.5)",
        "Macro F1 %": "88.0",
        "Same answer %": "99.75",
        "Peak RAM MB": "512",
        "VRAM MB": NOTHING,
        "Weights MB": "268",
        "Load s": "0.456",
    }


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_a_table_is_cut_into_parts_and_never_into_words(width):
    parts = tables.fitting([BASELINE, row(title="DistilBERT FP32")], tables.EVIDENCE, "Evidence", width)
    shown = "\n".join(printed(part, width) for part in parts)
    assert "…" not in shown
    for header, _ in tables.EVIDENCE:
        assert shown.count(header) >= 1, header
    assert "continued, continued" not in shown
    assert shown.count("DistilBERT FP32") == len(parts) and (len(parts) == 1) == (width == 400)


def test_what_the_figures_carry():
    rich = row(
        accuracy_difference=-0.012,
        accuracy_difference_low=-0.03,
        accuracy_difference_high=0.005,
        accuracy_p=0.34,
        accuracy_comparison="no_difference",
        detectable_difference=0.031,
        nll=0.2912,
        ece=0.021,
        batch_flip_rate=0.0039,
        energy_j_per_1000_examples=12.34,
        limit_share=0.62,
        binds="compute",
    )
    assert cells(tables.EVIDENCE, rich) == {
        "Difference, points (95%)": "−1.2 (−3.0 to +0.5)",
        "p (McNemar, Holm)": "= 0.34",
        "Would show (80%)": "3.1",
        "Accuracy": "= no difference shown",
        "NLL": "0.291",
        "ECE %": "2.1",
        "Batch flips %": "0.39",
        "J/1,000": "12.3",
        "Of the limit %": "62",
        "Bound by": "compute",
    }
    nothing = cells(tables.EVIDENCE, unmeasured("failed"))
    assert set(nothing.values()) == {NOTHING}
    assert cells(tables.EVIDENCE, BASELINE)["Difference, points (95%)"] == "0 (baseline)"


def test_labels_that_cannot_be_right_are_noted():
    flag = {"kind": "permuted", "sentence": "the labels look permuted", "figures": {}}
    assert tables.notes([row(quality={"flags": [flag]})]) == ["FP32: the labels look permuted"]
    nothing = {"accuracy": None, "accuracy_reason": "2 labels, 4 topics", "index_match_rate": 0.325}
    # A head that was never trained says nothing of how the labels were compared.
    fresh = {"kind": "fresh", "sentence": "its head looks freshly initialised", "figures": {}}
    assert tables.notes([row(**nothing, quality={"flags": [fresh]})]) == [
        "FP32: no accuracy: 2 labels, 4 topics (comparing index with index would have said 32.5%, which measures "
        "nothing)",
        "FP32: its head looks freshly initialised",
    ]
    study = {"kind": "study", "sentence": "this is the case study's fault", "figures": {}}
    assert tables.notes([row(**nothing, quality={"flags": [study]})]) == [
        "FP32: no accuracy: 2 labels, 4 topics",
        "FP32: this is the case study's fault",
    ]


def test_a_price_follows_from_the_hour():
    header, show = tables.price(3.6)
    # 3.6 an hour is 0.001 a second; 650.4 texts a second.
    assert header == "Price/M texts" and show(row()) == "1.54"
    assert show(unmeasured("failed")) == NOTHING


def test_the_baseline_has_no_verdict():
    found = cells(tables.SPEED, BASELINE)
    assert (found["Speed-up (95%)"], found["Verdict"]) == ("1 (baseline)", "")


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [("better", "▲ faster"), ("worse", "▼ slower"), ("no_difference", "= no difference shown"), (None, NOTHING)],
)
def test_verdicts_are_words_with_a_sign(comparison, verdict):
    assert cells(tables.SPEED, row(comparison=comparison))["Verdict"] == verdict


@pytest.mark.parametrize("status", ["failed", "unavailable", "cancelled", "pending"])
def test_what_was_not_measured_shows_dashes_and_no_zeros(status):
    found = cells(tables.SPEED, unmeasured(status))
    assert status in found.pop("Verdict")
    assert set(found.values()) | set(cells(tables.REST, unmeasured(status)).values()) == {NOTHING}


def test_few_calls_say_so_instead_of_a_percentile():
    assert cells(tables.SPEED, row(latency_p95_s=None))["p95 ms"] == "n too small"


def test_names_carry_batch_size_and_doubt():
    shown = printed(tables.table([row(), row(batch_size=1, validity="unstable"), row(validity="invalid")], [], "T"))
    assert "FP32 @ 8\n" in re.sub(" +\n", "\n", shown) and "FP32 @ 1 ~" in shown and "FP32 @ 8 ✗" in shown
    assert "@" not in printed(tables.table([row(), BASELINE], [], "T"))


# Text of other people's


def test_markup_in_titles_is_shown_literally():
    shown = printed(tables.table([row(title=ODD)], tables.SPEED, "Speed"))
    assert ODD in shown
    beside = printed(tables.beside((RUN, [row(title=ODD)]), (RUN, [row(title=ODD)])))
    assert ODD in beside


@quick
@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20))
def test_any_title_stays_in_its_cell_of_a_markdown_table(title):
    made = markup.markdown([row(title=title)], tables.SPEED).split("\n")
    assert len(made) == 3
    # As GitHub reads a row: a bar ends a cell unless a backslash stands before it.
    read = re.findall(r"(?:[^|\\]|\\.)+", made[2])
    assert len(read) == 1 + len(tables.SPEED)
    assert re.sub(r"\\(.)", r"\1", read[0]).strip() == title


def test_markdown_shows_titles_literally():
    made = markup.markdown([row(title=f"a\n{ODD}"), row()], tables.REST)
    head, rule, odd, plain = made.split("\n")
    assert head.startswith("| Variant | Accuracy % (95%) | ") and set(rule) <= set("| -:")
    assert len(rule.split("|")) == len(head.split("|")) == len(plain.split("|"))
    assert odd.startswith(r"| a \[bold red\]A\[/\] \| \<b\>b\</b\> \*c\* \_d\_ \`e\` \[f\](g) \\\| \\ | ")
    assert plain.startswith("| FP32 | 90.0 (85.0 to 93.5) | ")


def test_markdown_of_nothing_is_a_head():
    assert len(markup.markdown([], tables.SPEED).split("\n")) == 2


# Notes


def test_nothing_to_note():
    assert tables.notes([BASELINE, row()]) == []


def test_notes_say_why_something_is_missing_or_doubtful():
    rows = [
        unmeasured("unavailable", title="NF4"),
        row(title="INT8", validity="unstable", validity_reason="latency drifted"),
        row(title="BF16", validity_reason="3 of 9 nodes ran on the CPU"),
        row(title="Random", accuracy=None, accuracy_reason="its weights are random"),
        row(title="SST-2", accuracy=None, accuracy_reason="labels do not fit", index_match_rate=0.325),
    ]
    assert tables.notes(rows) == [
        "NF4: unavailable: it needs a GPU",
        "INT8 ~: unstable: latency drifted",
        "BF16: valid: 3 of 9 nodes ran on the CPU",
        "Random: no accuracy: its weights are random",
        "SST-2: no accuracy: labels do not fit (comparing index with index would have said 32.5%, "
        "which measures nothing)",
    ]


def test_notes_name_the_batch_size_where_there_are_several():
    rows = [row(), unmeasured("failed", title="X", batch_size=1)]
    assert tables.notes(rows) == ["X @ 1: failed: it needs a GPU"]


def test_texts_that_were_cut_are_said_once_where_all_cut_the_same():
    assert tables.notes([row(truncated=3), row(title="B", truncated=3)]) == ["3 of 400 texts were cut to 48 tokens"]
    assert tables.notes([row(truncated=1), unmeasured("failed")]) == [
        "FP32: failed: it needs a GPU",
        "1 of 400 texts was cut to 48 tokens",
    ]
    assert tables.notes([row(truncated=3), row(title="B", truncated=0), row(title="C", truncated=5)]) == [
        "FP32: 3 of 400 texts were cut to 48 tokens",
        "C: 5 of 400 texts were cut to 48 tokens",
    ]


# Captions and findings


def test_the_caption_says_what_was_measured_where_and_how():
    said = tables.caption(RUN, [replace(BASELINE, padding="max_length"), row(padding="max_length")])
    for part in (
        RUN["id"],
        "a [fast] processor (cpu, 2 threads)",
        "400 examples",
        "batches of 8 padded to 48 tokens",
        "1 process a variant",
        "interleaved rounds",
        "in the same rounds, the calm third",
        "95% intervals",
    ):
        assert part in said
    assert "\n" not in said


def test_the_caption_of_other_protocols():
    spec = {"workload": {"padding": "longest", "max_length": 48}, "protocol": {"processes": 3}}
    rows = [row(padding="longest"), row(padding="longest", batch_size=1, schedule="sequential")]
    said = tables.caption(RUN | {"spec": spec}, rows)
    assert "batches of 1, 8 padded to the longest, at most 48 tokens" in said and "6 processes a variant" in said
    assert "one variant after another, forward and back. Speed-up: samples/s against the baseline's over all" in said
    # Nothing was measured.
    said = tables.caption(RUN | {"environment": {}}, [unmeasured("failed")])
    assert f"{NOTHING} examples" in said and f"{NOTHING} threads" in said


# Two runs


def test_two_runs_beside_each_other_share_rows_by_variant_and_batch_size():
    first = (RUN, [BASELINE, row(), row(variant="only", title="Only here"), row(batch_size=1)])
    second = (RUN | {"id": "01KAVRUN000000000000000002"}, [row(latency_p50_s=0.5), BASELINE])
    shown = printed(tables.beside(first, second))
    assert "Base @ 8" in shown and "FP32 @ 8" in shown and "500" in shown
    assert "FP32 @ 1" not in shown and "Only here" not in shown
    assert first[0]["id"] in shown and second[0]["id"] in shown


# Figures


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, NOTHING),
        (math.nan, NOTHING),
        (math.inf, NOTHING),
        (0, "0"),
        (0.000123456, "0.000123"),
        (0.5, "0.500"),
        (0.9996, "1.00"),
        (1, "1.00"),
        (9.996, "10.0"),
        (-9.996, "-10.0"),
        (99.96, "100"),
        (12.345, "12.3"),
        (999.6, "1,000"),
        (31_250, "31,200"),
        (1_234_567, "1,230,000"),
    ],
)
def test_three_significant_digits(value, shown):
    assert significant(value) == shown


@quick
@given(st.floats(1e-12, 1e12), st.booleans())
def test_no_more_and_no_fewer_digits_are_shown(size, negative):
    value = -size if negative else size
    shown = significant(value)
    number = float(shown.replace(",", ""))
    assert number == pytest.approx(value, rel=0.0051)
    digits = shown.lstrip("-").replace(",", "").replace(".", "").lstrip("0")
    assert len(digits) == 3 or (len(digits) > 3 and set(digits[3:]) == {"0"} and "." not in shown)


def test_units():
    assert milliseconds(0.0123456) == "12.3" and milliseconds(None) == NOTHING
    assert megabytes(1_234_567_890) == "1,230" and megabytes(None) == NOTHING
    assert percent(0.9085) == "90.8" and percent(1) == "100.0" and percent(None) == NOTHING
    assert whole(0) == "0" and whole(12_345) == "12,345" and whole(None) == NOTHING
    assert between(1, 2) == "1.00 to 2.00" and between(None, 2) == between(1, None) == ""
    assert between(0.1, 0.2, percent) == "10.0 to 20.0"


SPECIAL = '\\ { } $ & # % _ ^ ~ < > | " ` [x] * -- − ×'


def cells_of(line: str) -> list[str]:
    """The cells of a LaTeX row: apart at every & that is not escaped."""
    return re.split(r"(?<!\\)&", line)


def test_latex_has_a_row_a_measurement_and_a_cell_a_column() -> None:
    made = markup.latex([row(), row(variant="b", title="Second")], tables.SPEED, "About", "tab:x", ["One.", "Two."])
    lines = made.splitlines()
    assert lines[0] == r"\begin{table}" and lines[-1] == r"\end{table}"
    columns = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", made)
    assert columns is not None and len(columns[1]) == len(tables.SPEED) + 1
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert [len(cells_of(line)) for line in body] == [len(columns[1])] * 2
    assert r"\caption{About}" in made and r"\label{tab:x}" in made and r"One. \\ Two." in made


def test_latex_reads_nothing_of_a_title_as_its_own() -> None:
    made = markup.latex_literal(SPECIAL)
    bare = re.sub(r"\\text\w+\{\}|\\[{}$&#%_]|\$(?:-|\\times)\$|\{[\[\]*]?\}", "", made)
    assert not set(bare) & set('\\{}$&#%_^~<>|"`[]*'), bare
    assert "--" not in made and "-{}-" in made
    line = markup.latex([row(title=f"[{SPECIAL}")], tables.SPEED, SPECIAL, "tab:x").splitlines()[8]
    assert line.startswith("{[}") and len(cells_of(line)) == len(tables.SPEED) + 1
    assert markup.latex_literal("one\ntwo\x00\t\u202ethree") == "one two three"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH")
def test_latex_compiles(tmp_path: Path) -> None:
    run = RUN | {"device_name": SPECIAL}
    text = tables.document(run, [row(title=SPECIAL), row(variant="b", status="failed", status_reason=SPECIAL)])
    source = tmp_path / "table.tex"
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
    source.write_text(f"{head}\n{text}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_run_in_latex_has_three_captioned_tables_and_its_notes() -> None:
    made = tables.document(RUN, [row(), row(variant="b", title="B", status="failed", status_reason="50% of it & more")])
    assert made.startswith("% Needs \\usepackage{booktabs}")
    labels = re.findall(r"\\label\{(.*?)\}", made)
    assert labels == [f"tab:{RUN['id'].lower()}-{name}" for name in ("speed", "answers", "evidence")]
    captions = re.findall(r"\\caption\{(.*)\}", made)
    assert len(captions) == 3
    for caption in captions:
        assert "a {[}fast{]} processor (cpu, 2 threads): 400 examples" in caption and r"95\% intervals" in caption
    assert made.count(r"\toprule") == made.count(r"\bottomrule") == made.count(r"\end{table}") == 3
    assert r"B: failed: 50\% of it \& more" in made


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        (["max_length"] * 2, "padded to 48 tokens"),
        (["longest"], "padded to the longest, at most 48 tokens"),
        (["packed"], "padded not at all, at most 48 tokens"),
        (["packed", "longest", "max_length"], "padded to 48 tokens or to the longest or not at all"),
        ([], "padded to the longest, at most 48 tokens"),
    ],
)
def test_padding_is_told_of_every_row(ways: list[str], said: str) -> None:
    assert words.padding_words([row(padding=way) for way in ways], 48) == said
