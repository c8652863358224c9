"""verifiers' results and traces."""

import re

import pytest

from rl2ml_core.errors import InvalidTable


def row(example, prompt, reward, **more):
    chat = [{"role": "user", "content": prompt}]
    answer = [{"role": "assistant", "content": f"{example} {reward}"}]
    return {"example_id": example, "prompt": chat, "completion": answer, "task": "default", "reward": reward, **more}


def trace(key, reward, group=0, **more):
    rewards = {"correct": {"score": reward, "weight": 1.0}, "format": {"score": 1.0, "weight": 0.0}}
    task = {"key": key, "hash": f"h{key}"}
    return {
        "id": f"{key}-{reward}-{more}",
        "task": task,
        "group": group,
        "ok": True,
        "errors": [],
        "traces": [{"rewards": rewards}],
        **more,
    }


def test_results(write, read, codes):
    rows = [row(i, f"p{i}", float(j < i)) for i in range(3) for j in range(4)]
    rollouts = read(write("results.jsonl", rows))
    assert rollouts.pilot.cells() == [(4, 0, 1), (4, 1, 1), (4, 2, 1)]
    assert codes(rollouts) == []


def test_ids_that_mix_prompts_give_way_to_content(write, read, codes):
    rows = [row(i // 2, f"p{i % 3}", float(i % 2)) for i in range(6)]
    rollouts = read(write("results.jsonl", rows))
    assert rollouts.pilot.cells() == [(2, 1, 3)]
    assert {"id_mixes_prompts", "prompt_under_several_ids"} <= set(codes(rollouts))
    (found,) = [one for one in rollouts.findings if one.code == "id_mixes_prompts"]
    assert re.match(r"Ids that name several prompts: 3 \(id '[012]' names 2\)\. ", found.detail)
    # Whoever trusts the ids says so.
    assert read(write("results.jsonl", rows), prompt="example_id").pilot.cells() == [(2, 1, 3)]


def test_answers_tell_tasks_apart(write, read):
    rows = [row(i, "guess the word", 1.0, answer=f"word {i}") for i in range(3)]
    assert read(write("results.jsonl", rows)).prompts == 3


def test_shaped_rewards(write, read, codes):
    rows = [row(0, "p", 1.0, correct_reward_func=1.0), row(0, "p", 0.9, correct_reward_func=0.0)]
    path = write("results.jsonl", rows)
    with pytest.raises(InvalidTable, match=r"1 \(1×\)"):
        read(path)
    rollouts = read(path, success="score >= 1")
    assert rollouts.pilot.cells() == [(2, 1, 1)]
    assert {"partial_rewards", "several_scores"} <= set(codes(rollouts))
    assert "partial_rewards" not in codes(read(path, score="correct_reward_func"))


def test_results_that_failed(write, read):
    rows = [
        row(0, "p", 0.0, error="timeout"),
        row(0, "p", 1.0, error=None),
        row(0, "p", 0.0, completion=[], error=None),
    ]
    assert read(write("results.jsonl", rows)).skipped == {"empty": 1, "errored": 1}


def test_traces(write, read):
    rows = [trace(key, float(i < key), i=i) for key in range(3) for i in range(4)]
    rollouts = read(write("traces.jsonl", rows))
    assert rollouts.pilot.cells() == [(4, 0, 1), (4, 1, 1), (4, 2, 1)]
    assert rollouts.formats == {"traces": 1}


def test_rewards_of_traces_are_weighted_and_summed(write, read):
    rewards = {"a": {"score": 1.0, "weight": 0.5}, "b": {"score": 0.5, "weight": 1.0}}
    rows = [trace(0, 0, traces=[{"rewards": rewards}]), trace(0, 0, traces=[{"rewards": rewards}] * 2)]
    path = write("traces.jsonl", rows)
    assert read(path, success="score == 1").pilot.cells() == [(2, 1, 1)]
    assert read(path, success="b >= 1").pilot.cells() == [(2, 1, 1)]
    assert read(path, score="a", success="score >= 1").pilot.cells() == [(2, 2, 1)]


def test_traces_without_a_score(write, read):
    unscored = [{"rewards": {"a": {"score": None, "weight": 1.0}}}]
    rows = [
        trace(0, 1.0),
        trace(0, 0.0, ok=False),
        trace(0, 0.0, ok=None, errors=["x"]),
        trace(0, 0.0, ok=True, errors=["an attempt before"]),
        trace(0, 0, traces=unscored),
        trace(0, 0, traces=[]),
    ]
    rollouts = read(write("traces.jsonl.gz", rows))
    assert rollouts.pilot.cells() == [(2, 1, 1)]
    assert rollouts.skipped == {"empty": 1, "errored": 2, "unscored": 1}


def test_bad_traces(write, read):
    rows = [trace(0, 1.0), trace(0, "good")]
    path = write("traces.jsonl", rows)
    with pytest.raises(InvalidTable, match="line 2 has a score that is no finite number; got 'good"):
        read(path)
    path.write_text(path.read_text() + "[1]\n")
    with pytest.raises(InvalidTable, match="line 3 is no JSON object"):
        read(path)
    assert read(path, on_error="skip").skipped == {"not a number": 1, "unreadable": 1}


def test_traces_of_a_training_run_have_steps(write, read):
    rows = [
        trace(key, float(key), i=(step, i), run={"type": "train", "work": {"type": "train", "step": step}})
        for key in range(2)
        for step in (3, 4)
        for i in range(2)
    ]
    path = write("traces.jsonl", rows)
    assert read(path).pilot.cells() == [(2, 0, 2), (2, 2, 2)]
    assert [one.step for one in read(path).steps] == [3, 4]
    assert read(path, steps="4:").pilot.cells() == [(2, 0, 1), (2, 2, 1)]
    assert read(path, merge_steps=True).pilot.cells() == [(4, 0, 1), (4, 4, 1)]


def test_several_agents_are_said(write, read, codes):
    both = [{"rewards": {"a": {"score": 1.0}}}, {"rewards": {"a": {"score": 0.0}}}]
    rows = [trace(0, 1.0, i=0), trace(0, 0, i=1, traces=both), trace(0, 0, i=2, traces=[both[0], {"rewards": {}}])]
    rollouts = read(write("traces.jsonl", rows))
    assert rollouts.pilot.cells() == [(3, 3, 1)]
    (found,) = [one for one in rollouts.findings if one.code == "several_agents"]
    assert found.detail.endswith("as of several agents: 1 of 3.")


def test_a_trace_per_row(write, read):
    task = {"idx": 4, "prompt": "x"}
    rows = [{"id": str(i), "task": task, "nodes": [], "rewards": {"right": float(i > 0)}} for i in range(3)]
    rows += [{**rows[0], "id": "e", "error": {"type": "Timeout"}}, {**rows[0], "id": "f", "rewards": {}}]
    rollouts = read(write("results.jsonl", rows))
    assert rollouts.formats == {"traces": 1}
    assert rollouts.pilot.cells() == [(3, 2, 1)]
    assert rollouts.skipped == {"errored": 1, "unscored": 1}
