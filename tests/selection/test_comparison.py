"""Known trainers side by side: every row is what `analyze` and `recommend` say of that trainer alone."""

import json
import math

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core import KNOWN_TRAINERS, AdvantageTable, PilotHistogram, analyze, compare, recommend
from rl2ml_core.selection.comparison import ComparedTrainer, LeftOut
from rl2ml_core.selection.uncertainty import Interval


@pytest.fixture(scope="module")
def pilot() -> PilotHistogram:
    rng = np.random.default_rng(0)
    return PilotHistogram.from_counts(rng.binomial(8, rng.beta(0.4, 0.9, 200)), 8)


OPTIONS = [
    {},
    {"prior": rl2ml.BetaPrior(1, 1)},
    {"prior": "plug_in"},
    {"baseline": "leave_one_out", "order": 4},
    {"baseline": "minimum_variance", "score_model": rl2ml.ScoreModel(0.3)},
    {"baseline": "group_centered", "bootstrap": 0},
    {"filter_groups": True},
    {"criterion": "paper", "variance_penalty": 0.05},
    {"gamma_min": 0.5, "gamma_max": 4, "seed": 3, "level": 0.5},
]


def equal(left, right):
    """Equal but for rounding: matrices of other widths are summed in another order."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == (pytest.approx(right, rel=1e-8, abs=1e-9) if isinstance(right, float) else right)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "default")
def test_rows_are_what_recommend_and_analyze_say_of_each_trainer(pilot, options):
    options = {"bootstrap": 20} | options
    chosen = ["grpo", "rloo", "pkpo", 0.5, AdvantageTable(np.arange(9.0), np.zeros(9))]
    found = compare(pilot, "pass@4", 8, trainers=chosen, **options)
    joint = recommend(pilot, "pass@4", 8, **options)
    assert equal(found.recommendation.to_dict(), joint.to_dict())

    people, scores = joint.objective.population, joint.objective.score_model
    scores = None if options.get("criterion") == "paper" else scores
    estimator = {name: options.get(name) for name in ("baseline", "order")}
    estimator = {"baseline": estimator["baseline"] or "bayes", "order": estimator["order"]}
    estimator["filter_groups"] = options.get("filter_groups", False)
    rows = {row.analysis.name: row for row in found.trainers}
    assert len(rows) == len(chosen)
    for trainer, name in zip(chosen, ["grpo", "rloo", "pkpo", "gamma=0.5", "table"], strict=True):
        alone = recommend(pilot, "pass@4", 8, current=trainer, **options)
        assert equal(rows[name].gain_of_recommended, alone.predicted_gain_over["current"])
        interval = alone.gain_intervals["current"]
        assert equal(rows[name].interval and vars(rows[name].interval), interval and vars(interval))
        of_gamma = estimator if trainer == 0.5 else {}
        assert rows[name].analysis.to_dict() == analyze(trainer, 8, people, scores, **of_gamma).to_dict()

    own = analyze(joint.gamma, 8, people, scores, **estimator)
    assert found.recommended.to_dict() == own.to_dict()
    table = joint.objective.table(8)
    np.testing.assert_allclose(found.recommended.table.success, table.success, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.recommended.table.failure, table.failure, rtol=1e-12, atol=1e-15)


def test_all_known_trainers_by_gain_least_first(pilot):
    found = compare(pilot, "pass@8", 8, bootstrap=0)
    assert {row.analysis.name for row in found.trainers} == set(KNOWN_TRAINERS)
    assert found.left_out == ()
    gains = [row.gain_of_recommended for row in found.trainers]
    assert gains == sorted(gains)
    # RLOO and Dr. GRPO differ by a factor alone.
    by_name = {row.analysis.name: row.gain_of_recommended for row in found.trainers}
    assert by_name["rloo"] == pytest.approx(by_name["dr_grpo"])
    assert by_name["rloo"] < by_name["reinforce"]


def test_trainers_that_gain_nothing_come_last(pilot):
    nothing = AdvantageTable(np.zeros(9), np.zeros(9))
    backwards = AdvantageTable(-np.arange(9.0), np.zeros(9))
    found = compare(pilot, "pass@8", 8, trainers=[nothing, "rloo", backwards, "grpo"], bootstrap=0)
    assert [row.analysis.name for row in found.trainers] == ["grpo", "rloo", "table", "table"]
    assert [row.gain_of_recommended is None for row in found.trainers] == [False, False, True, True]


@pytest.mark.parametrize(("n", "usable"), [(1, {"reinforce", "maxrl", "pkpo", "garl"}), (2, set(KNOWN_TRAINERS))])
def test_small_groups(pilot, n, usable):
    found = compare(pilot, "pass@8", n, bootstrap=20)
    assert {row.analysis.name for row in found.trainers} == usable
    assert {trainer.name for trainer in found.left_out} == set(KNOWN_TRAINERS) - usable
    assert all(trainer.reason == "needs at least 2 rollouts per prompt" for trainer in found.left_out)
    assert found.recommended.num_rollouts == n
    json.dumps(found.to_dict(), allow_nan=False)


def test_trainers_asked_for_by_name_are_left_out_too(pilot):
    found = compare(pilot, "pass@8", 1, trainers=["grpo", "maxrl"])
    assert [row.analysis.name for row in found.trainers] == ["maxrl"]
    assert found.left_out == (LeftOut("grpo", "needs at least 2 rollouts per prompt"),)
    nobody = compare(pilot, "pass@8", 1, trainers=["grpo"])
    assert nobody.trainers == ()
    assert nobody.summary == "γ = 0.00: there is no trainer to compare with."


def test_one_name_may_stand_alone(pilot):
    alone, listed = (compare(pilot, "pass@8", 8, trainers=given, bootstrap=0) for given in ("grpo", ["grpo"]))
    assert alone.to_dict() == listed.to_dict()


@pytest.mark.parametrize("successes", [0, 8])
@pytest.mark.parametrize("prior", [{}, {"prior": rl2ml.BetaPrior(2, 3)}, {"prior": "plug_in"}])
def test_without_an_answer_trainers_are_still_analyzed(successes, prior):
    told = PilotHistogram.from_cells([(8, successes, 64)])
    found = compare(told, "pass@8", 8, **prior)
    assert found.recommended is None
    assert found.summary == found.recommendation.summary
    assert found.summary.startswith("No recommendation: ")
    people = told.population(**prior)
    for row in found.trainers:
        assert row.gain_of_recommended is None
        assert row.interval is None
        assert row.analysis.to_dict() == analyze(row.analysis.name, 8, people).to_dict()
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_population_may_stand_for_a_pilot():
    people = rl2ml.Population(np.array([1.0, 3.0]), np.array([3.0, 1.0]), np.array([1.0, 2.0]))
    found = compare(people, "pass@8", 8, trainers=["grpo"])
    (row,) = found.trainers
    assert row.interval is None
    assert row.analysis.to_dict() == analyze("grpo", 8, people).to_dict()


def test_json(pilot):
    found = compare(pilot, "pass@8", 8, trainers=["grpo", "maxrl_centered"], bootstrap=20)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(content) == ["summary", "recommendation", "recommended", "trainers", "left_out"]
    assert content["recommendation"] == json.loads(json.dumps(found.recommendation.to_dict()))
    assert content["recommended"]["sentence"] == found.recommended.sentence
    for row, shown in zip(found.trainers, content["trainers"], strict=True):
        assert shown["gain_of_recommended"] == row.gain_of_recommended
        assert shown["interval"] == {"level": 0.9, "lower": row.interval.lower, "upper": row.interval.upper}
        assert shown["surprise"] == row.surprise
        assert shown["sentence"] == row.analysis.sentence


# --- sentences -------------------------------------------------------------------------------------------------------


def surprise(trainer, n=8, population=None, **parameters) -> str:
    return ComparedTrainer(analyze(trainer, n, population, **parameters), 0.1, None).surprise


def test_what_names_do_not_say():
    assert "Order N−1" in surprise("maxrl_centered")
    # GRPO's weight is symmetric: w(.9) = w(.1).
    weights = rl2ml.known_table("grpo", 8).weight([0.9, 0.5])
    assert surprise("grpo") == f"Easy prompts weigh more again: w(.9) is {weights[0] / weights[1]:.2f} times w(.5)."
    kept = analyze("dapo", 8)
    assert "what is optimized is GRPO's objective" in surprise("dapo")
    # Of uniform pass rates 7 of 9 success counts are mixed: 8 · 9/7 = 10.3 rollouts.
    assert kept.kept_share == pytest.approx(7 / 9)
    assert surprise("dapo").endswith("Keeps 78% of groups: 10.3 rollouts for each.")
    # k = 4 of 8: with 5 successes or more every subset has one.
    assert "33% of groups have mixed rewards and yet no advantage." in surprise("pass_at_k_training")
    assert "Keeps" in surprise(1.0, baseline="leave_one_out", filter_groups=True)


@pytest.mark.parametrize("trainer", ["reinforce", "rloo", "dr_grpo", "maxrl", "pkpo", "f_grpo", 0.0, 1.5])
def test_trainers_that_are_what_they_say_do_not_surprise(trainer):
    assert surprise(trainer) == ""


def test_odd_tables_surprise():
    n = 8
    k = np.arange(n + 1.0)
    failure = np.zeros(n + 1)
    easy = AdvantageTable(k / n, failure)  # the weight grows with p
    assert "Hard prompts weigh less: w(.01) is 0.24 times w(.5)." in surprise(easy, n)
    backwards = AdvantageTable(np.where(k > 0, -1, 0), failure)
    assert surprise(backwards, n) == "At all pass rates it makes successes rarer."
    partly = AdvantageTable(np.where(k > 0, 2.5 - k, 0), failure)
    rates = "0.3, 0.5, 0.7, 0.9, 0.99"  # w = 2.5 − (1 + 7p)
    assert surprise(partly, n) == f"At pass rates {rates} it makes successes rarer."
    assert surprise(AdvantageTable(np.zeros(n + 1), failure), n) == (
        "78% of groups have mixed rewards and yet no advantage."
    )


def test_summary_tells_gains_from_what_is_too_close_to_call(pilot):
    trainers = ["grpo", "rloo", "maxrl_centered"]
    found = compare(pilot, "pass@8", 8, criterion="rms_gain", trainers=trainers, bootstrap=20)

    def summary(*rows: tuple[float | None, float | None, float | None]) -> str:
        trainers = tuple(
            ComparedTrainer(row.analysis, gain, None if low is None else Interval(0.9, low, high))
            for row, (gain, low, high) in zip(found.trainers, rows, strict=False)
        )
        made = type(found)(found.recommendation, found.recommended, trainers, ())
        start = f"γ = {found.recommendation.gamma:.2f} (bayes baseline) is predicted to gain "
        assert made.summary.startswith(start)
        return made.summary.removeprefix(start)

    labels = [row.label for row in found.trainers]
    assert summary((0.1, 0.05, 0.2), (0.2, 0.1, 0.3), (0.3, None, None)) == "more per step than all 3 trainers."
    assert summary((0.1, 0.05, 0.2)) == "more per step than the trainer."
    assert summary((-0.1, -0.2, 0.1), (0.2, 0.1, 0.3), (0.3, 0.2, 0.4)) == (
        f"more per step than 2 of 3 trainers, and about as much as {labels[0]}."
    )
    assert summary((-0.1, -0.2, -0.05), (0.0, -0.1, 0.1), (0.3, 0.2, 0.4)) == (
        f"more per step than 1 of 3 trainers, about as much as {labels[1]}, and less than {labels[0]}."
    )
    assert summary((-0.1, None, None), (-0.1, None, None), (None, None, None)) == (
        f"less than {labels[0]} and {labels[1]}."
    )


def test_gammas_are_named_by_their_value(pilot):
    found = compare(pilot, "pass@8", 8, trainers=[0.5, 1], bootstrap=0)
    assert {row.label for row in found.trainers} == {"γ = 0.5", "γ = 1"}


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trainers": ["ppo"]}, "trainers must be one of reinforce, rloo"),
        ({"trainers": "ppo"}, "trainers must be one of reinforce, rloo"),
        ({"trainers": ["grpo", -1.0]}, "trainers must be a finite number of at least|trainers must be a finite number"),
        ({"trainers": [math.nan]}, "trainers must be a finite number"),
        ({"trainers": []}, "trainers must name at least one"),
        ({"trainers": [rl2ml.known_table("grpo", 4)]}, "a table for 4 rollouts per prompt; expected 8"),
        ({"current": "grpo"}, "compare takes trainers=…, not current"),
        ({"baseline": "mean"}, "baseline must be one of"),
        ({"prior": "flat"}, "prior must be"),
        ({"bootstrap": -1}, "bootstrap must be"),
    ],
)
def test_misuse_is_refused(pilot, arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        compare(pilot, "pass@8", 8, **arguments)


@pytest.mark.parametrize("n", [0, 1.5, "8", 65_537])
def test_group_sizes_outside_their_range_are_refused(pilot, n):
    with pytest.raises(rl2ml.InvalidInput, match="num_rollouts must be an integer"):
        compare(pilot, "pass@8", n)


def test_the_papers_proxies_are_no_one_noise(pilot):
    found = compare(pilot, "pass@8", 8, criterion="paper", bootstrap=0)
    default = compare(pilot, "pass@8", 8, bootstrap=0)
    noise = {row.analysis.name: row.analysis.noise_to_signal for row in default.trainers}
    assert {row.analysis.name: row.analysis.noise_to_signal for row in found.trainers} == noise
    assert rl2ml.analyze("maxrl", 8, pilot, rl2ml.ScoreModel.paper()).noise_to_signal is None


def test_a_prior_that_shapes_the_answer_is_said():
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 60), (8, 1, 1)])
    assert "the prior shapes this answer" in compare(pilot, "pass@8", 8, bootstrap=0).summary
