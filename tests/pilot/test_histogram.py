"""Histograms of counts against `collections.Counter`: every way in gives the same cells, and cells add exactly."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.pilot import histogram
from rl2ml_core.pilot.histogram import MAX_PILOT_ROLLOUTS, PilotHistogram

prompts = st.lists(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=30
)


def literal_cells(rows, weights=None) -> list[tuple[int, int, float]]:
    """(n, k, Σ weights), sorted, by a dictionary."""
    total: Counter = Counter()
    for i, row in enumerate(rows):
        total[row] += 1 if weights is None else weights[i]
    return [(n, k, float(mass)) for (n, k), mass in sorted(total.items())]


def of(rows, **options) -> PilotHistogram:
    return PilotHistogram.from_counts([k for _, k in rows], [n for n, _ in rows], **options)


# --- three ways in ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rows=prompts)
def test_counts_cells_and_pass_rates_give_one_histogram(rows):
    pilot = of(rows)
    assert pilot.cells() == literal_cells(rows)
    assert PilotHistogram.from_cells(pilot.cells()) == pilot
    assert PilotHistogram.from_cells([(n, k, 1) for n, k in rows]) == pilot
    assert PilotHistogram.from_pass_rates([k / n for n, k in rows], [n for n, _ in rows]) == pilot
    assert PilotHistogram.from_pass_rates([round(k / n, 2) for n, k in rows], [n for n, _ in rows]) == pilot


@settings(deadline=None)
@given(rows=prompts, data=st.data())
def test_order_does_not_matter_and_weights_are_numbers_of_prompts(rows, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows)))
    pilot = of(rows, weights=weights)
    assert pilot.cells() == literal_cells(rows, weights)
    assert pilot == of([row for row, weight in zip(rows, weights, strict=True) for _ in range(weight)])
    order = data.draw(st.permutations(range(len(rows))))
    assert of([rows[i] for i in order], weights=[weights[i] for i in order]) == pilot


@settings(deadline=None)
@given(n=st.integers(1, 60), data=st.data())
def test_one_number_of_rollouts_serves_all_prompts(n, data):
    successes = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=20))
    pilot = PilotHistogram.from_counts(successes, n)
    assert pilot == PilotHistogram.from_counts(successes, [n] * len(successes))
    assert pilot == PilotHistogram.from_pass_rates(np.array(successes) / n, n)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, np.float32, float])
@pytest.mark.parametrize("rollouts_dtype", [np.int16, np.uint16, np.int64, np.uint64, float])
def test_any_whole_numbers_count(dtype, rollouts_dtype):
    k, n = np.array([100, 0, 100, 3], dtype), np.array([127, 8, 127, 8], rollouts_dtype)
    assert PilotHistogram.from_counts(k, n).cells() == [(8, 0, 1), (8, 3, 1), (127, 100, 2)]


def test_cells_may_be_empty_or_repeated():
    pilot = PilotHistogram.from_cells([(8, 1, 2), (4, 4, 0), (8, 0, 1.5), (8, 1, 3)])
    assert pilot.cells() == [(8, 0, 1.5), (8, 1, 5)]
    assert PilotHistogram.from_cells(np.array([[8, 1, 5.0], [8, 0, 1.5]])) == pilot
    assert PilotHistogram.from_cells(iter([(8, 1, 5), (8, 0, 1.5)])) == pilot


def test_empty_cells_vanish_from_sparse_pilots_too():
    pilot = PilotHistogram.from_cells([(MAX_PILOT_ROLLOUTS, 5, 0), (1, 1, 2), (MAX_PILOT_ROLLOUTS, 9_999_999, 1)])
    assert pilot.cells() == [(1, 1, 2), (MAX_PILOT_ROLLOUTS, 9_999_999, 1)]


def test_a_rate_rounded_to_two_decimals_is_the_nearest_count():
    # 1/3 = .333 → .33; 5/6 = .8333 → .83; 7/8 = .875 → .88 (off by .005).
    pilot = PilotHistogram.from_pass_rates([0.33, 0.83, 0.88, 1], [3, 6, 8, 5])
    assert pilot.cells() == [(3, 1, 1), (5, 5, 1), (6, 5, 1), (8, 7, 1)]


def test_an_exact_rate_is_welcome_however_many_rollouts():
    # Neighbors are 1e-6 apart, yet .123457 is k/n to rounding.
    assert PilotHistogram.from_pass_rates([0.123457], 1_000_000).cells() == [(1_000_000, 123_457, 1)]


# --- merging ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(first=prompts, second=prompts, third=prompts)
def test_merging_is_exact_commutative_and_associative(first, second, third):
    a, b, c = of(first), of(second), of(third)
    assert a + b == of(first + second)
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b).total_prompts == len(first) + len(second)


def test_merging_leaves_the_parts_alone():
    a, b = of([(8, 1)]), of([(8, 1), (4, 0)])
    assert (a + b).cells() == [(4, 0, 1), (8, 1, 2)]
    assert a.cells() == [(8, 1, 1)]
    with pytest.raises(TypeError):
        a + 3


# --- the two ways of counting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 1 << 22])
@settings(deadline=None, max_examples=40)
@given(rows=prompts, data=st.data())
def test_dense_and_sparse_counting_agree(bins, rows, data):
    weights = data.draw(st.none() | st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "_DENSE_BINS", bins)
        pilot = of(rows, weights=weights)
        same_n = PilotHistogram.from_counts([k for _, k in rows], 40)
    assert pilot.cells() == literal_cells(rows, weights)
    assert same_n.cells() == literal_cells([(40, k) for _, k in rows])


def test_huge_and_unequal_numbers_of_rollouts_need_no_huge_memory():
    rows = [(MAX_PILOT_ROLLOUTS, 9_999_999), (1, 1), (MAX_PILOT_ROLLOUTS, 0), (1, 1), (5_000, 4_999)]
    assert of(rows).cells() == literal_cells(rows)


@pytest.mark.parametrize("size", [(1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 19) + 3])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_prompt_is_lost_between_runs(size, unequal, weighted):
    rng = np.random.default_rng(size)
    k = rng.integers(0, 9, size)
    n = rng.integers(8, 12, size) if unequal else 8
    weights = rng.integers(1, 4, size) if weighted else None
    pilot = PilotHistogram.from_counts(k, n, weights)
    keys, inverse = np.unique(np.broadcast_to(n, size) * 100 + k, return_inverse=True)
    mass = np.zeros(keys.size)
    np.add.at(mass, inverse, 1 if weights is None else weights)
    expected = [(int(key // 100), int(key % 100), m) for key, m in zip(keys, mass.tolist(), strict=True)]
    assert pilot.cells() == expected


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_properties_by_hand():
    pilot = PilotHistogram.from_cells([(8, 0, 3), (8, 8, 1), (4, 1, 2.5)])
    assert pilot.num_cells == 3
    assert pilot.total_prompts == 6.5
    assert pilot.prompts_with_success == 3.5
    assert pilot.prompts_with_failure == 5.5
    # (3·0 + 1·1 + 2.5·¼)/6.5 = 1.625/6.5 = ¼.
    assert pilot.mean_pass_rate == pytest.approx(0.25, rel=1e-15)
    assert repr(pilot) == "PilotHistogram(6.5 prompts, 3 cells, mean pass rate 0.25)"


def test_histograms_are_values():
    pilot = of([(8, 1), (8, 2)])
    assert pilot == of([(8, 2), (8, 1)])
    assert pilot != of([(8, 1)])
    assert pilot != of([(8, 1), (8, 3)])
    assert pilot != of([(8, 1), (9, 2)])
    assert pilot != of([(8, 1), (8, 2), (8, 2)])
    assert pilot != "pilot"
    with pytest.raises(TypeError, match="unhashable"):
        hash(pilot)
    for name in ("num_rollouts", "num_successes", "num_prompts"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(pilot, name)[0] = 5
    assert pickle.loads(pickle.dumps(pilot)) == pilot


def test_the_population_is_the_posterior_of_each_cell():
    pilot = PilotHistogram.from_cells([(8, 3, 2), (4, 0, 1)])
    population = pilot.population(rl2ml.BetaPrior(0.5, 2))
    np.testing.assert_array_equal(population.shape_success, [0.5, 3.5])
    np.testing.assert_array_equal(population.shape_failure, [6, 7])
    np.testing.assert_array_equal(population.weights, [1, 2])
    assert pilot.population().prior == rl2ml.fit_prior(pilot).prior
    np.testing.assert_array_equal(pilot.population("plug_in").pass_rates, [0, 3 / 8])


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        (([1, 9, 3], 8), "num_successes must not exceed num_rollouts; got 9 of 8 in row 1", "num_successes"),
        (([1, 3, 3], [8, 8, 2]), "got 3 of 2 in row 2", "num_successes"),
        (([1, -2], 8), "num_successes must not be negative; got -2 in row 1", "num_successes"),
        (([], 8), r"num_successes must be a non-empty one-dimensional list.*; got shape \(0,\)", "num_successes"),
        (([], []), r"non-empty one-dimensional list.*; got shape \(0,\)", "num_successes"),
        (([[1, 2]], 8), r"non-empty one-dimensional list.*; got shape \(1, 2\)", "num_successes"),
        ((1, 8), r"non-empty one-dimensional list.*; got shape \(\)", "num_successes"),
        (([1, 2], [8, 8, 8]), r"num_rollouts must be one integer or as long as num_successes \(2\)", "num_rollouts"),
        (([1, 2], [8]), r"got shape \(1,\)", "num_rollouts"),
        (([1, 2], [[8, 8]]), r"got shape \(1, 2\)", "num_rollouts"),
        (([0, 0], [8, 0]), "num_rollouts must be from 1 to 10000000; got 0 in row 1", "num_rollouts"),
        (([0], 0), "num_rollouts must be from 1 to 10000000; got 0", "num_rollouts"),
        (([0], -4), "got -4", "num_rollouts"),
        (([0, 0], [8, MAX_PILOT_ROLLOUTS + 1]), "got 10000001 in row 1", "num_rollouts"),
        (([1, 1.5], 8), "num_successes must be integers; got .*1.5", "num_successes"),
        (([1, float("nan")], 8), "num_successes must be integers; got .*nan", "num_successes"),
        (([1, float("inf")], 8), "num_successes must be integers; got .*inf", "num_successes"),
        (([1, 1e300], 8), "num_successes must be integers; got .*1e\\+300", "num_successes"),
        (([2**80], 8), "num_successes must be integers; got 1208925819614629174706176", "num_successes"),
        ((["3"], 8), "num_successes must be integers; got .*'3'", "num_successes"),
        (([1, None], 8), "num_successes must be integers; got None", "num_successes"),
        (([[1], [2, 3]], 8), "num_successes must be integers; got a ragged list", "num_successes"),
        (([True, False], 8), "num_successes must be integers; got .*True", "num_successes"),
        (([1], True), "num_rollouts must be integers; got .*True", "num_rollouts"),
        (([1], [8.5]), "num_rollouts must be integers; got .*8.5", "num_rollouts"),
        (([1, 2], 8, [1]), r"weights must be positive, one per prompt \(2\); got shape \(1,\)", "weights"),
        (([1, 2], 8, [1, 0]), "weights must be positive.* with a least value of 0", "weights"),
        (([1, 2], 8, [1, -3]), "weights must be positive.* with a least value of -3", "weights"),
        (([1, 2], 8, [1, float("nan")]), "weights must be finite .* got nan at index 1", "weights"),
        (([1, 2], 8, [1, float("inf")]), "weights must be finite .* got inf at index 1", "weights"),
        (([1, 2], 8, []), r"weights must be positive, one per prompt \(2\); got shape \(0,\)", "weights"),
    ],
)
def test_impossible_counts_are_refused(arguments, message, field):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        PilotHistogram.from_counts(*arguments)
    assert refused.value.field == field
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "cells must .*; got none"),
        ([(8, 0)], r"cells must .*\(num_rollouts, num_successes, num_prompts\)"),
        ([(8, 0, 1, 2)], "cells must be"),
        ([(8, 0, 1), 8], "cells must be"),
        ([(8, [0], 1)], "must be"),
        (["abc"], "must be"),
        ([(8, 0, 0), (8, 1, 0)], "the cells hold no prompt: every num_prompts is 0"),
        ([(8, 0, -1)], r"num_prompts must be finite and within \[0, 1e\+12\]; got -1 at index 0"),
        ([(8, 0, 1), (8, 0, float("nan"))], "num_prompts must be .* got nan at index 1"),
        ([(8, 9, 1)], "got 9 of 8 in row 0"),
        ([(8, 1, 1), (8, 9, 0)], "got 9 of 8 in row 1"),
        ([(8, -1, 1)], "num_successes must not be negative"),
        ([(0, 0, 1)], "num_rollouts must be from 1"),
        ([(8.5, 0, 1)], "num_rollouts must be integers"),
        ([(8, 0.5, 1)], "num_successes must be integers"),
    ],
)
def test_impossible_cells_are_refused(cells, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        PilotHistogram.from_cells(cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.44], 8), r"pass_rates\[1\] is within 0.005 of no k/8, give num_successes instead; got 0.44"),
        (([0.5], 1), r"pass_rates\[0\] is within 0.005 of no k/1"),
        # 440/1000 and 441/1000 are both within .005.
        (
            ([0.5, 0.4404], 1000),
            r"pass_rates\[1\] could be either of two k/1000, give num_successes instead; got 0.4404",
        ),
        (([0.5, 0.4404], [8, 1000]), r"pass_rates\[1\] could be either of two k/1000"),
        (([0.5, 1.01], 8), r"pass_rates must be finite and within \[0, 1\]; got 1.01 at index 1"),
        (([float("nan")], 8), "pass_rates must be .* got nan at index 0"),
        (([0.5], 0), "num_rollouts must be at least 1; got 0"),
        (([0.5], [8, 8]), r"got shapes \(1,\) and \(2,\)"),
        ((0.5, 8), r"got shapes \(\) and \(\)"),
        (([], 8), "num_successes must be a non-empty one-dimensional list"),
        (([0.5], 8.5), "num_rollouts must be integers; got .*8.5"),
        (([0.5], MAX_PILOT_ROLLOUTS + 2), "num_rollouts must be from 1 to 10000000; got 10000002"),
        (([0.5], 8, [0]), "weights must be positive"),
    ],
)
def test_impossible_pass_rates_are_refused(arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        PilotHistogram.from_pass_rates(*arguments)


def test_errors_keep_their_field_and_row_between_processes():
    with pytest.raises(rl2ml.InvalidInput) as refused:
        PilotHistogram.from_counts([1, 9], 8)
    twin = pickle.loads(pickle.dumps(refused.value))
    assert type(twin) is rl2ml.InvalidInput
    assert (str(twin), twin.field, twin.index) == (str(refused.value), "num_successes", 1)


@pytest.mark.parametrize("cell", [("8", "3", "1"), (8, True, 1), (8, 3, b"1")])
def test_cells_are_numbers_and_nothing_like_them(cell):
    with pytest.raises(rl2ml.InvalidInput):
        rl2ml.PilotHistogram.from_cells([cell])
