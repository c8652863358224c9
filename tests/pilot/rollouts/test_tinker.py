"""tinker-cookbook's rollout summaries."""


def row(iteration, group, trajectory, reward, split="train", **more):
    ids = {"split": split, "iteration": iteration, "group_idx": group, "traj_idx": trajectory}
    return {**ids, "total_reward": reward, "final_reward": reward / 2, "steps": [], **more}


def rows(iteration, split="train"):
    return [row(iteration, group, i, float(i < group), split) for group in range(3) for i in range(4)]


def test_a_group_of_an_iteration_is_a_prompt(write, read):
    write("iteration_000000/train_rollout_summaries.jsonl", rows(0))
    path = write("iteration_000010/train_rollout_summaries.jsonl", rows(10)).parent.parent
    rollouts = read(path)
    assert rollouts.pilot.cells() == [(4, 0, 2), (4, 1, 2), (4, 2, 2)]
    assert [one.step for one in rollouts.steps] == [0, 10]
    assert read(path, steps="5:").pilot.total_prompts == 3
    # Nothing says which prompts two iterations share.
    assert read(path, merge_steps=True).pilot == rollouts.pilot


def test_splits_are_apart_and_repeated_trajectories_count_once(write, read):
    path = write("x_rollout_summaries.jsonl", [*rows(0), *rows(0, "test"), *rows(0)])
    rollouts = read(path)
    assert rollouts.pilot.total_prompts == 6
    assert rollouts.skipped == {"duplicate": 12}


def test_the_final_reward_may_count(write, read):
    path = write("x_rollout_summaries.jsonl", rows(0))
    assert read(path, success="final_reward >= 0.5").pilot == read(path).pilot
    only = [{name: value for name, value in one.items() if name != "total_reward"} for one in rows(0)]
    assert read(write("y_rollout_summaries.jsonl", only), success="score > 0").pilot == read(path).pilot
