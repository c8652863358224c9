"""The lookahead against a slow, literal walk: §5's differential equation in small Euler steps, prompt by prompt."""

import math
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.selection import paths
from rl2ml_core.selection.lookahead import CLOSED, JUDGED_ON, KAPPAS, Lookahead

PROMPTS, GROUPS = paths.PROMPTS, paths.PROMPTS_PER_STEP


def literal_path(pass_rates, weights, table, metric, kappa, rho, longest, steps=600):
    """Length, metric and pass@1 along the path, by Euler's rule with exact binomial sums at every step.

    dl_x = η κ (ρ⟨g⟩ + (1−ρ) g_x/P), and an RMS length of η √E‖u‖² by §6.
    """
    logits = np.log(pass_rates / (1 - pass_rates))
    length, found = 0.0, []
    model = rl2ml.ScoreModel(kappa)
    for _ in range(steps + 1):
        p = 1 / (1 + np.exp(-logits))
        w = table.weight(p)
        g = w * p * (1 - p)
        energy = table.energy(p, model)  # E‖ĝ‖² of a prompt's group
        signal = kappa * g**2  # w²ℓ
        mean = lambda x: float(weights @ x)  # noqa: E731
        direction = rho * mean(math.sqrt(kappa) * g) ** 2 + (1 - rho) / PROMPTS * mean(signal)  # D
        spread = (PROMPTS - GROUPS) / ((PROMPTS - 1) * GROUPS) * (mean(signal) - direction)
        update = math.sqrt(direction + spread + mean(energy - signal) / GROUPS)  # √E‖u‖²
        found.append((length, mean(metric.value(p)), mean(p)))
        move = kappa * (rho * mean(g) + (1 - rho) * g / PROMPTS)
        eta = longest / steps / update
        logits = logits + eta * move
        length += eta * update
    return np.array(found).T


def literal_share(pass_rates, weights, metric, num_rollouts, gammas, kappa, rho):
    """Gains of every γ where γ = 1 has closed 10 and 30 % of its headroom, as shares of the best: mean, [G]."""
    estimator = Estimator.named("leave_one_out", num_rollouts, None)
    longest = 1.0
    while True:
        length, _, pass_at_1 = literal_path(
            pass_rates, weights, estimator.table(1.0), metric, kappa, rho, longest, steps=300
        )
        if pass_at_1[-1] >= pass_at_1[0] + max(CLOSED) * (1 - pass_at_1[0]):
            break
        longest *= 1.5
    length, _, pass_at_1 = literal_path(pass_rates, weights, estimator.table(1.0), metric, kappa, rho, longest)
    goals = [pass_at_1[0] + share * (1 - pass_at_1[0]) for share in CLOSED]
    horizons = [float(np.interp(goal, pass_at_1, length)) for goal in goals]
    gains = []
    for gamma in gammas:
        length, value, _ = literal_path(
            pass_rates, weights, estimator.table(gamma), metric, kappa, rho, max(horizons), steps=600
        )
        gains.append([np.interp(horizon, length, value) - value[0] for horizon in horizons])
    gains = np.array(gains)
    return (gains / gains.max(axis=0)).mean(axis=1)


PASS_RATES = np.array([0.004, 0.02, 0.07, 0.15, 0.35, 0.5, 0.8])
WEIGHTS = np.array([3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]) / 11


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01"])
@pytest.mark.parametrize(("kappa", "rho"), [(0.02, 0), (1.0, 0), (0.2, 1)])
def test_shares_equal_a_literal_walk(metric, kappa, rho):
    gammas = np.linspace(0, 2, 9)
    judged = rl2ml.parse_metric(metric)
    expected = literal_share(PASS_RATES, WEIGHTS, judged, 4, gammas, kappa, paths.COSINES[rho])
    people = Population.from_pass_rates(PASS_RATES, WEIGHTS)
    estimator = Estimator.named("leave_one_out", 4, None)
    lookahead = Lookahead(people, judged, estimator, rl2ml.ScoreModel(kappa), 0.0, 2.0)
    terms = lookahead.totals(*estimator.tables(gammas))
    shares = lookahead._shares(terms[:, None], np.array([[kappa]]))[rho].mean(axis=0)[0]
    # Nodes stand between the prompts' logits, and the best is found between the nine γ.
    assert_allclose(shares / shares.max(), expected / expected.max(), atol=0.01)
    assert abs(gammas[shares.argmax()] - gammas[expected.argmax()]) <= 0.25


def test_paths_only_rise():
    people = Population.from_pass_rates(PASS_RATES, WEIGHTS)
    tables = Estimator.named("leave_one_out", 8, None).tables(np.array([0.0, 0.5, 1.0, 2.0]))
    places = paths.places(people)
    mass = people.weights / people.weights.sum() @ paths.masses(people, places)
    _, value, s, *_ = paths.recorded(list(paths.walk(places, mass, *tables, rl2ml.PassAtK(1))))
    assert (np.diff(value, axis=0) > 0).all()
    assert (np.diff(s, axis=0) > 0).all()


@pytest.mark.parametrize("cells", [[(8, 0, 30), (8, 2, 20), (8, 6, 14)], [(16, 0, 50), (16, 1, 20), (16, 16, 4)]])
def test_nodes_keep_prompts_and_their_mean(cells):
    people = rl2ml.PilotHistogram.from_cells(cells).population()
    places = paths.places(people)
    mass = paths.masses(people, places)
    assert_allclose(mass.sum(axis=1), 1, rtol=1e-12)
    p = 1 / (1 + np.exp(-places))
    # Beyond the outermost nodes lies a ten-thousandth of the prompts on either side.
    assert_allclose(mass @ p, people.pass_rates, atol=2e-4)


def test_more_nodes_and_steps_change_little(monkeypatch):
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 60), (8, 1, 15), (8, 3, 12), (8, 6, 9), (8, 8, 4)])
    people, metric = pilot.population(), rl2ml.parse_metric("pass@8")
    estimator = Estimator.named("bayes", 8, people)
    fine = np.repeat(paths.STEPS, 4) / 4
    grid = np.linspace(0, 2, 201)
    usual = Lookahead(people, metric, estimator, None, 0.0, 2.0).curve(grid)
    monkeypatch.setattr("rl2ml_core.selection.lookahead.places", partial(paths.places, num_nodes=250))
    finer = Lookahead(people, metric, estimator, None, 0.0, 2.0, steps=fine).curve(grid)
    assert abs(grid[usual.argmax()] - grid[finer.argmax()]) <= 0.03
    assert_allclose(usual, finer, atol=2e-3)


PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])


def test_as_the_default_criterion():
    found = rl2ml.recommend(PILOT, "pass@8", 8)
    assert found.to_dict() == rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead").to_dict()
    assert found.status == "interior"
    assert found.interval.lower < found.gamma < found.interval.upper
    assert found.sampling_interval.upper - found.sampling_interval.lower < found.interval.upper - found.interval.lower
    assert 0 < found.expected_regret < 0.05
    assert found.gain_intervals["rl"].lower > 0
    assert "gains_are_over_a_training_run" in found.assumptions
    assert "over a training run" in found.summary
    assert found.near_optimal.lower < found.gamma < found.near_optimal.upper
    assert 0 <= found.predicted_gain_over["maxrl"] < found.predicted_gain_over["rl"]
    # The curve is relative to the best.
    assert found.curve.relative_criterion.max() == pytest.approx(1, abs=1e-4)
    assert [row["kappa"] for row in found.kappa_sensitivity] == [0.01, 0.03, 0.1, 0.3, 1.0]
    gammas = [row["gamma"] for row in found.kappa_sensitivity]
    assert gammas == sorted(gammas)
    rl2ml.Objective.from_dict(found.objective.to_dict())


def test_a_measured_kappa_is_the_only_one():
    kappas = (*KAPPAS, 0.37)
    found = {
        k: rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", score_model=rl2ml.ScoreModel(k)) for k in kappas
    }
    gammas = [found[k].gamma for k in sorted(kappas)]
    assert gammas == sorted(gammas)
    assert len(set(gammas)) == len(kappas)
    for k, answer in found.items():
        row = next((row for row in answer.kappa_sensitivity if row["kappa"] == k), None)
        if row is not None:
            assert row["gamma"] == pytest.approx(answer.gamma, abs=0.01)
            assert row["regret"] == pytest.approx(0, abs=1e-3)


def test_draws_are_reproducible():
    found = [rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", seed=seed) for seed in (0, 0, 1)]
    assert found[0].to_dict() == found[1].to_dict()
    assert found[0].interval != found[2].interval
    assert len(found[0].draws.best) == 200
    assert rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", bootstrap=0).interval is None
    known = rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", score_model=rl2ml.ScoreModel(0.3))
    # The prior stays uncertain where κ is known.
    assert known.interval != known.sampling_interval


def test_a_criterion_weighs_cosines_by_what_is_judged_and_kappas_alike():
    people, metric = PILOT.population(), rl2ml.parse_metric("pass@8")
    estimator = Estimator.named("bayes", 8, people)
    for judged, (apart, together) in JUDGED_ON.items():
        assert apart + together == pytest.approx(1)
        lookahead = Lookahead(people, metric, estimator, None, 0.0, 2.0, judged)
        shares = lookahead.shares(np.array(KAPPAS))  # [K, R, H, Q]
        expected = (apart * shares[:, 0] + together * shares[:, 1]).mean(axis=(0, 1))
        at_nodes = lookahead.searched[:, : shares.shape[-1]]
        assert_allclose(lookahead.combine(at_nodes, 1.0), expected, rtol=1e-12)
        by_kappa = lookahead.combine(at_nodes[:, None], np.array(KAPPAS)[:, None])
        assert_allclose(by_kappa.mean(axis=0), expected, rtol=1e-12)


def test_where_the_metric_is_read():
    found = {
        where: rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", judged_on=where, bootstrap=0).gamma
        for where in ("training", "held_out", "either")
    }
    assert found["held_out"] < found["either"] < found["training"]
    # What prompts share gains by one multiple for every metric.
    held_out = [
        rl2ml.recommend(PILOT, metric, 8, criterion="lookahead", judged_on="held_out", bootstrap=0).gamma
        for metric in ("pass@1", "pass@8", "log:0.01")
    ]
    assert max(held_out) - min(held_out) < 0.3
    with pytest.raises(rl2ml.InvalidInput, match="belongs to criterion 'lookahead'"):
        rl2ml.recommend(PILOT, "pass@8", 8, criterion="rms_gain", judged_on="training")
    with pytest.raises(rl2ml.InvalidInput, match="judged_on must be"):
        rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", judged_on="test")


def test_statuses():
    nothing = rl2ml.recommend(rl2ml.PilotHistogram.from_cells([(8, 0, 30)]), "pass@1", 4, criterion="lookahead")
    assert nothing.status == "uninformative"
    single = rl2ml.recommend(PILOT, "pass@8", 1, criterion="lookahead")
    assert single.status == "flat"
    narrow = rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", gamma_min=0.3, gamma_max=0.3)
    assert narrow.gamma == 0.3
    low = rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", gamma_max=0.2)
    assert (low.status, low.gamma) == ("at_upper_bound", 0.2)


def test_wrong_options():
    with pytest.raises(rl2ml.InvalidInput, match="'lookahead' needs none"):
        rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", variance_penalty=0.1)
    with pytest.raises(rl2ml.InvalidInput, match="'lookahead' takes ScoreModel"):
        rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", score_model=rl2ml.ScoreModel.paper())


def said(found):
    return [row for row in found.diagnostics if row.code == "lookahead_disagrees"]


def test_a_second_opinion_is_given_where_asked_for_and_where_it_differs():
    hard = rl2ml.PilotHistogram.from_cells([(8, 0, 60), (8, 1, 20), (8, 2, 10), (8, 7, 5), (8, 8, 9)])
    measured = rl2ml.ScoreModel(1.0)
    asked = rl2ml.recommend(hard, "pass@1", 16, criterion="rms_gain", score_model=measured, look_ahead=True)
    [opinion] = said(asked)
    ahead = rl2ml.recommend(hard, "pass@1", 16, score_model=measured, criterion="lookahead")
    assert f"γ = {ahead.gamma:.2f}" in opinion.detail
    assert opinion.level == "info"
    assert not said(rl2ml.recommend(hard, "pass@1", 16, criterion="rms_gain", score_model=measured))
    assert not said(rl2ml.recommend(hard, "pass@1", 16, criterion="lookahead", look_ahead=True))
    assert not said(rl2ml.recommend(hard, "pass@1", 1, criterion="rms_gain", look_ahead=True))
    # Nothing else changes.
    plain = rl2ml.recommend(hard, "pass@1", 16, criterion="rms_gain", score_model=measured).to_dict()
    rest = asked.to_dict()
    rest["diagnostics"] = [row for row in rest["diagnostics"] if row["code"] != "lookahead_disagrees"]
    assert rest == plain


def test_the_controller_takes_it():
    settings = rl2ml.ControllerSettings("pass@8", 8, criterion="lookahead")
    state, first = rl2ml.start_controller(settings, PILOT)
    _, second = rl2ml.step_controller(state, PILOT)
    assert 0 < first.gamma < 2
    assert second.code in ("near_optimal", "moved", "limited")


def test_many_known_pass_rates_take_little_memory():
    rates = np.random.default_rng(0).beta(0.3, 1.5, size=50_000).clip(1e-6, 1 - 1e-6)
    found = rl2ml.recommend(Population.from_pass_rates(rates), "pass@8", 4, criterion="lookahead")
    assert found.status == "interior"
    assert found.interval is None


def test_tables_in_parts_give_the_same_answer(monkeypatch):
    def ask():
        opinion = rl2ml.recommend(
            PILOT, "pass@1", 8, criterion="rms_gain", score_model=rl2ml.ScoreModel(0.2), look_ahead=True
        )
        return rl2ml.recommend(PILOT, "pass@8", 8, criterion="lookahead", bootstrap=0), opinion.diagnostics

    (whole, said) = ask()
    monkeypatch.setattr("rl2ml_core.selection.problem._VALUES_AT_ONCE", 16)  # two tables a part
    (parts, again) = ask()
    assert parts.gamma == pytest.approx(whole.gamma, abs=1e-9)
    assert [row.code for row in again] == [row.code for row in said]
