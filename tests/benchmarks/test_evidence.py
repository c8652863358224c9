"""The simulator is exact where it says so, its estimators mean what they should, and its accounts are fair."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rl2ml_core as rl2ml
from benchmarks.evidence import regret
from benchmarks.evidence.arms import ARMS, GAMMAS, Arm, advantage_tables
from benchmarks.evidence.difficulties import SYNTHETIC, draw_pilot, draw_rates, why_absent
from benchmarks.evidence.environments import ENVIRONMENTS, World, geometry
from benchmarks.evidence.onestep import predicted_gains, realized_gains
from benchmarks.evidence.rules import BASELINES, GRID, RULES, TRUE, Rule, choose
from benchmarks.evidence.run import load, path_of, run_all, run_setting
from benchmarks.evidence.settings import (
    ADDED,
    HELD_OUT,
    QUICK,
    SETTINGS,
    Question,
    Setting,
    fingerprint,
    held_out_by_hash,
)
from benchmarks.evidence.simulate import (
    METRICS,
    Randomness,
    _Refilled,
    evaluate,
    expected_squares,
    sample_gradient,
    train,
)
from benchmarks.evidence.steps import Adam, Normalized, make_step

ROOT = Path(__file__).resolve().parents[2]
TINY = replace(QUICK, seeds=4, num_train=24, num_held_out=8, batch=6, checkpoints=(2, 5), one_step_draws=4)
NAMES = [arm.name for arm in ARMS]


def tiny_world(environment="linear_weak", seeds=range(3)):
    return World.draw(environment, "hard", seeds, 12, 5)


def softmax(z):
    z = np.exp(z - z.max())
    return z / z.sum()


def literal_policy(world, weights, seed, prompt):
    """π of one prompt under W [V, D]."""
    return softmax(weights @ world.features[seed, prompt] + world.offsets[:, seed, prompt])


# Environments


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_initial_pass_rates_are_those_drawn(environment):
    world = tiny_world(environment)
    rates = np.array([draw_rates("hard", seed, world.features.shape[1]) for seed in range(3)])
    np.testing.assert_allclose(world.pass_rates(world.start(1))[..., 0], rates, rtol=1e-9)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pass_rates_and_gradients_are_those_of_the_literal_softmax(environment):
    world = tiny_world(environment)
    weights = world.start(2) + np.random.default_rng(0).standard_normal(world.start(2).shape)
    p = world.pass_rates(weights)
    gradients = world.pass_rate_gradients(weights[..., 1:])
    for seed, prompt in itertools.product(range(3), (0, 7, 11)):
        answer = world.right[:, seed, prompt].argmax()
        literal = literal_policy(world, weights[:, seed, :, 1], seed, prompt)[answer]
        assert p[seed, prompt, 1] == pytest.approx(literal, rel=1e-12)
        direction = np.random.default_rng(prompt).standard_normal(weights.shape[::2])  # [V, D]
        step = 1e-6
        ahead, behind = (
            literal_policy(world, weights[:, seed, :, 1] + sign * step * direction, seed, prompt)[answer]
            for sign in (1, -1)
        )
        slope = (np.outer(gradients[:, seed, prompt], world.features[seed, prompt]) * direction).sum()
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("environment", ["bernoulli", "linear_strong", "noise_10"])
def test_score_geometry_by_summing_over_the_answers(environment):
    world = tiny_world(environment)
    found = geometry(world)
    for seed, prompt in itertools.product(range(3), (0, 5)):
        policy = literal_policy(world, world.start(1)[:, seed, :, 0], seed, prompt)
        right = world.right[:, seed, prompt] == 1
        scores = (np.eye(len(policy)) - policy)[:, :, None] * world.features[seed, prompt]  # of each answer, [V, V, D]
        scores = scores.reshape(len(policy), -1)
        extra = world.noise[seed] ** 2 * scores.shape[1]  # E‖σ ε‖² of the ignored action
        p = policy[right].sum()
        mu = scores[right][0]
        nu = policy[~right] @ scores[~right] / (1 - p)
        np.testing.assert_allclose(nu, -p * mu / (1 - p), atol=1e-12)
        spread = policy[~right] @ ((scores[~right] - nu) ** 2).sum(axis=1) / (1 - p)
        assert found.pass_rates[seed, prompt] == pytest.approx(p)
        assert found.success_mean[seed, prompt] == pytest.approx(mu @ mu)
        assert found.sensitivity[seed, prompt] == pytest.approx(p**2 * (mu @ mu))
        assert found.success_noise[seed, prompt] == pytest.approx(extra)
        assert found.failure_noise[seed, prompt] == pytest.approx(spread + extra)
        assert found.energy[seed, prompt] == pytest.approx(policy @ (scores**2).sum(axis=1) + extra)
    # ρ from the gradients themselves.
    inner = lengths = 0.0
    gradients = world.pass_rate_gradients()
    for seed in range(3):
        full = np.einsum("vp,pd->pvd", gradients[:, seed, :12], world.features[seed, :12]).reshape(12, -1)
        norms = np.linalg.norm(full, axis=1)
        inner += (full @ full.T).sum() - (norms**2).sum()
        lengths += norms.sum() ** 2 - (norms**2).sum()
    assert found.cosine == pytest.approx(inner / lengths, abs=1e-12)


def test_what_environments_are_for():
    kappa, cosine = {}, {}
    for name in ENVIRONMENTS:
        found = geometry(World.draw(name, "hard", range(4), 128, 0))
        kappa[name], cosine[name] = found.kappa, found.cosine
    assert kappa["linear_weak"] == 1
    assert 0.1 < kappa["noise_10"] < 0.2
    assert 0.01 < kappa["noise_100"] < 0.02
    assert abs(cosine["bernoulli"]) < 1e-9
    assert abs(cosine["softmax"]) < 1e-9
    assert 0 < cosine["linear_weak"] < 0.02
    assert cosine["linear_strong"] > 0.1
    assert cosine["noise_100"] == pytest.approx(cosine["linear_weak"], rel=1e-6)


def test_a_seed_is_the_same_whatever_the_others():
    alone, among = tiny_world("noise_10", range(2, 3)), tiny_world("noise_10", range(4))
    np.testing.assert_array_equal(alone.features[0], among.features[2])
    np.testing.assert_array_equal(alone.offsets[:, 0], among.offsets[:, 2])
    assert alone.noise[0] == pytest.approx(among.noise[2], rel=1e-12)
    np.testing.assert_array_equal(draw_rates("bimodal", 3, 10), draw_rates("bimodal", 3, 50)[:10])


# Gradients


def every_group(world, n):
    """All V^N groups of the only prompt of a world of one seed: uniforms [V^N, 1, N] and probabilities [V^N]."""
    policy = world.policy(world.start(1))[:, 0, 0, 0]
    right = int(world.right[:, 0, 0].argmax())
    order = [right, *(answer for answer in range(len(policy)) if answer != right)]
    ends = np.cumsum(policy[order])
    middles = dict(zip(order, ends - policy[order] / 2, strict=True))
    groups = list(itertools.product(range(len(policy)), repeat=n))
    uniforms = np.array([[[middles[answer] for answer in group]] for group in groups])
    return uniforms, np.array([policy[list(group)].prod() for group in groups])


@pytest.mark.parametrize(("environment", "n"), [("bernoulli", 4), ("linear_strong", 3)])
def test_the_mean_of_every_arm_is_its_weight_times_the_gradient_exactly(environment, n):
    world = World.draw(environment, "easy", range(1), 1, 0)
    people = draw_pilot("easy", 0, draw_rates("easy", 0, 20), 8).population()
    success, failure = advantage_tables(ARMS, n, [people])
    uniforms, chances = every_group(world, n)
    assert chances.sum() == pytest.approx(1)
    # One seed per group, all of the same world.
    copies = World(
        np.repeat(world.features, len(chances), 0),
        np.repeat(world.offsets, len(chances), 1),
        np.repeat(world.right, len(chances), 1),
        1,
        np.zeros(len(chances)),
    )
    tables = tuple(np.repeat(table, len(chances), 1) for table in (success, failure))
    batch = sample_gradient(copies, copies.start(len(ARMS)), tables, np.zeros((len(chances), 1), int), uniforms, None)
    mean = np.einsum("vsda,s->vda", batch.gradient, chances)
    p = world.pass_rates(world.start(1))[0, 0, 0]
    gradient = np.outer(world.pass_rate_gradients()[:, 0, 0], world.features[0, 0])
    for a, arm in enumerate(ARMS):
        if arm.gamma is None:
            weight = rl2ml.known_table(arm.name, n).weight(p)
        else:
            weight = rl2ml.objective_weight(p, arm.gamma, n - (arm.baseline == "group_centered"))
        np.testing.assert_allclose(mean[..., a], weight * gradient, atol=1e-12)


def test_score_noise_has_the_variance_that_the_advantages_give_it():
    world = tiny_world("noise_100", range(1))
    arm = [Arm("rloo")]
    randomness = Randomness.draw(world, range(1), 4000, 4, 5)
    tables = advantage_tables(arm, 5, [rl2ml.Population.from_pass_rates([0.5])])
    loud, quiet = (
        [
            sample_gradient(world, world.start(1), tables, randomness.prompts[t], randomness.uniforms[t], noise)
            for t in range(4000)
            for noise in [randomness.noise[t] if with_noise else None]
        ]
        for with_noise in (True, False)
    )
    added = np.array([a.gradient - b.gradient for a, b in zip(loud, quiet, strict=True)])[:, :, 0, :, 0]
    squares = np.array([batch.squares[0, 0, 0] for batch in loud])
    expected = world.noise[0] ** 2 * squares.mean() / (4 * 5) ** 2
    assert (added**2).mean() == pytest.approx(expected, rel=0.01)
    assert abs(added.mean()) < 4 * np.sqrt(expected / added.size)


def test_more_success_never_loses_a_success():
    world = tiny_world()
    randomness = Randomness.draw(world, range(3), 1, 6, 8)
    tables = advantage_tables(ARMS[:1], 8, [rl2ml.Population.from_pass_rates([0.5])] * 3)
    drawn = randomness.prompts[0], randomness.uniforms[0], None
    before = sample_gradient(world, world.start(1), tables, *drawn).successes
    towards = np.einsum("vsp,spd->vsd", world.right - 0.125, world.features)[..., None]
    better = world.pass_rates(towards) >= world.pass_rates(world.start(1))
    after = sample_gradient(world, towards, tables, *drawn).successes
    moved = np.take_along_axis(better[..., 0], randomness.prompts[0], axis=1)
    assert moved.any()
    assert (after >= before)[moved].all()


def test_expected_squares_are_what_groups_average_to():
    world = tiny_world()
    arms = [Arm("grpo"), Arm("leave_one_out 1", 1.0, "leave_one_out")]
    tables = advantage_tables(arms, 8, [rl2ml.Population.from_pass_rates([0.5])] * 3)
    randomness = Randomness.draw(world, range(3), 4000, 12, 8)
    seen = np.mean(
        [
            sample_gradient(world, world.start(2), tables, *drawn, None).squares / (12 * 8)
            for drawn in zip(randomness.prompts, randomness.uniforms, strict=True)
        ],
        axis=0,
    )
    expected = expected_squares(world, tables, kept_only=False)
    np.testing.assert_allclose(seen, expected, rtol=0.05)
    np.testing.assert_allclose(expected[0, :, 0], expected[1, :, 0], rtol=1e-12)  # GRPO's own are the reference


# Training


def trained(arms, step="normalized", size=0.5, seeds=range(3), environment="noise_10"):
    world = tiny_world(environment, seeds)
    pilots = [draw_pilot("hard", seed, draw_rates("hard", seed, 10), 8).population() for seed in seeds]
    return train(world, arms, pilots, Randomness.draw(world, seeds, 12, 4, 4), step, size, (3, 12))


@pytest.mark.parametrize("step", ["normalized", "rms", "adam", "sgd"])
def test_common_random_numbers(step):
    picked = [ARMS[NAMES.index(name)] for name in ("bayes 1", "bayes_recent 1", "grpo", "dapo", "score 1", "maxrl")]
    among = trained([*picked, picked[0]], step)
    np.testing.assert_array_equal(among[0], among[-1])  # twice the same arm
    for place, arm in enumerate(picked):
        np.testing.assert_allclose(trained([arm], step)[0], among[place], rtol=1e-9)  # alone
    np.testing.assert_allclose(trained(picked, step, seeds=range(1, 2))[:, 0], among[:-1, 1], rtol=1e-9)
    # MaxRL with its control variate is γ = 1 with b = 1.
    np.testing.assert_allclose(among[4], among[5], rtol=1e-9)
    assert not np.allclose(among[0], among[1])
    assert among.shape == (7, 3, 2, 2, len(METRICS))


def test_scale_reaches_sgd_alone():
    arms = [Arm("rloo"), Arm("dr_grpo")]  # proportional tables
    for step in ("normalized", "rms", "adam"):
        rloo, dr_grpo = trained(arms, step)
        np.testing.assert_allclose(rloo, dr_grpo, rtol=1e-5)
    # The reference's own multiplier is 1.
    grpo = [Arm("grpo")]
    np.testing.assert_allclose(trained(grpo, "rms"), trained(grpo, "sgd"), rtol=1e-12)


def test_training_learns_and_generalizes_where_prompts_share():
    start = evaluate(tiny_world("linear_strong"), tiny_world("linear_strong").start(1))[..., 0]
    after = trained([Arm("rloo")], size=0.3, environment="linear_strong")[0, :, -1]
    assert (after > start).all()
    apart = trained([Arm("rloo")], environment="softmax")
    assert np.isnan(apart[:, :, :, 1]).all()
    assert np.isfinite(apart[:, :, :, 0]).all()


def test_metrics_are_means_over_prompts():
    world = tiny_world()
    p = world.pass_rates(world.start(1))[..., 0]
    values = evaluate(world, world.start(1))[..., 0]
    np.testing.assert_allclose(values[:, 0, 0], p[:, :12].mean(axis=1))
    np.testing.assert_allclose(values[:, 1, 1], (1 - (1 - p[:, 12:]) ** 8).mean(axis=1))
    np.testing.assert_allclose(values[:, 0, 2], np.log(p[:, :12] + 0.01).mean(axis=1))


def test_steps():
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal((3, 2, 4, 5))
    gradient[:, 1, :, 2] = 0
    squares = np.ones((2, 2, 5))
    weights = np.zeros_like(gradient)
    Normalized(0.7)(weights, gradient.copy(), squares, None)
    lengths = np.sqrt((weights**2).sum(axis=(0, 2)))
    assert lengths[1, 2] == 0
    np.testing.assert_allclose(np.delete(lengths.ravel(), 7), 0.7)
    weights = np.zeros_like(gradient)
    adam = Adam(0.1, (2, 5))
    adam(weights, gradient.copy(), squares, None)
    np.testing.assert_allclose(weights, 0.1 * np.sign(gradient), rtol=1e-5)
    # Masked trajectories keep weights and state: the others' second step is a first one for them.
    masked, plain = Adam(0.1, (2, 5)), Adam(0.1, (2, 5))
    active = np.zeros((2, 5), dtype=bool)
    active[0] = True
    one, two = np.zeros_like(gradient), np.zeros_like(gradient)
    for step in range(3):
        masked(one, gradient * (step + 1), squares, active)
        plain(two, gradient * (step + 1), squares, None)
    assert not one[:, 1].any()
    np.testing.assert_allclose(one[:, 0], two[:, 0], rtol=1e-12)
    # sgd and rms: GRPO's rate times RMS_GRPO/RMS, within limits.
    squares[0, 0], squares[0, 1] = 4, 1e-6
    for name in ("sgd", "rms"):
        weights = np.zeros_like(gradient)
        make_step(name, 2.0, squares)(weights, gradient.copy(), squares, None)
        np.testing.assert_allclose(weights[:, 0], gradient[:, 0] * 2 / 2)
        np.testing.assert_allclose(weights[:, 1], gradient[:, 1] * 2 * 10)


def test_refilling_steps_when_the_batch_is_full_and_counts_what_was_generated():
    world = tiny_world()
    arm = [Arm("dapo")]
    tables = advantage_tables(arm, 4, [rl2ml.Population.from_pass_rates([0.5])] * 3)
    randomness = Randomness.draw(world, range(3), 40, 6, 4)
    refilled, steps, kept = _Refilled(6), np.zeros((3, 1)), np.zeros((3, 1))

    def rule(weights, gradient, squares, active):
        nonlocal steps
        steps += active
        assert (np.abs(gradient).sum(axis=(0, 2))[active] > 0).all()

    for t in range(40):
        drawn = randomness.prompts[t], randomness.uniforms[t], None
        batch = sample_gradient(world, world.start(1), tables, *drawn, refilled.room)
        mixed = (batch.successes > 0) & (batch.successes < 4)
        assert (batch.kept <= mixed).all()
        kept += batch.kept.sum(axis=1)
        refilled.step(rule, world.start(1), batch, 4)
        assert (refilled.room > 0).all()
    np.testing.assert_array_equal(steps, kept // 6)
    assert steps.sum() > 0


# Rules


def test_rules_choose_what_recommend_recommends():
    question = Question("noise_10", "hard", 8)
    chosen = choose(question, TINY, 0.15)
    assert chosen.shape == (len(RULES), len(BASELINES), len(METRICS), TINY.seeds)
    assert (chosen >= 0).all()
    assert (chosen <= 2).all()
    pilot = draw_pilot("hard", 1, draw_rates("hard", 1, 64), 8)
    near = GRID[1] * 0.51
    for j, metric in enumerate(METRICS):
        for i, baseline in enumerate(BASELINES):
            answer = rl2ml.recommend(pilot, metric, 8, criterion="rms_gain", baseline=baseline, bootstrap=0)
            assert chosen[RULES.index(Rule("rms_gain", "64x8", "default")), i, j, 1] == pytest.approx(
                answer.gamma, abs=near
            )
        scores = rl2ml.ScoreModel(0.15)
        told = rl2ml.recommend(pilot, metric, 8, criterion="rms_gain", score_model=scores, bootstrap=0)
        measured = chosen[RULES.index(Rule("rms_gain", "64x8", "measured")), 0, j, 1]
        assert measured == chosen[RULES.index(Rule("rms_gain", "64x8", "measured")), BASELINES.index("none"), j, 1]
        direct = rl2ml.recommend(
            pilot, metric, 8, criterion="rms_gain", score_model=scores, baseline="none", bootstrap=0
        )
        assert measured == pytest.approx(direct.gamma, abs=near)
        assert told.gamma is not None
        for penalty in (0, 0.1):
            paper = rl2ml.recommend(pilot, metric, 8, criterion="paper", variance_penalty=penalty, bootstrap=0)
            rule = RULES.index(Rule(f"paper λ={penalty:g}", "64x8"))
            assert chosen[rule, 0, j, 1] == pytest.approx(paper.gamma, abs=near)


def test_what_a_pilot_cannot_tell_leaves_gamma_at_one(monkeypatch):
    monkeypatch.setattr(
        "benchmarks.evidence.rules.draw_pilot", lambda *_: rl2ml.PilotHistogram.from_counts(np.zeros(8, int), 8)
    )
    chosen = choose(Question("bernoulli", "hard", 4), TINY, 1.0)
    for i, rule in enumerate(RULES):
        assert (chosen[i] == 1).all() == (rule.knowledge != TRUE)


def test_a_small_step_gains_what_is_predicted():
    for environment in ("softmax", "linear_strong", "noise_10"):
        seeds = range(8)
        world = World.draw(environment, "hard", seeds, 64, 0)
        arms = [arm for arm in ARMS if arm.baseline in ("bayes", "leave_one_out")]
        pilots = [rl2ml.Population.from_pass_rates(draw_rates("hard", seed, 64)) for seed in seeds]
        tables = advantage_tables(arms, 8, pilots)
        realized, error = realized_gains(world, tables, Randomness.draw(world, seeds, 30, 16, 8))
        predicted = predicted_gains(geometry(world), tables, 16, measured=True)
        assert np.corrcoef(predicted.ravel(), realized.ravel())[0, 1] > 0.99
        assert np.median(np.abs(predicted - realized) / realized) < 0.15
        assert (error < realized).all()


# Settings


def test_a_third_is_held_out_by_hash():
    assert held_out_by_hash() == HELD_OUT
    assert len(SETTINGS) == len(set(SETTINGS)) == 588
    first = [setting for setting in SETTINGS if setting.environment not in ADDED]
    assert sum(setting.held_out for setting in first) == len(first) // 3 == 168
    assert sum(setting.held_out for setting in SETTINGS) == 168 + 2 * 12  # two of seven difficulties
    assert len({fingerprint(setting, QUICK) for setting in SETTINGS}) == len(SETTINGS)
    assert fingerprint(SETTINGS[0], QUICK) != fingerprint(SETTINGS[0], TINY)
    assert why_absent("hard") is None


def test_graded_prompts_resemble_those_of_their_difficulty():
    world = World.draw("linear_graded", "hard", range(3), 64, 64)
    kind = ENVIRONMENTS["linear_graded"]
    for features, offsets, right in zip(
        world.features, world.offsets.swapaxes(0, 1), world.right.swapaxes(0, 1), strict=True
    ):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1)
        logits = (offsets * right).sum(axis=0) - np.log((np.exp(offsets) * (1 - right)).sum(axis=0))
        order = np.argsort(logits)
        near = np.einsum("pd,pd->p", features[order[:-1]], features[order[1:]]).mean()
        far = np.einsum("pd,pd->p", features[order], features[order[::-1]]).mean()
        assert near > 0.7 * kind.graded
        assert abs(far) < 0.4 * kind.graded
    # Without grades there is no such thing.
    plain = World.draw("linear_weak", "hard", range(3), 64, 64)
    assert abs(np.einsum("spd,spd->sp", plain.features[:, :-1], plain.features[:, 1:]).mean()) < 0.1


def test_difficulties_are_what_they_say():
    means = {name: np.mean([draw_rates(name, seed, 256).mean() for seed in range(16)]) for name in SYNTHETIC}
    assert means == pytest.approx({"hard": 1 / 6, "very_hard": 0.02, "easy": 2 / 3, "bimodal": 0.475}, abs=0.02)


# Accounts


def test_the_oracle_has_no_regret_and_constants_are_interpolated():
    gammas = np.array(GAMMAS)
    curve = 1 - (gammas - 0.75) ** 2 / 4
    gains = np.repeat(curve[None, :, None], 6, axis=2)  # the same on every seed
    split = tuple(regret.halves(gains))
    arms = list(range(len(gammas)))
    assert regret.is_clear(split)
    assert regret.gamma_regrets(split, arms, gammas, np.array(0.75)) == pytest.approx(0)
    # Half-way between .75 (1) and 1 (1 − .0625/4).
    assert regret.gamma_regrets(split, arms, gammas, np.array(0.875)) == pytest.approx(0.0625 / 8)
    assert regret.gain_at(split, arms, gammas, np.array([0.75, 0.875])) == pytest.approx(1 - 0.0625 / 16)
    assert regret.best_gain(split) == pytest.approx(1)


def test_the_best_is_chosen_on_the_other_half():
    # Arm 0 is best on even seeds, arm 1 on odd ones: chosen on one half, each scores low on the other.
    gains = np.array([[[3.0, 1.0, 3.0, 1.0], [1.0, 3.0, 1.0, 3.0]]])
    split = tuple(regret.halves(gains))
    assert regret.best_gain(split) == 1
    assert regret.gamma_regrets(split, [0, 1], np.array([0.0, 1.0]), np.array(0.0)) == pytest.approx(-1)
    # So is a rate: its two rows are chosen by the other half, too.
    (only,) = {half.scoring[0] for half in regret.halves(gains.swapaxes(0, 1))}
    assert only == 1
    # The best of no gain is not divided by.
    noise = np.random.default_rng(0).standard_normal((1, 3, 8))
    assert not regret.is_clear(tuple(regret.halves(noise)))


def test_clusters_are_resampled_as_wholes():
    values = np.array([0.0] * 50 + [1.0] * 50)
    together = regret.summarize(values, np.array(["a"] * 50 + ["b"] * 50))
    apart = regret.summarize(values, np.arange(100).astype(str))
    assert together.mean == apart.mean == 0.5
    assert (together.lower, together.upper) == (0, 1)
    assert apart.upper - apart.lower < 0.25
    assert together.above_tenth == 0.5
    assert regret.summarize(np.array([np.nan]), np.array(["a"])) is None


# Running


def test_a_second_run_takes_up_where_the_first_stopped(tmp_path):
    setting = Setting("linear_strong", "hard", 4, "sgd")
    parts = [setting, Setting("bernoulli", "easy", 4, "adam"), Question("bernoulli", "easy", 4)]
    run_all(parts, TINY, tmp_path, workers=1)
    paths = [path_of(part, TINY, tmp_path) for part in parts]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    before = [path.read_bytes() for path in paths]
    kept = paths[1].stat().st_mtime_ns
    paths[0].unlink()
    run_all(parts, TINY, tmp_path, workers=1)
    assert paths[1].stat().st_mtime_ns == kept
    assert paths[0].read_bytes() == before[0]
    found = load(parts, TINY, tmp_path)
    assert list(found) == parts
    np.testing.assert_array_equal(found[setting]["reached"], run_setting(setting, TINY)["reached"])
    assert found[setting]["reached"].shape == (5, len(ARMS), TINY.seeds, 2, 2, len(METRICS))


def test_quick_run_from_end_to_end(tmp_path):
    command = [sys.executable, "-m", "benchmarks.evidence.run", "--quick", "--output", str(tmp_path)]
    first, again = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr == again.stderr == ""
    assert re.search(r"^\d+ parts, 0 there already$", first.stdout, re.MULTILINE)
    done = re.search(r"^(\d+) parts, (\d+) there already$", again.stdout, re.MULTILINE)
    assert done
    assert done[1] == done[2]
    tables = [
        re.sub(r"^(\d+ s|\d+ parts.*|\d+/\d+, .*)$", "", run.stdout, flags=re.MULTILINE) for run in (first, again)
    ]
    assert tables[0].split() == tables[1].split()
    found = json.loads((tmp_path / "report-quick.json").read_text())
    training = found["rules"]["training"]
    assert training["rms_gain 64x8 κ default"]["mean"] < training["always γ=0"]["mean"]
    assert found["one_step"]["predicted_measured"]["all"] > 0.9
    assert set(found["trainers"]["training"]) == {"over grpo", "over rloo"}
    assert found["trainers"]["training"]["over grpo"]["grpo"]["mean"] == pytest.approx(0, abs=1e-12)
    # The headlines of docs/evidence.md, where this run shows them by far: half of what it has, or twice.
    assert found["one_step"]["predicted"]["all"] > 0.85
    for against in ("over grpo", "over rloo"):
        assert found["trainers"]["training"][against]["bayes, lookahead 64x8 κ default"]["mean"] > 0.07
    controlled = found["length_controlled"]["training"]["all"]
    for rule in ("rms_gain 64x8 κ default", "lookahead 64x8 κ default"):
        assert controlled[rule]["mean"] < 0.035
        assert controlled[rule]["mean"] < 0.5 * controlled["always γ=1"]["mean"]
    for rule in ("rms_gain 64x8 κ measured", "lookahead 64x8 κ measured"):
        assert controlled[rule]["mean"] < 0.5 * controlled["paper λ=0.1 64x8"]["mean"]
    pairs = found["pairs"]["training"]
    assert pairs["bayes, best γ"]["mean"] < 0.3 * min(pairs[f"{form}, best γ"]["mean"] for form in ("none", "score"))
