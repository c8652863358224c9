"""The multiplier between two sizes of advantages: from theory, as measured, folded, and never applied twice."""

import math

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
training = pytest.importorskip("rl2ml_core.training")
AdvantageScale, group_advantages = training.AdvantageScale, training.group_advantages

PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0] * 4, 8)
OBJECTIVE = rl2ml.Objective(1.0, "score")
# A = N/K − 1 and −1: mean squares 3 and 1 of N = 4.
ONE_OF_FOUR, NONE_OF_FOUR = [[1, 0, 0, 0]], [[0, 0, 0, 0]]


def step(scale, rewards, **options):
    return scale.step(group_advantages(OBJECTIVE, rewards), **options)


def parameter_of(optimizer):
    return optimizer([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_theory_is_the_recommendations_multiplier():
    found = rl2ml.recommend(PILOT, "pass@4", 8, bootstrap=0, current="grpo")
    scale = AdvantageScale.from_pilot(found.objective, "grpo", 8)
    assert scale.multiplier == pytest.approx(found.learning_rate.multiplier, rel=1e-12)
    assert scale.advantage_rms == pytest.approx(found.learning_rate.advantage_rms, rel=1e-12)


def test_theory_with_another_population_and_a_reference_in_numbers():
    scale = AdvantageScale.from_pilot(OBJECTIVE, 0.5, 8, PILOT)
    assert scale.multiplier == pytest.approx(0.5 / OBJECTIVE.table(8).rms(PILOT), rel=1e-12)
    table = rl2ml.known_table("rloo", 8)
    scale = AdvantageScale.from_pilot(table, OBJECTIVE, 8, PILOT)
    assert scale.multiplier == pytest.approx(OBJECTIVE.table(8).rms(PILOT) / table.rms(PILOT), rel=1e-12)


def test_measured_over_steps_by_hand():
    scale = AdvantageScale(1.0, decay=0.5)
    assert scale.advantage_rms is None
    assert scale.multiplier == 1
    # Mean squares 3, then 1: weights .25 and .5 of .75 in all, (.25·3 + .5·1)/.75 = 5/3.
    step(scale, ONE_OF_FOUR)
    assert scale.multiplier == pytest.approx(1 / math.sqrt(3))
    step(scale, NONE_OF_FOUR)
    assert scale.advantage_rms == pytest.approx(math.sqrt(5 / 3))
    assert scale.multiplier == pytest.approx(1 / math.sqrt(5 / 3))


def test_a_reference_is_measured_on_the_same_groups():
    scale = AdvantageScale("grpo", decay=0.5)
    for rewards in (ONE_OF_FOUR, NONE_OF_FOUR):
        step(scale, rewards)
    # GRPO's advantages are 0 in the second group; its mean square in the first is (N−1)/N, but for its epsilon.
    own, other = 0.25 * 3 + 0.5 * 1, 0.25 * 0.75
    assert scale.multiplier == pytest.approx(math.sqrt(other / own), rel=1e-3)


def test_theory_gives_way_to_measurement():
    # The population itself, group by group: 65,536 groups of 8 from four kinds of prompts.
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.05, 0.3, 0.6, 0.9]).repeat(1 << 14)
    population = rl2ml.Population.from_pass_rates([0.05, 0.3, 0.6, 0.9])
    rewards = torch.bernoulli(rates[:, None].expand(-1, 8), generator=generator)
    objective = rl2ml.Objective(0.7, "leave_one_out")
    theory = AdvantageScale.from_pilot(objective, "grpo", 8, population)
    measured = AdvantageScale("grpo")
    measured.step(group_advantages(objective, rewards))
    assert measured.multiplier == pytest.approx(theory.multiplier, rel=0.01)
    far_off = AdvantageScale.from_pilot(objective, "grpo", 8, rl2ml.Population.from_pass_rates([0.99]), decay=0.5)
    before = abs(far_off.multiplier - theory.multiplier)
    for _ in range(20):
        far_off.step(group_advantages(objective, rewards))
    assert abs(far_off.multiplier - theory.multiplier) < 0.01 * theory.multiplier < before


def test_limits():
    scale = AdvantageScale(100.0, limits=(0.5, 4.0))
    step(scale, ONE_OF_FOUR)
    assert scale.multiplier == 4
    scale = AdvantageScale(0.01, limits=(0.5, 4.0))
    step(scale, ONE_OF_FOUR)
    assert scale.multiplier == 0.5


def test_groups_without_any_advantage_say_nothing_yet():
    scale = AdvantageScale("grpo")
    scale.step(group_advantages("grpo", NONE_OF_FOUR))
    assert scale.multiplier == 1
    assert scale.advantage_rms == 0
    scale.step(group_advantages("grpo", ONE_OF_FOUR))
    assert scale.multiplier == pytest.approx(1)


def test_groups_too_small_for_the_reference_count_as_nothing():
    scale = AdvantageScale("grpo", decay=0.5)
    scale.step(group_advantages(OBJECTIVE, [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]))
    # N = 1, K = 1: A = 0; N = 4, K = 1: squares 12. GRPO: 0 and 3, of 5 rows each.
    assert scale.multiplier == pytest.approx(math.sqrt(3 / 12), rel=1e-3)


# ---- folding ----


def test_folding_uses_what_was_known_before():
    scale = AdvantageScale(1.0, fold=True, decay=0.5)
    plain = group_advantages(OBJECTIVE, ONE_OF_FOUR).advantages
    assert torch.equal(step(scale, ONE_OF_FOUR), plain)  # nothing was known
    known = scale.multiplier
    assert torch.allclose(step(scale, NONE_OF_FOUR), torch.full((1, 4), -known))
    assert scale.multiplier != known


def test_without_folding_advantages_stay():
    scale = AdvantageScale(1.0)
    for _ in range(2):
        assert torch.equal(step(scale, ONE_OF_FOUR), group_advantages(OBJECTIVE, ONE_OF_FOUR).advantages)


def test_folding_an_earlier_multiplier_keeps_the_mean_and_the_own_one_would_not():
    """All groups of two rollouts at p = ½, with the direct estimator of γ = 1: A = 2/K r."""
    objective = rl2ml.Objective(1.0, "none")
    groups = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    scores = groups * 2 - 1  # ∇log π, up to a factor
    plain, folded, own = [], [], []
    for rewards, score in zip(groups, scores, strict=True):
        scale = AdvantageScale(1.0, fold=True, decay=0.0)
        scale.step(group_advantages(objective, [[0, 1]]))  # an earlier step: A = 2, 0
        assert scale.multiplier == pytest.approx(1 / math.sqrt(2))
        found = group_advantages(objective, rewards[None])
        plain.append((found.advantages * score).mean().item())
        folded.append((scale.step(found) * score).mean().item())
        own.append(scale.multiplier * plain[-1])
    # A·S/2 is 0, 1, 1 and 1: a mean of 3/4, folded times 1/√2. The own multipliers are 1 (of 0), 1/√2, 1/√2 and 1.
    assert sum(plain) / 4 == pytest.approx(3 / 4)
    assert sum(folded) / 4 == pytest.approx(3 / 4 / math.sqrt(2))
    assert sum(own) / 4 == pytest.approx((math.sqrt(2) + 1) / 4)


# ---- learning rates ----


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.ASGD])
def test_sgd_takes_the_multiplier(optimizer):
    scale = AdvantageScale(1.0)
    step(scale, ONE_OF_FOUR)
    assert scale.learning_rate_multiplier(parameter_of(optimizer)) == scale.multiplier != 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adafactor])
def test_adam_keeps_its_rate_and_says_so(optimizer):
    scale = AdvantageScale(1.0)
    step(scale, ONE_OF_FOUR)
    with pytest.warns(UserWarning, match=f"steps of {optimizer.__name__} do not grow.*would correct twice"):
        assert scale.learning_rate_multiplier(parameter_of(optimizer)) == 1


def test_a_folded_multiplier_is_not_applied_again():
    scale = AdvantageScale(1.0, fold=True)
    step(scale, ONE_OF_FOUR)
    with pytest.warns(UserWarning, match="folded into the advantages already.*would correct twice"):
        assert scale.learning_rate_multiplier(parameter_of(torch.optim.SGD)) == 1


def test_wrapped_optimizers_are_recognized():
    class Wrapped(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    scale = AdvantageScale(1.0)
    step(scale, ONE_OF_FOUR)
    assert scale.learning_rate_multiplier(Wrapped(parameter_of(torch.optim.SGD))) == scale.multiplier
    with pytest.warns(UserWarning, match="steps of AdamW"):
        scale.learning_rate_multiplier(Wrapped(Wrapped(parameter_of(torch.optim.AdamW))))


def test_in_a_scheduler():
    scale = AdvantageScale(1.0)
    optimizer = parameter_of(torch.optim.SGD)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: scale.learning_rate_multiplier(optimizer))
    assert optimizer.param_groups[0]["lr"] == 0.1
    step(scale, ONE_OF_FOUR)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / math.sqrt(3))


# ---- checkpoints ----


def test_going_on_from_a_checkpoint_is_going_on(tmp_path):
    scale = AdvantageScale("grpo")
    step(scale, ONE_OF_FOUR)
    torch.save(scale.state_dict(), tmp_path / "scale.pt")
    resumed = AdvantageScale("grpo")
    resumed.load_state_dict(torch.load(tmp_path / "scale.pt", weights_only=True))
    for one in (scale, resumed):
        step(one, [[1, 1, 0, 0]])
    assert resumed.state_dict() == scale.state_dict()
    assert resumed.multiplier == scale.multiplier


@pytest.mark.parametrize(
    "state",
    [{}, {"own": 1.0}, {"own": -1.0, "other": 1.0, "weight": 1.0}, {"own": math.nan, "other": 1.0, "weight": 1.0}, 3],
)
def test_other_states_are_refused(state):
    with pytest.raises(rl2ml.InvalidInput, match="state"):
        AdvantageScale(1.0).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": 0.0}, "reference must be a finite number above 0"),
        ({"reference": "gpro"}, "reference must be one of"),
        ({"reference": None}, "reference must be an Objective"),
        ({"decay": 1.0}, "decay must be below 1; got 1"),
        ({"decay": -0.1}, "decay must be a finite number at least 0"),
        ({"limits": (0.0, 1.0)}, "limits must be a finite number above 0"),
        ({"limits": (2.0, 1.0)}, r"limits must be \(least, largest\)"),
        ({"limits": (2.0,)}, r"limits must be \(least, largest\)"),
    ],
)
def test_refused(options, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        AdvantageScale(**{"reference": 1.0, **options})


def test_a_pilot_is_needed_for_theory():
    with pytest.raises(rl2ml.InvalidInput, match="population must be given"):
        AdvantageScale.from_pilot(OBJECTIVE, "grpo", 8)


def test_advantages_that_are_not_finite():
    groups = group_advantages(OBJECTIVE, ONE_OF_FOUR)
    groups.advantages[0, 0] = math.inf
    with pytest.raises(rl2ml.InvalidInput, match="advantages must be finite"):
        AdvantageScale(1.0).step(groups)


def test_groups_too_small_for_the_reference_count_with_nothing():
    groups = group_advantages(rl2ml.Objective(1.0, "score"), torch.ones(4, 1))
    scale = AdvantageScale("grpo")
    scale.step(groups)
    assert scale.multiplier == 1  # the reference is 0 so far
