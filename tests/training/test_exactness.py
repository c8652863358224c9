"""The loss's gradient is ∇J: autograd gradients of every group that can be drawn, weighted by their chances."""

import math

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
training = pytest.importorskip("rl2ml_core.training")
RL2MLLoss, group_advantages = training.RL2MLLoss, training.group_advantages

GAMMAS = [0.0, 0.3, 1.0, 1.7]
PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8)
LOSS = RL2MLLoss()


def objective_of(gamma, baseline, **options):
    needs_pilot = baseline in ("bayes", "minimum_variance")
    return rl2ml.Objective(gamma, baseline, PILOT if needs_pilot else None, **options)


def target_of(policy, objective, num_rollouts):
    order = num_rollouts - (objective.baseline == "group_centered")
    return policy.objective_gradient(objective.gamma, min(order, objective.order or order))


def assert_equal_gradients(found, target):
    assert (found - target).norm() <= 1e-10 * target.norm()


def gradient(policy, loss):
    return torch.autograd.grad(loss, policy.logits)[0]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 6])
@pytest.mark.parametrize("baseline", list(rl2ml.BASELINES))
def test_dense_groups_one_by_one(make_policy, binary_responses, baseline, num_rollouts, gamma):
    policy = make_policy(binary_responses)
    objective = objective_of(gamma, baseline)
    expected = torch.zeros_like(policy.logits)
    for group in policy.groups(num_rollouts):
        rewards = policy.rewards[group][None]
        advantages = group_advantages(objective, rewards, dtype=torch.float64).advantages[0]
        loss = LOSS(policy.log_probs()[group], policy.mask[group], advantages)
        chance = policy.chances()[group].prod().detach()
        expected -= chance * gradient(policy, loss)
    target = target_of(policy, objective, num_rollouts)
    assert_equal_gradients(expected, target)
    # Plain RL at N = 1 but for the form that has nothing to center on.
    assert target.norm() > 0 or (baseline == "group_centered" and num_rollouts == 1)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 6])
@pytest.mark.parametrize("baseline", list(rl2ml.BASELINES))
def test_ragged_rows_in_any_order(make_policy, baseline, num_rollouts, gamma):
    policy = make_policy()  # responses of other lengths, several for a reward
    objective = objective_of(gamma, baseline)
    groups = policy.groups(num_rollouts)
    order = torch.randperm(groups.numel(), generator=torch.Generator().manual_seed(0))
    ids = torch.arange(len(groups))[:, None].expand_as(groups).flatten()[order]
    rows = groups.flatten()[order]
    advantages = group_advantages(objective, policy.rewards[rows], ids, dtype=torch.float64).advantages
    # One batch of all groups, each weighing its chance: the sum of the separate losses.
    chances = policy.chances()[groups].prod(1).detach()
    loss = LOSS(policy.log_probs()[rows], policy.mask[rows], advantages * chances[ids], num_responses=num_rollouts)
    assert_equal_gradients(-gradient(policy, loss), target_of(policy, objective, num_rollouts))


def expected_gradient(policy, objective, num_rollouts, loss, **arguments):
    """Σ over groups of chance × gradient, all groups at once."""
    groups = policy.groups(num_rollouts)
    found = group_advantages(objective, policy.rewards[groups], dtype=torch.float64)
    chances = policy.chances()[groups].prod(1, keepdim=True).detach()
    arguments = {name: value[groups] for name, value in arguments.items()}
    value = loss(
        policy.log_probs()[groups],
        policy.mask[groups],
        found.advantages * chances,
        num_responses=num_rollouts,
        **arguments,
    )
    return -gradient(policy, value)


@pytest.mark.parametrize(
    "options", [{"filter_groups": True}, {"order": 2}, {"order": 3, "filter_groups": True}], ids=str
)
@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "bayes", "minimum_variance", "group_centered"])
def test_truncated_objectives_and_those_that_drop_equal_groups(make_policy, baseline, options):
    policy = make_policy()
    objective = objective_of(1.7, baseline, **options)
    target = target_of(policy, objective, 4)
    assert_equal_gradients(expected_gradient(policy, objective, 4, LOSS), target)


@pytest.mark.parametrize("loss", [RL2MLLoss(check=False), RL2MLLoss(length_budget=1)], ids=str)
def test_without_checks_and_with_a_budget_of_one_token(make_policy, loss):
    policy = make_policy()
    objective = objective_of(0.3, "bayes")
    assert_equal_gradients(expected_gradient(policy, objective, 3, loss), target_of(policy, objective, 3))


@pytest.mark.parametrize("loss", [LOSS, RL2MLLoss(clip=0.2), RL2MLLoss(clip=(0.2, 0.3), dual_clip=3)], ids=str)
def test_ratio_forms_are_exact_at_ratio_1(make_policy, loss):
    policy = make_policy()
    objective = objective_of(1.7, "score")
    found = expected_gradient(policy, objective, 3, loss, old_log_probs=policy.log_probs().detach())
    assert_equal_gradients(found, target_of(policy, objective, 3))


def test_dropped_groups_leave_the_gradient_alone_where_the_divisor_stays(make_policy):
    """A trainer that drops groups of equal rewards, under an objective made for it."""
    policy = make_policy()
    objective = objective_of(1.0, "leave_one_out", filter_groups=True)
    groups = policy.groups(3)
    chances = policy.chances()[groups].prod(1, keepdim=True).detach()
    kept = policy.rewards[groups].sum(1) % 3 != 0
    assert not kept.all()
    found = group_advantages(objective, policy.rewards[groups[kept]], dtype=torch.float64)
    weighted = found.advantages * chances[kept]
    loss = LOSS(policy.log_probs()[groups[kept]], policy.mask[groups[kept]], weighted, num_responses=3)
    assert_equal_gradients(-gradient(policy, loss), target_of(policy, objective, 3))


def test_the_measure_has_teeth(make_policy):
    """Dividing by lengths, as a mean over tokens does, or a wrong γ misses the target by far more than rounding."""
    policy = make_policy()
    objective = objective_of(0.3, "score")
    target = target_of(policy, objective, 3)

    def mean_over_tokens(log_probs, mask, advantages, num_responses):
        sums = torch.where(mask, log_probs, 0).sum(-1)
        return -(advantages * sums / mask.sum(-1)).sum() / num_responses

    by_length = expected_gradient(policy, objective, 3, mean_over_tokens)
    assert (by_length - target).norm() > 0.1 * target.norm()
    other = expected_gradient(policy, objective_of(0.4, "score"), 3, LOSS)
    assert (other - target).norm() > 0.01 * target.norm()


@pytest.mark.parametrize("pass_rate", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("num_rollouts", [1, 2, 7])
@pytest.mark.parametrize("baseline", list(rl2ml.BASELINES))
def test_the_measured_weight_is_unbiased(baseline, num_rollouts, pass_rate):
    objective = objective_of(1.3, baseline)
    # One group per success count, its estimate alone in the mean.
    estimates = []
    for k in range(num_rollouts + 1):
        rewards = [[1] * k + [0] * (num_rollouts - k)]
        estimates.append(group_advantages(objective, rewards).metrics()["effective_weight"])
    law = [
        math.comb(num_rollouts, k) * pass_rate**k * (1 - pass_rate) ** (num_rollouts - k)
        for k in range(num_rollouts + 1)
    ]
    expected = sum(chance * estimate for chance, estimate in zip(law, estimates, strict=True))
    assert expected == pytest.approx(float(objective.table(num_rollouts).weight(pass_rate)), rel=1e-12, abs=1e-15)
