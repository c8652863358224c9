"""`recommend` as users meet it: its answer, its statuses, its forms and its refusals."""

import json
import math
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln, gammaln

import rl2ml_core as rl2ml
from rl2ml_core import AdvantageTable, BetaPrior, InvalidInput, PilotHistogram, Population, ScoreModel
from rl2ml_core.selection.criteria import RmsGain

# The criterion whose values are known in closed form; test_lookahead.py has the default's.
recommend = partial(rl2ml.recommend, criterion="rms_gain")

CELLS = [(8, 0, 30), (8, 1, 9), (8, 2, 20), (8, 6, 14), (16, 3, 5), (16, 16, 2)]
PILOT = PilotHistogram.from_cells(CELLS)
COUNTS = [(k, n) for n, k, prompts in CELLS for _ in range(prompts)]
PRIOR = "empirical_bayes"
FIELDS = {
    "method_version", "core_version", "summary", "gamma", "status", "regime", "interval", "sampling_interval",
    "near_optimal", "probability_subcritical", "expected_regret", "predicted_gain_over", "gain_intervals",
    "learning_rate", "objective", "kappa_sensitivity", "prior_sensitivity", "curve", "certificate", "diagnostics",
    "assumptions",
}  # fmt: skip


def content(recommendation):
    return recommendation.to_dict()


def value_of(table, pilot=PILOT, metric="pass@8", kappa=0.1, prior=PRIOR):
    """The criterion of one table under the pilot's posterior."""
    criterion = RmsGain(pilot.population(prior), rl2ml.parse_metric(metric), table.num_rollouts)
    return float(criterion.combine(criterion.totals(table.success[None], table.failure[None]), kappa)[0])


def codes(recommendation):
    return {found.code for found in recommendation.diagnostics}


# ---- one answer, whatever the form ----


def test_deterministic_for_a_seed():
    assert content(recommend(PILOT, "pass@8", 4, seed=3)) == content(recommend(PILOT, "pass@8", 4, seed=3))
    other = recommend(PILOT, "pass@8", 4, seed=4)
    assert content(other)["interval"] != content(recommend(PILOT, "pass@8", 4, seed=3))["interval"]
    assert other.gamma == recommend(PILOT, "pass@8", 4, seed=3).gamma


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(random):
    shuffled = random.sample(COUNTS, len(COUNTS))
    k, n = zip(*shuffled, strict=True)
    assert content(recommend(PilotHistogram.from_counts(k, n), "pass@8", 4)) == content(recommend(PILOT, "pass@8", 4))


def test_the_form_of_the_pilot_does_not_matter():
    k, n = map(np.array, zip(*COUNTS, strict=True))
    half = len(k) // 2
    forms = [
        PilotHistogram.from_counts(k.astype(np.int8), n.astype(np.int8)),
        PilotHistogram.from_counts(k.astype(float), n),
        PilotHistogram.from_counts(*np.array([(c[1], c[0]) for c in CELLS]).T, weights=[c[2] for c in CELLS]),
        PilotHistogram.from_cells(CELLS[::-1]),
        PilotHistogram.from_cells([*CELLS, (8, 0, 10), (8, 0, 20)][1:]),  # 10 + 20 merge into the 30
        PilotHistogram.from_pass_rates(k / n, n),
        PilotHistogram.from_counts(k[:half], n[:half]) + PilotHistogram.from_counts(k[half:], n[half:]),
    ]
    expected = content(recommend(PILOT, "pass@8", 4))
    for form in forms:
        assert content(recommend(form, "pass@8", 4)) == expected


@pytest.mark.parametrize("metric", ["pass@8", "log:0.01"])
def test_weights_may_be_scaled(metric):
    tripled = PilotHistogram.from_cells([(n, k, 3 * prompts) for n, k, prompts in CELLS])
    one, three = (recommend(pilot, metric, 8, prior=BetaPrior(1, 1)) for pilot in (PILOT, tripled))
    assert three.gamma == pytest.approx(one.gamma, abs=1e-7)
    assert three.predicted_gain_over == pytest.approx(one.predicted_gain_over, rel=1e-9)
    fitted, thrice = recommend(PILOT, metric, 8), recommend(tripled, metric, 8)
    assert thrice.gamma == pytest.approx(fitted.gamma, abs=1e-3)  # the hyperprior weighs a third as much
    # Thrice the prompts: surer about them.
    assert three.sampling_interval.upper - three.sampling_interval.lower < (
        one.sampling_interval.upper - one.sampling_interval.lower
    )


def test_metrics_by_name_and_by_value():
    named = recommend(PILOT, "0.5*pass@1+0.5*pass@16", 4)
    valued = recommend(PILOT, rl2ml.Mixture({rl2ml.PassAtK(16): 0.5, rl2ml.PassAtK(1): 0.5}), 4)
    assert content(named) == content(valued)


@given(st.floats(0.1, 100))
@settings(max_examples=10, deadline=None)
def test_the_unit_of_a_metric_does_not_matter(scale):
    one = recommend(PILOT, "pass@1+pass@16", 4, bootstrap=0)
    scaled = recommend(PILOT, f"{scale!r}*pass@1+{scale!r}*pass@16", 4, bootstrap=0)
    assert scaled.gamma == pytest.approx(one.gamma, abs=1e-6)


def test_an_array_scalar_is_a_number():
    assert content(recommend(PILOT, "pass@8", np.int64(4), gamma_max=np.float64(2))) == content(
        recommend(PILOT, "pass@8", 4)
    )


# ---- what it says ----


@pytest.mark.parametrize("baseline", ["none", "score", "leave_one_out", "bayes"])
@pytest.mark.parametrize("metric", ["pass@8", "log:0.01"])
def test_predicted_gains_are_ratios_of_the_criterion(metric, baseline):
    found = recommend(PILOT, metric, 8, baseline=baseline, current="grpo", bootstrap=0)
    best = value_of(found.objective.table(8), metric=metric)
    expected = {
        "rl": best / value_of(rl2ml.rl2ml_table(0, 8, baseline, PILOT), metric=metric) - 1,
        "maxrl": best / value_of(rl2ml.rl2ml_table(1, 8, baseline, PILOT), metric=metric) - 1,
        "current": best / value_of(rl2ml.known_table("grpo", 8), metric=metric) - 1,
    }
    assert found.predicted_gain_over == pytest.approx(expected, rel=1e-8, abs=1e-11)


def test_the_criterion_falls_around_the_answer():
    found = recommend(PILOT, "pass@8", 8, baseline="bayes", bootstrap=0)
    assert found.status == "interior"
    best = value_of(rl2ml.rl2ml_table(found.gamma, 8, "bayes", PILOT))
    for step in (-0.05, -0.01, 0.01, 0.05):
        assert value_of(rl2ml.rl2ml_table(found.gamma + step, 8, "bayes", PILOT)) < best


def test_the_objective_is_the_one_to_train_with():
    found = recommend(PILOT, "pass@8", 8)
    direct = rl2ml.rl2ml_table(found.gamma, 8, "bayes", PILOT)
    for side in ("success", "failure"):
        np.testing.assert_allclose(
            getattr(found.objective.table(8), side), getattr(direct, side), rtol=1e-12, atol=1e-15
        )
    assert (found.objective.gamma, found.objective.order, found.objective.num_rollouts) == (found.gamma, 8, 8)
    again = rl2ml.Objective.from_dict(json.loads(json.dumps(found.objective.to_dict(), allow_nan=False)))
    assert again.gamma == found.gamma


def enumerated_rms(table, pilot=PILOT, prior=PRIOR):
    """Root mean square advantage of a rollout: a sum over cells and success counts of beta-binomial chances."""
    n_train, shapes = table.num_rollouts, pilot.population(prior).prior
    total = 0.0
    for n, k, prompts in pilot.cells():
        a, b = k + shapes.alpha, n - k + shapes.beta
        for successes in range(n_train + 1):
            choose = gammaln(n_train + 1) - gammaln(successes + 1) - gammaln(n_train - successes + 1)
            chance = np.exp(choose + betaln(a + successes, b + n_train - successes) - betaln(a, b))
            squares = successes * table.success[successes] ** 2 + (n_train - successes) * table.failure[successes] ** 2
            total += prompts * chance * squares / n_train
    return math.sqrt(total / pilot.total_prompts)


@pytest.mark.parametrize("current", ["grpo", "rloo", 1.0])
def test_learning_rate_is_a_ratio_of_advantage_sizes(current):
    found = recommend(PILOT, "pass@8", 8, current=current, bootstrap=0).learning_rate
    chosen = recommend(PILOT, "pass@8", 8, bootstrap=0).objective.table(8)
    reference = rl2ml.known_table(current, 8) if isinstance(current, str) else rl2ml.rl2ml_table(1, 8, "bayes", PILOT)
    assert found.advantage_rms == pytest.approx(enumerated_rms(chosen), rel=1e-10)
    assert found.multiplier == pytest.approx(enumerated_rms(reference) / enumerated_rms(chosen), rel=1e-10)
    assert found.applies_to == "sgd_like"
    assert found.assumes == "length_controlled_step"
    assert found.relative_to == (current if isinstance(current, str) else "gamma=1")


def test_current_by_name_gamma_and_table():
    by_gamma = recommend(PILOT, "pass@8", 4, current=1.0)
    assert by_gamma.predicted_gain_over["current"] == pytest.approx(by_gamma.predicted_gain_over["maxrl"], abs=1e-12)
    by_name = recommend(PILOT, "pass@8", 4, current="grpo")
    by_table = recommend(PILOT, "pass@8", 4, current=rl2ml.known_table("grpo", 4))
    assert by_table.predicted_gain_over == by_name.predicted_gain_over
    assert by_table.learning_rate.multiplier == by_name.learning_rate.multiplier
    assert by_table.learning_rate.relative_to == "table"
    assert by_name.learning_rate.relative_to == "grpo"


def test_every_known_trainer_may_be_the_current_one():
    for name in rl2ml.KNOWN_TRAINERS:
        found = recommend(PILOT, "pass@8", 4, current=name, bootstrap=0)
        assert found.predicted_gain_over["current"] > -1
        assert found.learning_rate.multiplier > 0


def test_a_current_trainer_that_is_undefined_is_said_so():
    found = recommend(PILOT, "pass@8", 1, current="grpo")
    assert found.predicted_gain_over["current"] is None
    assert found.learning_rate.multiplier is None
    assert "current_undefined" in codes(found)


def test_a_current_trainer_without_advantages_has_no_multiplier():
    found = recommend(PILOT, "pass@8", 4, current=AdvantageTable(np.zeros(5), np.zeros(5)))
    assert found.learning_rate.multiplier is None
    assert found.predicted_gain_over["current"] is None
    json.dumps(content(found), allow_nan=False)


def test_kappa_sensitivity_is_the_answer_under_each_kappa():
    found = recommend(PILOT, "pass@8", 8, bootstrap=0)
    assert [entry["kappa"] for entry in found.kappa_sensitivity] == [0.01, 0.03, 0.1, 0.3, 1.0]
    for entry in found.kappa_sensitivity:
        there = recommend(PILOT, "pass@8", 8, score_model=ScoreModel(entry["kappa"]), bootstrap=0)
        assert entry["gamma"] == pytest.approx(there.gamma, abs=2e-3)
        best = value_of(there.objective.table(8), kappa=entry["kappa"])
        lost = 1 - value_of(found.objective.table(8), kappa=entry["kappa"]) / best
        assert entry["regret"] == pytest.approx(lost, abs=1e-5)


def test_the_curve_is_the_criterion_over_its_maximum():
    found = recommend(PILOT, "pass@8", 8, bootstrap=0)
    best = value_of(found.objective.table(8))
    assert found.curve.gamma[0] == 0
    assert found.curve.gamma[-1] == 2
    for gamma, relative in list(zip(found.curve.gamma, found.curve.relative_criterion, strict=True))[::5]:
        table = rl2ml.rl2ml_table(float(gamma), 8, "bayes", PILOT)
        assert relative == pytest.approx(value_of(table) / best, abs=1e-9)
    assert found.curve.lower is None
    assert found.curve.upper is None


def test_near_optimal_ends_lose_one_percent():
    found = recommend(PILOT, "pass@8", 8, bootstrap=0)
    best = value_of(found.objective.table(8))
    assert found.near_optimal.loss == 0.01
    for end in (found.near_optimal.lower, found.near_optimal.upper):
        assert 0 < end < 2
        assert value_of(rl2ml.rl2ml_table(end, 8, "bayes", PILOT)) / best == pytest.approx(0.99, abs=1e-4)


def test_the_certificate_holds_the_answer():
    certificate = recommend(PILOT, "pass@8", 8, bootstrap=0).certificate
    assert certificate.tail <= 1e-9
    assert certificate.degree >= 8
    gamma = recommend(PILOT, "pass@8", 8, bootstrap=0).gamma
    assert min(abs(gamma - point) for point in certificate.stationary_points) < 1e-9


def test_intervals():
    found = recommend(PILOT, "pass@8", 8)
    assert found.interval.level == found.sampling_interval.level == 0.9
    assert 0 <= found.interval.lower <= found.gamma <= found.interval.upper <= 2
    assert found.sampling_interval.lower <= found.gamma <= found.sampling_interval.upper
    # κ unknown is more than prompts alone.
    assert found.interval.lower < found.sampling_interval.lower
    assert found.interval.upper > found.sampling_interval.upper
    assert 0 < found.expected_regret < 0.1
    narrow, wide = recommend(PILOT, "pass@8", 8, level=0.5), recommend(PILOT, "pass@8", 8, level=0.99)
    assert wide.interval.lower < narrow.interval.lower < narrow.interval.upper < wide.interval.upper
    assert ((found.curve.lower <= found.curve.upper) & (found.curve.upper <= 1 + 1e-9)).all()


def test_a_known_kappa_leaves_sampling_alone():
    """Known κ and no prior to vary: prompts alone are uncertain."""
    found = recommend(PILOT, "pass@8", 8, score_model=ScoreModel(0.1, kappa_spread=0), prior="plug_in")
    assert found.interval == found.sampling_interval
    assert "default_kappa" not in found.assumptions
    other = recommend(PILOT, "pass@8", 8, score_model=ScoreModel(0.2), prior="plug_in")
    assert other.interval == other.sampling_interval
    spread = recommend(PILOT, "pass@8", 8, score_model=ScoreModel(0.1, 1.0), prior="plug_in")
    assert spread.interval.upper - spread.interval.lower > found.interval.upper - found.interval.lower


def test_the_default_score_model_is_an_unknown_kappa():
    found = recommend(PILOT, "pass@8", 8, score_model=ScoreModel())
    assert content(found) == content(recommend(PILOT, "pass@8", 8))
    assert "default_kappa" in found.assumptions


def test_more_prompts_are_surer():
    many = PilotHistogram.from_cells([(n, k, 100 * prompts) for n, k, prompts in CELLS])
    few, sure = recommend(PILOT, "pass@8", 8).sampling_interval, recommend(many, "pass@8", 8).sampling_interval
    # Widths of bootstrap intervals fall like 1/√P: a tenth, within the noise of 200 draws.
    assert (sure.upper - sure.lower) / (few.upper - few.lower) == pytest.approx(0.1, abs=0.04)


def test_without_draws_there_are_no_intervals():
    found = recommend(PILOT, "pass@8", 4, bootstrap=0)
    assert found.gamma is not None
    for name in ("interval", "sampling_interval", "probability_subcritical", "expected_regret"):
        assert getattr(found, name) is None
    assert found.curve.lower is None
    assert found.near_optimal is not None


def test_one_draw_is_enough():
    found = recommend(PILOT, "pass@8", 4, bootstrap=1)
    assert found.interval.lower == found.interval.upper


def test_known_pass_rates_have_no_intervals():
    people = Population.from_pass_rates([0.0, 0.02, 0.3, 0.9, 1.0], [30, 9, 20, 14, 2])
    found = recommend(people, "pass@8", 4)
    assert found.status == "interior"
    for name in ("interval", "sampling_interval", "probability_subcritical", "expected_regret"):
        assert getattr(found, name) is None
    assert "pass_rates_are_exact" in found.assumptions
    json.dumps(content(found), allow_nan=False)


def test_a_plug_in_prior_is_the_population_of_raw_rates():
    plugged = recommend(PILOT, "pass@8", 4, prior="plug_in", bootstrap=0)
    known = recommend(PILOT.population("plug_in"), "pass@8", 4, bootstrap=0)
    assert plugged.gamma == known.gamma
    assert plugged.predicted_gain_over == known.predicted_gain_over
    assert plugged.gamma != recommend(PILOT, "pass@8", 4, bootstrap=0).gamma


@pytest.mark.parametrize(
    ("gamma_min", "gamma_max", "known"),
    [(0, 1, False), (1, 2, False), (1.5, 2, False), (0.9, 1.1, True), (0, 20, True)],
)
def test_probability_subcritical_needs_a_choice_on_both_sides(gamma_min, gamma_max, known):
    found = recommend(PILOT, "pass@8", 8, gamma_min=gamma_min, gamma_max=gamma_max)
    assert (found.probability_subcritical is not None) is known
    if known:
        assert 0 <= found.probability_subcritical <= 1


def test_probability_subcritical_follows_the_metric():
    low, high = recommend(PILOT, "pass@1", 8), recommend(PILOT, "pass@64", 8)
    assert low.probability_subcritical > 0.9
    assert high.probability_subcritical < 0.1


def test_probability_and_regret_carry_the_doubt_about_kappa():
    pilot = PilotHistogram.from_cells([(n, k, 20 * prompts) for n, k, prompts in CELLS])
    known, unknown = (recommend(pilot, "pass@8", 8, score_model=model) for model in (ScoreModel(0.1, 0), None))
    assert unknown.interval.lower < 1 < unknown.interval.upper
    assert known.probability_subcritical in (0, 1)  # so many prompts leave no doubt once κ is known
    assert 0.02 < unknown.probability_subcritical < 0.98
    assert unknown.expected_regret > 3 * known.expected_regret


# ---- statuses ----


def test_interior():
    found = recommend(PILOT, "pass@8", 8)
    assert found.status == "interior"
    assert 0 < found.gamma < 2
    assert found.summary.startswith(f"Train with γ = {found.gamma:.2f}")


def test_pass_at_1_stays_at_the_lower_bound():
    found = recommend(PILOT, "pass@1", 8)
    assert (found.status, found.gamma, found.regime) == ("at_lower_bound", 0, "rl")
    assert found.predicted_gain_over["rl"] == pytest.approx(0, abs=1e-12)
    [said] = [diagnostic for diagnostic in found.diagnostics if diagnostic.code == "at_lower_bound"]
    at_0, at_1 = (value_of(rl2ml.rl2ml_table(g, 8, "bayes", PILOT), metric="pass@1") for g in (0, 1))
    slope = (value_of(rl2ml.rl2ml_table(1e-6, 8, "bayes", PILOT), metric="pass@1") - at_0) / 1e-6 / at_0
    assert slope < 0
    assert f"changes by {slope:+.1%} per unit" in said.detail
    assert f"staying at γ = 1 would lose {1 - at_1 / at_0:.1%}" in said.detail


def test_a_narrow_range_ends_at_its_upper_bound():
    found = recommend(PILOT, "pass@8", 8, gamma_max=0.4)
    assert (found.status, found.gamma, found.regime) == ("at_upper_bound", 0.4, "subcritical")
    [said] = [diagnostic for diagnostic in found.diagnostics if diagnostic.code == "at_upper_bound"]
    assert "changes by +" in said.detail
    assert found.near_optimal.upper == 0.4


def test_flat_when_neither_end_loses():
    # Prompts of one difficulty: γ weighs them alike, and so little changes.
    pilot = PilotHistogram.from_cells([(64, 60, 20), (64, 62, 50)])
    found = recommend(pilot, "pass@1", 8)
    assert found.status == "flat"
    assert max(found.predicted_gain_over["rl"], found.predicted_gain_over["maxrl"]) < 0.01
    assert "γ hardly matters" in found.summary
    assert "flat" in codes(found)


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01"])
def test_one_rollout_is_plain_rl(metric):
    found = recommend(PILOT, metric, 1, current="reinforce")
    assert found.status == "flat"
    assert "every γ is plain RL" in found.summary
    assert found.gamma is not None
    assert found.predicted_gain_over["maxrl"] == pytest.approx(0, abs=1e-12)
    assert found.near_optimal.lower == 0
    assert found.near_optimal.upper == 2
    json.dumps(content(found), allow_nan=False)


@pytest.mark.parametrize(
    ("cells", "metric"),
    [
        pytest.param([(8, 3, 64)], "pass@8", id="one cell"),
        pytest.param([(8, 0, 63), (8, 1, 1)], "pass@8", id="all fail plus one"),
        pytest.param([(8, 8, 63), (8, 7, 1)], "pass@1", id="all pass less one"),
        pytest.param([(1, 0, 40), (1, 1, 24)], "pass@8", id="one rollout each"),
    ],
)
def test_prior_dominated(cells, metric):
    found = recommend(PilotHistogram.from_cells(cells), metric, 8)
    assert found.status == "prior_dominated"
    assert "prior_dominated" in codes(found)
    assert "prior shapes this answer" in found.summary
    assert found.gamma is not None


def test_without_a_prior_none_dominates():
    found = recommend(PilotHistogram.from_cells([(8, 3, 64)]), "pass@8", 8, prior="plug_in")
    assert found.status != "prior_dominated"


@pytest.mark.parametrize(
    ("cells", "metric"),
    [
        pytest.param([(8, 0, 64)], "pass@8", id="all fail"),
        pytest.param([(8, 0, 64), (16, 0, 3)], "log:0.01", id="all fail, two sizes"),
        pytest.param([(8, 8, 64)], "pass@1", id="all pass"),
        pytest.param([(64, 40, 64), (64, 63, 30)], "pass@1024", id="saturated"),
    ],
)
@pytest.mark.parametrize("num_rollouts", [1, 8])
def test_uninformative(cells, metric, num_rollouts):
    found = recommend(PilotHistogram.from_cells(cells), metric, num_rollouts)
    assert found.status == "uninformative"
    assert found.summary.startswith("No recommendation: ")
    for name in (
        "gamma", "regime", "interval", "sampling_interval", "near_optimal", "probability_subcritical",
        "expected_regret", "learning_rate", "objective", "curve", "certificate",
    ):  # fmt: skip
        assert getattr(found, name) is None
    assert found.predicted_gain_over == {"rl": None, "maxrl": None, "current": None}
    assert found.gain_intervals == {"rl": None, "maxrl": None, "current": None}
    assert found.kappa_sensitivity == found.prior_sensitivity == []
    assert content(found).keys() == FIELDS
    json.dumps(content(found), allow_nan=False)


def test_raw_rates_at_the_ends_are_uninformative():
    pilot = PilotHistogram.from_cells([(8, 0, 30), (8, 8, 30)])
    assert recommend(pilot, "pass@8", 8, prior="plug_in").status == "uninformative"
    assert recommend(Population.from_pass_rates([0.0, 1.0]), "pass@8", 8).status == "uninformative"


@pytest.mark.parametrize(
    ("gamma", "regime"), [(0, "rl"), (0.5, "subcritical"), (1, "maxrl_boundary"), (1.5, "supercritical")]
)
@pytest.mark.parametrize("criterion", ["rms_gain", "paper"])
def test_a_range_of_one_point_is_that_point(gamma, regime, criterion):
    found = recommend(PILOT, "pass@8", 8, gamma_min=gamma, gamma_max=gamma, criterion=criterion)
    assert (found.gamma, found.regime) == (gamma, regime)
    assert (found.near_optimal.lower, found.near_optimal.upper) == (gamma, gamma)
    assert (found.interval.lower, found.interval.upper) == (gamma, gamma)
    assert found.expected_regret == pytest.approx(0, abs=1e-12)
    assert found.certificate.degree == 0
    json.dumps(content(found), allow_nan=False)


@pytest.mark.parametrize("num_rollouts", [1, 2, 16, 256])
@pytest.mark.parametrize("criterion", ["rms_gain", "paper"])
def test_the_whole_range_may_be_searched(criterion, num_rollouts):
    wide = recommend(PILOT, "pass@8", num_rollouts, gamma_max=20, criterion=criterion)
    assert wide.certificate.tail <= 1e-9
    if criterion == "rms_gain" and num_rollouts > 1:
        inner = recommend(PILOT, "pass@8", num_rollouts)
        assert value_of(wide.objective.table(num_rollouts)) >= value_of(inner.objective.table(num_rollouts)) * (
            1 - 1e-9
        )
    json.dumps(content(wide), allow_nan=False)


@pytest.mark.parametrize("criterion", ["rms_gain", "paper"])
def test_a_range_far_out_ends_at_a_bound(criterion):
    found = recommend(PILOT, "pass@8", 8, gamma_min=18, gamma_max=20, criterion=criterion)
    assert found.status == "at_lower_bound"
    assert found.gamma == 18
    assert found.predicted_gain_over["maxrl"] < 0


# ---- criteria, baselines, priors ----


def test_the_papers_criterion_says_what_it_assumes():
    found = recommend(PILOT, "pass@8", 8, criterion="paper")
    assert {"paper_score_proxies", "default_variance_penalty"} <= set(found.assumptions)
    assert found.kappa_sensitivity == []
    plug_in = recommend(PILOT, "pass@8", 8, criterion="paper", prior="plug_in")
    assert plug_in.interval == plug_in.sampling_interval  # no κ to draw
    given_all = recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=0.1, score_model=ScoreModel.paper())
    assert not {"paper_score_proxies", "default_variance_penalty"} & set(given_all.assumptions)
    json.dumps(content(found), allow_nan=False)


def test_the_papers_criterion_takes_the_kappa_model_too():
    """ℓ of the κ-model is κ p²(1−p)², not p(1−p): another U and so another choice, for any κ."""
    paper, kappa = (
        recommend(PILOT, "log:0.3", 8, criterion="paper", variance_penalty=0, score_model=model, bootstrap=0).gamma
        for model in (None, ScoreModel(0.2))
    )
    default = recommend(PILOT, "log:0.3", 8, criterion="paper", variance_penalty=0, score_model=ScoreModel(0.1))
    assert kappa != pytest.approx(paper, abs=1e-4)
    assert default.gamma == pytest.approx(kappa, abs=1e-6)  # κ cancels in U


def test_a_larger_penalty_never_raises_the_papers_noise():
    gammas = [
        recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=penalty, bootstrap=0).gamma
        for penalty in (0, 0.01, 0.1, 1)
    ]
    # √R grows with γ, so a larger λ can only lower the choice.
    assert gammas == sorted(gammas, reverse=True)
    assert gammas[0] > gammas[-1]


def test_a_negative_criterion_still_has_an_answer():
    found = recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=1e4)
    assert found.gamma is not None
    assert found.near_optimal.lower <= found.gamma <= found.near_optimal.upper
    assert found.predicted_gain_over["rl"] is None  # no ratio of negative values
    json.dumps(content(found), allow_nan=False)


@pytest.mark.parametrize("baseline", list(rl2ml.BASELINES))
def test_every_baseline(baseline):
    found = recommend(PILOT, "pass@8", 8, baseline=baseline)
    assert found.objective.baseline == baseline
    np.testing.assert_array_equal(
        found.objective.table(8).success, rl2ml.rl2ml_table(found.gamma, 8, baseline, PILOT).success
    )


def test_the_prior_matters_to_a_small_pilot():
    gammas = {
        recommend(PILOT, "pass@8", 8, prior=prior, bootstrap=0).gamma
        for prior in (BetaPrior(1, 1), BetaPrior(0.2, 2), "plug_in")
    }
    assert len(gammas) == 3


def test_a_small_pilot_is_said_so():
    assert "small_pilot" in codes(recommend(PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20)]), "pass@8", 8))
    assert "small_pilot" not in codes(recommend(PILOT, "pass@8", 8))


# ---- its JSON form ----


def plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("bootstrap", [0, 20])
@pytest.mark.parametrize("criterion", ["rms_gain", "paper"])
def test_json_form(criterion, bootstrap):
    written = content(recommend(PILOT, "pass@8", 4, criterion=criterion, bootstrap=bootstrap))
    assert written.keys() == FIELDS
    assert plain(written)
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_json_fields_are_the_documented_ones():
    written = content(recommend(PILOT, "pass@8", 4))
    assert written["method_version"] == rl2ml.METHOD_VERSION
    assert written["core_version"] == rl2ml.__version__
    for name in ("interval", "sampling_interval"):
        assert written[name].keys() == {"level", "lower", "upper"}
    assert written["near_optimal"].keys() == {"loss", "lower", "upper"}
    assert written["predicted_gain_over"].keys() == written["gain_intervals"].keys() == {"rl", "maxrl", "current"}
    for gain in written["gain_intervals"].values():
        assert gain.keys() == {"level", "lower", "upper"}
    for row in written["prior_sensitivity"]:
        assert row.keys() == {"name", "prior", "gamma", "regret", "gain_over_maxrl"}
        assert row["prior"].keys() == {"alpha", "beta"}
    assert written["learning_rate"].keys() == {
        "multiplier", "relative_to", "advantage_rms", "applies_to", "assumes",
    }  # fmt: skip
    assert written["objective"].keys() == {
        "schema", "gamma", "order", "num_rollouts", "baseline", "filter_groups", "advantages", "update_scales",
        "prior", "score_model", "population",
    }  # fmt: skip
    assert written["objective"]["advantages"]["success"][0] is None
    assert written["objective"]["advantages"]["failure"][-1] is None
    fitted = rl2ml.fit_prior(PILOT).prior
    assert written["objective"]["prior"] == {"alpha": fitted.alpha, "beta": fitted.beta}
    assert written["objective"]["score_model"] == {"kappa": 0.1, "source": "default"}
    assert written["objective"]["population"] == {"cells": [list(cell) for cell in PILOT.cells()]}
    assert all(entry.keys() == {"kappa", "gamma", "regret"} for entry in written["kappa_sensitivity"])
    assert written["curve"].keys() == {"gamma", "relative_criterion", "lower", "upper"}
    assert len({len(side) for side in written["curve"].values()}) == 1
    assert written["certificate"].keys() == {"degree", "tail", "stationary_points"}
    assert all(entry.keys() == {"code", "level", "detail"} for entry in written["diagnostics"])
    assert {"pilot_policy_is_current", "binary_rewards", "judged_prompts_resemble_pilot"} <= set(written["assumptions"])


# ---- estimators, orders, filters, priors, conditions ----


@pytest.mark.parametrize("baseline", ["minimum_variance", "group_centered"])
@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01"])
def test_other_estimators_are_chosen_with_their_own_gamma(metric, baseline):
    found = recommend(PILOT, metric, 8, baseline=baseline, bootstrap=0)
    grid = np.linspace(0, 2, 201)
    values = [value_of(rl2ml.rl2ml_table(gamma, 8, baseline, PILOT), metric=metric) for gamma in grid]
    best = value_of(found.objective.table(8), metric=metric)
    assert best >= max(values) * (1 - 1e-9)
    assert abs(found.gamma - grid[np.argmax(values)]) <= 0.02
    assert found.objective.baseline == baseline


def test_no_unbiased_estimator_beats_the_minimum_variance():
    for gamma in (0.0, 0.7, 1.6):
        best, *others = (
            recommend(PILOT, "pass@8", 8, baseline=name, gamma_min=gamma, gamma_max=gamma, bootstrap=0)
            for name in ("minimum_variance", "none", "score", "leave_one_out", "bayes")
        )
        assert all(value_of(best.objective.table(8)) >= value_of(o.objective.table(8)) for o in others)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_a_given_order_is_the_one_that_is_trained(order):
    found = recommend(PILOT, "pass@8", 8, order=order, bootstrap=0)
    assert found.objective.order == order
    p = np.array([0.01, 0.2, 0.7])
    np.testing.assert_allclose(
        found.objective.table(8).weight(p), rl2ml.objective_weight(p, found.gamma, 8, order), rtol=1e-11
    )
    values = [value_of(rl2ml.rl2ml_table(gamma, 8, "bayes", PILOT, order=order)) for gamma in np.linspace(0, 2, 81)]
    assert value_of(found.objective.table(8)) >= max(values) * (1 - 1e-9)
    if order == 1:
        assert found.status == "flat"  # J is pass@1 whatever γ


def test_a_trainer_that_drops_equal_groups_gets_an_estimator_that_does_not_need_them():
    plain, filtered = (recommend(PILOT, "pass@8", 8, filter_groups=drops, bootstrap=0) for drops in (False, True))
    table = filtered.objective.table(8)
    assert (table.failure[0], table.success[-1]) == (0, 0)
    assert plain.objective.table(8).failure[0] != 0
    p = np.array([0.01, 0.2, 0.7])
    np.testing.assert_allclose(table.weight(p), rl2ml.objective_weight(p, filtered.gamma, 8), rtol=1e-11)
    assert filtered.objective.filter_groups
    assert value_of(table) <= value_of(plain.objective.table(8))


def test_a_refilling_trainers_rate_counts_the_rollouts_it_trains_on():
    plain, filtered = (recommend(PILOT, "pass@8", 8, filter_groups=drops, bootstrap=0) for drops in (False, True))
    population = PILOT.population()
    p = np.random.default_rng(0).beta(
        population.shape_success[:, None], population.shape_failure[:, None], (population.weights.size, 200_000)
    )
    kept = population.weights @ (1 - p**8 - (1 - p) ** 8).mean(axis=1) / population.weights.sum()
    table = filtered.objective.table(8)
    assert filtered.learning_rate.advantage_rms == pytest.approx(table.rms(population) / np.sqrt(kept), rel=5e-3)
    assert plain.learning_rate.advantage_rms == pytest.approx(plain.objective.table(8).rms(population), rel=1e-9)
    dapo, grpo = (recommend(PILOT, "pass@8", 8, current=name, bootstrap=0).learning_rate for name in ("dapo", "grpo"))
    assert dapo.multiplier / grpo.multiplier == pytest.approx(1 / np.sqrt(kept), rel=5e-3)


def test_the_papers_criterion_values_a_gamma_in_use_as_its_own():
    found = recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=0.3, bootstrap=0)
    again = recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=0.3, current=found.gamma, bootstrap=0)
    assert again.predicted_gain_over["current"] == pytest.approx(0, abs=1e-12)
    one = recommend(PILOT, "pass@8", 8, criterion="paper", current=1.0, bootstrap=0).predicted_gain_over
    assert one["current"] == pytest.approx(one["maxrl"], rel=1e-9)


def test_a_group_centered_objective_says_the_order_it_has():
    found = recommend(PILOT, "pass@8", 8, baseline="group_centered", bootstrap=0).objective
    assert found.order == 7
    for n in (8, 16):
        identity = rl2ml.identify(found.table(n))
        assert identity.order == 7
        assert identity.gamma == pytest.approx(found.gamma, rel=1e-6)


@pytest.mark.parametrize("options", [{"filter_groups": True}, {"baseline": "group_centered"}])
def test_one_rollout_is_too_few_for_what_compares_within_a_group(options):
    with pytest.raises(InvalidInput, match="needs at least 2 rollouts per prompt; got 1"):
        recommend(PILOT, "pass@8", 1, **options)


def test_a_fitted_prior_is_the_one_that_fits():
    found = recommend(PILOT, "pass@8", 8, prior="empirical_bayes")
    fitted = rl2ml.fit_prior(PILOT).prior
    assert content(found)["objective"]["prior"] == {"alpha": fitted.alpha, "beta": fitted.beta}
    stated = recommend(PILOT, "pass@8", 8, prior=fitted)
    assert found.gamma == pytest.approx(stated.gamma, abs=1e-9)
    assert found.predicted_gain_over == pytest.approx(stated.predicted_gain_over)


@pytest.mark.parametrize("prior", ["jeffreys", None, 3])
def test_other_priors_are_refused(prior):
    with pytest.raises(InvalidInput, match="prior must be a BetaPrior") as refused:
        recommend(PILOT, "pass@8", 8, prior=prior)
    assert refused.value.field == "prior"


def test_conditions_of_the_pilot_are_asked_for_and_compared():
    assert "metadata_missing" in codes(recommend(PILOT, "pass@8", 8, bootstrap=0))
    sampled = rl2ml.Conditions(temperature=0.6, policy="sft-3", step=0)
    told = recommend(PILOT, "pass@8", 8, bootstrap=0, sampled=sampled, training=sampled)
    assert not {"metadata_missing", "metadata_mismatch"} & codes(told)
    other = recommend(
        PILOT, "pass@8", 8, bootstrap=0, sampled=sampled, training=rl2ml.Conditions(temperature=1.0, step=400)
    )
    details = [found.detail for found in other.diagnostics if found.code == "metadata_mismatch"]
    assert any("0.6" in detail for detail in details)
    assert any("400" in detail for detail in details)


def test_intervals_of_gains_hold_the_point_estimates_and_widen_with_the_level():
    found = recommend(PILOT, "pass@8", 8, level=0.9, bootstrap=1000)
    wide = recommend(PILOT, "pass@8", 8, level=0.99, bootstrap=1000)
    for name, gain in found.predicted_gain_over.items():
        inner, outer = found.gain_intervals[name], wide.gain_intervals[name]
        assert inner.lower <= gain <= inner.upper
        assert outer.lower < inner.lower
        assert outer.upper > inner.upper


def test_other_trainers_are_compared_with_too():
    others = {"mine": rl2ml.known_table("rloo", 8), "half": 0.5, "known": "maxrl"}
    found = recommend(PILOT, "pass@8", 8, others=others)
    alone = recommend(PILOT, "pass@8", 8)
    assert list(found.predicted_gain_over) == ["rl", "maxrl", "current", "mine", "half", "known"]
    for name, trainer in others.items():
        as_current = recommend(PILOT, "pass@8", 8, current=trainer)
        assert found.predicted_gain_over[name] == pytest.approx(as_current.predicted_gain_over["current"], rel=1e-9)
        one, other = found.gain_intervals[name], as_current.gain_intervals["current"]
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), rel=1e-9)
    assert found.gamma == alone.gamma
    assert found.interval.upper == pytest.approx(alone.interval.upper, rel=1e-9)
    with pytest.raises(InvalidInput, match="names other than"):
        recommend(PILOT, "pass@8", 8, others={"rl": "grpo"})


def test_gains_over_what_gains_nothing_have_no_interval():
    found = recommend(PILOT, "pass@8", 1, current="grpo")
    assert found.gain_intervals["current"] is None
    zero = AdvantageTable(np.zeros(9), np.zeros(9))
    assert recommend(PILOT, "pass@8", 8, current=zero).gain_intervals["current"] is None


WEAK = {
    "one occupied cell": [(8, 3, 40)],
    "all fail plus one": [(8, 0, 63), (8, 1, 1)],
    "all pass plus one": [(8, 8, 63), (8, 7, 1)],
    "one rollout each": [(1, 0, 40), (1, 1, 24)],
    "four prompts": [(8, 0, 2), (8, 3, 1), (8, 7, 1)],
    "two prompts": [(4, 1, 1), (4, 2, 1)],
}


@pytest.mark.parametrize("prior", [BetaPrior(1, 1), "empirical_bayes"])
@pytest.mark.parametrize("name", WEAK)
def test_weak_pilots_get_wide_answers(name, prior):
    """What they say of the gain is uncertain by at least half of what a real pilot leaves open."""
    found = recommend(PilotHistogram.from_cells(WEAK[name]), "log:0.1" if "pass" in name else "pass@8", 8, prior=prior)
    assert found.status in ("prior_dominated", "interior", "flat", "at_lower_bound", "at_upper_bound")
    if name not in ("four prompts", "two prompts"):
        assert found.status == "prior_dominated"
    assert found.interval.upper - found.interval.lower > 0.2
    assert {"small_pilot", "prior_dominated", "prior_unidentified"} & codes(found)
    json.dumps(content(found), allow_nan=False)


# ---- misuse ----


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"pilot": [(8, 0, 3)]}, "pilot", "must be a PilotHistogram .* got list"),
        ({"pilot": None}, "pilot", "got NoneType"),
        ({"metric": "reward"}, "metric", "must look like pass@8"),
        ({"metric": 8}, "metric", "must be a Metric"),
        ({"num_rollouts": 0}, "num_rollouts", "from 1 to 65536; got 0"),
        ({"num_rollouts": 65_537}, "num_rollouts", "from 1 to 65536; got 65537"),
        ({"num_rollouts": 4.0}, "num_rollouts", "got 4.0"),
        ({"num_rollouts": True}, "num_rollouts", "got True"),
        ({"gamma_min": 1.5, "gamma_max": 1.0}, "gamma_min", "must not exceed gamma_max; got 1.5 > 1"),
        ({"gamma_min": -0.1}, "gamma_min", "at least 0"),
        ({"gamma_max": 20.1}, "gamma_max", "at most 20"),
        ({"gamma_max": math.nan}, "gamma_max", "finite"),
        ({"gamma_max": "2"}, "gamma_max", "got '2'"),
        ({"criterion": "lookahead!"}, "criterion", "must be one of rms_gain, paper"),
        ({"variance_penalty": 0.1}, "variance_penalty", "belongs to criterion 'paper'"),
        ({"variance_penalty": -1, "criterion": "paper"}, "variance_penalty", "at least 0"),
        ({"prior": "uniform"}, "prior", "BetaPrior"),
        ({"prior": (1, 1)}, "prior", "BetaPrior"),
        ({"score_model": 0.1}, "score_model", "must be a ScoreModel; got 0.1"),
        ({"score_model": ScoreModel.paper()}, "score_model", "serves criterion 'paper'"),
        ({"baseline": "mean"}, "baseline", "must be one of none, score"),
        ({"baseline": None, "current": "ppo"}, "current", "must be one of reinforce"),
        ({"current": "ppo"}, "current", "must be one of reinforce"),
        ({"current": None}, "current", "finite number"),
        ({"current": -1.0}, "current", "at least 0"),
        ({"current": math.inf}, "current", "finite"),
        ({"current": rl2ml.known_table("grpo", 5)}, "current", "table for 5 rollouts per prompt; expected 4"),
        ({"bootstrap": -1}, "bootstrap", "from 0 to 100000"),
        ({"bootstrap": 100_001}, "bootstrap", "from 0 to 100000"),
        ({"bootstrap": 1.5}, "bootstrap", "an integer"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"seed": None}, "seed", "an integer"),
        ({"level": 1.0}, "level", "at most 0.999"),
        ({"level": 0.1}, "level", "at least 0.5"),
    ],
)
def test_misuse_is_refused(changes, field, message):
    arguments = {"pilot": PILOT, "metric": "pass@8", "num_rollouts": 4} | changes
    with pytest.raises(InvalidInput, match=message) as caught:
        recommend(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(("alpha", "beta"), [(0, 1), (1, 0), (-1, 1), (1, math.nan), (math.inf, 1)])
def test_a_prior_needs_positive_pseudo_counts(alpha, beta):
    with pytest.raises(InvalidInput, match=r"prior\.(alpha|beta) must be a finite number above 0"):
        recommend(PILOT, "pass@8", 4, prior=BetaPrior(alpha, beta))


def test_misuse_is_refused_on_uninformative_pilots_too():
    empty = PilotHistogram.from_cells([(8, 0, 64)])
    with pytest.raises(InvalidInput, match="current"):
        recommend(empty, "pass@8", 4, current="ppo")
    with pytest.raises(InvalidInput, match="bootstrap"):
        recommend(empty, "pass@8", 4, bootstrap=-1)


def test_one_rollout_leaves_nothing_to_be_sure_of():
    found = rl2ml.recommend(PILOT, "pass@8", 1)
    assert (found.interval, found.probability_subcritical, found.expected_regret) == (None, None, None)


def test_a_thousandth_of_a_prompt_is_no_sample():
    found = rl2ml.recommend(rl2ml.PilotHistogram.from_cells([(8, 1, 1e-3), (8, 4, 1e-3)]), "pass@8", 8)
    assert (found.status, found.interval) == ("prior_dominated", None)


def test_prompts_that_always_or_never_succeed_are_told_apart_by_the_prior_alone():
    found = rl2ml.recommend(rl2ml.PilotHistogram.from_cells([(8, 0, 40), (8, 8, 40)]), "pass@8", 8)
    assert found.status == "prior_dominated"


def test_eq_4_without_a_positive_maximum_has_no_relative_curve():
    found = rl2ml.recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=1e3)
    assert found.curve is None
    assert found.expected_regret is None
    assert found.interval is not None


def test_eq_4_that_is_zero_everywhere_tells_nothing():
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 40), (8, 8, 40)])
    assert rl2ml.recommend(pilot, "pass@8", 8, criterion="paper", prior="plug_in").status == "uninformative"


def test_the_papers_proxies_are_said():
    found = rl2ml.recommend(PILOT, "pass@8", 8, criterion="paper")
    assert found.objective.to_dict()["score_model"] == {"name": "paper", "source": "given"}
    with pytest.raises(rl2ml.InvalidInput, match="kappa_spread"):
        rl2ml.recommend(PILOT, "pass@8", 8, criterion="paper", score_model=ScoreModel(0.2, 1.0))


def test_near_optimal_ends_are_rounded_into_the_set():
    found = rl2ml.recommend(PILOT, "pass@8", 4)
    lower, upper = re.search(r"near-optimal ([\d.]+)–([\d.]+)", found.summary).groups()
    assert found.near_optimal.lower <= float(lower) < float(upper) <= found.near_optimal.upper


@pytest.mark.parametrize("high", [0.31, 1.01, 1.03, 2.0, 7.77])
def test_curves_end_where_the_range_ends(high):
    found = rl2ml.recommend(PILOT, "pass@8", 4, gamma_max=high)
    assert (found.curve.gamma[0], found.curve.gamma[-1]) == (0, high)
    assert found.curve.lower.shape == found.curve.gamma.shape
