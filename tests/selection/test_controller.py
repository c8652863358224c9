"""The controller: what it remembers, when it moves, and that a run can be replayed and rewound to the last bit."""

import json
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core import BetaPrior, InvalidInput, PilotHistogram, ScoreModel
from rl2ml_core.selection import controller
from rl2ml_core.selection.controller import ControllerSettings, ControllerState, replay, start, step
from rl2ml_core.selection.criteria import RmsGain

# The rules are the same under every criterion; that of the next step is fifty times as fast.
recommend = partial(rl2ml.recommend, criterion="rms_gain")
ROOT = Path(__file__).resolve().parents[2]
PILOT = PilotHistogram.from_cells([(8, 0, 30), (8, 1, 9), (8, 2, 20), (8, 6, 14), (8, 8, 3)])
EASY = PilotHistogram.from_cells([(8, 0, 9), (8, 3, 4), (8, 5, 20), (8, 6, 14), (8, 7, 20), (8, 8, 30)])
HARD = PilotHistogram.from_cells([(8, 0, 80), (8, 1, 12), (8, 2, 5), (8, 4, 2), (8, 8, 1)])


def run_settings(**options):
    return ControllerSettings(
        **{"metric": "pass@8", "num_rollouts": 8, "criterion": "rms_gain", "bootstrap": 0, **options}
    )


def cells(state):
    return [] if state.evidence is None else state.evidence.cells()


def content(state):
    return json.dumps(state.to_dict(), sort_keys=True)


def reloaded(state):
    return ControllerState.from_dict(json.loads(json.dumps(state.to_dict())))


def codes(decision):
    return {found.code for found in decision.diagnostics}


def at(gamma, *, chosen=True, **options):
    """A run that uses γ and remembers nothing: the next window alone decides."""
    state, decision = start(run_settings(initial_gamma=gamma, **options))
    return ControllerState(state.settings, 3, chosen, None, decision)


def criterion_of(gamma, evidence, kappa=0.1):
    """The criterion of a γ with the Bayes baseline made from the evidence."""
    people = evidence.population()
    table = rl2ml.rl2ml_table(gamma, 8, "bayes", people)
    criterion = RmsGain(people, rl2ml.PassAtK(8), 8)
    return float(criterion.combine(criterion.totals(table.success[None], table.failure[None]), kappa)[0])


# ---- what it remembers ----


def test_weights_halve_with_every_half_life():
    first = PilotHistogram.from_cells([(4, 1, 8)])
    windows = [PilotHistogram.from_cells([(4, 1, 2), (4, 4, 1)]), PilotHistogram.from_cells([(4, 0, 3)])]
    one, two, three = replay(run_settings(half_life=1), first, windows)
    assert cells(one) == [(4, 1, 8.0)]
    assert cells(two) == [(4, 1, 6.0), (4, 4, 1.0)]  # 8/2 + 2
    assert cells(three) == [(4, 0, 3.0), (4, 1, 3.0), (4, 4, 0.5)]
    assert [state.decision.num_prompts for state in (one, two, three)] == [8.0, 7.0, 6.5]
    assert [state.index for state in (one, two, three)] == [0, 1, 2]


def test_half_lives_of_several_windows():
    states = replay(run_settings(half_life=2), PilotHistogram.from_cells([(4, 1, 8)]), [None, None])
    assert [state.evidence.total_prompts for state in states] == pytest.approx([8, 8 / 2**0.5, 4], rel=1e-15)


def test_equal_windows_add_up_to_a_geometric_series():
    window = PilotHistogram.from_cells([(8, 2, 10), (8, 3, 6)])
    *_, last = replay(run_settings(half_life=2), None, [window] * 40)
    assert last.evidence.total_prompts == pytest.approx(16 / (1 - 2**-0.5), rel=1e-5)
    assert last.decision.objective.table(8) == rl2ml.rl2ml_table(last.gamma, 8, "bayes", last.evidence)


def test_a_prompt_is_forgotten_after_ten_half_lives():
    states = replay(run_settings(half_life=1), PilotHistogram.from_cells([(4, 1, 1), (4, 2, 3)]), [None] * 13)
    assert [len(cells(state)) for state in states] == [2] * 11 + [1, 0, 0]  # 2^−10 is kept, 3 · 2^−11, too
    assert states[-1].evidence is None
    assert states[-1].decision.code == "no_evidence"
    assert states[-1].gamma == states[0].gamma
    assert step(states[-1], PILOT)[0].evidence == PILOT


def test_draws_are_wider_than_the_noise_of_fading_evidence():
    # E32: the variance of a mean over fading evidence, against what Dirichlet draws from its weights give it.
    rng, p, size = np.random.default_rng(0), np.array([0.1, 0.5, 0.9]), 20
    asked, means, variances = run_settings(half_life=2), [], []
    for _ in range(500):
        evidence = None
        for _ in range(16):
            window = PilotHistogram.from_counts(rng.binomial(8, rng.choice(p, size)), 8)
            evidence = controller._remember(asked, evidence, window)
        rates, weights = evidence.num_successes / 8, evidence.num_prompts
        means.append(evidence.mean_pass_rate)
        spread = weights @ (rates - means[-1]) ** 2 / weights.sum()
        variances.append(spread / (weights.sum() + 1))
    assert np.mean(variances) / np.var(means) == pytest.approx(1 + 2**-0.5, rel=0.2)


def test_more_cells_than_a_state_keeps(monkeypatch):
    monkeypatch.setattr(controller, "MAX_CELLS", 3)
    pilot = PilotHistogram.from_cells([(4, 0, 8), (4, 1, 1), (4, 2, 4)])
    last = replay(run_settings(half_life=1), pilot, [PilotHistogram.from_cells([(4, 3, 2), (4, 4, 2)])])[-1]
    assert cells(last) == [(4, 0, 4.0), (4, 2, 2.0), (4, 3, 2.0)]  # of equally heavy ones the first
    with pytest.raises(InvalidInput, match=r"window must have at most 3 cells and 1e\+08 prompts; got 4 cells"):
        step(last, PilotHistogram.from_counts([0, 1, 2, 3], 4))


def test_groups_of_other_sizes_and_weights_are_welcome():
    window = PilotHistogram.from_counts([0, 3, 1, 6, 7, 2, 1], [8, 8, 7, 8, 8, 5, 1], weights=[1, 1, 0.5, 1, 2, 1, 1])
    state, decision = step(start(run_settings(min_prompts=2), PILOT)[0], window)
    assert state.evidence.total_prompts == pytest.approx(76 / 2**0.5 + 7.5)
    assert decision.objective.table(7).num_rollouts == 7


def test_a_state_of_a_long_run_stays_small():
    rng = np.random.default_rng(0)
    state = start(run_settings(num_rollouts=16), None)[0]
    lengths = []
    for _ in range(60):
        state, _ = step(state, PilotHistogram.from_counts(rng.binomial(16, rng.beta(0.3, 1.5, 64)), 16))
        lengths.append(len(content(state)))
    assert max(lengths) < 3000
    assert len(cells(state)) <= 17


# ---- the start ----


def test_from_a_pilot_it_starts_as_recommend_says():
    asked = {"baseline": "minimum_variance", "score_model": ScoreModel(0.2), "prior": BetaPrior(1, 2), "order": 6}
    state, decision = start(run_settings(**asked, bootstrap=50, current="rloo", seed=3), PILOT)
    found = recommend(PILOT, "pass@8", 8, **asked, bootstrap=50, current="rloo", seed=3)
    assert (state.gamma, decision.code, decision.moved) == (found.gamma, "pilot", False)
    assert decision.recommendation.to_dict() == found.to_dict()
    assert decision.objective.to_dict() == found.objective.to_dict()
    assert decision.learning_rate.to_dict() == pytest.approx(found.learning_rate.to_dict(), rel=1e-12)
    assert codes(decision) == {said.code for said in found.diagnostics} - {"metadata_missing"}


def test_eq_4_keeps_its_score_proxies():
    state, decision = start(run_settings(criterion="paper", variance_penalty=0.1, baseline="none"), PILOT)
    found = recommend(PILOT, "pass@8", 8, criterion="paper", variance_penalty=0.1, baseline="none", bootstrap=0)
    assert decision.objective.to_dict() == found.objective.to_dict()
    assert content(reloaded(state)) == content(state)
    step(state, EASY)


@pytest.mark.parametrize(
    ("options", "gamma"),
    [
        ({}, 1.0),
        ({"current": 0.4}, 0.4),
        ({"current": 0.4, "initial_gamma": 0.7}, 0.7),
        ({"gamma_max": 0.5}, 0.5),
        ({"gamma_min": 1.5}, 1.5),
        ({"current": 3.0}, 2.0),
    ],
)
def test_without_a_pilot_it_starts_at_the_initial_gamma(options, gamma):
    state, decision = start(run_settings(**options))
    assert state.gamma == decision.gamma == gamma
    assert (decision.code, decision.status, decision.moved) == ("no_evidence", "uninformative", False)
    assert decision.objective.baseline == "leave_one_out"
    assert decision.learning_rate is None
    assert decision.recommendation is None
    assert decision.num_prompts == 0


def test_a_small_pilot_decides_for_now_only():
    pilot = PilotHistogram.from_cells([(8, 0, 6), (8, 3, 3)])
    state, decision = start(run_settings(), pilot)
    assert decision.code == "pilot"
    assert state.gamma == recommend(pilot, "pass@8", 8).gamma
    assert not state.chosen
    assert decision.reason.endswith("chosen from the pilot, for now: 9 prompts of evidence are fewer than 16.")
    # The first choice on enough evidence is free.
    after, decision = step(start(run_settings(initial_gamma=0), None)[0], EASY)
    assert decision.code == "first_choice"
    assert after.gamma == recommend(EASY, "pass@8", 8).gamma > 0.1
    assert after.chosen


def test_a_pilot_that_tells_nothing():
    state, decision = start(run_settings(), PilotHistogram.from_cells([(8, 0, 50)]))
    assert (state.gamma, decision.code, decision.status) == (1.0, "uninformative", "uninformative")
    assert decision.objective.baseline == "bayes"  # all-fail pilots have a fitted prior, too


# ---- when it moves ----


def test_the_question_of_a_window_is_recommends():
    state = replay(run_settings(bootstrap=60, seed=5), PILOT, [EASY])[-1]
    found = recommend(state.evidence, "pass@8", 8, bootstrap=60, seed=5, current=start(run_settings(), PILOT)[0].gamma)
    assert state.decision.recommendation.to_dict() == found.to_dict()
    assert state.decision.status == found.status


def test_the_baseline_follows_even_where_gamma_stays():
    before, _ = start(run_settings(hysteresis=1), PILOT)
    after, decision = step(before, EASY)
    assert (decision.code, decision.moved, after.gamma) == ("near_optimal", False, before.gamma)
    assert decision.objective.table(8) == rl2ml.rl2ml_table(after.gamma, 8, "bayes", after.evidence)
    assert decision.objective.table(8) != before.decision.objective.table(8)
    assert decision.objective.order == 8
    reference = rl2ml.known_table("grpo", 8).rms(after.evidence) / decision.objective.table(8).rms(after.evidence)
    assert decision.learning_rate.multiplier == pytest.approx(reference, rel=1e-12)
    assert decision.learning_rate.relative_to == "grpo"


def test_it_moves_where_staying_loses_more_than_hysteresis():
    best = recommend(PILOT, "pass@8", 8).gamma
    gamma = best - 0.09
    loss = 1 - criterion_of(gamma, PILOT) / criterion_of(best, PILOT)
    assert 1e-4 < loss < 0.01
    _, held = step(at(gamma, hysteresis=loss * 1.0001), PILOT)
    assert (held.code, held.gamma) == ("near_optimal", gamma)
    _, moved = step(at(gamma, hysteresis=loss * 0.9999), PILOT)
    assert (moved.code, moved.gamma) == ("moved", pytest.approx(best, abs=1e-9))
    assert moved.moved
    assert f"loses {loss:.1%}" in moved.reason


def test_it_moves_where_the_draws_say_so(monkeypatch):
    gamma = recommend(PILOT, "pass@8", 8).gamma - 0.09
    state = at(gamma, hysteresis=1, bootstrap=300)
    found = recommend(PILOT, "pass@8", 8, bootstrap=300, current=gamma)
    better = found.draws.fixed_at_kappa[:, 0] > found.draws.fixed_at_kappa[:, 3]  # after "shipped", "rl", "maxrl"
    assert 0.5 < better.mean() < 1
    monkeypatch.setattr(controller, "CONFIDENCE", float(better.mean()))
    assert step(state, PILOT)[1].code == "moved"
    monkeypatch.setattr(controller, "CONFIDENCE", float(better.mean()) + 1e-9)
    held = step(state, PILOT)[1]
    assert held.code == "near_optimal"
    assert held.reason.endswith(f"({better.mean():.0%} of draws prefer moving).")


def test_at_the_best_gamma_it_stays_even_with_no_hysteresis():
    best = recommend(PILOT, "pass@8", 8).gamma
    _, decision = step(at(best, hysteresis=0), PILOT)
    assert (decision.code, decision.gamma, decision.moved) == ("near_optimal", best, False)


@pytest.mark.parametrize(("gamma", "after"), [(0.0, 0.25), (2.0, 1.75)])
def test_steps_are_limited(gamma, after):
    best = recommend(PILOT, "pass@8", 8).gamma
    assert 0.3 < best < 1.7
    _, decision = step(at(gamma, max_step=0.25), PILOT)
    assert (decision.code, decision.gamma, decision.moved) == ("limited", after, True)
    assert decision.objective.gamma == after
    assert f"a step of 0.25 towards {best:.2f}" in decision.reason


@pytest.mark.parametrize(
    ("window", "code"),
    [
        (PilotHistogram.from_cells([(8, 0, 5), (8, 2, 10)]), "little_evidence"),  # 15 of 16 prompts
        (PilotHistogram.from_cells([(8, 2, 100)]), "little_evidence"),  # one cell: the prior decides
        (PilotHistogram.from_cells([(8, 0, 100), (8, 1, 1)]), "little_evidence"),
        (PilotHistogram.from_cells([(1, 0, 50), (1, 1, 50)]), "little_evidence"),
        (PilotHistogram.from_cells([(8, 0, 100)]), "uninformative"),
        (PilotHistogram.from_cells([(8, 8, 100)]), "uninformative"),
        (PilotHistogram.from_cells([(1, 0, 1)]), "uninformative"),
        (None, "no_evidence"),
    ],
)
def test_it_refuses_to_move_on_too_little(window, code):
    for chosen in (False, True):
        state, decision = step(at(2.0, chosen=chosen), window)
        assert (decision.code, decision.gamma, decision.moved) == (code, 2.0, False)
        assert state.chosen == chosen
        assert decision.code in controller.CODES
        assert decision.reason.startswith("Held at γ = 2.00: ")
        assert content(reloaded(state)) == content(state)
    assert step(at(2.0, min_prompts=15), PilotHistogram.from_cells([(8, 0, 5), (8, 2, 10)]))[1].moved


def test_a_window_that_tells_nothing_leaves_the_older_evidence():
    state, decision = step(start(run_settings(), PILOT)[0], PilotHistogram.from_cells([(8, 0, 20)]))
    assert state.evidence.total_prompts == pytest.approx(76 / 2**0.5 + 20)
    assert decision.status == "interior"


def test_one_rollout_per_prompt():
    windows = [PilotHistogram.from_counts([0, 1, 1, 0] * 10, 1)] * 3
    for pilot in (None, PILOT):
        states = replay(run_settings(num_rollouts=1, initial_gamma=0.5), pilot, windows)
        assert len({state.gamma for state in states}) == 1
        assert states[-1].decision.learning_rate.multiplier is None  # GRPO is undefined there


def test_windows_without_groups_of_equal_rewards_are_pointed_out():
    filtered = PilotHistogram.from_cells([(8, k, n) for k, n in enumerate([40, 20, 12, 9, 8, 8, 10], start=1)])
    whole = PilotHistogram.from_cells([(8, k, n) for k, n in enumerate([90, 40, 20, 12, 9, 8, 8, 10, 20])])
    state, decision = start(run_settings(), whole)
    assert "filtered_groups" not in codes(decision)
    assert "filtered_groups" not in codes(step(state, whole)[1])
    _, decision = step(state, filtered)  # the pilot's groups would hide it
    assert [found.code for found in decision.diagnostics].count("filtered_groups") == 1
    _, decision = step(start(run_settings())[0], filtered)
    assert [found.code for found in decision.diagnostics].count("filtered_groups") == 1


def test_trainers_that_drop_groups_of_equal_rewards():
    state, decision = step(start(run_settings(filter_groups=True))[0], PILOT)
    table = decision.objective.table(8)
    assert (table.failure[0], table.success[8]) == (0, 0)
    assert content(reloaded(state)) == content(state)


# ---- replay, rewind ----

WINDOWS = [PILOT, HARD, None, PilotHistogram.from_cells([(8, 8, 1)]), EASY, EASY, PILOT, EASY]


@pytest.mark.parametrize("pilot", [None, PILOT])
def test_a_run_goes_on_from_any_state_as_it_went(pilot):
    states = replay(run_settings(bootstrap=50), pilot, WINDOWS)
    assert [content(state) for state in replay(run_settings(bootstrap=50), pilot, iter(WINDOWS))] == [
        content(state) for state in states
    ]
    for k, state in enumerate(states):
        again = reloaded(state)
        assert content(again) == content(state)
        assert again.decision.to_dict() == state.decision.to_dict()
        assert again.index == k
        for window, expected in zip(WINDOWS[k:], states[k + 1 :], strict=True):
            again, decision = step(again, window)
            assert content(again) == content(expected)
            assert json.dumps(decision.to_dict()) == json.dumps(expected.decision.to_dict())


def test_every_process_gives_the_same_bytes():
    code = (
        "import json, sys; import numpy as np; import rl2ml_core as rl2ml\n"
        "from rl2ml_core.selection.controller import ControllerSettings, replay\n"
        "np.random.seed(int(sys.argv[1])); rng = np.random.default_rng(1)\n"
        "windows = [rl2ml.PilotHistogram.from_counts(rng.binomial(8, rng.beta(.3, 1.5, 40)), 8) for _ in range(6)]\n"
        "states = replay(ControllerSettings('0.5*pass@8+0.5*log:0.01', 8, bootstrap=50), None, windows)\n"
        "print(json.dumps([[state.to_dict(), state.decision.to_dict()] for state in states]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, seed],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1", "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(json.loads(runs[0])) == 7


def test_a_state_without_its_run_still_gives_what_to_train_with():
    state = replay(run_settings(), PILOT, [EASY, HARD])[-1]
    again = reloaded(state).decision
    assert again.objective.table(8) == state.decision.objective.table(8)
    assert again.learning_rate == state.decision.learning_rate
    assert again.recommendation is None
    assert rl2ml.Objective.from_dict(again.to_dict()["objective"]).table(8) == again.objective.table(8)


# ---- whatever comes ----

GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9)).map(lambda g: (g[0], min(g))), min_size=1, max_size=40
)


def histogram(groups):
    n, k = zip(*groups, strict=True)
    return PilotHistogram.from_counts(k, n)


@settings(max_examples=25, deadline=None)
@given(GROUPS, GROUPS, st.randoms(use_true_random=False))
def test_neither_the_order_of_prompts_nor_their_shards_matter(before, groups, random):
    state = start(run_settings(), histogram(before))[0]
    expected = content(step(state, histogram(groups))[0])
    assert content(step(state, histogram(random.sample(groups, len(groups))))[0]) == expected
    cut = random.randrange(len(groups))
    if cut:
        assert content(step(state, histogram(groups[:cut]) + histogram(groups[cut:]))[0]) == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.none() | GROUPS, min_size=1, max_size=6),
    st.none() | GROUPS,
    st.sampled_from(["pass@1", "pass@8", "log:0.01"]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([(0.0, 2.0), (0.5, 0.5), (0.3, 1.1)]),
    st.sampled_from([0.05, 0.3]),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.sampled_from([0, 20]),
)
def test_gamma_stays_in_range_and_its_steps_within_the_limit(
    windows, pilot, metric, n, limits, max_step, hysteresis, bootstrap
):
    asked = run_settings(
        metric=metric, num_rollouts=n, gamma_min=limits[0], gamma_max=limits[1], max_step=max_step,
        hysteresis=hysteresis, bootstrap=bootstrap, min_prompts=4,
    )  # fmt: skip
    states = replay(
        asked, pilot and histogram(pilot), [None if window is None else histogram(window) for window in windows]
    )
    for before, after in pairwise(states):
        change = abs(after.gamma - before.gamma)
        assert limits[0] <= after.gamma <= limits[1]
        assert change <= max_step + 1e-12 or after.decision.code == "first_choice"
        assert (change > 0) == after.decision.moved
        assert after.chosen >= before.chosen
        assert after.decision.gamma == after.decision.objective.gamma == after.gamma
        assert np.isfinite(after.decision.objective.table(n).success).all()
        assert content(reloaded(after)) == content(after)
    assert sum(state.decision.code == "first_choice" for state in states) <= 1


# ---- runs ----


def improving(windows, size, drift, seed, n=8):
    """Windows of a policy whose logits rise by `drift` with each; and the law of the last, from many prompts."""
    rng = np.random.default_rng(seed)
    p = np.clip(rng.beta(0.3, 1.5, 4000), 1e-6, 1 - 1e-6)

    def rates(window):
        return p / (p + (1 - p) * np.exp(-drift * window))

    drawn = [
        PilotHistogram.from_counts(rng.binomial(n, rng.choice(rates(window), size)), n) for window in range(windows)
    ]
    return drawn, PilotHistogram.from_counts(rng.binomial(n, rates(windows)), n)


@pytest.mark.parametrize("seed", range(3))
def test_it_follows_a_policy_that_improves(seed):
    windows, last = improving(25, 64, 0.2, seed)
    states = replay(run_settings(bootstrap=200), windows[0], windows)
    gammas = np.array([state.gamma for state in states])
    best = recommend(last, "pass@8", 8, bootstrap=0)
    assert best.gamma - gammas[0] > 0.25  # there is a way to go
    assert gammas[-1] == pytest.approx(best.gamma, abs=0.15)
    loss = 1 - criterion_of(float(gammas[-1]), last) / criterion_of(best.gamma, last)
    assert loss < 0.005
    assert np.abs(np.diff(gammas)).max() <= 0.1 + 1e-12
    assert np.abs(np.diff(gammas)).sum() < 1.3 * (gammas[-1] - gammas[0])  # and hardly a step back


@pytest.mark.parametrize("size", [24, 64, 256])
def test_noise_alone_hardly_moves_it(size):
    moves, path = 0, 0.0
    for seed in range(4):
        windows, _ = improving(25, size, 0.0, seed)
        states = replay(run_settings(bootstrap=100), None, windows)
        gammas = [state.gamma for state in states[2:]]  # after the first choice
        moves += sum(state.decision.moved for state in states[2:])
        path += float(np.abs(np.diff(gammas)).sum())
    assert moves / 4 <= 2.5  # of 24; `hysteresis=0` moves in each
    assert path / 4 < 0.25


# ---- settings ----


def test_settings_are_kept_in_one_form():
    one = ControllerSettings("0.5*pass@16+0.5*pass@1", 8, gamma_min=0, half_life=2, current=1, score_model=ScoreModel())
    other = ControllerSettings(
        rl2ml.Mixture({rl2ml.PassAtK(1): 0.5, rl2ml.PassAtK(16): 0.5}),
        np.int64(8),
        half_life=np.float64(2),
        current=1.0,
    )
    assert one == other
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())
    assert one.metric == "0.5*pass@1+0.5*pass@16"
    assert one.initial_gamma == 1.0
    assert one.decay == pytest.approx(2**-0.5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prior": BetaPrior(0.3, 2), "score_model": ScoreModel(0.03, 0.5), "order": 4, "filter_groups": True},
        {"criterion": "paper", "variance_penalty": 0.1, "prior": "plug_in", "baseline": "none"},
        {"criterion": "paper", "score_model": ScoreModel.paper()},
        {"current": rl2ml.known_table("maxrl", 8)},
        {"current": 0.1 + 0.2, "metric": "log:0.1", "half_life": 1 / 3, "seed": 2**70},
        {"score_model": ScoreModel(0.1, 0.0), "max_step": 20, "min_prompts": 2, "hysteresis": 0},
    ],
)
def test_settings_survive_json(options):
    asked = run_settings(**options)
    again = ControllerSettings.from_dict(json.loads(json.dumps(asked.to_dict(), allow_nan=False)))
    assert again == asked
    assert json.dumps(again.to_dict()) == json.dumps(asked.to_dict())
    before, after = (content(step(start(which, HARD)[0], PILOT)[0]) for which in (asked, again))
    assert before == after


def test_settings_that_are_left_out_have_their_defaults():
    given = {"schema": 1, "metric": "pass@8", "num_rollouts": 8}
    assert ControllerSettings.from_dict(given) == ControllerSettings("pass@8", 8)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"metric": "pass@0"}, "metric.k"),
        ({"metric": 8}, "metric"),
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"num_rollouts": 8.0}, "num_rollouts"),
        ({"gamma_min": 1.5, "gamma_max": 1}, "gamma_min"),
        ({"gamma_max": 21}, "gamma_max"),
        ({"criterion": "best"}, "criterion"),
        ({"variance_penalty": 0.1}, "variance_penalty"),
        ({"prior": "flat"}, "prior"),
        ({"score_model": 0.1}, "score_model"),
        ({"baseline": "mean"}, "baseline"),
        ({"order": 9}, "order"),
        ({"filter_groups": "yes"}, "filter_groups"),
        ({"current": "ppo"}, "current"),
        ({"current": rl2ml.known_table("grpo", 4)}, "current"),
        ({"initial_gamma": 2.5}, "initial_gamma"),
        ({"initial_gamma": float("nan")}, "initial_gamma"),
        ({"half_life": 0}, "half_life"),
        ({"half_life": 1e4}, "half_life"),
        ({"half_life": "2"}, "half_life"),
        ({"hysteresis": -0.01}, "hysteresis"),
        ({"hysteresis": 1.1}, "hysteresis"),
        ({"max_step": 0}, "max_step"),
        ({"max_step": True}, "max_step"),
        ({"min_prompts": 1}, "min_prompts"),
        ({"bootstrap": -1}, "bootstrap"),
        ({"bootstrap": 10**6}, "bootstrap"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(options, field):
    with pytest.raises(InvalidInput) as refused:
        run_settings(**options)
    assert refused.value.field == field


def test_a_metric_that_its_name_does_not_give_back_is_refused():
    class Own(rl2ml.PassAtK):
        @property
        def name(self):
            return "pass @ 8"

    with pytest.raises(InvalidInput, match="its name gives back"):
        run_settings(metric=Own(8))


# ---- forms that are refused ----

GOOD = replay(run_settings(current=rl2ml.known_table("rloo", 8)), PILOT, [EASY])[-1].to_dict()


def changed(path, value):
    """GOOD with the value at a path replaced, or removed where it is `...`."""
    copy = json.loads(json.dumps(GOOD))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["schema"], ...),
        (["extra"], 1),
        (["index"], -1),
        (["index"], True),
        (["index"], ...),
        (["chosen"], 1),
        (["cells"], {}),
        (["cells"], []),
        (["cells"], [[8, 9, 1.0]]),
        (["cells"], [[8, 1]]),
        (["cells", 0], "8,0,1"),
        (["cells", 0, 2], -1.0),
        (["cells", 0, 2], float("nan")),
        (["settings"], None),
        (["settings", "schema"], 0),
        (["settings", "half_lives"], 2),
        (["settings", "num_rollouts"], ...),
        (["settings", "num_rollouts"], "8"),
        (["settings", "prior"], {"alpha": 1}),
        (["settings", "prior"], {"alpha": 1, "beta": 0}),
        (["settings", "prior"], 3),
        (["settings", "score_model"], 0.1),
        (["settings", "score_model"], {"kappa": 2}),
        (["settings", "score_model"], {"k": 2}),
        (["settings", "current"], {"success": [None, 1.0]}),
        (["settings", "current"], {"success": [None, 1.0], "failure": 1}),
        (["settings", "current", "success", 1], "1"),
        (["settings", "current", "success", 1], None),
        (["settings", "current", "failure"], []),
        (["settings", "current"], []),
        (["decision"], []),
        (["decision", "gamma"], 2.1),
        (["decision", "gamma"], None),
        (["decision", "code"], "guessed"),
        (["decision", "reason"], None),
        (["decision", "status"], 1),
        (["decision", "moved"], True),
        (["decision", "diagnostics"], None),
        (["decision", "diagnostics"], [{"code": "flat", "level": "info"}]),
        (["decision", "diagnostics"], [{"code": "flat", "level": "info", "detail": 3}]),
        (["decision", "diagnostics"], ["flat"]),
    ],
)
def test_other_forms_are_refused(path, value):
    assert content(ControllerState.from_dict(GOOD)) == json.dumps(GOOD, sort_keys=True)
    with pytest.raises(InvalidInput, match=r"must|needs|expected"):
        ControllerState.from_dict(changed(path, value))


@pytest.mark.parametrize("form", [None, [], "state", 1])
def test_what_is_no_object_is_refused(form):
    for reader in (ControllerState.from_dict, ControllerSettings.from_dict):
        with pytest.raises(InvalidInput, match="must be an object; got"):
            reader(form)


def test_counts_must_be_a_histogram():
    asked = run_settings()
    with pytest.raises(InvalidInput, match=r"pilot must be a PilotHistogram .* or None; got Population"):
        start(asked, PILOT.population())
    with pytest.raises(InvalidInput, match=r"window must be a PilotHistogram .* or None; got list"):
        step(start(asked)[0], [1, 2])
    with pytest.raises(InvalidInput, match=r"window must have at most 10,000 cells and 1e\+08 prompts; got 1 cells"):
        step(start(asked)[0], PilotHistogram.from_cells([(8, 1, 1e9)]))


# ---- what is written about it ----


def test_the_guides_examples_run(capsys):
    guide = (ROOT / "docs" / "controller.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n+(?:```text\n(.*?)```)?", guide, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for code, printed in blocks:
        exec(compile(code, "docs/controller.md", "exec"), names)  # our own text
        assert capsys.readouterr().out == printed
    for item in ("hysteresis", "half_life", "max_step", "min_prompts", "initial_gamma", *controller.CODES):
        assert f"`{item}`" in guide


def test_the_benchmark_runs():
    done = subprocess.run(
        [sys.executable, "benchmarks/controller.py", "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.search(r"N = 16 .*step", done.stdout)


def test_a_window_without_counts_does_not_move():
    settings = ControllerSettings(metric="pass@8", num_rollouts=8, initial_gamma=0.2, max_step=0.05)
    state, _ = start(settings, PilotHistogram.from_cells([(8, 0, 20), (8, 1, 10), (8, 3, 20), (8, 8, 10)]))
    state, _ = step(state, PilotHistogram.from_cells([(8, 4, 60), (8, 6, 60), (8, 7, 100)]))
    before = state.decision.gamma
    for _ in range(3):
        state, decision = step(state, None)
        assert (decision.gamma, decision.moved, decision.code) == (before, False, "little_evidence")


@pytest.mark.parametrize("options", [{"baseline": "group_centered"}, {"filter_groups": True}, {"order": 3}])
def test_what_it_ships_is_what_recommend_ships(options):
    settings = ControllerSettings(metric="pass@8", num_rollouts=8, **options)
    _, decision = start(settings, PILOT)
    found = rl2ml.recommend(PILOT, "pass@8", 8, bootstrap=0, **options)
    assert decision.objective.to_dict() == found.objective.to_dict()
    assert decision.learning_rate.multiplier == pytest.approx(found.learning_rate.multiplier, rel=1e-9)
    assert start(settings)[1].objective.order == found.objective.order  # without counts, too
