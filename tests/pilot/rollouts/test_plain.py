"""Plain tables of rollouts and of counts, in every form."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.errors import InvalidTable

NAMES = ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.jsonl.zst", "a.csv.zst"]
PROMPTS = [
    ("a", 1, 4),
    ("b, quoted", 0, 3),
    ('c "twice"', 4, 4),
    ("d\nlines", 1, 4),
    ("5", 2, 4),
    ("07", 1, 1),
    ("7", 0, 1),
]
CELLS = [(1, 0, 1), (1, 1, 1), (3, 0, 1), (4, 1, 2), (4, 2, 1), (4, 4, 1)]
ROLLOUTS = [{"prompt_id": p, "reward": int(i < k)} for i in range(4) for p, k, n in PROMPTS if i < n]
COUNTS = [{"prompt_id": p, "num_successes": k, "num_rollouts": n} for p, k, n in PROMPTS]


@pytest.mark.parametrize("rows", [ROLLOUTS, COUNTS], ids=["rollouts", "counts"])
@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_one_pilot(write, read, name, rows):
    assert read(write(name, rows)).pilot.cells() == CELLS


def test_integers_are_ids_whatever_the_form(write, read):
    rows = [{"prompt_id": i % 3 - 1, "reward": i % 2} for i in range(12)]
    paths = [write(name, rows) for name in ("a.csv", "b.jsonl", "c.parquet")]
    rollouts = read(paths)
    assert rollouts.pilot.cells() == [(12, 6, 3)]
    assert rollouts.formats == {"plain": 3}


def test_counts_without_ids_are_a_prompt_per_row(write, read):
    rows = [{"num_successes": 1, "num_rollouts": 2}] * 3
    paths = [write("a.csv", rows), write("b.csv", rows[:2])]
    rollouts = read(paths)
    assert rollouts.pilot.cells() == [(2, 1, 5)]
    assert rollouts.rollouts == 10
    assert [(one.rows, one.used) for one in rollouts.files] == [(3, 3), (2, 2)]


@pytest.mark.parametrize(
    ("k", "n"), [(3, 2), (-1, 2), (0, 0), (0.5, 2), (1, 1e9), ("x", 2), ("", 2)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_what_is_no_count(write, read, name, k, n):
    path = write(name, [{"num_successes": 1, "num_rollouts": 2}, {"num_successes": k, "num_rollouts": n}])
    line = 3 if name == "a.csv" else 2
    with pytest.raises(InvalidTable, match=rf"line {line} needs whole numbers"):
        read(path)
    assert read(path, on_error="skip").pilot.cells() == [(2, 1, 1)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("prompt", "reward", "said"),
    [
        ("a", None, "has no reward"),
        (None, 1.0, "has no prompt"),
        ("", 1.0, "has no prompt"),
        ("a", float("inf"), "no finite"),
    ],
)
def test_rows_that_are_wrong_are_named(write, read, name, prompt, reward, said):
    good = [{"prompt_id": "a", "reward": 1.0}, {"prompt_id": "b", "reward": 0.0}]
    path = write(name, [*good, {"prompt_id": prompt, "reward": reward}, *good])
    row = {"a.csv": "line 4", "a.jsonl": "line 3", "a.parquet": "row 3"}[name]
    with pytest.raises(InvalidTable, match=f"{row} .*{said}"):
        read(path)
    rollouts = read(path, on_error="skip")
    assert rollouts.pilot.cells() == [(2, 0, 1), (2, 2, 1)]
    assert sum(rollouts.skipped.values()) == 1


def test_columns_may_be_named(write, read):
    rows = [{"task": {"id": "x" if i < 2 else "y"}, "o": {"ok.": [i % 2]}, "when": 3} for i in range(4)]
    for name in ("a.jsonl", "a.parquet"):
        path = write(name, rows)
        rollouts = read(
            path, prompt="task.id", reward="o.ok..0" if False else "when", success="score >= 3", step="when"
        )
        assert rollouts.pilot.cells() == [(2, 2, 2)]
        assert [one.step for one in rollouts.steps] == [3]
    with pytest.raises(InvalidTable, match="no column 'nope'; found task, o, when"):
        read(write("a.jsonl", rows), prompt="task.id", reward="when", step="nope")


def test_names_of_columns_stay_names(write, read):
    name = "x\" FROM read_csv('/etc/passwd'); --"
    rows = [{name: "a", "r'": i % 2} for i in range(4)]
    for form in ("a.jsonl", "a.csv", "a.parquet", "it's; [*]?.jsonl"):
        assert read(write(form, rows), prompt=name, reward="r'").pilot.cells() == [(4, 2, 1)]


def test_a_step_column_makes_steps(write, read):
    rows = [{"prompt_id": "a", "reward": 1, "step": step} for step in (0, 0, 5)]
    assert read(write("a.csv", rows)).pilot.cells() == [(1, 1, 1), (2, 2, 1)]


IDS = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(IDS, min_size=1, max_size=6, unique=True),
    picks=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60),
    form=st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]),
    shards=st.integers(1, 3),
)
def test_counts_equal_a_dictionary(write, read, count, names, picks, form, shards):
    rows = [{"prompt_id": names[i % len(names)], "reward": int(success)} for i, success in picks]
    parts = [rows[i::shards] for i in range(shards)]
    paths = [write(f"{i}-{form}", part) for i, part in enumerate(parts) if part]
    # Parts that are equal to the byte would be one file that is there twice.
    unequal = len({str(part) for part in parts if part}) == len(paths)
    if unequal:
        assert read(paths).pilot.cells() == count((row["prompt_id"], row["reward"]) for row in rows)


def test_it_agrees_with_read_pilot(write, read):
    for rows in (ROLLOUTS, COUNTS):
        path = write("a.csv", rows)
        assert read(path).pilot == rl2ml.read_pilot(path)
