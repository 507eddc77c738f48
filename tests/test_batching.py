"""Windows and batches: every example once, the same ones for every variant."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store.past import planned_columns
from engine.suite.batching import LENGTH_WINDOW_BATCHES, Batching, batches, timed_windows, windows
from engine.suite.plan import cells_of
from engine.suite.reading import parse_suite

GIVEN, SORTED = Batching(4, "longest", "given"), Batching(4, "longest", "length")
quick = settings(deadline=None)
lengths_of = st.lists(st.integers(2, 128), min_size=1, max_size=300).map(lambda found: np.array(found, dtype=np.int64))
batchings = st.lists(
    st.builds(
        Batching,
        st.integers(1, 40),
        st.sampled_from(["longest", "max_length"]),
        st.sampled_from(["given", "length"]),
    ),
    min_size=1,
    max_size=4,
)


def as_lists(arrays: list[np.ndarray]) -> list[list[int]]:
    return [array.tolist() for array in arrays]


@quick
@given(lengths_of, batchings, st.integers(0, 5))
def test_every_example_is_in_one_window_and_in_one_batch(lengths, how, seed):
    found = windows(lengths, how, seed)
    everything = list(range(len(lengths)))
    assert sorted(np.concatenate(found).tolist()) == everything
    for each in how:
        made = [batch for window in found for batch in batches(window, lengths, each)]
        assert sorted(np.concatenate(made).tolist()) == everything
        assert all(0 < len(batch) <= each.batch_size for batch in made)


@quick
@given(lengths_of, batchings, st.integers(0, 5))
def test_rounds_visit_windows_of_one_size_with_a_full_batch_for_everyone(lengths, how, seed):
    found = windows(lengths, how, seed)
    timed = timed_windows(found)
    assert timed and len({len(window) for window in timed}) == 1
    assert len(found) - len(timed) <= 1
    largest = max(each.batch_size for each in how)
    if len(lengths) >= largest:
        for window in timed:
            for each in how:
                assert len(batches(window, lengths, each)[0]) == each.batch_size


@quick
@given(lengths_of, batchings, st.integers(0, 5))
def test_the_same_seed_gives_the_same_windows(lengths, how, seed):
    assert as_lists(windows(lengths, how, seed)) == as_lists(windows(lengths, how, seed))


def test_the_order_as_given_is_kept():
    lengths = np.array([9, 3, 7, 2, 8, 5, 6, 4, 1, 10])
    found = windows(lengths, [GIVEN], seed=0)
    assert as_lists(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    # The rest is answered, but not timed.
    assert as_lists(timed_windows(found)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert as_lists(batches(found[0], lengths, Batching(3, "longest", "given"))) == [[0, 1, 2], [3]]


def test_a_window_that_is_the_only_one_is_visited_although_it_is_short():
    found = windows(np.array([5, 5]), [GIVEN], seed=0)
    assert as_lists(timed_windows(found)) == [[0, 1]]


def test_the_largest_batch_makes_the_window():
    found = windows(np.arange(12) + 2, [Batching(2, "longest", "given"), Batching(6, "longest", "given")], seed=0)
    assert [len(window) for window in found] == [6, 6]
    assert [len(b) for b in batches(found[0], np.arange(12), Batching(2, "longest", "given"))] == [2, 2, 2]


def test_where_everyone_sorts_the_whole_workload_is_sorted_and_its_windows_shuffled():
    lengths = np.random.default_rng(0).integers(2, 128, 400)
    found = windows(lengths, [SORTED, Batching(2, "longest", "length")], seed=1)
    spans = sorted((int(lengths[window].min()), int(lengths[window].max())) for window in found)
    assert {len(window) for window in found} == {4}
    # Neighbours in length are together: windows overlap at their ends alone.
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    order = [float(lengths[window].mean()) for window in found]
    assert order != sorted(order)
    assert as_lists(windows(lengths, [SORTED], seed=1)) != as_lists(windows(lengths, [SORTED], seed=2))


def test_a_short_window_of_the_longest_texts_stays_last():
    found = windows(np.array([5, 4, 3, 2, 1, 6]), [SORTED], seed=0)
    assert as_lists(found) == [[4, 3, 2, 1], [0, 5]]


def test_where_only_some_sort_they_do_it_within_a_window_that_all_share():
    lengths = np.random.default_rng(0).integers(2, 128, 1000)
    found = windows(lengths, [GIVEN, SORTED], seed=0)
    size = 4 * LENGTH_WINDOW_BATCHES
    assert [len(window) for window in found] == [size] * (1000 // size) + [1000 % size]
    assert np.concatenate(found).tolist() == list(range(1000))
    sorted_batches = batches(found[0], lengths, SORTED)
    flat = lengths[np.concatenate(sorted_batches)]
    assert flat.tolist() == sorted(flat.tolist())
    assert sorted(np.concatenate(sorted_batches).tolist()) == found[0].tolist()
    # Sorting is worth it: less is padded.
    padded = [sum(int(lengths[b].max()) * len(b) for b in batches(found[0], lengths, how)) for how in (SORTED, GIVEN)]
    assert padded[0] < 0.8 * padded[1]


@pytest.mark.parametrize("examples", [4, 5, 7, 8, 63, 64, 65])
def test_few_examples_still_make_whole_batches_where_only_some_sort(examples):
    timed = timed_windows(windows(np.full(examples, 9), [GIVEN, SORTED], seed=0))
    assert all(len(window) % 4 == 0 for window in timed)


def test_equal_lengths_keep_their_order():
    window = np.random.default_rng(0).permutation(200)
    made = np.concatenate(batches(window, np.arange(200) % 2, SORTED)).tolist()
    assert made == [*(at for at in window if at % 2 == 0), *(at for at in window if at % 2)]
    # In the windows of all too.
    assert np.sort(np.concatenate(windows(np.full(200, 7), [SORTED], 0))).tolist() == list(range(200))
    assert sorted(as_lists(windows(np.full(200, 7), [SORTED], 0)))[1] == [4, 5, 6, 7]


budgets = st.builds(
    Batching,
    st.integers(1, 64),
    st.sampled_from(["longest", "packed"]),
    st.sampled_from(["given", "length"]),
    st.integers(128, 2000),
)


@quick
@given(lengths_of, st.lists(budgets, min_size=1, max_size=3), batchings, st.integers(0, 5))
def test_no_batch_is_over_its_token_budget_and_every_example_is_in_one(lengths, budgeted, fixed, seed):
    found = windows(lengths, [*budgeted, *fixed], seed)
    for how in budgeted:
        made = [batch for window in found for batch in batches(window, lengths, how)]
        assert sorted(np.concatenate(made).tolist()) == list(range(len(lengths)))
        for batch in made:
            tokens = lengths[batch].sum() if how.padding == "packed" else len(batch) * lengths[batch].max()
            assert 0 < tokens <= how.max_batch_tokens and len(batch) <= how.batch_size


def test_a_token_budget_fills_a_batch_as_far_as_its_longest_text_allows():
    lengths = np.array([10, 10, 10, 50, 50])
    padded, packed = Batching(8, "longest", "given", 100), Batching(8, "packed", "given", 100)
    assert as_lists(batches(np.arange(5), lengths, padded)) == [[0, 1, 2], [3, 4]]
    assert as_lists(batches(np.arange(5), lengths, packed)) == [[0, 1, 2, 3], [4]]
    # The number of examples is a limit too.
    assert [len(b) for b in batches(np.arange(5), lengths, Batching(2, "packed", "given", 100))] == [2, 2, 1]


def test_batches_by_tokens_get_windows_of_several_of_them():
    lengths = np.full(1000, 50)
    found = windows(lengths, [Batching(64, "longest", "length", 1000)], seed=0)
    assert len(found[0]) == 20 * LENGTH_WINDOW_BATCHES
    assert {len(b) for b in batches(found[0], lengths, Batching(64, "longest", "length", 1000))} == {20}


def test_a_suite_is_planned_cell_by_cell():
    plain = {"model": "m", "backend": "pytorch", "precision": "fp32"}
    variants = [
        {"name": "own", **plain, "padding": "packed", "batch_size": 16, "max_batch_tokens": 500},
        {"name": "a", **plain},
    ]
    workload = {"dataset": "d", "batch_size": [1, 8], "padding": "longest", "max_batch_tokens": 900}
    suite = parse_suite({"name": "s", "baseline": "a", "workload": workload, "variant": variants}, "s.toml", Path("/"))
    cells = cells_of(suite)
    assert [(c.variant.name, c.experiment, c.position) for c in cells] == [("own", 8, 0), ("a", 1, 1), ("a", 8, 2)]
    assert cells[0].batching == Batching(16, "packed", "given", 500)
    assert cells[2].batching == Batching(8, "longest", "given", 900)
    # What a database of before these were columns says of the same.
    spec = suite.model_dump(mode="json")
    for cell in cells:
        stored = planned_columns(spec, cell.variant.name, cell.batching.batch_size)
        assert stored == {"experiment": cell.experiment, "max_batch_tokens": cell.batching.max_batch_tokens}


def test_a_suite_from_before_there_were_budgets():
    spec = {"workload": {"padding": "longest", "batch_size": [8]}}
    assert planned_columns(spec, "a", 8) == {"experiment": 8, "max_batch_tokens": None}
