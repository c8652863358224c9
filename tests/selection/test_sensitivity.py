"""What the answer would be under other assumptions, against the criterion evaluated under just those."""

import re
from functools import partial

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core import BetaPrior, PilotHistogram, ScoreModel
from rl2ml_core.pilot.prior import fit_prior
from rl2ml_core.selection.criteria import RmsGain
from rl2ml_core.selection.problem import Problem
from rl2ml_core.selection.sensitivity import corollary_4_2

# The criterion whose values are known in closed form; test_lookahead.py has the default's.
recommend = partial(rl2ml.recommend, criterion="rms_gain")

CELLS = [(8, 0, 30), (8, 1, 9), (8, 2, 20), (8, 6, 14), (16, 3, 5), (16, 16, 2)]
PILOT = PilotHistogram.from_cells(CELLS)
HARD = PilotHistogram.from_cells([(8, 0, 500), (8, 1, 11), (8, 2, 4), (8, 3, 1)])


def value(table, prior="empirical_bayes", pilot=PILOT, metric="pass@8", kappa=0.1):
    criterion = RmsGain(pilot.population(prior), rl2ml.parse_metric(metric), table.num_rollouts)
    return float(criterion.combine(criterion.totals(table.success[None], table.failure[None]), kappa)[0])


def found(recommendation, code):
    return [item for item in recommendation.diagnostics if item.code == code]


@pytest.mark.parametrize(
    ("prior", "names"),
    [
        (BetaPrior(1, 1), ["weaker", "stronger", "fitted"]),
        (BetaPrior(0.4, 3), ["weaker", "stronger", "fitted"]),
        ("empirical_bayes", ["weaker", "stronger", "uniform"]),
        ("plug_in", ["uniform", "fitted"]),
    ],
)
def test_prior_sensitivity_equals_the_criterion_under_that_prior(prior, names):
    answer = recommend(PILOT, "pass@8", 8, prior=prior, bootstrap=0)
    assert [row.name for row in answer.prior_sensitivity] == names
    used = fit_prior(PILOT).prior if prior == "empirical_bayes" else prior
    shipped = answer.objective.table(8)
    population = PILOT.population(used)
    for row in answer.prior_sensitivity:
        if row.name in ("weaker", "stronger"):
            factor = 0.5 if row.name == "weaker" else 2
            assert (row.prior.alpha, row.prior.beta) == (used.alpha * factor, used.beta * factor)
        if row.name == "fitted":
            assert row.prior == fit_prior(PILOT).prior
        # The estimator is that of the answer, whatever the prior: its Bayes baseline is fixed.
        tables = [rl2ml.rl2ml_table(gamma, 8, "bayes", population) for gamma in np.linspace(0, 2, 401)]
        values = np.array([value(table, row.prior) for table in tables])
        assert row.gamma == pytest.approx(np.linspace(0, 2, 401)[values.argmax()], abs=0.01)
        assert row.regret == pytest.approx(1 - value(shipped, row.prior) / values.max(), abs=5e-6)
        assert row.gain_over_maxrl == pytest.approx(
            value(shipped, row.prior) / value(tables[200], row.prior) - 1, rel=1e-7, abs=1e-10
        )


def test_a_hard_pilot_under_a_uniform_prior_is_told_that_the_prior_matters():
    answer = recommend(HARD, "pass@8", 8, prior=BetaPrior(1, 1))
    (warning,) = found(answer, "prior_sensitive")
    assert warning.level == "warning"
    assert "which fits the pilot best" in warning.detail


def test_a_large_pilot_of_many_rollouts_is_not_told_so():
    rng = np.random.default_rng(0)
    pilot = PilotHistogram.from_counts(rng.binomial(64, rng.uniform(0, 1, 400)), 64)
    assert not found(recommend(pilot, "pass@8", 8), "prior_sensitive")


def test_known_pass_rates_have_no_prior_to_vary():
    answer = recommend(rl2ml.Population.from_pass_rates([0.1, 0.5, 0.8]), "pass@8", 8)
    assert answer.prior_sensitivity == []
    assert answer.draws is None


def test_kappa_matters_where_it_is_not_known():
    easy = PilotHistogram.from_cells([(8, 4, 40), (8, 6, 40), (8, 7, 60), (8, 8, 40)])
    for pilot in (PILOT, easy, HARD):
        for metric in ("pass@1", "pass@2"):
            answer = recommend(pilot, metric, 16, bootstrap=0)
            worst = max(row["regret"] for row in answer.kappa_sensitivity)
            assert bool(found(answer, "kappa_sensitive")) == (worst > 0.02)
            known = recommend(pilot, metric, 16, bootstrap=0, score_model=ScoreModel(0.1, 0))
            assert not found(known, "kappa_sensitive")


def test_kappa_sensitivity_is_said_with_its_numbers():
    answers = [
        recommend(pilot, f"pass@{k}", n, bootstrap=0) for pilot in (PILOT, HARD) for k in (1, 8) for n in (4, 64)
    ]
    said = [(answer, item) for answer in answers for item in found(answer, "kappa_sensitive")]
    assert said
    for answer, item in said:
        worst = max(answer.kappa_sensitivity, key=lambda row: row["regret"])
        assert f"were it {worst['kappa']:g}" in item.detail
        assert f"{worst['regret']:.1%}" in item.detail


def test_criteria_that_disagree_are_said():
    """For pass@1 and no penalty to speak of, Eq. 4 returns γ_min (Cauchy–Schwarz); RMS gain need not."""
    for metric in ("pass@1", "pass@8", "log:0.01"):
        answer = recommend(PILOT, metric, 8, bootstrap=0, baseline="none", score_model=ScoreModel(0.5, 0))
        paper = recommend(PILOT, metric, 8, bootstrap=0, criterion="paper")
        table = rl2ml.rl2ml_table(paper.gamma, 8, "none")
        loss = 1 - value(table, metric=metric, kappa=0.5) / value(answer.objective.table(8), metric=metric, kappa=0.5)
        said = found(answer, "criteria_disagree")
        assert bool(said) == (loss > 0.01)
        if said:
            assert f"prefers γ = {paper.gamma:.2f}, which loses {loss:.1%}" in said[0].detail


def test_the_papers_criterion_hears_of_the_rms_gain():
    answer = recommend(PILOT, "pass@1", 8, criterion="paper", bootstrap=0, baseline="none")
    rms = recommend(PILOT, "pass@1", 8, bootstrap=0, baseline="none")
    assert answer.gamma == 0
    assert abs(rms.gamma - answer.gamma) > 0.1
    (said,) = found(answer, "criteria_disagree")
    assert f"RMS gain prefers γ = {rms.gamma:.2f}" in said.detail


# ---- Corollary 4.2 ----


def problem(metric, num_rollouts, score_model=None, order=None):
    return Problem.of(
        PILOT, metric, num_rollouts, 0.0, 2.0, "rms_gain", None, BetaPrior(1, 1), score_model, "none", order, False
    )


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01"])
@pytest.mark.parametrize(("num_rollouts", "order"), [(2, None), (8, None), (64, None), (8, 3)])
def test_corollary_4_2_equals_the_literal_sums(metric, num_rollouts, order):
    """At γ = 1: c_m = 1 and ∂c_m/∂γ = H_m = 1 + 1/2 + … + 1/m."""
    judged, kappa = rl2ml.parse_metric(metric), 0.1
    a = a_slope = b = b_slope = 0.0
    for n, k, prompts in CELLS:
        p = (k + 1) / (n + 2)
        w = w_slope = harmonic = 0.0
        for m in range(order or num_rollouts):
            harmonic += 1 / m if m else 0.0
            w += (1 - p) ** m
            w_slope += harmonic * (1 - p) ** m
        sensitivity = prompts * kappa * (p * (1 - p)) ** 2
        slope = float(judged.slope(np.array(p)))
        a, a_slope = a + slope * sensitivity * w, a_slope + slope * sensitivity * w_slope
        b, b_slope = b + sensitivity * w**2, b_slope + 2 * sensitivity * w * w_slope
    (said,) = corollary_4_2(problem(metric, num_rollouts, order=order))
    left, right = map(float, re.findall(r"= ([\d.e+-]+) ", said.detail)[:2])
    assert left == pytest.approx(b_slope / b, rel=6e-3)
    assert right == pytest.approx(2 * a_slope / a, rel=6e-3)
    assert ("moving below 1" in said.detail) == (b_slope / b > 2 * a_slope / a)


@pytest.mark.parametrize("metric", ["pass@1", "pass@4", "pass@64", "log:0.001"])
def test_corollary_4_2_says_where_the_unit_gain_rises(metric):
    population, judged = PILOT.population(BetaPrior(1, 1)).at_means(), rl2ml.parse_metric(metric)
    p, length = population.pass_rates, population.weights * ScoreModel().sensitivity(population.pass_rates)
    values = []
    for gamma in (0.99, 1.01):
        w = rl2ml.objective_weight(p, gamma, 16)
        values.append(length @ (judged.slope(p) * w) / np.sqrt(length @ w**2))
    (said,) = corollary_4_2(problem(metric, 16))
    assert ("moving below 1" in said.detail) == (values[0] > values[1])


def test_corollary_4_2_is_left_out_where_it_says_nothing():
    one_rate = recommend(rl2ml.Population.from_pass_rates([0.3]), "pass@8", 8, bootstrap=0)
    assert not found(one_rate, "corollary_4_2")  # U does not depend on γ
    assert corollary_4_2(problem("pass@8", 1)) == []
    answer = recommend(PILOT, "pass@8", 8, gamma_max=1.0, bootstrap=0)
    assert not found(answer, "corollary_4_2")
