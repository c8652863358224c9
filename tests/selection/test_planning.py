"""A plan against exhaustive search, its sentences, and demands that cannot be met."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.selection.batches import BatchMoments, gain_per_length, slopes
from rl2ml_core.selection.lookahead import JUDGED_ON, KAPPAS
from rl2ml_core.selection.paths import COSINES
from rl2ml_core.selection.planning import NUM_PROMPTS

CELLS = [(8, 0, 30), (8, 1, 9), (8, 2, 20), (8, 6, 14), (8, 8, 4)]
PILOT = rl2ml.PilotHistogram.from_cells(CELLS)
GRID = np.linspace(0, 2, 401)


def exhaustive(pilot, metric, budget, *, kappas=KAPPAS, cosines=None, prompts=NUM_PROMPTS, cost=0.0, baseline="bayes"):
    """Mean shares of the best gain for every N from 1 to 64 on a grid of γ, [64, G]: each N by moments of its own."""
    cosines = cosines or dict(zip(COSINES, JUDGED_ON["either"], strict=True))
    people = pilot.population("empirical_bayes")
    judged = rl2ml.parse_metric(metric)
    slope = float(people.weights @ slopes(people, judged) / people.weights.sum())
    gains = []
    for kappa, rho in product(kappas, cosines):
        rows = []
        for n in range(1, 65):
            terms = BatchMoments.of_population(people, judged, n).largest.terms(
                *Estimator.named(baseline, n, people, rl2ml.ScoreModel(kappas[0] if len(kappas) == 1 else 0.1)).tables(
                    GRID
                )
            )[:, 0]
            batch = min(int(budget // (n + cost)), prompts)
            rows.append(gain_per_length(terms, slope, kappa, rho, prompts, batch) if batch else np.zeros(GRID.size))
        gains.append(cosines[rho] / len(kappas) * np.array(rows) / np.max(rows))
    return np.sum(gains, axis=0)


@pytest.mark.parametrize(
    ("metric", "budget", "arguments", "known"),
    [
        ("pass@8", 512, {}, {}),
        ("pass@1", 100, {}, {}),
        ("log:0.01", 96, {"prompt_cost": 2.5}, {"cost": 2.5}),
        (
            "pass@8",
            64,
            {"score_model": rl2ml.ScoreModel(0.02, 0), "cosine": 0.0},
            {"kappas": (0.02,), "cosines": {0.0: 1.0}},
        ),
        ("pass@16", 4096, {"cosine": 0.3, "num_prompts": 50}, {"cosines": {0.3: 1.0}, "prompts": 50}),
        ("pass@8", 512, {"baseline": "minimum_variance"}, {"baseline": "minimum_variance"}),
    ],
)
def test_no_pair_beats_the_plan(metric, budget, arguments, known):
    plan = rl2ml.plan_budget(PILOT, metric, budget, bootstrap=0, **arguments)
    shares = exhaustive(PILOT, metric, budget, **known)
    planned = np.interp(plan.best.gamma, GRID, shares[plan.num_rollouts - 1])  # linear: at most what it really is
    assert shares.max() <= planned * (1 + 1e-5)
    for row in plan.frontier:
        own = shares[row.num_rollouts - 1]
        assert row.relative_gain == pytest.approx(own.max() / shares.max(), rel=1e-5)
        if row.num_rollouts > 1:
            assert np.interp(row.gamma, GRID, own) >= own.max() * (1 - 1e-5)


def test_the_plan_is_exact_to_a_millionth():
    """The whole grid around the best pair, at the plan's own γ: no interpolation between grid points."""
    plan = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=0, score_model=rl2ml.ScoreModel(0.2, 0), cosine=0.05)
    people = PILOT.population("empirical_bayes")
    judged = rl2ml.PassAtK(8)
    slope = float(people.weights @ slopes(people, judged) / people.weights.sum())

    def gains(n, gammas):
        terms = BatchMoments.of_population(people, judged, n).largest.terms(
            *Estimator.named("bayes", n, people).tables(gammas)
        )
        return gain_per_length(terms[:, 0], slope, 0.2, 0.05, NUM_PROMPTS, 512 // n)

    own = float(gains(plan.num_rollouts, np.array([plan.best.gamma]))[0])
    most = max(gains(n, GRID).max() for n in range(1, 65))
    assert own >= most * (1 - 1e-6)


def test_real_pilots_are_planned_as_exhaustive_search_does(real_pilots):
    for name in ("dsr1209_qwen25math1.5b_first4epochs_n32", "lcb_codegen_gpt35turbo0125_n10"):
        plan = rl2ml.plan_budget(real_pilots[name], "pass@8", 512, bootstrap=0)
        shares = exhaustive(real_pilots[name], "pass@8", 512)
        assert np.interp(plan.best.gamma, GRID, shares[plan.num_rollouts - 1]) >= shares.max() * (1 - 1e-5)


def test_larger_kappa_wants_fewer_rollouts_per_prompt():
    sizes = [
        rl2ml.plan_budget(
            PILOT, "pass@8", 512, score_model=rl2ml.ScoreModel(kappa, 0), cosine=0, bootstrap=0
        ).num_rollouts
        for kappa in (0.005, 0.05, 0.5, 1.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] >= 16
    assert sizes[-1] <= 8


@settings(max_examples=20)
@given(st.integers(1, 5000), st.floats(0, 20), st.integers(1, 200))
def test_a_split_stays_within_the_budget(budget, cost, prompts):
    plan = rl2ml.plan_budget(
        PILOT, "pass@4", budget, choices=[1, 3, 8, 20], prompt_cost=cost, num_prompts=prompts, bootstrap=0
    )
    assert (plan.best is None) == (budget < 1 + cost)
    for row in plan.frontier:
        assert row.prompts_per_step == min(budget // (row.num_rollouts + cost), prompts) >= 1
        assert row.rollouts_spent <= budget * (1 + 1e-12)
        assert row.relative_gain <= 1


def test_sensitivity_is_the_plan_were_it_known():
    plan = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=0)
    for row in plan.kappa_sensitivity:
        if row.value == 0.1:  # the default stands for "not known"
            continue
        other = rl2ml.plan_budget(PILOT, "pass@8", 512, score_model=rl2ml.ScoreModel(row.value, 0), bootstrap=0)
        assert other.num_rollouts == row.num_rollouts
        assert row.gamma == pytest.approx(other.best.gamma, abs=0.01)
        assert row.split_loss == pytest.approx(other.loss_of(plan.num_rollouts), abs=1e-5)
        assert row.loss >= row.split_loss - 1e-9
    for row in plan.cosine_sensitivity:
        other = rl2ml.plan_budget(PILOT, "pass@8", 512, cosine=row.value, bootstrap=0)
        assert other.num_rollouts == row.num_rollouts


def test_ranges_hold_kappa_and_prompts():
    plan = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=300)
    rows = {row.num_rollouts: row for row in plan.frontier}
    assert rows[64].loss_interval.upper > 0.3
    assert rows[64].loss_interval.lower < 0.1  # a small κ wants many
    assert 0 < plan.expected_regret < 0.1
    known = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=300, score_model=rl2ml.ScoreModel(0.2, 0), cosine=0.0)
    width = known.frontier[63].loss_interval
    assert width.upper - width.lower < 0.1
    assert known.expected_regret < 0.01
    assert rl2ml.plan_budget(PILOT, "pass@8", 512, seed=1).expected_regret != plan.expected_regret


def test_baselines_that_need_two_start_there():
    for arguments in ({"baseline": "group_centered"}, {"filter_groups": True}):
        plan = rl2ml.plan_budget(PILOT, "pass@8", 64, bootstrap=0, **arguments)
        assert plan.frontier[0].num_rollouts == 2
    plan = rl2ml.plan_budget(PILOT, "pass@8", 64, choices=[1], filter_groups=True)
    assert plan.status == "infeasible"
    # With one rollout per prompt every γ is plain RL.
    single = rl2ml.plan_budget(PILOT, "pass@8", 64, choices=[1], gamma_min=0.5, bootstrap=0)
    assert single.best.gamma == 0.5
    assert single.best.equal_group_share == pytest.approx(1)


def test_demands_bound_gamma():
    free = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=0)
    demands = rl2ml.Demands(least_pass_rate=0.02, tail=0.3)
    plan = rl2ml.plan_budget(PILOT, "pass@8", 512, bootstrap=0, demands=demands)
    assert plan.best.largest_gamma < free.best.gamma
    for row in plan.frontier:
        assert rl2ml.truncation_tail(0.02, row.gamma, row.num_rollouts) <= 0.3 + 1e-9
        assert row.gamma <= row.largest_gamma
    people = PILOT.population("empirical_bayes")
    assert isinstance(people, Population)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rollouts_per_step": 6, "choices": [8, 16]}, "raise rollouts_per_step to 8, or allow 6 rollouts per prompt"),
        (
            {"rollouts_per_step": 2, "choices": [4], "prompt_cost": 2.5},
            "which costs 6.5; raise rollouts_per_step to 7.",
        ),
        ({"rollouts_per_step": 64, "gamma_min": 1.0, "demands": rl2ml.Demands(0.01)}, "tail to 0.53 (asked: 0.1)"),
        (
            {"rollouts_per_step": 64, "gamma_min": 1.0, "demands": rl2ml.Demands(largest_scale=0.4)},
            "largest_scale to 1",
        ),
    ],
)
def test_impossible_demands_say_what_to_relax(arguments, said):
    plan = rl2ml.plan_budget(PILOT, "pass@8", **arguments)
    assert plan.status == "infeasible"
    assert plan.best is None
    assert plan.frontier == ()
    assert said in plan.summary
    assert json.loads(json.dumps(plan.to_dict()))["best"] is None


def test_a_pilot_that_tells_nothing_has_no_plan():
    plan = rl2ml.plan_budget(rl2ml.PilotHistogram.from_counts([0, 0, 0], 8), "pass@8", 512)
    assert plan.status == "uninformative"
    assert "no success at all" in plan.summary


def test_a_plan_says_where_the_prior_shapes_it_and_where_the_choices_end():
    single = rl2ml.plan_budget(rl2ml.PilotHistogram.from_counts([0, 1, 0, 1], 1), "pass@8", 64, bootstrap=0)
    assert single.summary.endswith("The prior shapes this plan: one rollout per prompt shows no spread of pass rates.")
    few = rl2ml.plan_budget(PILOT, "pass@8", 512, choices=[2, 3], bootstrap=0)
    assert few.num_rollouts == 3
    assert few.summary.endswith("It is the largest N to choose from: more may be better.")


def test_known_pass_rates_have_no_ranges():
    plan = rl2ml.plan_budget(Population.from_pass_rates([0.1, 0.4, 0.9]), "pass@8", 64)
    assert plan.expected_regret is None
    assert {row.loss_interval for row in plan.frontier} == {None}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"rollouts_per_step": 0}, "rollouts_per_step"),
        ({"choices": []}, "choices"),
        ({"choices": [0, 2]}, "choices"),
        ({"choices": [300]}, "choices"),
        ({"prompt_cost": -1}, "prompt_cost"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"cosine": 1.1}, "cosine"),
        ({"cosine": 0.1, "judged_on": "training"}, "judged_on"),
        ({"judged_on": "nowhere"}, "judged_on"),
        ({"demands": 3}, "demands"),
        ({"bootstrap": -1}, "bootstrap"),
        ({"score_model": rl2ml.ScoreModel.paper()}, "score_model"),
        ({"gamma_min": 2, "gamma_max": 1}, "gamma_min"),
    ],
)
def test_wrong_values_are_refused(arguments, field):
    asked = {"rollouts_per_step": 64} | arguments
    with pytest.raises(rl2ml.InvalidInput) as refused:
        rl2ml.plan_budget(PILOT, "pass@8", **asked)
    assert refused.value.field == field


def test_json_form_has_every_row():
    content = json.loads(json.dumps(rl2ml.plan_budget(PILOT, "pass@8", 64).to_dict(), allow_nan=False))
    assert len(content["frontier"]) == 64
    assert content["best"] in content["frontier"]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 50), st.permutations(CELLS))
def test_neither_the_pilots_size_nor_its_order_matters(times, cells):
    law = rl2ml.BetaPrior(0.5, 1)
    expected = rl2ml.plan_budget(PILOT, "pass@8", 96, prior=law, bootstrap=0)
    scaled = rl2ml.PilotHistogram.from_cells([(n, k, times * prompts) for n, k, prompts in cells])
    found = rl2ml.plan_budget(scaled, "pass@8", 96, prior=law, bootstrap=0)
    assert found.num_rollouts == expected.num_rollouts
    assert found.best.gamma == pytest.approx(expected.best.gamma, abs=1e-5)
    for row, other in zip(found.frontier, expected.frontier, strict=True):
        assert row.relative_gain == pytest.approx(other.relative_gain, rel=1e-9)
