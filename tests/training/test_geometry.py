"""Score geometry from sketches: exact means over every group of two policies, errors against simulation. E33–E35."""

import itertools
import math

import numpy as np
import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

from rl2ml_core.training import MeasuredGeometry, measure_geometry  # noqa: E402

POOLED = [
    *("kappa", "contrast", "energy", "success_square", "failure_square", "success_noise", "failure_noise"),
    *("sensitivity", "kappa_of_successes", "kappa_of_mixed", "kappa_of_failures", "mean_score", "energy_ratio"),
    *("kappa_of_hard", "kappa_of_easy"),
]


def scores_of(policy):
    """∇ log π of every response, [A, parameters], by autograd."""
    totals = torch.where(policy.mask, policy.log_probs(), 0).sum(1)
    rows = [torch.autograd.grad(total, policy.logits, retain_graph=True)[0].flatten() for total in totals]
    return torch.stack(rows).numpy()


def truth(scores, rewards, chances):
    """The moments from their definitions."""
    p, q = chances @ rewards, chances @ (1 - rewards)
    mu, nu = chances * rewards @ scores / p, chances * (1 - rewards) @ scores / q
    squares = (scores**2).sum(1)
    good, bad = chances * rewards @ squares / p, chances * (1 - rewards) @ squares / q
    return {
        "success_square": mu @ mu,
        "failure_square": nu @ nu,
        "cross": mu @ nu,
        "contrast": (mu - nu) @ (mu - nu),
        "success_energy": good,
        "failure_energy": bad,
        "success_noise": good - mu @ mu,
        "failure_noise": bad - nu @ nu,
        "energy": p * good + q * bad,
        "sensitivity": p * mu @ (p * mu),
    } | {"p": p, "q": q}


def simulate(rng, prompts, rollouts, kappa, size, dim=0, alpha=0.5, beta=1.5):
    """Rollouts of the κ-model with noise in `size` directions; sketched where `dim` is given."""
    p = rng.beta(alpha, beta, (prompts, 1))
    rewards = (rng.random((prompts, rollouts)) < p).astype(float)
    unit = rng.normal(size=(prompts, 1, size))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    part = math.sqrt(kappa) * np.where(rewards > 0, 1 - p, -p)
    noise = rng.normal(size=(prompts, rollouts, size)) * np.sqrt((1 - part**2) / size)[..., None]
    scores = part[..., None] * unit + noise
    return scores @ rng.choice([-1, 1], (size, dim)) / math.sqrt(dim) if dim else scores, rewards


# ---- unbiased ----


@pytest.mark.parametrize("num_rollouts", [2, 3, 5, 6])
def test_estimates_of_a_prompt_are_unbiased_over_every_group(make_policy, num_rollouts):
    policy = make_policy()
    scores, rewards = scores_of(policy), policy.rewards.numpy()
    chances, groups = policy.chances().detach().numpy(), policy.groups(num_rollouts).numpy()
    expected = truth(scores, rewards, chances)
    # A last group of each outcome gives κ a denominator; its own numbers are not looked at.
    ids = np.repeat(np.arange(len(groups)), num_rollouts).tolist() + [-1] * 6
    rows = np.append(groups.ravel(), [0, 0, 0, 2, 2, 2])
    prompts = measure_geometry(scores[rows], rewards[rows], ids, exact=True).prompts
    chance = chances[groups].prod(1)
    k = rewards[groups].sum(1)
    f = num_rollouts - k
    needed = {
        "success_square": k >= 2,
        "failure_square": f >= 2,
        "cross": (k >= 1) & (f >= 1),
        "contrast": (k >= 2) & (f >= 2),
        "success_energy": k >= 1,
        "failure_energy": f >= 1,
        "success_noise": k >= 2,
        "failure_noise": f >= 2,
        "energy": k >= 0,
        "sensitivity": k >= 0,
    }
    for name, enough in needed.items():
        values = getattr(prompts, name)[:-1]
        np.testing.assert_array_equal(np.isnan(values), ~enough)
        if enough.any():  # given the rewards, so given that there are enough as well
            assert chance[enough] @ values[enough] / chance[enough].sum() == pytest.approx(expected[name], abs=1e-10)


def test_pooled_estimates_are_ratios_of_unbiased_sums_over_every_group(make_policy):
    # Responses of chance ½, ¼, ¼ and of ¼, ¼, ½ (right, right, wrong): all 4^6 groups of four equally likely atoms
    # each, so that sums over prompts are exact means.
    rows, outcomes, exact = [], [], []
    for second, third, atoms in ((1 / 2, 1 / 2, [0, 0, 1, 2]), (3 / 4, 2 / 3, [0, 1, 2, 2])):
        policy = make_policy()
        with torch.no_grad():
            tables = [[1 - second, second], [1 - third, third]]
            policy.logits.copy_(torch.tensor(tables, dtype=torch.float64).log())
        scores, rewards = scores_of(policy), policy.rewards.numpy()
        groups = np.array(list(itertools.product(atoms, repeat=6)))
        rows.append(scores[groups])
        outcomes.append(rewards[groups])
        exact.append(truth(scores, rewards, np.bincount(atoms) / 4))
    found = measure_geometry(np.concatenate(rows), np.concatenate(outcomes), exact=True)

    def total(value, i=2, j=2):
        return sum(t["p"] ** i * t["q"] ** j * value(t) for t in exact)

    signal, weight, energy = total(lambda t: t["contrast"]), total(lambda t: 1), total(lambda t: t["energy"])
    expected = {
        "kappa": signal / energy,
        "kappa_of_successes": total(lambda t: t["success_square"], 2, 0) / energy,
        "kappa_of_mixed": -total(lambda t: t["cross"], 1, 1) / energy,
        "kappa_of_failures": total(lambda t: t["failure_square"], 0, 2) / energy,
        "kappa_of_hard": total(lambda t: t["contrast"], 2, 3) / total(lambda t: t["energy"], 2, 3),
        "kappa_of_easy": total(lambda t: t["contrast"], 3, 2) / total(lambda t: t["energy"], 3, 2),
        "contrast": signal / weight,
        "energy": energy / weight,
        "sensitivity": total(lambda t: t["sensitivity"], 0, 0) / 2,
        "mean_score": 0,
        "energy_ratio": total(lambda t: t["success_energy"], 1, 1) / total(lambda t: t["failure_energy"], 1, 1),
    } | {
        name: total(lambda t, name=name: t[name]) / weight
        for name in ("success_square", "failure_square", "success_noise", "failure_noise")
    }
    assert {name: getattr(found, name).value for name in POOLED} == pytest.approx(expected, abs=1e-10)
    # E[S] = 0 makes the three kinds of pairs agree.
    assert expected["kappa_of_successes"] == pytest.approx(expected["kappa"], abs=1e-12)
    assert expected["kappa_of_mixed"] == pytest.approx(expected["kappa"], abs=1e-12)


def test_kappa_of_a_policy_that_knows_only_success_and_failure():
    # S = r − p: μ − ν = 1 and E‖S‖² = pq, so κ = 1/(pq), 4 at p = ½; with noise of energy σ² beside it 1/(pq + σ²).
    groups = np.array(list(itertools.product([0, 1], repeat=6)))
    found = measure_geometry((groups - 0.5)[..., None], groups, exact=True)
    assert found.kappa.value == pytest.approx(4)
    assert found.energy_ratio.value == pytest.approx(1)
    assert found.score_model().kappa == 1  # the κ-model ends there
    noise = np.array(list(itertools.product([-1, 1], repeat=6)))
    pairs = itertools.product(range(64), range(64))
    scores = np.array([np.stack([groups[a] - 0.5, 2 * noise[b]], axis=-1) for a, b in pairs])
    rewards = groups.repeat(64, axis=0)
    found = measure_geometry(scores, rewards, exact=True)
    assert found.kappa.value == pytest.approx(1 / (1 / 4 + 4))
    assert found.success_noise.value == pytest.approx(4)


def test_literal_loops_over_pairs():
    rng = np.random.default_rng(3)
    sizes = [2, 3, 5, 6, 9, 1]
    ids = np.repeat(np.arange(6), sizes)
    scores, rewards = rng.normal(size=(len(ids), 3)), (rng.random(len(ids)) < 0.5).astype(float)
    rewards[ids >= 3] = np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0])[:16]
    found = measure_geometry(scores, rewards, ids)
    above, below = 0.0, 0.0
    for place, n in enumerate(sizes):
        s, r = scores[ids == place], rewards[ids == place]
        if n < 2:
            assert np.isnan(found.prompts.sensitivity[place])
            continue
        pairs = []
        for i, j in itertools.permutations(range(n), 2):
            c = (r.sum() - r[i] - r[j] + 0.5) / (n - 1)
            pairs.append((r[i] - c) * (r[j] - c) * (s[i] @ s[j]))
        assert found.prompts.sensitivity[place] == pytest.approx(np.mean(pairs))
        if n >= 5:
            above += np.mean(pairs)
            below += np.mean(
                [
                    r[j] * r[k] * (1 - r[a]) * (1 - r[b]) * (s[i] @ s[i])
                    for i, j, k, a, b in itertools.permutations(range(n), 5)
                ]
            )
    assert found.kappa.value == pytest.approx(above / below)


# ---- errors ----


def test_prompt_errors_are_jackknives():
    rng = np.random.default_rng(4)
    scores, rewards = rng.normal(size=(1, 9, 3)), np.array([[1, 0, 1, 1, 0, 0, 1, 0, 0.0]])
    found = measure_geometry(scores, rewards)
    left = [measure_geometry(np.delete(scores, i, axis=1), np.delete(rewards, i, axis=1)).prompts for i in range(9)]
    for name in vars(found.prompts):
        values = np.array([getattr(prompts, name)[0] for prompts in left])
        expected = math.sqrt(8 * np.var(values))
        assert getattr(found.prompt_errors, name)[0] == pytest.approx(expected), name
    assert found.prompts.kappa[0] == found.prompts.contrast[0] / found.prompts.energy[0]


def test_pooled_errors_are_jackknives_over_prompts_and_coordinates():
    scores, rewards = simulate(np.random.default_rng(5), 20, 8, 0.5, 6, alpha=1, beta=1)
    found = measure_geometry(scores, rewards).kappa

    def value(s, r):
        return measure_geometry(s, r).kappa.value

    def jackknife(values):
        return math.sqrt((len(values) - 1) * np.var(values))

    prompts = [value(np.delete(scores, i, axis=0), np.delete(rewards, i, axis=0)) for i in range(20)]
    coordinates = [value(np.delete(scores, j, axis=2), rewards) for j in range(6)]
    assert found.prompt_error == pytest.approx(jackknife(prompts))
    assert found.sketch_error == pytest.approx(jackknife(coordinates))
    assert max(found.prompt_error, found.sketch_error) <= found.error
    assert found.error <= math.hypot(found.prompt_error, found.sketch_error)
    exact = measure_geometry(scores, rewards, exact=True).kappa
    assert (exact.error, exact.sketch_error) == (exact.prompt_error, 0)
    assert exact.prompt_error == found.prompt_error
    assert exact.interval(0.9) == pytest.approx(
        (exact.value - 1.645 * exact.error, exact.value + 1.645 * exact.error), rel=1e-3
    )


@pytest.mark.parametrize(("kappa", "dim"), [(0.3, 0), (0.3, 24), (0.05, 48)])
def test_errors_are_those_of_repetitions(kappa, dim):
    rng = np.random.default_rng(6)
    found = [measure_geometry(*simulate(rng, 64, 8, kappa, 64, dim), exact=not dim).kappa for _ in range(120)]
    values, errors = np.array([e.value for e in found]), np.array([e.error for e in found])
    # A standard deviation from 120 repetitions is itself good to 6.5 %.
    assert math.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.25)
    assert values.mean() == pytest.approx(kappa, abs=4 * values.std() / math.sqrt(120))
    held = np.mean([low <= kappa <= high for low, high in (e.interval(0.9) for e in found)])
    assert 0.8 <= held <= 0.98


# ---- what comes in, what goes out ----


def test_rows_in_any_order_missing_rewards_and_other_types():
    rng = np.random.default_rng(7)
    scores, rewards = simulate(rng, 12, 9, 0.5, 4)
    expected = measure_geometry(scores[:, :8], rewards[:, :8])
    missing = rewards.copy()
    missing[:, 8] = np.nan
    scores[:, 8] = np.nan  # nor does the sketch of a missing reward matter
    found = measure_geometry(scores, missing)
    assert found.kappa == expected.kappa
    order = rng.permutation(12 * 9)
    names = np.repeat([f"prompt {i}" for i in range(12)], 9)[order]
    flat, flags = scores.reshape(-1, 4)[order], missing.ravel()[order]
    for group_ids in (names, names.tolist(), [(name, 0) for name in names]):
        assert measure_geometry(flat, flags, group_ids).kappa.value == pytest.approx(expected.kappa.value)
    ids = torch.arange(12).repeat_interleave(9)[torch.as_tensor(order)]
    found = measure_geometry(torch.as_tensor(flat), torch.as_tensor(flags), ids)
    assert found.kappa.value == pytest.approx(expected.kappa.value)
    assert sorted(found.ids) == list(range(12))
    place = list(found.ids).index(5)
    assert found.num_rollouts[place] == 8
    assert found.num_successes[place] == expected.num_successes[5]
    assert found.prompts.energy[place] == pytest.approx(expected.prompts.energy[5])
    half = measure_geometry(torch.as_tensor(scores[:, :8]).bfloat16(), torch.as_tensor(rewards[:, :8]))
    assert half.kappa.value == pytest.approx(expected.kappa.value, rel=0.05)


def test_prompts_with_too_few_leave_kappa_alone():
    scores, rewards = simulate(np.random.default_rng(8), 10, 8, 0.5, 4, alpha=1, beta=1)
    expected = measure_geometry(scores, rewards)
    more = np.concatenate([scores.reshape(-1, 4), np.ones((5, 4))])
    ids = np.append(np.arange(10).repeat(8), [10, 10, 10, 10, 11])
    found = measure_geometry(more, np.append(rewards.ravel(), [1, 1, 0, 0, 1]), ids)
    assert found.kappa.value == pytest.approx(expected.kappa.value)
    assert found.contributing == expected.contributing
    assert found.contributing == int(np.sum((rewards.sum(1) >= 2) & (rewards.sum(1) <= 6)))
    assert found.prompts.contrast[10] == 0  # two and two, all alike
    assert np.isnan(found.prompts.contrast[11])


def test_score_model_carries_the_error():
    found = measure_geometry(*simulate(np.random.default_rng(9), 200, 8, 0.4, 16, 16))
    model = found.score_model()
    assert model.kappa == found.kappa.value
    # A log-normal law of standard deviation s in logs has a coefficient of variation √(e^{s²} − 1).
    assert math.sqrt(math.expm1(model.kappa_spread**2)) == pytest.approx(found.kappa.error / found.kappa.value)
    pilot = rl2ml.PilotHistogram.from_counts(found.num_successes, found.num_rollouts)
    assert rl2ml.recommend(pilot, "pass@8", 8, score_model=model).gamma is not None
    for part in ("κ = ‖μ−ν‖²/E‖S‖²", "200 prompts, 1600 rollouts", "16 coordinates"):
        assert part in found.summary()


def test_too_little_to_tell_kappa_from_0():
    few = measure_geometry(*simulate(np.random.default_rng(10), 12, 8, 1e-6, 64))
    assert few.kappa.value < 1.6 * few.kappa.error
    with pytest.raises(
        rl2ml.InvalidInput, match=r"κ is not above 0 .* times as many (prompts|coordinates) \(now \d+\)"
    ):
        few.score_model()
    one = measure_geometry(np.eye(8)[None], np.array([[1, 1, 0, 0, 1, 0, 1, 0]]))
    assert one.kappa.error == math.inf
    with pytest.raises(rl2ml.InvalidInput, match="at least two prompts"):
        one.score_model()


def test_negative_estimates_are_kept():
    # Successes of opposite scores: ‖μ‖² is estimated by their product.
    scores = np.array([[[1.0], [-1], [1], [-1], [0], [0]]])
    found = measure_geometry(scores, np.array([[1, 1, 1, 1, 0, 0]]))
    assert found.prompts.success_square[0] == pytest.approx(-1 / 3)  # 4·2 of 12 pairs are −1, the others 1
    assert found.prompts.success_noise[0] == pytest.approx(4 / 3)
    assert isinstance(found, MeasuredGeometry)
    assert found.kappa.value < 0


@pytest.mark.parametrize("rewards", [np.zeros((4, 8)), np.ones((4, 8)), np.eye(4, 8), np.full((4, 8), np.nan)])
def test_nothing_to_compare(rewards):
    with pytest.raises(rl2ml.InvalidInput, match="two successes and two failures among 5 rollouts; got none"):
        measure_geometry(np.ones((4, 8, 2)), rewards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 2)), np.ones(4)), r"\[P, N, D\]"),
        ((np.ones((4, 2)), np.ones(3), np.ones(3)), r"\[B, D\]"),
        ((np.ones((4, 2)), np.ones(4), np.ones(3)), "one per reward, 4; got 3"),
        ((np.ones((4, 2)), [0, 1, 0.5, 1], np.ones(4)), r"0, 1 or NaN \(missing\); got 0.5 in row 2"),
        (([[1.0], [np.inf]], [0, 1], [0, 0]), "finite; got others in row 1"),
        ((np.ones((4, 0)), np.ones(4), np.ones(4)), r"\[B, D\]"),
        (("text", np.ones(4), np.ones(4)), "sketches must be numbers"),
        ((np.zeros((1, 6, 2)), [[1, 1, 1, 0, 0, 0]]), "must not all be 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        measure_geometry(*arguments)
