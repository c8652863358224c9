"""Real dumps, counted again by dictionaries and without any of the code under test."""

import json
import zipfile
from collections import Counter, defaultdict

import pytest

import rl2ml_core as rl2ml


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def cells(outcomes):
    """Of prompt → its outcomes."""
    return sorted((n, k, float(c)) for (n, k), c in Counter((len(v), sum(v)) for v in outcomes.values()).items())


def outcomes(pairs):
    found = defaultdict(list)
    for prompt, success in pairs:
        found[prompt].append(bool(success))
    return found


def text(value):
    return json.dumps(value, sort_keys=True)


def test_verl(dumps, codes):
    rows = records(dumps / "verl" / "zyqiu6_verl_dev_1.jsonl")
    rollouts = rl2ml.read_rollouts(dumps / "verl")
    assert rollouts.pilot.cells() == cells(outcomes(((r["step"], r["input"]), r["score"] == 1) for r in rows))
    assert rollouts.rollouts == len(rows)
    assert rollouts.successes == sum(r["score"] for r in rows)
    assert codes(rollouts) == ["one_rollout_per_prompt"]


def test_trl(dumps, codes):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row for path in (dumps / "trl").glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    rollouts = rl2ml.read_rollouts(dumps / "trl")
    expected = outcomes(((r["step"], r["prompt"]), r["correctness_reward"] == 1) for r in rows)
    assert rollouts.pilot.cells() == cells(expected)
    assert [one.step for one in rollouts.steps] == sorted({r["step"] for r in rows})
    some = outcomes((r["prompt"], r["correctness_reward"] == 1) for r in rows if 5 <= r["step"] < 20)
    assert rl2ml.read_rollouts(dumps / "trl", steps="5:20", merge_steps=True).pilot.cells() == cells(some)
    assert codes(rollouts) == []


@pytest.mark.parametrize("name", ["strict-match", "flexible-extract"])
def test_lm_eval_with_filters(dumps, codes, name):
    (path,) = (dumps / "lm_eval").glob("pmemoli*")
    rows = [r for r in records(path) if r["filter"] == name]
    rollouts = rl2ml.read_rollouts(path, score=name)
    assert rollouts.pilot.cells() == cells(outcomes((r["doc_id"], r["exact_match"] == 1) for r in rows))
    assert codes(rollouts) == ["several_scores", "one_rollout_per_prompt"]
    with pytest.raises(rl2ml.InvalidTable, match="several filters"):
        rl2ml.read_rollouts(path)


def test_lm_eval(dumps):
    (path,) = (dumps / "lm_eval").glob("pyfade*")
    expected = outcomes((r["doc_id"], r["exact_match"] == 1) for r in records(path))
    assert rl2ml.read_rollouts(path).pilot.cells() == cells(expected)


def test_inspect(dumps):
    for path in sorted((dumps / "inspect").iterdir()):
        if path.suffix == ".json":
            samples = json.loads(path.read_text())["samples"]
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.startswith("samples/")]
                samples = [json.loads(archive.read(name)) for name in names]
        expected = outcomes((s["id"], s["scores"]["match"]["value"] == "C") for s in samples)
        assert rl2ml.read_rollouts(path).pilot.cells() == cells(expected)


@pytest.mark.parametrize(
    ("name", "found"),
    {
        "math_python": {"partial_rewards", "several_scores", "id_mixes_prompts", "prompt_under_several_ids"},
        "wiki_search": {"several_scores", "one_rollout_per_prompt"},
        "wordle": {"partial_rewards", "several_scores"},
    }.items(),
)
def test_verifiers(dumps, codes, name, found):
    (path,) = (dumps / "verifiers").glob(f"{name}*")
    rows = records(path)
    rollouts = rl2ml.read_rollouts(path, success="score >= 1")
    expected = outcomes((text([r["prompt"], r["answer"]]), r["reward"] >= 1) for r in rows)
    assert rollouts.pilot.cells() == cells(expected)
    assert set(codes(rollouts)) == found
    if "partial_rewards" in found:
        with pytest.raises(rl2ml.InvalidTable, match="scores are not all 0 or 1"):
            rl2ml.read_rollouts(path)


def test_a_word_that_was_found_late(dumps):
    # Wordle's total adds parts for format and speed to the answer's 1: only the answer tells success.
    (path,) = (dumps / "verifiers").glob("wordle*")
    rows = records(path)
    rollouts = rl2ml.read_rollouts(path, success="check_answer_reward_func >= 1")
    expected = outcomes((r["answer"], r["check_answer_reward_func"] >= 1) for r in rows)
    assert rollouts.pilot.cells() == cells(expected)


def test_all_of_them_at_once(dumps):
    rollouts = rl2ml.read_rollouts(dumps, success="score >= 1", score=None, on_error="skip")
    # Of several filters none is chosen: that file is left out, and said.
    assert [one.path.rsplit("/", 1)[1][:7] for one in rollouts.files if one.note] == ["pmemoli"]
    assert rollouts.formats == {"inspect": 3, "lm_eval": 1, "trl": 40, "verifiers": 3, "verl": 1}
    assert {one.code for one in rollouts.findings} >= {"several_formats", "unreadable_files", "partial_rewards"}
