"""Each finding fires on its trap, with counts, and is silent on clean data."""

import random

import pytest

import rl2ml_core as rl2ml


def rollout(prompt, i, score, step=1, **more):
    return {
        "input": prompt,
        "output": f"{prompt} {i}",
        "score": score,
        "step": step,
        "uid": f"{prompt}{step}_{i}_0",
        **more,
    }


def group(prompt, k, n=8, step=1, **more):
    return [rollout(prompt, i, float(i < k), step, **more) for i in range(n)]


CLEAN = [row for j in range(40) for row in group(f"p{j}", j % 9)]


def found(rollouts, code):
    (one,) = [one for one in rollouts.findings if one.code == code]
    return one.detail


def test_clean_data_has_none(write, read, codes):
    assert codes(read(write("1.jsonl", CLEAN))) == []
    steps = [row for step in range(10) for j in range(9) for row in group(f"p{j}", j, step=step)]
    assert codes(read(write("2.jsonl", steps))) == []
    assert codes(read(write("2.jsonl", steps), merge_steps=True)) == []


def test_rollouts_left_out(write, read):
    rows = [*CLEAN, rollout("p0", 8, None), {**rollout("p0", 9, 0.0), "output": ""}]
    rollouts = read(write("1.jsonl", rows))
    assert found(rollouts, "unscored_rollouts") == (
        "Rollouts that have no score are left out, not counted as failures: 1 of 322, such as 'p0'."
    )
    assert found(rollouts, "empty_rollouts").startswith("Rollouts that have an empty completion are left out")


def test_partial_rewards(write, read):
    rows = [*CLEAN, rollout("p0", 8, 0.25), rollout("p0", 9, -1.5)]
    rollouts = read(write("1.jsonl", rows), success="score > 0.5")
    assert found(rollouts, "partial_rewards") == (
        "Scores that are neither 0 nor 1, as shaped or partial rewards are: 2 of 322, such as 0.25. 'score > 0.5' "
        "decides what a success is."
    )


def test_one_rollout_per_prompt(write, read):
    rollouts = read(write("1.jsonl", [row for row in CLEAN if row["uid"].endswith("_0_0")]))
    assert found(rollouts, "one_rollout_per_prompt").startswith("No prompt of 40 has more than one rollout")


def test_duplicates(write, read, codes, tmp_path):
    rollouts = read(
        [write("1.jsonl", CLEAN + CLEAN[:5]), write("2.jsonl", group("x", 1)), write("3.jsonl", group("x", 1))]
    )
    assert found(rollouts, "duplicates").startswith(
        "Rows that repeat a rollout, as its further outputs or twice, do not count: 5 of 333"
    )
    assert found(rollouts, "duplicate_files").startswith(
        "Files that repeat another one byte for byte are read once: 1 ("
    )
    assert rollouts.prompts == 41
    assert rollouts.files[2].note == f"same content as {tmp_path / '2.jsonl'}"


def test_a_flaky_grader(write, read, codes):
    twice = [{**rollout("p1", 20 + i, float(i)), "output": "the same"} for i in range(2)]
    other = [{**rollout("p2", 20 + i, float(i)), "output": f"the same {i}"} for i in range(2)]
    rollouts = read(write("1.jsonl", CLEAN + twice + other))
    assert found(rollouts, "flaky_grader") == (
        "Completions of a prompt that occur with both outcomes: 1, such as 'p1'. The grader is not consistent."
    )


def test_filtered_groups_that_merging_hides(write, read, codes):
    # At every step only groups with both outcomes: over the steps together no prompt shows it.
    draw = random.Random(5)
    rows = []
    for step in range(30):
        for j in range(12):
            k = sum(draw.random() < (0.1, 0.5, 0.9)[j % 3] for _ in range(8))
            if 0 < k < 8:
                rows += group(f"p{j}", k, step=step)
    path = write("1.jsonl", rows)
    assert "filtered_groups" in codes(read(path, merge_steps=True))
    # Where prompts are groups, the pilot's own diagnostics say it.
    apart = read(path)
    assert "filtered_groups" not in codes(apart)
    prior = apart.pilot.fitted_prior
    from rl2ml_core.pilot.diagnostics import pilot_diagnostics

    assert "filtered_groups" in [one.code for one in pilot_diagnostics(apart.pilot, None, prior)]


def test_groups_of_unequal_size(write, read, codes):
    rows = [row for step in range(4) for j in range(9) for row in group(f"p{j}", j, n=8 if step else 4, step=step)]
    rollouts = read(write("1.jsonl", rows), merge_steps=True)
    assert found(rollouts, "unequal_groups") == (
        "Groups that do not have 8 rollouts, as most do: 9 of 36; they have 4 to 8."
    )
    assert rollouts.pilot.num_rollouts.tolist() == [28] * rollouts.pilot.num_cells


def moving(rates, prompts=30, seed=1):
    draw = random.Random(seed)
    rows = []
    for step, rate in enumerate(rates):
        for j in range(prompts):
            p = min(max(rate + draw.uniform(-0.3, 0.3), 0), 1)
            rows += [rollout(f"{step}-{j}", i, float(draw.random() < p), step) for i in range(8)]
    return rows


def test_a_policy_that_moves(write, read, codes):
    rollouts = read(write("1.jsonl", moving([0.3 + 0.02 * step for step in range(20)])))
    assert found(rollouts, "policy_moves").startswith(
        "The policy moves over the steps read: the success rate goes from 0."
    )
    down = read(write("1.jsonl", moving([0.7 - 0.02 * step for step in range(20)])))
    assert "policy_moves" in codes(down)
    # Within few steps it does not.
    assert "policy_moves" not in codes(
        read(write("1.jsonl", moving([0.3 + 0.02 * step for step in range(20)])), steps="0:2")
    )


def test_a_policy_that_stands_still(write, read, codes):
    hits = [seed for seed in range(20) if "policy_moves" in codes(read(write("1.jsonl", moving([0.4] * 10, 8, seed))))]
    assert hits == []  # one in a thousand does by chance
    # A difference that is certain, and does not matter.
    tiny = [
        row
        for step in range(4)
        for j in range(400)
        for row in group(f"p{j}", (j % 5) * 2 + (step > 1 and j % 8 == 0), 10, step)
    ]
    assert "policy_moves" not in codes(read(write("1.jsonl", tiny)))


def test_files_of_several_formats(write, read, codes):
    write("a/1.jsonl", CLEAN)
    write("a/b.csv", [{"prompt_id": i, "reward": i % 2} for i in range(4)])
    write("a/metrics.jsonl", [{"loss": 0.1}])
    folder = write("a/config.json", '{"lr": 1e-6}').parent
    rollouts = read(folder)
    assert found(rollouts, "several_formats") == "The files are of several formats: 1 plain, 1 verl."
    assert found(rollouts, "unknown_files").startswith(
        "Files in the directories that are no known dump are not read: 2 ("
    )
    with pytest.raises(rl2ml.InvalidTable, match=r"no known dump of rollouts; found loss\. Known are verl "):
        read(folder / "metrics.jsonl")


def test_details_are_short_and_printable(write, read):
    prompt = "long \x1b[31m red \u202e" + "x" * 500
    rows = [rollout(prompt, 0, None), *group("p", 1)]
    for one in read(write("1.jsonl", rows)).findings:
        assert one.detail.isprintable()
        assert len(one.detail) < 250
        assert one.level in ("info", "warning")
        assert one.detail.endswith(".")
