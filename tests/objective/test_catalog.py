"""Known trainers against what their code does to one group's rewards, written out in reward space."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def pkpo(r, k=None):
    # arXiv:2505.15201: n times k/n for a success, k/n ρ(n−1, c, k−1) for a failure, ρ(n, c, k) = 1 − C(n−c, k)/C(n, k).
    n, c = r.size, int(r.sum())
    k = min(8, n) if k is None else k
    rho = 1 - Fraction(comb(max(n - 1 - c, 0), k - 1), comb(n - 1, k - 1))
    return np.array([k if success else float(k * rho) for success in r])


def pass_at_k_training(r, k=None):
    # arXiv:2508.10751, with N_neg = n − c failures: ρ = 1 − C(N_neg, k)/C(n, k), σ = √(ρ(1−ρ)).
    n, c = r.size, int(r.sum())
    k = min(4, n - 1) if k is None else k
    rho = 1 - Fraction(comb(n - c, k), comb(n, k))
    if rho in (0, 1):
        return np.zeros(n)
    sigma = float(rho * (1 - rho)) ** 0.5
    of_failure = 1 - rho - Fraction(comb(n - c - 1, k - 1), comb(n - 1, k - 1))
    return np.array([float(1 - rho if success else of_failure) / sigma for success in r])


def f_grpo(r, gamma_f=0.5, base=grpo):
    return (1 - r.mean()) ** gamma_f * base(r)


def garl(r, q=0.75):
    return r * r.mean() ** -q if r.any() else np.zeros(r.size)


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
    "dapo": ("dapo", {}, lambda r: grpo(r, epsilon=1e-6)),
    "dapo with the population's std": ("dapo", {"std": "population"}, lambda r: grpo(r, ddof=0, epsilon=1e-6)),
    "pkpo": ("pkpo", {}, pkpo),
    "pkpo of two attempts": ("pkpo", {"k": 2}, lambda r: pkpo(r, 2)),
    "pass@k training": ("pass_at_k_training", {}, pass_at_k_training),
    "pass@1 training": ("pass_at_k_training", {"k": 1}, lambda r: pass_at_k_training(r, 1)),
    "f_grpo": ("f_grpo", {}, f_grpo),
    "f_grpo of MaxRL": ("f_grpo", {"gamma_f": 1.5, "base": "maxrl"}, lambda r: f_grpo(r, 1.5, maxrl)),
    "garl": ("garl", {}, garl),
    "garl of q = 2": ("garl", {"q": 2}, lambda r: garl(r, 2)),
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
    assert all(trainer.label and trainer.title and trainer.source for trainer in rl2ml.KNOWN_TRAINERS.values())
    assert list(rl2ml.KNOWN_TRAINERS)[:6] == ["reinforce", "rloo", "grpo", "dr_grpo", "maxrl_centered", "maxrl"]
    assert [name for name, trainer in rl2ml.KNOWN_TRAINERS.items() if trainer.drops_equal_groups] == ["dapo"]


@pytest.mark.parametrize("name", rl2ml.KNOWN_TRAINERS)
def test_declared_parameters_are_those_that_are_taken(name):
    trainer = rl2ml.KNOWN_TRAINERS[name]
    assert all(parameter.meaning for parameter in trainer.parameters.values())
    defaults = {key: parameter.default for key, parameter in trainer.parameters.items()}
    assert rl2ml.known_table(name, 9, **defaults) == rl2ml.known_table(name, 9)
    code = trainer.advantages.__code__
    assert list(code.co_varnames[2 : code.co_argcount]) == list(defaults)


@pytest.mark.parametrize("name", rl2ml.KNOWN_TRAINERS)
def test_a_name_alone_suffices_from_the_least_group_on(name):
    least = rl2ml.KNOWN_TRAINERS[name].least_rollouts
    for num_rollouts in range(least, 12):
        assert rl2ml.known_table(name, num_rollouts).contrasts.any()


def averages_over_subsets(rewards, k):
    """For each rollout, the mean and the sum over the k-subsets that hold it of whether any of them succeeds."""
    subsets = list(combinations(range(rewards.size), k))
    passed = np.array([rewards[list(subset)].max() for subset in subsets])
    member = np.array([[i in subset for subset in subsets] for i in range(rewards.size)])
    return passed, member


@pytest.mark.parametrize(("num_rollouts", "k"), [(2, 1), (4, 2), (5, 3), (7, 4), (7, 6), (6, 6)])
def test_pass_at_k_trainers_average_over_subsets(num_rollouts, k):
    for rewards in product((0.0, 1.0), repeat=num_rollouts):
        r = np.array(rewards)
        passed, member = averages_over_subsets(r, k)
        # PKPO: (1/C(n,k)) Σ over subsets that hold i, times n as ĝ is a mean over rollouts.
        np.testing.assert_allclose(
            rl2ml.known_table("pkpo", num_rollouts, k=k).advantages(r),
            num_rollouts * (member @ passed) / passed.size,
            rtol=1e-13,
            atol=1e-14,
        )
        # Pass@k training: the subsets' rewards normalized as GRPO does, then averaged over those that hold i.
        if k < num_rollouts:
            std = passed.std()
            normalized = (passed - passed.mean()) / std if std > 1e-12 else np.zeros(passed.size)
            np.testing.assert_allclose(
                rl2ml.known_table("pass_at_k_training", num_rollouts, k=k).advantages(r),
                (member @ normalized) / member.sum(axis=1),
                rtol=1e-12,
                atol=1e-13,
            )


@pytest.mark.parametrize("k", [1, 2, 8, 500, 65_000])
def test_pass_at_k_trainers_of_the_largest_group_equal_exact_fractions(k):
    n = 65_536
    unbiased, trained = rl2ml.known_table("pkpo", n, k=k), rl2ml.known_table("pass_at_k_training", n, k=k)
    for c in (0, 1, 2, 100, 536, 537, 30_000, 65_534, 65_535):
        miss_other = Fraction(comb(n - 1 - c, k - 1), comb(n - 1, k - 1))
        assert unbiased.failure[c] == pytest.approx(float(k * (1 - miss_other)), rel=1e-12, abs=1e-300)
        missed = Fraction(comb(n - c, k), comb(n, k))
        if c and missed > Fraction(1, 10**300):
            expected = float(missed / (1 - missed)) ** 0.5
            assert trained.success[c] == pytest.approx(expected, rel=1e-12)
            assert trained.failure[c] == pytest.approx(-c / (n - c) * expected, rel=1e-12)
        elif c:
            assert trained.success[c] < 1e-149
    assert unbiased.contrasts[-1] == (k if k == 1 else 0)


@pytest.mark.parametrize("num_rollouts", [2, 8, 1000])
def test_trainers_that_are_others_at_some_parameter(num_rollouts):
    def same(one, other):
        np.testing.assert_allclose(one.success, other.success, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.failure, other.failure, rtol=1e-12, atol=1e-14)

    textbook = rl2ml.known_table("grpo", num_rollouts, std="population", epsilon=0)
    same(rl2ml.known_table("pass_at_k_training", num_rollouts, k=1), textbook)
    same(rl2ml.known_table("dapo", num_rollouts, std="population", epsilon=0), textbook)
    same(rl2ml.known_table("pkpo", num_rollouts, k=1), rl2ml.known_table("reinforce", num_rollouts))
    same(rl2ml.known_table("garl", num_rollouts, q=0), rl2ml.known_table("reinforce", num_rollouts))
    same(rl2ml.known_table("garl", num_rollouts, q=1), rl2ml.rl2ml_table(1, num_rollouts, "none"))
    for base in ("grpo", "rloo", "dr_grpo", "maxrl_centered", "maxrl"):
        focal = rl2ml.known_table("f_grpo", num_rollouts, gamma_f=0, base=base)
        same(focal, rl2ml.known_table(base, num_rollouts))


@pytest.mark.parametrize("num_rollouts", [2, 5, 8])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.7])
def test_the_papers_own_forms_are_the_familys_baselines(num_rollouts, gamma):
    # Direct: (β, 0); control variate: (β − 1, −1).
    weights = rl2ml.success_weights(gamma, num_rollouts)
    direct, control = (rl2ml.rl2ml_table(gamma, num_rollouts, name) for name in ("none", "score"))
    for rewards in product((0.0, 1.0), repeat=num_rollouts):
        r = np.array(rewards)
        beta = weights[int(r.sum()) - 1] if r.any() else 0.0
        np.testing.assert_allclose(direct.advantages(r), beta * r, rtol=1e-14)
        np.testing.assert_allclose(control.advantages(r), beta * r - 1, rtol=1e-13, atol=1e-14)


@given(st.integers(2, 40), st.floats(0, 20), st.floats(1e-3, 1 - 1e-3))
def test_garl_weighs_no_prompt_by_more_than_its_groups_can_show(num_rollouts, q, p):
    # (K/N)^−q lies between 1 and N^q, so does any average of it.
    weight = float(rl2ml.known_table("garl", num_rollouts, q=q).weight(p))
    assert 1 - 1e-12 <= weight <= float(num_rollouts) ** q * (1 + 1e-12)


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
        (rl2ml.known_table("dapo", 8), [2.44, 2.18, 1.74, 2.18]),  # per group generated
        (rl2ml.known_table("pkpo", 8, k=4), [3.88, 2.92, 0.5, 0.004]),  # 4 (1−p)³
    ],
    ids=["grpo", "maxrl_centered", "maxrl", "rl2ml", "reinforce", "rloo", "dr_grpo", "dapo", "pkpo"],
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


@pytest.mark.parametrize(("num_rollouts", "k"), [(1, 1), (5, 3), (8, 8), (64, 5), (4096, 300)])
def test_pkpo_has_the_slope_of_pass_at_k_as_its_weight(num_rollouts, k):
    p = np.array([0, 1e-4, 0.3, 0.9, 1])
    weight = rl2ml.known_table("pkpo", num_rollouts, k=k).weight(p)
    np.testing.assert_allclose(weight, k * (1 - p) ** (k - 1), rtol=1e-11, atol=1e-13 * k)


@pytest.mark.parametrize("name", ["reinforce", "maxrl", "pkpo", "garl"])
def test_one_rollout_suffices_for_trainers_without_a_group_mean(name):
    assert rl2ml.known_table(name, 1).weight(0.3) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo", "maxrl_centered", "dapo", "pass_at_k_training", "f_grpo"])
def test_one_rollout_is_too_few_for_trainers_that_center_by_the_group(name):
    with pytest.raises(rl2ml.InvalidInput, match=f"{name} needs at least 2 rollouts per prompt; got 1"):
        rl2ml.known_table(name, 1)


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        (("ppo", 8), {}, "name must be one of reinforce, rloo, grpo, dr_grpo, maxrl_centered, maxrl, .*; got 'ppo'"),
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
        (("pkpo", 8), {"k": 9}, "k must be an integer from 1 to 8; got 9"),
        (("pkpo", 8), {"k": 0}, "k must be .* got 0"),
        (("pkpo", 8), {"k": 2.0}, "k must be .* got 2.0"),
        (("pass_at_k_training", 8), {"k": 8}, "k must be an integer from 1 to 7; got 8"),
        (("f_grpo", 8), {"gamma_f": -0.5}, "gamma_f must be a finite number at least 0 and at most 20; got -0.5"),
        (("f_grpo", 8), {"base": "dapo"}, "base must be one of grpo, rloo, dr_grpo, maxrl_centered, maxrl; got 'dapo'"),
        (("f_grpo", 8), {"std": "sample"}, "f_grpo takes gamma_f, base; got std"),
        (("garl", 8), {"q": float("nan")}, "q must be .* got nan"),
        (("garl", 8), {"q": 21}, "q must be .* got 21"),
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
