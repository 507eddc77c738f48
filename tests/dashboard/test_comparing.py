"""Another baseline and other runs: recomputed as a run does, paired where rounds and examples are shared, else not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dashboard_fill import FULL, SIZES, UNLABELLED

from dashboard import style
from dashboard.data import reads
from dashboard.findings import comparing
from dashboard.findings import settings as findings_settings
from dashboard.findings.comparing import Evidence, Side
from dashboard.run_rows import Row
from dashboard.tables import comparison
from engine.measurement import stats
from engine.measurement.doubts import Code, doubt
from engine.report import between, changes


def sides_of(*runs: str) -> list[Side]:
    return [
        Side(letter, found := reads.run(run), reads.measurements(found))
        for letter, run in zip(comparing.LETTERS, runs, strict=False)
    ]


def evidence_of(sides: list[Side]) -> Evidence:
    raws: dict[int, Any] = {}
    outputs: dict[int, Any] = {}
    labels = {}
    for side in sides:
        ids = tuple(row.id for row in side.stored if row.status == "measured")
        raws |= reads.raws(side.summary["id"], ids)
        outputs |= reads.outputs(side.summary["id"], ids)
        labels[side.summary["example_set_id"]] = reads.labels(side.summary["example_set_id"])
    return Evidence(raws, outputs, labels)


def compared(
    sides: list[Side], baseline: str, sizes: list[int] | None = None, names: list[str] | None = None
) -> dict[str, Row]:
    """Variant (with its batch size where several are asked for) -> its row."""
    everything = comparing.tagged(sides)
    rows = comparing.chosen(everything, sizes or [8], names or list(comparing.variants(everything)), baseline)
    found = comparing.against(rows, everything, baseline, evidence_of(sides))
    return {f"{row.variant}@{row.batch_size}" if sizes and len(sizes) > 1 else row.variant: row for row in found}


def test_the_runs_own_baseline_gives_the_stored_figures(database: str) -> None:
    found = compared(sides_of(FULL), "A/fp32")
    for row in reads.measurements(reads.run(FULL)):
        mine = found[f"A/{row.variant}"]
        for key in ("speedup", "speedup_low", "comparison", "accuracy_difference_low", "accuracy_comparison", "flips"):
            assert mine.figure(key) == row.figure(key), (row.variant, key)
        assert mine.accuracy_p == pytest.approx(row.accuracy_p) if row.accuracy_p else True


def test_another_baseline_is_compared_from_the_same_rounds(database: str) -> None:
    sides = sides_of(FULL)
    found = compared(sides, "A/int8")
    evidence = evidence_of(sides)
    rates = {row.variant: evidence.raws[row.id].rates() for row in sides[0].stored if row.id in evidence.raws}
    calm = stats.calm_rounds(list(rates.values()))
    for variant in ("fp32", "nf4", "student", "onnx"):
        logs = np.log(rates[variant][0] / rates["int8"][0])[calm[0]]
        assert found[f"A/{variant}"].speedup == pytest.approx(np.exp(np.median(logs)))
    assert found["A/int8"].speedup == 1 and found["A/int8"].baseline and not found["A/fp32"].baseline
    # A division of the stored speed-ups would say something else.
    stored = {row.variant: row.speedup for row in sides[0].stored}
    assert found["A/nf4"].speedup != pytest.approx(stored["nf4"] / stored["int8"], rel=1e-6)
    turned = compared(sides, "A/nf4")["A/int8"]
    assert turned.speedup == pytest.approx(1 / found["A/nf4"].speedup)
    assert turned.speedup_low == pytest.approx(1 / found["A/nf4"].speedup_high)


def test_another_baseline_is_paired_on_the_same_answers(database: str) -> None:
    found, stored = compared(sides_of(FULL), "A/student"), compared(sides_of(FULL), "A/fp32")
    mine, turned = found["A/fp32"], stored["A/student"]
    assert (mine.accuracy_gained, mine.accuracy_lost) == (turned.accuracy_lost, turned.accuracy_gained)
    assert mine.accuracy_difference_low == pytest.approx(-turned.accuracy_difference_high)
    assert mine.accuracy_comparison == "better" and turned.accuracy_comparison == "worse"
    assert mine.flips == turned.flips and mine.agreement == turned.agreement
    assert mine.detectable_difference == turned.detectable_difference
    assert found["A/sst2"].accuracy_difference is None and found["A/student"].accuracy_difference is None
    assert found["A/fp32"].memory_ratio == pytest.approx(660 / 400)


def test_holm_corrects_over_the_rows_shown(database: str) -> None:
    sides = sides_of(FULL)
    alone = compared(sides, "A/fp32", names=["A/int8"])["A/int8"].accuracy_p
    among = compared(sides, "A/fp32")["A/int8"].accuracy_p
    assert 0 < alone < 1 and among > alone


def test_a_slower_machine_widens_another_baselines_interval_too(database: str) -> None:
    sides = sides_of(FULL)
    plain = compared(sides, "A/int8")["A/onnx"]
    doubts = [doubt(Code.SLOWER_MACHINE, factor=1.25).to_json()]
    slow = [replace(row, doubts=doubts) if row.variant == "student" else row for row in sides[0].stored]
    wide = compared([Side("A", sides[0].summary, slow)], "A/int8")["A/onnx"]
    assert wide.speedup == plain.speedup
    assert wide.speedup_low == pytest.approx(plain.speedup_low / 1.25)
    assert wide.speedup_high == pytest.approx(plain.speedup_high * 1.25)


def test_each_batch_size_is_an_experiment_of_its_own(database: str) -> None:
    sides = sides_of(SIZES)
    found = compared(sides, "A/student", sizes=[1, 32])
    raws = evidence_of(sides).raws
    assert [row.name for row in found.values()][:2] == ["Student FP32 @ 1", "Student FP32 @ 32"]
    assert "A/fp32@8" not in found
    for size in (1, 32):
        at = {row.variant: raws[row.id].rates() for row in sides[0].stored if row.batch_size == size}
        calm = stats.calm_rounds([at["fp32"], at["nf4"], at["student"]])
        expected = stats.speed_up(at["nf4"], at["student"], calm)
        assert expected and found[f"A/nf4@{size}"].speedup == pytest.approx(expected.estimate)


def test_a_variant_with_its_own_batching_belongs_to_the_last_experiment(database: str) -> None:
    (side,) = sides_of(SIZES)
    kept = [row for row in side.stored if row.variant != "nf4" or row.batch_size == 1]
    own = [replace(row, experiment=32) if row.variant == "nf4" else row for row in kept]
    side = Side("A", side.summary, own)
    found = compared([side], "A/student", sizes=[32])
    assert found["A/nf4"].batch_size == 1 and found["A/nf4"].speedup is not None
    assert "A/nf4" not in compared([side], "A/student", sizes=[1])
    assert comparing.sizes_of(comparing.tagged([side])) == [1, 8, 32]


def test_runs_share_no_rounds_but_may_share_examples(database: str) -> None:
    sides = sides_of(FULL, SIZES)
    found = compared(sides, "A/nf4")
    other = found["B/student"]
    assert other.speedup is None and other.comparison is None
    rows = {row.variant: row for row in sides[0].stored}
    theirs = {(row.variant, row.batch_size): row for row in sides[1].stored}
    expected = changes.change(rows["nf4"], theirs["student", 8])
    assert expected is not None
    assert (other.across.ratio, other.across.low, other.across.high) == pytest.approx(expected)
    assert found["B/fp32"].across is None, "its speed-up over its own baseline is 1 by definition"
    assert found["A/student"].speedup is not None and found["A/student"].across is None
    assert other.accuracy_difference == pytest.approx(theirs["student", 8].accuracy - rows["nf4"].accuracy)
    assert other.accuracy_p is not None


def test_over_other_examples_no_difference_is_drawn(database: str) -> None:
    found = compared(sides_of(FULL, UNLABELLED), "A/fp32")
    for row in found.values():
        if row.run == "B":
            assert row.accuracy_difference is None and row.agreement is None and row.flips is None


def test_unlabelled_text_has_agreement_with_any_baseline(database: str) -> None:
    sides = sides_of(UNLABELLED)
    found, stored = compared(sides, "A/student"), compared(sides, "A/fp32")
    assert found["A/fp32"].agreement == stored["A/student"].agreement < 1
    assert found["A/fp32"].agreement_low == pytest.approx(stored["A/student"].agreement_low)
    assert found["A/fp32"].accuracy_difference is None


def test_runs_with_unlike_baselines_have_no_speedups_beside_each_other(database: str) -> None:
    first, second = sides_of(FULL, SIZES)
    stored = [replace(row, precision="bf16") if row.variant == "fp32" else row for row in second.stored]
    found = compared([first, Side("B", second.summary, stored)], "A/fp32")
    assert all(row.across is None for row in found.values())


def test_vram_is_not_held_beside_ram(database: str) -> None:
    first, second = sides_of(FULL, SIZES)
    on_gpu = [
        replace(row, memory_kind="vram", memory_bytes=5, vram_peak_bytes=5, memory_ratio=1.0) for row in second.stored
    ]
    found = compared([first, Side("B", second.summary, on_gpu)], "A/fp32")
    assert {row.memory_kind for row in found.values()} == {"ram"}
    assert found["B/student"].memory_bytes == 400e6
    assert found["B/student"].memory_ratio == pytest.approx(400 / 660)


def test_titles_tell_rows_apart(database: str) -> None:
    (side,) = sides_of(FULL)
    same = [replace(row, title="Twin") if row.variant in ("nf4", "onnx") else row for row in side.stored]
    one = comparing.variants(comparing.tagged([Side("A", side.summary, same)]))
    assert one["A/nf4"] == "Twin [nf4]" and one["A/onnx"] == "Twin [onnx]" and one["A/fp32"] == "DistilBERT FP32"
    two = comparing.tagged(sides_of(FULL, SIZES))
    titles = {row.variant: row.title for row in two}
    assert titles["A/fp32"] == "DistilBERT FP32 (A)" and titles["B/fp32"] == "DistilBERT FP32 (B)"
    labels = comparing.variants(two)
    assert labels["A/fp32"] == "DistilBERT FP32", "the same as before another run joined"
    assert labels["B/fp32"] == "DistilBERT FP32 (B)"
    assert len(set(titles.values())) == len(titles) == len(set(labels.values()))


def test_only_what_was_measured_can_be_the_baseline_and_the_runs_own_first(database: str) -> None:
    able = comparing.baselines(comparing.tagged(sides_of(FULL)))
    assert next(iter(able)) == "A/fp32" and "A/gone" not in able and "A/tf32" not in able and "A/int8" in able


def test_two_runs_say_what_differs_and_no_more(database: str) -> None:
    first, second = sides_of(SIZES, SIZES)
    rows = list(compared([first, second], "A/fp32").values())
    assert comparing.headline([first, second], rows).finding.startswith(
        "No speed-up is shown to differ between A and B"
    )
    assert comparing.changes([first, second], rows, evidence_of([first, second]))[0] == [
        "Same device, suite and examples, and no speed-up or accuracy is shown to differ."
    ]
    assert comparing.changes([first, second], rows, Evidence({}))[0] == [
        "Same device, suite and examples, and no speed-up is shown to differ."
    ]
    faster = [
        replace(row, **{key: row.figure(key) * 2 for key in ("speedup", "speedup_low", "speedup_high")})
        if row.variant == "student" and row.batch_size == 8
        else row
        for row in second.stored
    ]
    second = Side("B", second.summary, faster)
    rows = list(compared([first, second], "A/fp32").values())
    said = comparing.headline([first, second], rows).finding
    assert said.startswith("1 of 6 speed-ups differs between A and B; Student FP32 @ 8's is in B 2.00× (")
    evidence = evidence_of([first, second])
    (only,) = comparing.changes([first, second], rows, evidence)[0]
    assert only.startswith("Student FP32 @ 8: the speed-up rose to 2.00×")
    third = Side("C", second.summary, second.stored)
    several = comparing.changes([first, second, third], rows, evidence)[0]
    assert [sentence[:9] for sentence in several] == ["A and B: ", "A and C: "] and "(C)" in several[1]


def test_what_two_runs_answer_to_the_same_examples_is_told(database: str) -> None:
    first, second = sides_of(FULL, SIZES)
    evidence = evidence_of([first, second])
    ids = {row.variant: row.id for row in first.stored}
    theirs = {row.variant: row.id for row in second.stored if row.batch_size == 8}
    labels = evidence.labels[first.summary["example_set_id"]]
    assert labels is not None
    # In the second run 30 of the student's answers that were right in the first are wrong, and none of the wrong right.
    turned = evidence.outputs[ids["student"]].copy()
    turned[np.flatnonzero(turned == labels)[:30]] = 3 - labels[turned == labels][:30]
    worse = Evidence(evidence.raws, {**evidence.outputs, theirs["student"]: turned}, evidence.labels)
    rows = list(compared([first, second], "A/fp32", names=["A/student", "B/student"]).values())
    told = [sentence for sentence in comparing.changes([first, second], rows, worse)[0] if "accuracy" in sentence]
    assert len(told) == 1 and told[0].startswith("Student FP32: the accuracy fell by 15.0 points from A to B (")
    assert told[0].endswith("p < 0.001): 30 of the same 200 examples lost, 0 gained.")


def test_the_commands_pair_the_same_answers_as_the_page(database: str) -> None:
    first, second = ((side.summary, side.stored) for side in sides_of(FULL, SIZES))
    found = between.stored(first, second)
    assert {key for key in found if key[1] == 8} == {("fp32", 8), ("nf4", 8), ("student", 8)} == set(found)
    evidence = evidence_of(sides_of(FULL, SIZES))
    outputs = [
        {(r.variant, r.batch_size): evidence.outputs[r.id] for r in rows if r.id in evidence.outputs}
        for _, rows in (first, second)
    ]
    labels = evidence.labels[first[0]["example_set_id"]]
    assert found == between.accuracies(first, second, (outputs[0], outputs[1]), labels)
    elsewhere = sides_of(UNLABELLED)[0]
    assert between.stored(first, (elsewhere.summary, elsewhere.stored)) == {}


def test_of_an_invalid_row_of_another_run_nothing_is_concluded(database: str) -> None:
    first, second = sides_of(SIZES, SIZES)
    broken = [replace(row, validity="invalid", validity_reason="NaN") if row.baseline else row for row in second.stored]
    second = Side("B", second.summary, broken)
    rows = list(compared([first, second], "A/student").values())
    assert all(row.across is None for row in rows)
    assert "share no variant with a speed-up in both" in comparing.headline([first, second], rows).finding
    said = comparing.changes([first, second], rows, Evidence({}))[0]
    assert said and all("is invalid in B, and nothing is concluded from it: NaN." in sentence for sentence in said)


def test_a_baseline_that_is_not_shown_still_carries_the_speedups(database: str) -> None:
    first, second = sides_of(SIZES, SIZES)
    faster = [
        replace(row, **{key: row.figure(key) * 2 for key in ("speedup", "speedup_low", "speedup_high")})
        if row.variant == "student"
        else row
        for row in second.stored
    ]
    second = Side("B", second.summary, faster)
    rows = list(compared([first, second], "A/student", names=["A/student", "B/student"]).values())
    assert all("student" in row.variant for row in rows)
    said = comparing.changes([first, second], rows, Evidence({}))[0]
    assert len(said) == 3 and all("the speed-up rose to 2.00×" in sentence for sentence in said)


def test_one_run_says_what_its_own_comparison_shows(database: str) -> None:
    sides = sides_of(FULL)
    rows = list(compared(sides, "A/int8").values())
    shown, unshown = comparing.changes(sides, rows, evidence_of(sides))
    assert any(sentence.startswith("Student FP32 answers ") and "as ONNX INT8." in sentence for sentence in shown)
    assert any(sentence.startswith("ONNX FP32: no difference in accuracy to ONNX INT8") for sentence in unshown)
    assert "as ONNX INT8" in comparing.headline(sides, rows).finding


def named(found: list[findings_settings.Setting]) -> Mapping[str, dict[str, list[str]]]:
    return {f"{setting.group}: {setting.name}": dict(setting.values) for setting in found}


def test_only_settings_that_differ_are_listed(database: str) -> None:
    sides = sides_of(FULL)
    rows = list(compared(sides, "A/fp32", names=["A/int8", "A/onnx"]).values())
    assert named(findings_settings.settings(sides, rows)) == {
        "Variant: backend": {"onnxruntime": ["ONNX FP32", "ONNX INT8"], "pytorch": ["DistilBERT FP32"]},
        "Variant: precision": {"fp32": ["DistilBERT FP32", "ONNX FP32"], "int8": ["ONNX INT8"]},
    }
    assert findings_settings.settings(sides, rows[:1]) == []


def test_settings_of_runs_differ_by_workload_and_machine(database: str) -> None:
    first, second = sides_of(FULL, SIZES)
    around = {
        "threads": 8,
        "cpu": {"name": "Other <b>", "load_average": [1.0]},
        "packages": {"numpy": "2.4", "torch": "2.13"},
        "gpus": [{"driver_version": "580"}],
        "host": {"kernel": "6.1"},
    }
    second = Side("B", second.summary | {"environment": around}, second.stored)
    rows = list(compared([first, second], "A/fp32", names=["B/fp32"]).values())
    found = named(findings_settings.settings([first, second], rows))
    assert found["Workload: batch size"] == {"8": ["run A"], "1, 8, 32": ["run B"]}
    assert found["Environment: threads"] == {"4": ["run A"], "8": ["run B"]}
    assert found["Environment: packages torch"] == {"–": ["run A"], "2.13": ["run B"]}
    assert found["Environment: gpus 0 driver version"] == {"–": ["run A"], "580": ["run B"]}
    assert found["Environment: kernel"] == {"–": ["run A"], "6.1": ["run B"]}
    assert not any("numpy" in name or "load average" in name for name in found)
    table = comparison.settings(findings_settings.settings([first, second], rows))
    assert "Other &lt;b&gt;" in table and "<b>" not in table


def test_what_only_one_backend_has_a_word_for_is_told_apart(database: str) -> None:
    (side,) = sides_of(FULL)
    settings = {"nf4": {"threads": 4, "compute dtype": "bf16"}, "onnx": {"threads": 2}}
    stored = [
        replace(row, audit={"settings": settings[row.variant]}) if row.variant in settings else row
        for row in side.stored
    ]
    side = Side("A", side.summary, stored)
    rows = [row for row in compared([side], "A/fp32").values() if row.plain in settings]
    found = {
        setting.name: setting.partial
        for setting in findings_settings.settings([side], rows)
        if setting.group == comparing.FOUND
    }
    assert found == {"threads": False, "compute dtype": True}


def test_the_table_says_verdicts_and_what_is_not_paired(database: str) -> None:
    found = list(compared(sides_of(FULL, SIZES), "A/fp32").values())
    table = comparison.comparison(found, style.LIGHT)
    assert table.index("DistilBERT FP32 (A)") < table.index("DistilBERT 4-bit (A)")
    assert "▲ faster †" in table and "baseline of B" in table and "the same in another run" in table
    assert "A &lt;b&gt;model&lt;/b&gt; that fails (A)" in table and "no such folder" in table
    other = comparison.comparison(list(compared(sides_of(FULL, SIZES), "A/nf4").values()), style.LIGHT)
    assert "▲ larger speed-up †" in other
