"""TRL's completions."""

import pytest

from rl2ml_core.errors import InvalidTable


def rows(step, rewards, **more):
    return [
        {"step": step, "prompt": f"p{i // 2}", "completion": f"c{i}", "right": reward, "advantage": 0.1, **more}
        for i, reward in enumerate(rewards)
    ]


def test_one_reward_function_is_the_score(write, read):
    write("completions/completions_00001.parquet", rows(1, [1.0, 0.0, 0.0, 0.0]))
    path = write("completions/completions_00010.parquet", rows(10, [1.0, 1.0, 0.0, 0.0])).parent
    rollouts = read(path)
    assert rollouts.pilot.cells() == [(2, 0, 2), (2, 1, 1), (2, 2, 1)]
    assert [one.step for one in rollouts.steps] == [1, 10]
    assert rollouts.formats == {"trl": 2}
    assert read(path, merge_steps=True).pilot.cells() == [(4, 0, 1), (4, 3, 1)]


def test_of_several_the_one_that_decides_must_be_named(write, read):
    path = write("completions_00001.parquet", rows(1, [1.0, 0.0], format=0.5, length=7))
    with pytest.raises(InvalidTable, match=r"several columns may be the reward: right, format") as caught:
        read(path)
    assert caught.value.field == "success"
    assert read(path, score="right").pilot.cells() == [(2, 1, 1)]
    assert read(path, success="format > 0.4").pilot.cells() == [(2, 2, 1)]
    with pytest.raises(InvalidTable, match="no column 'tone'; found step, prompt"):
        read(path, success="tone > 0.4")


def test_a_reward_that_is_not_given_is_no_failure(write, read):
    path = write("completions_00001.parquet", rows(1, [1.0, None, float("nan"), 0.0]))
    rollouts = read(path)
    assert rollouts.pilot.cells() == [(1, 0, 1), (1, 1, 1)]
    assert rollouts.skipped == {"unscored": 2}


def test_chats_are_prompts(write, read):
    chat = [{"role": "user", "content": "2+2?"}]
    other = [{"role": "user", "content": "2+3?"}]
    data = [
        {
            "step": 1,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": "4"}],
            "right": 1.0,
            "advantage": 0.0,
        }
        for prompt in (chat, chat, other)
    ]
    assert read(write("completions_1.parquet", data)).pilot.cells() == [(1, 1, 1), (2, 2, 1)]


def test_no_reward_at_all(write, read):
    data = [{"step": 1, "prompt": "p", "completion": "c", "advantage": 0.0}]
    with pytest.raises(InvalidTable, match="no column holds rewards; found step, prompt, completion, advantage"):
        read(write("completions_1.parquet", data))
