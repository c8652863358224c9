"""Health checks: which pilots raise which, at what point, and how often by chance."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core.pilot.diagnostics import (
    CONTRADICTION,
    MISFIT,
    Diagnostic,
    contradicts,
    misfit,
    pilot_diagnostics,
    set_by_prior,
)
from rl2ml_core.pilot.prior import fit_prior, log_law, log_likelihood

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "pilots"
UNIFORM = rl2ml.BetaPrior(1, 1)


def pilot(*cells):
    return rl2ml.PilotHistogram.from_cells(cells)


def findings(histogram, prior=None):
    return {found.code: found for found in pilot_diagnostics(histogram, prior, fit_prior(histogram))}


def drawn(rng, rates, n):
    """A pilot of n rollouts (one number, or one per prompt) at given pass rates."""
    n = np.broadcast_to(n, rates.shape)
    return rl2ml.PilotHistogram.from_counts(rng.binomial(n, rates), n)


# --- what the shares of prompts say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([(8, 0, 32), (8, 4, 32)], set()),
        ([(8, 0, 32), (8, 4, 31)], {"small_pilot", "mostly_all_fail"}),  # 63 prompts, 50.8 % without a success
        ([(8, 0, 33), (8, 4, 31)], {"mostly_all_fail"}),
        ([(8, 8, 32), (8, 4, 32)], set()),
        ([(8, 8, 33), (8, 4, 31)], {"mostly_all_pass"}),
        ([(8, 3, 63.5)], {"small_pilot"}),
        ([(8, 0, 3)], {"small_pilot", "mostly_all_fail"}),
        ([(8, 8, 3)], {"small_pilot", "mostly_all_pass"}),
        ([(1, 0, 40), (1, 1, 60)], {"mostly_all_pass"}),
    ],
)
def test_codes_of_shares(cells, expected):
    assert findings(pilot(*cells)).keys() & {"small_pilot", "mostly_all_fail", "mostly_all_pass"} == expected


def test_findings_are_sentences_with_their_numbers():
    small, failing, *others = findings(pilot((8, 0, 30), (8, 4, 10))).values()
    assert small == Diagnostic("small_pilot", "warning", "40 prompts; 64 or more are recommended.")
    assert failing.detail.startswith("75% of the prompts have no success")
    assert failing.to_dict() == {"code": "mostly_all_fail", "level": "warning", "detail": failing.detail}
    assert {found.level for found in (small, failing, *others)} <= {"info", "warning", "error"}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([(8, 4, 100)], "every prompt has the same counts"),
        ([(1, 0, 50), (1, 1, 50)], "one rollout per prompt shows no spread of pass rates"),
        ([(8, 0, 99), (8, 1, 1)], "at most one prompt has a success"),
        ([(8, 8, 99), (8, 7, 1)], "at most one prompt has a failure"),
        ([(8, 0, 99), (8, 1, 2)], None),
        ([(8, 8, 99), (8, 7, 2)], None),
        ([(1, 0, 50), (2, 1, 50)], None),
    ],
)
def test_when_the_prior_shapes_the_answer(cells, reason):
    assert set_by_prior(pilot(*cells)) == reason


# --- Pearson's statistic ---------------------------------------------------------------------------------------------


def outcomes(prompts, n, prior):
    """Every histogram of some prompts with n rollouts each, as cells, and its beta-binomial probability."""
    k = np.arange(n + 1)
    logs = log_law(k, n - k, prior)
    for bars in itertools.combinations(range(prompts + n), n):
        edges = (-1, *bars, prompts + n)
        counts = [high - low - 1 for low, high in itertools.pairwise(edges)]
        log_ways = math.lgamma(prompts + 1) - sum(math.lgamma(count + 1) for count in counts)
        yield [(n, i, count) for i, count in enumerate(counts)], math.exp(log_ways + counts @ logs)


@pytest.mark.parametrize("groups", [[(12, 4)], [(25, 2)], [(10, 2), (6, 3)], [(2, 1), (9, 2), (2, 5)]])
@pytest.mark.parametrize("prior", [UNIFORM, rl2ml.BetaPrior(0.3, 1.5), rl2ml.BetaPrior(3, 2)])
def test_misfit_has_mean_0_and_variance_1_over_every_pilot(groups, prior):
    """Of all pilots of so many prompts with so many rollouts, each with its probability."""
    mass = mean = square = 0.0
    for parts in itertools.product(*(list(outcomes(*group, prior)) for group in groups)):
        probability = math.prod(chance for _, chance in parts)
        value = misfit(pilot(*(cell for cells, _ in parts for cell in cells)), prior)
        mass += probability
        mean += probability * value
        square += probability * value**2
    assert mass == pytest.approx(1, rel=1e-12)
    assert mean == pytest.approx(0, abs=1e-10)
    assert square == pytest.approx(1, rel=1e-10)


def test_misfit_equals_pearsons_statistic_by_hand():
    # Beta(1, 1) makes the ten counts of n = 9 equally likely: ten classes that expect ten of 100 prompts each.
    # X² = (20−10)²/10 + (0−10)²/10 = 20 with mean 9; Var = 2·9 + (10² − 10² − 2·10 + 2)/100 = 17.82 (Haldane 1937).
    counts = np.repeat(np.arange(10), [20, 0, 10, 10, 10, 10, 10, 10, 10, 10])
    value = misfit(rl2ml.PilotHistogram.from_counts(counts, 9), UNIFORM)
    assert value == pytest.approx((20 - 9) / math.sqrt(17.82), rel=1e-12)


def test_prompts_of_all_numbers_of_rollouts_count_together():
    """Two kinds of prompts among many n, hardly two prompts of one n, are still told from a Beta distribution."""
    rng = np.random.default_rng(0)
    histogram = drawn(rng, rng.choice([0.05, 0.9], 200), rng.integers(20, 120, 200))
    assert misfit(histogram, fit_prior(histogram).prior) > MISFIT


@pytest.mark.parametrize(
    "cells",
    [
        [(1, 0, 60), (1, 1, 40)],
        [(8, 4, 1)],
        [(8, 0, 1), (8, 4, 0.5)],
        [(10**6, 0, 50), (10**6, 500_000, 50)],  # laws too long to be worth their time
    ],
)
def test_where_nothing_can_be_told(cells):
    assert misfit(pilot(*cells), UNIFORM) == 0
    assert "prior_misfit" not in findings(pilot(*cells))


@pytest.mark.parametrize("alpha", [1e-9, 1e-7, 1e-5])
def test_classes_that_follow_from_the_number_of_rollouts_tell_nothing(alpha):
    # P(0 | n) is 1 but for rounding or hardly less, its middle on either side of ½: one class or the next.
    assert misfit(pilot((2, 0, 100), (1000, 0, 100)), rl2ml.BetaPrior(alpha, 1)) == 0


def test_prompts_with_a_million_rollouts_are_left_out_of_the_check():
    few = [(8, 0, 50), (8, 3, 20), (8, 8, 50)]
    assert misfit(pilot(*few, (10**6, 123, 5)), UNIFORM) == misfit(pilot(*few), UNIFORM)


# --- how often by chance, how often with reason ----------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 1.5), (1, 1), (5, 2), (0.05, 0.05), (0.5, 200)])
@pytest.mark.parametrize("n", [2, 8, 16, "unequal"])
def test_pilots_from_a_beta_distribution_seldom_raise_anything(alpha, beta, n):
    rng = np.random.default_rng(1)
    prior = rl2ml.BetaPrior(alpha, beta)
    raised = dict.fromkeys(("prior_contradicted", "prior_misfit", "filtered_groups", "related"), 0)
    for prompts in (16, 64, 256, 2000) * 15:
        rollouts = rng.choice([4, 8, 16, 32], prompts) if n == "unequal" else n
        found = findings(drawn(rng, rng.beta(alpha, beta, prompts), rollouts), prior)
        for code in raised.keys() & found.keys():
            raised[code] += 1
        raised["related"] += "unequal_rollouts" in found and "correlation" in found["unequal_rollouts"].detail
    # At a rate of 2 % three or more of 60 come once in eight series, five once in 140.
    assert max(raised.values()) <= 4
    assert sum(raised.values()) <= 6


@pytest.mark.parametrize(("n", "prompts"), [(16, 256), (16, 64), (8, 256), (4, 1000)])
def test_two_kinds_of_prompts_are_no_beta_distribution(n, prompts):
    rng = np.random.default_rng(2)
    raised = ["prior_misfit" in findings(drawn(rng, rng.choice([0.02, 0.9], prompts), n)) for _ in range(30)]
    assert np.mean(raised) >= 0.95


def test_the_sentence_about_a_misfit():
    rng = np.random.default_rng(3)
    histogram = drawn(rng, rng.choice([0.02, 0.9], 256), 16)
    found = findings(histogram)["prior_misfit"]
    best = fit_prior(histogram).prior
    assert found.level == "warning"
    assert f"the best, Beta({best.alpha:.3g}, {best.beta:.3g}), is off by " in found.detail
    assert f"{misfit(histogram, best):.3g} standard deviations" in found.detail


def test_differences_that_do_not_matter_are_not_said_of_a_million_prompts():
    # The uniform law of n = 8 but for 1 % of the prompts, which moved from 2 to 6: .02 of each in nine. χ² of
    # a prompt = 2 · .01² · 9 = .0018, below .01; and 5e5 · (log-likelihood ratio of .001) is far above the threshold.
    share = np.full(9, 1 / 9)
    share[[2, 6]] += -0.01, 0.01
    histogram = pilot(*((8, k, 1e6 * w) for k, w in enumerate(share)))
    assert misfit(histogram, fit_prior(histogram).prior) > MISFIT
    assert contradicts(histogram, UNIFORM, fit_prior(histogram)) > CONTRADICTION
    assert findings(histogram, UNIFORM) == {}


# --- a stated prior --------------------------------------------------------------------------------------------------


def test_contradiction_is_the_likelihood_ratio():
    histogram = pilot((8, 0, 60), (8, 1, 20), (8, 5, 12))
    fitted = fit_prior(histogram)
    expected = 2 * (log_likelihood(histogram, fitted.prior) - log_likelihood(histogram, UNIFORM))
    assert contradicts(histogram, UNIFORM, fitted) == pytest.approx(expected, rel=1e-12)
    assert contradicts(histogram, fitted.prior, fitted) == pytest.approx(0, abs=1e-10)
    # The fit gives way to its hyperprior: a prior chosen with hindsight may beat it.
    narrow = pilot((8, 4, 64))
    assert contradicts(narrow, rl2ml.BetaPrior(1e6, 1e6), fit_prior(narrow)) == 0


def test_a_contradicted_prior_is_named_with_the_one_that_fits():
    histogram = pilot((8, 0, 60), (8, 1, 20), (8, 5, 12))
    fitted = fit_prior(histogram).prior
    found = findings(histogram, UNIFORM)["prior_contradicted"]
    assert found.level == "warning"
    assert found.detail.startswith(
        f"The counts contradict Beta(1, 1): Beta({fitted.alpha:.3g}, {fitted.beta:.3g}) fits"
    )
    assert found.detail.endswith('14 by chance once in 1000); use prior "empirical_bayes".')
    assert "prior_contradicted" not in findings(histogram)
    assert "prior_contradicted" not in findings(histogram, fitted)


# --- groups that are missing -----------------------------------------------------------------------------------------


def test_filtered_groups_are_noticed_on_either_side_or_both():
    rng = np.random.default_rng(4)
    rates = rng.beta(0.7, 0.8, 600)
    k = rng.binomial(8, rates)
    for kept, said in (
        (k > 0, "No prompt has only failures, where"),
        (k < 8, "No prompt has only successes, where"),
        ((k > 0) & (k < 8), "No prompt has only failures or only successes, where"),
    ):
        found = findings(rl2ml.PilotHistogram.from_counts(k[kept], 8))["filtered_groups"]
        assert found.level == "warning"
        assert found.detail.startswith(said)
        assert f" of {kept.sum()} would be expected" in found.detail
    assert "filtered_groups" not in findings(rl2ml.PilotHistogram.from_counts(k, 8))


@pytest.mark.parametrize(
    "rates",
    [
        lambda rng: rng.beta(20, 3, 2000),  # easy
        lambda rng: rng.beta(0.4, 60, 2000),  # hard
        lambda rng: rng.uniform(0.3, 0.7, 2000),
        lambda rng: np.full(2000, 0.5),
        lambda rng: rng.choice([0.2, 0.9], 256),  # no Beta distribution: the best has mass at 0 where none is
    ],
)
@pytest.mark.parametrize("n", [16, 32, 64])
def test_groups_that_are_missing_for_good_reason_are_not_missed(rates, n):
    rng = np.random.default_rng(5)
    for _ in range(10):
        assert "filtered_groups" not in findings(drawn(rng, rates(rng), n))


@pytest.mark.parametrize("cells", [[(1, 1, 500)], [(1, 0, 500)], [(2, 2, 500)], [(1, 1, 500), (2, 2, 500)]])
def test_where_every_group_is_equal_none_was_filtered(cells):
    assert "filtered_groups" not in findings(pilot(*cells))


# --- unequal numbers of rollouts -------------------------------------------------------------------------------------


def test_unequal_rollouts():
    assert "unequal_rollouts" not in findings(pilot((8, 0, 40), (8, 3, 40)))
    rng = np.random.default_rng(6)
    unrelated = drawn(rng, rng.beta(1, 2, 300), rng.choice([4, 8, 16], 300))
    assert findings(unrelated)["unequal_rollouts"] == Diagnostic(
        "unequal_rollouts", "info", "Prompts have 4 to 16 rollouts."
    )


def test_sampling_until_the_first_success_is_noticed():
    rng = np.random.default_rng(7)
    n = np.minimum(rng.geometric(rng.beta(1, 2, 300)), 64)
    k = (n < 64).astype(int)
    detail = findings(rl2ml.PilotHistogram.from_counts(k, n))["unequal_rollouts"].detail
    assert detail.startswith("Prompts have 1 to 64 rollouts, and those with more have lower success rates (corr")
    assert detail.endswith("): where outcomes decide when sampling stops, rates are biased.")


def test_more_rollouts_for_easier_prompts_are_noticed():
    rng = np.random.default_rng(8)
    rates = np.sort(rng.beta(1, 1, 200))
    n = np.repeat([4, 32], 100)
    assert "have higher success rates" in findings(drawn(rng, rates, n))["unequal_rollouts"].detail


# --- real pilots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aime2024_llama3b_rg_step400_n50", {"small_pilot", "mostly_all_fail", "prior_contradicted"}),
        ("countdown_curriculummaxrl_sft_or_init_checkpoint_n16", {"prior_contradicted"}),
        # Selected: of 9,146 prompts none has more than 3 successes in 128.
        (
            "deepscaler_qwen25math7b_n128_hard_extreme",
            {"mostly_all_fail", "prior_contradicted", "prior_misfit"},
        ),
        # Selected: as many of each difficulty, but those that always fail are left out.
        ("deepscaler_qwen25math7b_n128_uniform", {"filtered_groups"}),
        ("dsr1209_qwen25math1.5b_first4epochs_n32", {"prior_contradicted"}),
        ("lcb_codeexec_claude3opus_cot_n10", {"mostly_all_pass", "prior_contradicted"}),
        ("lcb_codegen_gpt35turbo0125_n10", {"mostly_all_fail", "prior_contradicted"}),
        ("metr_o1_agent_tasks", {"unequal_rollouts", "prior_contradicted"}),
        ("tot_game24_gpt4_cot_n100", {"mostly_all_fail", "prior_contradicted"}),
    ],
)
def test_real_pilots(name, expected):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"../shared/data/pilots/{name}.csv is absent")
    assert findings(rl2ml.read_pilot(path), UNIFORM).keys() == expected


@pytest.mark.parametrize("name", ["dsr1209_qwen25math1.5b_first4epochs_n32", "lcb_codeexec_claude3opus_cot_n10"])
@pytest.mark.parametrize("n", [8, None])
def test_real_pilots_with_filtered_groups(name, n):
    """Groups of equal rewards taken away, as trainers with dynamic sampling do; of n = 8 drawn from the rollouts."""
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"../shared/data/pilots/{name}.csv is absent")
    whole = rl2ml.read_pilot(path)
    repeats = whole.num_prompts.astype(int)
    k, rollouts = np.repeat(whole.num_successes, repeats), np.repeat(whole.num_rollouts, repeats)
    if n is not None:
        k, rollouts = np.random.default_rng(9).hypergeometric(k, rollouts - k, n), np.full(k.size, n)
    kept = (k > 0) & (k < rollouts)
    assert "filtered_groups" not in findings(rl2ml.PilotHistogram.from_counts(k, rollouts))
    assert "filtered_groups" in findings(rl2ml.PilotHistogram.from_counts(k[kept], rollouts[kept]))
