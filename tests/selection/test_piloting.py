"""The pilot planner against brute force: truths and pilots drawn prompt by prompt, each answered by `recommend`."""

import json

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.pilot.prior import prior_at
from rl2ml_core.selection.criteria import RmsGain
from rl2ml_core.selection.piloting import guessed_prior, plan_pilot

METRIC = rl2ml.PassAtK(8)
N = 8
KNOWN = rl2ml.ScoreModel(0.1, 0)
GRID = np.linspace(0, 2, 81)
RNG = np.random.default_rng(7)
PILOT = rl2ml.PilotHistogram.from_counts(RNG.binomial(8, RNG.beta(0.3, 1.5, 64)), 8)


def lost(answer, truth):
    """The share of the true population's gain that an answer's γ loses with its own estimator."""
    criterion = RmsGain(truth, METRIC, N)
    estimator = Estimator.named("bayes", N, answer.population("empirical_bayes"))
    found = rl2ml.recommend(answer, METRIC, N, criterion="rms_gain", score_model=KNOWN, bootstrap=0)
    gammas = np.append(GRID, 1.0 if found.gamma is None else found.gamma)
    values = criterion.combine(criterion.totals(*estimator.tables(gammas)), KNOWN.kappa)
    return 1 - values[-1] / values.max()


def truths(pilot, draws, rng):
    """Populations from the conjugate posterior: prompts by Dirichlet weights, the prior refitted to them."""
    fitted = pilot.fitted_prior
    for _ in range(draws):
        weights = rng.standard_gamma(pilot.num_prompts)
        weights *= pilot.total_prompts / weights.sum()
        pull = rng.standard_normal(2) * np.sqrt(np.diag(fitted.penalty))
        moved = fitted.covariance @ ((weights - pilot.num_prompts) @ fitted.scores + pull)
        k = pilot.num_successes.astype(float)
        yield Population(k, pilot.num_rollouts - k, weights, prior_at(fitted.coordinates + moved))


def sample(truth, prompts, rollouts, rng):
    """New prompts of a population, one by one."""
    cell = rng.choice(truth.weights.size, prompts, p=truth.weights / truth.weights.sum())
    rates = rng.beta(truth.shape_success[cell], truth.shape_failure[cell])
    return rl2ml.PilotHistogram.from_counts(rng.binomial(rollouts, rates), rollouts)


def sampled_further(pilot, truth, rollouts, rng):
    """More rollouts of every prompt of the pilot."""
    cell = np.repeat(np.arange(pilot.num_cells), pilot.num_prompts.astype(int))
    rates = rng.beta(truth.shape_success[cell], truth.shape_failure[cell])
    more = pilot.num_successes[cell] + rng.binomial(rollouts, rates)
    return rl2ml.PilotHistogram.from_counts(more, pilot.num_rollouts[cell] + rollouts)


@pytest.mark.parametrize(
    ("asked", "grow"),
    [
        ({"more_prompts": [], "more_rollouts": []}, lambda truth, rng: PILOT),
        ({"more_prompts": [64], "more_rollouts": []}, lambda truth, rng: PILOT + sample(truth, 64, 8, rng)),
        ({"more_prompts": [], "more_rollouts": [8]}, lambda truth, rng: sampled_further(PILOT, truth, 8, rng)),
    ],
    ids=["now", "prompts", "rollouts"],
)
def test_regret_is_that_of_brute_force(asked, grow):
    rng = np.random.default_rng(1)
    losses = [lost(grow(truth, rng), truth) for truth in truths(PILOT, 1500, rng)]
    plan = plan_pilot(PILOT, METRIC, N, score_model=KNOWN, draws=4000, **asked)
    found = plan.sizes[0].expected_regret if plan.sizes else plan.expected_regret
    assert found == pytest.approx(np.mean(losses), rel=0.1)


@pytest.mark.parametrize(("prior", "prompts"), [((0.3, 1.5), 64), ((2.0, 1.0), 128)])
def test_regret_after_a_guess_is_that_of_pilots_from_it(prior, prompts):
    law = rl2ml.BetaPrior(*prior)
    truth = Population(np.zeros(1), np.zeros(1), np.ones(1), law)
    rng = np.random.default_rng(2)
    losses = [
        lost(rl2ml.PilotHistogram.from_counts(rng.binomial(8, rng.beta(*prior, prompts)), 8), truth) for _ in range(900)
    ]
    (size,) = plan_pilot(law, METRIC, N, score_model=KNOWN, more_prompts=[prompts], draws=4000).sizes
    assert size.expected_regret == pytest.approx(np.mean(losses), rel=0.1)
    assert size.standard_error < 0.05 * size.expected_regret


def test_todays_regret_is_recommends():
    for scores in (None, rl2ml.ScoreModel(0.3, 0.4)):
        expected = rl2ml.recommend(PILOT, METRIC, N, criterion="rms_gain", score_model=scores, bootstrap=4000)
        plan = plan_pilot(PILOT, METRIC, N, score_model=scores, draws=4000)
        assert plan.expected_regret == pytest.approx(expected.expected_regret, rel=0.08)


def test_more_prompts_lose_less_and_kappa_stays():
    sizes = [32, 128, 512, 4096]
    known = plan_pilot(PILOT, METRIC, N, score_model=KNOWN, more_prompts=sizes, more_rollouts=[])
    assert known.floor == 0
    regrets = [known.expected_regret, *(size.expected_regret for size in known.sizes)]
    assert regrets == sorted(regrets, reverse=True)
    unknown = plan_pilot(PILOT, METRIC, N, more_prompts=sizes, more_rollouts=[])
    assert unknown.sizes[-1].expected_regret == pytest.approx(unknown.floor, rel=0.1)
    assert unknown.floor > 3 * known.sizes[-1].expected_regret
    assert [size.cost for size in known.sizes] == [8 * size for size in sizes]


def test_what_is_needed_is_the_cheapest_that_reaches_the_target():
    sizes = [16, 64, 256, 1024]
    law = guessed_prior(0.1)
    plan = plan_pilot(law, METRIC, N, score_model=KNOWN, more_prompts=sizes, target=0.003)
    assert plan.status == "more"
    assert 16 < plan.needed.prompts < 256
    (there,) = plan_pilot(law, METRIC, N, score_model=KNOWN, more_prompts=[plan.needed.prompts]).sizes
    assert there.expected_regret == pytest.approx(0.003, rel=0.2)
    assert f"{plan.needed.prompts} prompts × 8" in plan.summary
    enough = plan_pilot(PILOT, METRIC, N, score_model=KNOWN, target=0.05)
    assert enough.status == "enough"
    assert enough.needed is None
    never = plan_pilot(PILOT, METRIC, N, target=1e-6)
    assert never.status == "out_of_reach"
    assert "measure it" in never.summary


def test_rollouts_of_unequal_prompts_and_weights(real_pilots):
    mixed = rl2ml.PilotHistogram.from_counts(
        [0, 1, 3, 2, 8, 4, 0, 1], [4, 4, 4, 4, 9, 9, 9, 9], [0.5, 1, 2, 1, 1, 3.5, 1, 2]
    )
    for pilot in (mixed, real_pilots["lcb_codegen_gpt35turbo0125_n10"]):
        plan = plan_pilot(pilot, METRIC, N, draws=200)
        assert [size.kind for size in plan.sizes[-2:]] == ["rollouts", "rollouts"]
        assert all(0 <= size.expected_regret < 0.2 for size in plan.sizes)


def test_answers_that_no_pilot_is_needed_for():
    assert plan_pilot(rl2ml.PilotHistogram.from_counts([0, 0], 4), METRIC, N).status == "uninformative"
    assert "every γ is plain RL" in plan_pilot(PILOT, METRIC, 1).summary


def test_a_guess_is_a_law_of_its_mean():
    law = guessed_prior(0.2, 0.5)
    assert (law.alpha, law.beta) == (0.1, 0.4)
    with pytest.raises(rl2ml.InvalidInput, match="pass_rate"):
        guessed_prior(0.0)


def test_draws_are_seeded_and_the_json_form_is_json():
    first, second = (plan_pilot(PILOT, METRIC, N, draws=200) for _ in range(2))
    assert first == second
    content = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert len(content["sizes"]) == len(first.sizes)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"target": 0}, "target"),
        ({"draws": 3}, "draws"),
        ({"more_prompts": [0]}, "more_prompts"),
        ({"more_rollouts": [5000]}, "more_rollouts"),
        ({"pilot_rollouts": 0}, "pilot_rollouts"),
        ({"known": 0.1}, "known"),
        ({"known": rl2ml.BetaPrior(1, 1), "more_rollouts": [8]}, "more_rollouts"),
        ({"baseline": "best"}, "baseline"),
    ],
)
def test_wrong_values_are_refused(arguments, field):
    asked = {"known": PILOT} | arguments
    with pytest.raises(rl2ml.InvalidInput) as refused:
        plan_pilot(asked.pop("known"), METRIC, N, **asked)
    assert refused.value.field == field
