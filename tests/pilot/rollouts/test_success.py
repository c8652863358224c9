"""Rules of success: what they read like, and what they decide."""

import pytest

from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.rollouts.success import Threshold


@pytest.mark.parametrize(
    ("text", "column", "operator", "value"),
    [
        ("score >= 1", None, ">=", 1),
        ("reward>0.5", None, ">", 0.5),
        (" correctness_reward  ==  1.0 ", "correctness_reward", "==", 1),
        ("a b.c < -1e-3", "a b.c", "<", -0.001),
        ("score <= 0", None, "<=", 0),
    ],
)
def test_rules_as_people_write_them(text, column, operator, value):
    assert Threshold.parse(text) == Threshold(column, operator, value)


@pytest.mark.parametrize(
    "text", ["", "score", "score >=", ">= 1", "score => 1", "score = 1", "score >= one", "score >= nan", "1 <= s <= 2",
             "score >= inf", "score >= 1; DROP TABLE x", 5]
)  # fmt: skip
def test_what_is_no_rule(text):
    with pytest.raises(InvalidInput, match="success must read like") as caught:
        Threshold.parse(text)
    assert caught.value.field == "success"


def test_rules_are_shown_as_they_are_written():
    assert str(Threshold.parse("reward>=1.0")) == "score >= 1"
    assert str(Threshold.parse("x < 0.25")) == "x < 0.25"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("score >= 0.9", 3), ("score > 0.9", 2), ("score == 0.9", 1), ("score <= 0.9", 2), ("score < 0.9", 1)],
)
@pytest.mark.parametrize("single", [False, True])
def test_rules_decide(write, read, rule, expected, single):
    pyarrow = pytest.importorskip("pyarrow")
    # 0.9 in 32 bits is 0.89999998: it is 0.9 all the same.
    scores = pyarrow.array([0.0, 0.9, 1.0, 2.0], pyarrow.float32() if single else pyarrow.float64())
    path = write("a.parquet", pyarrow.table({"prompt_id": [7, 7, 7, 7], "reward": scores}))
    assert read(path, success=rule).pilot.cells() == [(4, expected, 1)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_without_a_rule_scores_are_zero_or_one(write, read, name):
    rows = [{"prompt_id": "a", "reward": reward} for reward in (0.0, 1.0, 0.5, 0.5, 1.25)]
    path = write(name, rows)
    with pytest.raises(
        InvalidInput, match=r"a\.\w+: scores are not all 0 or 1; 4 distinct values: 0\.5 \(2×\), 0 "
    ) as caught:
        read(path)
    assert "success='score >= 1'" in str(caught.value)
    assert caught.value.field == "success"
    assert read(write(name, rows[:2])).pilot.cells() == [(2, 1, 1)]


def test_the_proposed_rule_fits_the_scores(write, read):
    path = write("a.jsonl", [{"prompt_id": 1, "reward": 0.2}, {"prompt_id": 1, "reward": 0.7}])
    with pytest.raises(InvalidInput, match=r"success='score >= 0\.7'"):
        read(path)


def test_booleans_are_scores(write, read):
    rows = [{"prompt_id": 1, "reward": reward} for reward in (True, False, True)]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert read(write(name, rows)).pilot.cells() == [(3, 2, 1)]
