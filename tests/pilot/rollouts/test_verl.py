"""verl's dumps, of version 1 and before."""

import pytest

from rl2ml_core.errors import InvalidTable


def row(prompt, rollout, score, step=1, output=0, **more):
    uid = f"{prompt}_sample_{rollout}_{output}"
    text = {"input": f"user: {prompt}", "output": f"answer {rollout}.{output}", "gts": "4"}
    return {**text, "score": score, "step": step, "uid": uid, **more}


def legacy(rows):
    return [{name: value for name, value in one.items() if name != "uid"} for one in rows]


ROWS = [row(prompt, i, float(i < k), step) for step in (1, 2) for prompt, k in (("a", 0), ("b", 2)) for i in range(4)]


@pytest.mark.parametrize("rows", [ROWS, legacy(ROWS), ROWS[::-1]], ids=["v1", "legacy", "rebalanced"])
def test_a_prompt_at_a_step_is_a_prompt(write, read, rows):
    path = write("1.jsonl", rows)
    rollouts = read(path)
    assert rollouts.pilot.cells() == [(4, 0, 2), (4, 2, 2)]
    assert [(one.step, one.prompts, one.rollouts, one.successes) for one in rollouts.steps] == [
        (1, 2, 8, 2),
        (2, 2, 8, 2),
    ]
    assert read(path, merge_steps=True).pilot.cells() == [(8, 0, 1), (8, 4, 1)]
    assert read(path, steps=(2, 3)).pilot.cells() == [(4, 0, 1), (4, 2, 1)]
    assert read(path, steps="0:2").skipped == {"outside steps": 8}


def test_outputs_of_one_rollout_count_once(write, read):
    # The prompt of a rollout is what its first output answered, and rows may be in any order.
    rows = [row("a", i, 1.0, output=output, input=f"turn {output}") for i in range(3) for output in (2, 0, 1)]
    rollouts = read(write("1.jsonl", rows))
    assert rollouts.pilot.cells() == [(3, 3, 1)]
    assert rollouts.skipped == {"duplicate": 6}
    assert rollouts.files[0].rows == 9


def test_samples_of_one_prompt_belong_together(write, read):
    # A prompt that is twice in a batch has two sample ids.
    rows = [row("a", i, i % 2) for i in range(4)] + [row("a2", i, 1, input="user: a") for i in range(4)]
    assert read(write("1.jsonl", rows)).pilot.cells() == [(8, 6, 1)]


def test_empty_outputs_are_left_out(write, read):
    rows = [row("a", i, float(i > 0)) for i in range(4)]
    rows[0]["output"] = ""
    rollouts = read(write("1.jsonl", rows))
    assert rollouts.pilot.cells() == [(3, 3, 1)]
    assert rollouts.skipped == {"empty": 1}


def test_another_field_may_be_the_score(write, read):
    rows = [row("a", i, 0.3, acc=i % 2 == 0) for i in range(4)]
    path = write("1.jsonl", rows)
    assert read(path, success="acc == 1").pilot.cells() == [(4, 2, 1)]
    assert read(path, score="acc").pilot.cells() == [(4, 2, 1)]
    assert read(path, reward="acc").pilot.cells() == [(4, 2, 1)]


def test_a_missing_score_is_no_failure(write, read):
    rows = [row("a", 0, None), row("a", 1, 1.0), row("a", 2, float("nan")), row("a", 3, 0)]
    rollouts = read(write("1.jsonl", rows))
    assert rollouts.pilot.cells() == [(2, 1, 1)]
    assert rollouts.skipped == {"unscored": 2}


def test_a_score_that_is_no_number_is_named_by_its_line(write, read):
    path = write("1.jsonl", [row("a", 0, 1), row("a", 1, "good"), row("a", 2, 1)])
    text = path.read_text()
    path.write_text("\n" + text)  # blank lines count
    with pytest.raises(InvalidTable, match=r"1\.jsonl: line 3 has a score that is no finite number; got 'good'"):
        read(path)
    rollouts = read(path, on_error="skip")
    assert rollouts.pilot.cells() == [(2, 2, 1)]
    assert rollouts.skipped == {"not a number": 1}
