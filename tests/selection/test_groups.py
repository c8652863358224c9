"""Groups of prompts: a joint answer, one each, and a verdict that noise alone rarely gives."""

import json

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core import PilotHistogram, recommend, recommend_groups
from rl2ml_core.selection.criteria import RmsGain


def pilot_of(a, b, prompts, seed, rollouts=16):
    rng = np.random.default_rng(seed)
    return PilotHistogram.from_counts(rng.binomial(rollouts, rng.beta(a, b, prompts)), rollouts)


def test_random_splits_of_one_pilot_rarely_differ():
    rng = np.random.default_rng(0)
    apart = 0
    for _ in range(60):
        counts = rng.binomial(8, rng.beta(0.6, 1.5, 240))
        names = rng.integers(0, 3, 240)
        pilots = {str(i): PilotHistogram.from_counts(counts[names == i], 8) for i in range(3)}
        apart += recommend_groups(pilots, "pass@8", 8, criterion="rms_gain").differ
    assert apart <= 12  # 10 % expected: P(more than 12 of 60) < 1 %


def test_groups_of_other_difficulty_differ():
    pilots = {"easy": pilot_of(4, 2, 400, 1), "hard": pilot_of(0.3, 3, 400, 2)}
    answer = recommend_groups(pilots, "pass@8", 8, score_model=rl2ml.ScoreModel(0.1, 0))
    assert answer.differ
    assert "More than noise sets apart" in answer.summary
    for group in answer.groups:
        assert group.differs
        assert f"{group.name} (γ = {group.recommendation.gamma:.2f}" in answer.summary
    # Two groups make one comparison, seen from both sides.
    easy, hard = (group.difference for group in answer.groups)
    assert easy.level == hard.level == pytest.approx(0.9)
    assert (easy.lower, easy.upper) == pytest.approx((-hard.upper, -hard.lower), abs=0.15)


def test_loss_of_the_joint_answer_is_that_of_the_criterion():
    pilots = {"easy": pilot_of(4, 2, 100, 1), "hard": pilot_of(0.3, 3, 100, 2)}
    answer = recommend_groups(pilots, "pass@8", 8, criterion="rms_gain", bootstrap=0)
    for group in answer.groups:
        population = pilots[group.name].population()
        criterion = RmsGain(population, rl2ml.PassAtK(8), 8)
        at_joint, at_own = (
            float(criterion.combine(criterion.totals(table.success[None], table.failure[None]), 0.1)[0])
            for table in (
                rl2ml.rl2ml_table(gamma, 8, "bayes", population)
                for gamma in (answer.joint.gamma, group.recommendation.gamma)
            )
        )
        assert group.loss_of_joint == pytest.approx(1 - at_joint / at_own, abs=2e-4)
        assert group.difference is None
        assert group.differs is None
    assert answer.differ is None
    assert "could not be compared" in answer.summary


def test_joint_and_own_answers_are_those_of_recommend():
    pilots = {"a": pilot_of(1, 2, 90, 3), "b": pilot_of(1, 3, 80, 4)}
    answer = recommend_groups(pilots, "pass@8", 8, bootstrap=0)
    assert answer.joint.to_dict() == recommend(pilots["a"] + pilots["b"], "pass@8", 8, bootstrap=0).to_dict()
    for group in answer.groups:
        alone = recommend(pilots[group.name], "pass@8", 8, bootstrap=0)
        assert group.recommendation.to_dict() == alone.to_dict()
        assert group.num_prompts == pilots[group.name].total_prompts
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["differ"] is None


def test_deterministic_for_a_seed():
    pilots = {"a": pilot_of(1, 2, 60, 3), "b": pilot_of(1, 3, 60, 4)}
    once = recommend_groups(pilots, "pass@8", 8, seed=5).to_dict()
    assert once == recommend_groups(pilots, "pass@8", 8, seed=5).to_dict()
    assert once != recommend_groups(pilots, "pass@8", 8, seed=6).to_dict()


def test_equal_pilots_draw_apart():
    """The same cells in both groups must not mean the same draws: the difference would have no spread."""
    pilot = pilot_of(0.5, 1.5, 100, 9)
    answer = recommend_groups({"a": pilot, "b": pilot}, "pass@8", 8)
    assert not answer.differ
    for group in answer.groups:
        assert group.difference.upper - group.difference.lower > 0.05


def test_a_group_without_an_answer_does_not_differ():
    pilots = {"solved": PilotHistogram.from_cells([(8, 8, 50)]), "open": pilot_of(1, 2, 90, 3)}
    answer = recommend_groups(pilots, "pass@8", 8)
    solved, rest = answer.groups
    assert solved.recommendation.status == "uninformative"
    assert (solved.loss_of_joint, solved.difference, rest.difference) == (None, None, None)
    assert answer.differ is None
    three = recommend_groups(pilots | {"also open": pilot_of(1, 2, 90, 4)}, "pass@8", 8)
    assert [group.differs for group in three.groups] == [None, False, False]
    assert "1 of 3 could not be compared" in three.summary
    assert "do not differ by more than noise" in three.summary


def test_many_random_groups_rarely_differ():
    """Sixty comparisons at once: Bonferroni's level lies beyond 200 draws."""
    rng = np.random.default_rng(1)
    apart = 0
    for _ in range(6):
        pilots = {f"{i:02d}": PilotHistogram.from_counts(rng.binomial(8, rng.beta(0.6, 1.2, 64)), 8) for i in range(60)}
        apart += recommend_groups(pilots, "pass@8", 8, criterion="rms_gain").differ
    assert apart <= 3  # 10 % expected: P(more than 3 of 6) = .1 %


def test_the_order_of_the_groups_does_not_matter():
    one, other = pilot_of(1, 2, 60, 3), pilot_of(1, 3, 60, 4)
    forth = recommend_groups({"a": one, "b": other}, "pass@8", 8)
    back = recommend_groups({"b": other, "a": one}, "pass@8", 8)
    assert [g.to_dict() for g in forth.groups] == [g.to_dict() for g in back.groups[::-1]]


def test_groups_keep_no_draws():
    answer = recommend_groups({"a": pilot_of(1, 2, 60, 3), "b": pilot_of(1, 3, 60, 4)}, "pass@8", 8)
    assert all(group.recommendation.draws is None for group in answer.groups)


def test_one_group_is_the_joint_answer():
    pilot = pilot_of(1, 2, 90, 3)
    answer = recommend_groups({"all": pilot}, "pass@8", 8)
    assert answer.groups[0].recommendation is answer.joint
    assert "only one group" in answer.summary


@pytest.mark.parametrize(
    ("pilots", "message"),
    [
        ({}, "pilots must hold 1 to 256 groups; got 0"),
        ({str(i): PilotHistogram.from_cells([(8, 1, 1)]) for i in range(257)}, "got 257"),
        ([PilotHistogram.from_cells([(8, 1, 1)])], "pilots must be a mapping"),
        ({"a": [1, 2]}, "pilots must be a mapping"),
        ({"a\x1b[31m": PilotHistogram.from_cells([(8, 1, 1)])}, "names of printable characters"),
    ],
)
def test_what_is_no_mapping_of_pilots_is_refused(pilots, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        recommend_groups(pilots, "pass@8", 8)
