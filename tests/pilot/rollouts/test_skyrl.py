"""SkyRL's evaluations."""

import pytest

from rl2ml_core.errors import InvalidInput, InvalidTable


def row(prompt, score, **more):
    return {
        "input_prompt": f"user: {prompt}",
        "output_response": f"answer {score}",
        "score": score,
        "stop_reason": "stop",
        "env_class": "gsm8k",
        "env_extras": {"ground_truth": "4"},
        "data_source": "gsm8k",
        **more,
    }


def test_scores_per_token_are_summed(write, read):
    rows = [row("a", [0.0, 0.0, 1.0]), row("a", [0.0]), row("a", 1.0), row("a", [0.5, 0.5]), row("a", True)]
    assert read(write("gsm8k.jsonl", rows)).pilot.cells() == [(5, 4, 1)]


def test_the_step_is_in_the_path(write, read):
    write("dumped_evals/global_step_0_evals/gsm8k.jsonl", [row("a", 0.0), row("a", 1.0)])
    write("dumped_evals/global_step_0_evals/aggregated_results.jsonl", [{"eval/all/avg_score": 0.5}])
    write("dumped_evals/global_step_20_evals/gsm8k.jsonl", [row("a", 1.0), row("a", 1.0)])
    folder = write("dumped_evals/eval_only/gsm8k.jsonl", [row("b", 1.0)]).parent.parent
    rollouts = read(folder)
    assert rollouts.pilot.cells() == [(1, 1, 1), (2, 1, 1), (2, 2, 1)]
    assert [(one.step, one.rollouts) for one in rollouts.steps] == [(None, 1), (0, 2), (20, 2)]
    assert [one.note for one in rollouts.files if one.note] == ["aggregates, no rollouts"]
    with pytest.raises(InvalidInput, match=r"eval_only.*steps needs the training step"):
        read(folder, steps="0:10")
    assert read(folder / "global_step_*", steps="0:10").pilot.cells() == [(2, 1, 1)]


def test_what_never_ended_is_left_out(write, read):
    rows = [
        row("a", 0.0, stop_reason="error"),
        row("a", 0.0, output_response=""),
        row("a", None),
        row("a", []),
        row("a", 1.0),
    ]
    rollouts = read(write("x.jsonl", rows))
    assert rollouts.pilot.cells() == [(1, 1, 1)]
    assert rollouts.skipped == {"empty": 1, "errored": 1, "unscored": 2}


@pytest.mark.parametrize("score", [["a"], {"a": 1}, "good", [[1]], [1, None, "x"]])
def test_scores_that_are_none(write, read, score):
    path = write("x.jsonl", [row("a", 1.0), row("a", score)])
    with pytest.raises(InvalidTable, match="line 2 has a score that is no finite number"):
        read(path)


def test_the_training_dump_is_refused(write, read, codes):
    path = write("dumped_data/global_step_1_training_input.pkl", b"\x80\x04\x95\x00")
    write("dumped_data/x.jsonl", [row("a", 1.0)])
    assert "pickles_refused" in codes(read(path.parent))
    with pytest.raises(InvalidTable, match=r"training_input\.pkl: a pickle"):
        read(path)
    # By content, too.
    with pytest.raises(InvalidTable, match="a pickle"):
        read(write("other.jsonl", b"\x80\x04\x95\x00\x00"))
