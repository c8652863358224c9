"""Known trainers against what their code does to one group's rewards, written out in reward space."""

from itertools import product

import numpy as np
import pytest

import rl2ml_core as rl2ml


def centered(r):
    return r - r.mean()


def grpo(r, ddof=1, epsilon=1e-4):
    return (r - r.mean()) / (r.std(ddof=ddof) + epsilon)


def rloo(r):
    return np.array([r[i] - np.delete(r, i).mean() for i in range(r.size)])


def maxrl(r):
    return r / r.mean() - 1 if r.any() else np.full(r.size, -1.0)


def maxrl_centered(r):
    return (r - r.mean()) / r.mean() if r.any() else np.zeros(r.size)


TRAINERS = {
    "reinforce": ("reinforce", {}, lambda r: r),
    "rloo": ("rloo", {}, rloo),
    "dr_grpo": ("dr_grpo", {}, centered),
    "grpo": ("grpo", {}, grpo),
    "grpo with verl's epsilon": ("grpo", {"epsilon": 1e-6}, lambda r: grpo(r, epsilon=1e-6)),
    "grpo with the population's std": ("grpo", {"std": "population"}, lambda r: grpo(r, ddof=0)),
    "grpo with a large epsilon": (
        "grpo",
        {"std": "population", "epsilon": 0.5},
        lambda r: grpo(r, ddof=0, epsilon=0.5),
    ),
    "maxrl": ("maxrl", {}, maxrl),
    "maxrl_centered": ("maxrl_centered", {}, maxrl_centered),
}


@pytest.mark.parametrize("num_rollouts", [2, 3, 5, 8])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_table_gives_the_advantages_of_the_trainer_for_every_group(trainer, num_rollouts):
    name, parameters, literal = TRAINERS[trainer]
    table = rl2ml.known_table(name, num_rollouts, **parameters)
    assert table.num_rollouts == num_rollouts
    for rewards in product((0.0, 1.0), repeat=num_rollouts):
        r = np.array(rewards)
        np.testing.assert_allclose(table.advantages(r), literal(r), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_table_of_a_large_group(trainer):
    name, parameters, literal = TRAINERS[trainer]
    table = rl2ml.known_table(name, 300, **parameters)
    for k in (0, 1, 2, 150, 299, 300):
        r = np.zeros(300)
        r[:k] = 1
        np.testing.assert_allclose(table.advantages(r), literal(r), rtol=1e-11, atol=1e-13)


def test_every_known_trainer_is_tested():
    assert {name for name, _, _ in TRAINERS.values()} == set(rl2ml.KNOWN_TRAINERS)
    assert all(trainer.title and trainer.source for trainer in rl2ml.KNOWN_TRAINERS.values())


def test_grpo_without_epsilon_is_the_textbook_table():
    # Population std: s = √((N−K)/K), t = −√(K/(N−K)); equal rewards give no advantage.
    table = rl2ml.known_table("grpo", 8, std="population", epsilon=0)
    k = np.arange(1, 8)
    np.testing.assert_allclose(table.success[1:-1], np.sqrt((8 - k) / k), rtol=1e-14)
    np.testing.assert_allclose(table.failure[1:-1], -np.sqrt(k / (8 - k)), rtol=1e-14)
    assert table.success[8] == table.failure[0] == 0


@pytest.mark.parametrize(
    ("table", "weights"),
    [
        (rl2ml.known_table("grpo", 8), [2.44, 2.18, 1.74, 2.18]),
        (rl2ml.known_table("maxrl_centered", 8), [6.79, 5.22, 1.98, 1.11]),
        (rl2ml.known_table("maxrl", 8), [7.73, 5.70, 1.99, 1.11]),
        (rl2ml.rl2ml_table(0.5, 8), [3.07, 2.53, 1.41, 1.05]),
        (rl2ml.known_table("reinforce", 8), [1, 1, 1, 1]),
        (rl2ml.known_table("rloo", 8), [1, 1, 1, 1]),
        (rl2ml.known_table("dr_grpo", 8), [0.875, 0.875, 0.875, 0.875]),  # (N−1)/N
    ],
    ids=["grpo", "maxrl_centered", "maxrl", "rl2ml", "reinforce", "rloo", "dr_grpo"],
)
def test_effective_weights_of_groups_of_eight(table, weights):
    np.testing.assert_allclose(table.weight([0.01, 0.1, 0.5, 0.9]), weights, atol=0.005)


@pytest.mark.parametrize("num_rollouts", [2, 3, 8, 64, 1024])
def test_maxrl_as_shipped_has_one_order_less_than_its_full_form(num_rollouts):
    # Dropping all-fail groups costs (1−p)^(N−1): w_{1,N} − (1−p)^(N−1) = w_{1,N−1}.
    p = np.array([0, 1e-6, 0.01, 0.3, 0.9, 1])
    full = rl2ml.known_table("maxrl", num_rollouts).weight(p)
    np.testing.assert_allclose(full, rl2ml.objective_weight(p, 1, num_rollouts), rtol=1e-12)
    shipped = rl2ml.known_table("maxrl_centered", num_rollouts).weight(p)
    np.testing.assert_allclose(shipped, rl2ml.objective_weight(p, 1, num_rollouts, num_rollouts - 1), rtol=1e-12)
    np.testing.assert_allclose(full - shipped, (1 - p) ** (num_rollouts - 1), rtol=1e-9, atol=1e-10)


def test_maxrl_is_the_familys_control_variate_at_gamma_one():
    ours, theirs = rl2ml.rl2ml_table(1, 12, "score"), rl2ml.known_table("maxrl", 12)
    np.testing.assert_allclose(ours.success, theirs.success, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(ours.failure, theirs.failure)


@pytest.mark.parametrize("name", ["reinforce", "maxrl"])
def test_one_rollout_suffices_for_trainers_without_a_group_mean(name):
    assert rl2ml.known_table(name, 1).weight(0.3) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo", "maxrl_centered"])
def test_one_rollout_is_too_few_for_trainers_that_center_by_the_group(name):
    with pytest.raises(rl2ml.InvalidInput, match=f"{name} needs at least 2 rollouts per prompt; got 1"):
        rl2ml.known_table(name, 1)


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        (("ppo", 8), {}, "name must be one of reinforce, rloo, grpo, dr_grpo, maxrl_centered, maxrl; got 'ppo'"),
        ((None, 8), {}, "name must be one of"),
        (("grpo", 0), {}, "num_rollouts must be an integer from 1 to 65536; got 0"),
        (("grpo", True), {}, "num_rollouts must be .* got True"),
        (("grpo", 2.5), {}, "num_rollouts must be .* got 2.5"),
        (("grpo", 65_537), {}, "got 65537"),
        (("grpo", 8), {"std": "robust"}, "std must be one of sample, population; got 'robust'"),
        (("grpo", 8), {"epsilon": -1e-6}, "epsilon must be a finite number at least 0; got -1e-06"),
        (("grpo", 8), {"epsilon": float("nan")}, "epsilon must be .* got nan"),
        (("grpo", 8), {"scale": 2}, "grpo takes std, epsilon; got scale"),
        (("rloo", 8), {"epsilon": 0}, "rloo takes no parameters; got epsilon"),
    ],
)
def test_impossible_trainers_are_refused(arguments, parameters, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        rl2ml.known_table(*arguments, **parameters)


@pytest.mark.parametrize(
    ("name", "asked_before", "wrong"),
    [("grpo", 8, 8.0), ("grpo", 8, np.float64(8)), ("grpo", 8, "8"), ("grpo", 8, [8]), ("maxrl", 1, True)],
)
def test_a_table_asked_for_before_does_not_excuse_a_wrong_number(name, asked_before, wrong):
    rl2ml.known_table(name, asked_before)
    with pytest.raises(rl2ml.InvalidInput, match="num_rollouts must be an integer from 1 to 65536; got"):
        rl2ml.known_table(name, wrong)


@pytest.mark.parametrize("parameters", [{"std": ["sample"]}, {"epsilon": [1e-4]}, {"epsilon": True}])
def test_parameters_of_a_wrong_type_are_refused(parameters):
    rl2ml.known_table("grpo", 8, epsilon=1.0)
    with pytest.raises(rl2ml.InvalidInput, match="must be"):
        rl2ml.known_table("grpo", 8, **parameters)


@pytest.mark.parametrize("name", [["grpo"], {"name": "grpo"}, 3])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(rl2ml.InvalidInput, match="name must be one of"):
        rl2ml.known_table(name, 8)


def test_tables_of_other_parameters_are_other_tables():
    default = rl2ml.known_table("grpo", 8)
    assert rl2ml.known_table("grpo", np.int64(8)) == default
    assert rl2ml.known_table("grpo", 8, epsilon=1e-4, std="sample") == default
    assert rl2ml.known_table("grpo", 8, epsilon=0.5) != default
    assert rl2ml.known_table("grpo", 8) == default
