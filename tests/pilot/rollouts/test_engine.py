"""The same pilot whatever the batches, the order, the threads, the memory and the cache."""

import json
import os
import random
import threading

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.pilot.rollouts import engine, partials, plans, read

ROLLOUTS = 24


def rows(seed, prompts=40):
    draw = random.Random(seed)
    made = []
    for j in range(prompts):
        for i in range(draw.randrange(1, ROLLOUTS)):
            for output in range(draw.choice((1, 1, 3))):
                score = float(draw.random() < j / prompts)
                uid = f"s{seed}p{j}_{i}_{output}"
                text = {"input": f"p{j}" if output == 0 else f"turn {output}", "output": draw.choice("abc")}
                made.append({**text, "score": score, "step": seed % 3, "uid": uid})
    draw.shuffle(made)
    return made


@pytest.fixture
def files(write):
    return [write(f"d/{seed}.jsonl{'.gz' if seed % 4 == 0 else ''}", rows(seed)) for seed in range(12)]


def same(a, b):
    """Everything but which file is an example and the order of floats' sums."""
    return a.to_dict() == b.to_dict()


def test_batches_threads_and_order(files, monkeypatch):
    expected = rl2ml.read_rollouts(files)
    assert same(rl2ml.read_rollouts(files[::-1], threads=1), expected)
    assert same(rl2ml.read_rollouts(files[0].parent, threads=4), expected)
    monkeypatch.setattr(plans, "_BATCH_FILES", 5)
    assert same(rl2ml.read_rollouts(files), expected)
    monkeypatch.setattr(engine, "SMALL", 0)  # every file by itself
    assert same(rl2ml.read_rollouts(files), expected)
    monkeypatch.setattr(partials, "_PARTS", 2)
    assert same(rl2ml.read_rollouts(files), expected)


def test_shards_of_one_table(write, count, monkeypatch):
    draw = random.Random(7)
    shards = [
        [{"prompt_id": draw.randrange(50), "reward": float(draw.random() < 0.3)} for _ in range(200)] for _ in range(6)
    ]
    expected = count((row["prompt_id"], row["reward"]) for shard in shards for row in shard)
    shards[2][17]["reward"] = None
    shards[2].append({"prompt_id": None, "reward": 1.0})
    paths = [write(f"{i}.parquet", shard) for i, shard in enumerate(shards)]
    small = rl2ml.read_rollouts(paths, on_error="skip")
    monkeypatch.setattr(engine, "SMALL", 0)
    together = rl2ml.read_rollouts(paths, on_error="skip")
    assert same(together, small)
    assert together.files[2].skipped == {"no prompt": 1, "no reward": 1}
    assert together.rollouts == sum(n * prompts for n, _, prompts in expected) - 1
    with pytest.raises(rl2ml.InvalidTable, match=r"2\.parquet: row (18|201) has no"):
        rl2ml.read_rollouts(paths)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    with pytest.raises(rl2ml.InvalidTable, match=r"4\.parquet: not a readable parquet file"):
        rl2ml.read_rollouts(paths)


def test_counts_equal_dictionaries(files, count):
    """Each rollout once, by its first output; prompts by step."""
    first = {}
    for seed in range(12):
        for row in rows(seed):
            sample, rollout, output = row["uid"].rsplit("_", 2)
            key = sample, rollout
            if key not in first or int(output) < first[key][0]:
                first[key] = int(output), (row["step"], row["input"]), row["score"]
    assert rl2ml.read_rollouts(files).pilot.cells() == count((prompt, score) for _, prompt, score in first.values())
    merged = count((prompt[1], score) for _, prompt, score in first.values())
    assert rl2ml.read_rollouts(files, merge_steps=True).pilot.cells() == merged


def test_an_interrupted_read_goes_on(files, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    expected = rl2ml.read_rollouts(files)
    done = []

    def stop(got, total):
        done.append(got)
        if len(set(done)) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rl2ml.read_rollouts(files, cache=cache, progress=stop)
    kept = len(list(cache.glob("*.json")))
    assert 0 < kept < len(files)
    assert same(rl2ml.read_rollouts(files, cache=cache), expected)
    assert (
        len(list(cache.glob("*.json"))) == len(list(cache.glob("*.parquet"))) == len(list(cache.iterdir())) // 2 == 12
    )
    # Now nothing is read but the cache.
    monkeypatch.setattr(read._Reading, "_read", lambda *_: pytest.fail("read again"))
    assert same(rl2ml.read_rollouts(files, cache=cache), expected)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_damaged_cache_is_rebuilt(files, tmp_path, suffix, damage):
    cache = tmp_path / "cache"
    expected = rl2ml.read_rollouts(files, cache=cache)
    (victim, *_) = sorted(cache.glob(f"*.{suffix}"))
    if damage is None:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.write_bytes(damage)
    assert same(rl2ml.read_rollouts(files, cache=cache), expected)
    assert json.loads(sorted(cache.glob("*.json"))[0].read_text())["md5"]


def test_the_cache_knows_what_it_was_made_with(write, tmp_path):
    cache = tmp_path / "cache"
    path = write("a.jsonl", [{"prompt_id": "a", "reward": r, "step": 0} for r in (0.5, 1.0)])
    assert rl2ml.read_rollouts(path, success="score >= 1", cache=cache).successes == 1
    assert rl2ml.read_rollouts(path, success="score > 0", cache=cache).successes == 2
    write("a.jsonl", [{"prompt_id": "a", "reward": 0.25, "step": 0}])
    os.utime(path, ns=(1, 1))
    assert rl2ml.read_rollouts(path, success="score > 0", cache=cache).rollouts == 1
    with pytest.raises(rl2ml.InvalidInput, match="cache must be a folder"):
        rl2ml.read_rollouts(path, success="score > 0", cache=path)


def test_errors_are_said_from_the_cache_too(write, tmp_path):
    path = write("a.jsonl", [{"prompt_id": "a", "reward": "x"}, {"prompt_id": "a", "reward": 1}])
    for _ in range(2):
        with pytest.raises(rl2ml.InvalidTable, match="line 1 has a score that is no finite number"):
            rl2ml.read_rollouts(path, cache=tmp_path / "cache")
    for _ in range(2):
        assert rl2ml.read_rollouts(path, cache=tmp_path / "cache", on_error="skip").skipped == {"not a number": 1}


def test_progress_goes_to_the_end(files):
    seen = []
    rl2ml.read_rollouts(files, progress=lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in files)
    assert seen[-1] == (total, total)
    assert all(0 <= done <= total for done, _ in seen)
    assert threading.active_count() < 5


def test_memory_and_scratch(files, tmp_path):
    expected = rl2ml.read_rollouts(files)
    assert same(rl2ml.read_rollouts(files, memory_limit="400MB", temp_directory=tmp_path / "scratch"), expected)
    with pytest.raises(rl2ml.InvalidInput, match="memory_limit must read like '2GB'; got 'plenty'"):
        rl2ml.read_rollouts(files, memory_limit="plenty")
    with pytest.raises(rl2ml.InvalidInput, match="memory_limit is too small"):
        rl2ml.read_rollouts(files, memory_limit="1MB")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "veRL"}, "format must be one of verl, trl, skyrl"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip"),
        ({"steps": "5"}, "steps must read like '0:50'"),
        ({"steps": "5:5"}, "the first below the end"),
        ({"steps": (1, 2, 3)}, "steps must read like"),
        ({"steps": (0.5, 3)}, "steps must be an integer"),
        ({"threads": 0}, "threads must be an integer from 1"),
        ({"prompt": ""}, "prompt must be the name of a column"),
        ({"success": "good"}, "success must read like"),
        ({"steps": "100:"}, r"no rollout is left to count in .*: \d+ rows outside steps"),
        ({"format": "trl"}, "expected TRL's completions with step, prompt, completion; it lacks prompt, completion"),
    ],
)
def test_options_that_have_no_meaning(files, options, said):
    with pytest.raises(rl2ml.InvalidInput, match=said):
        rl2ml.read_rollouts(files, **options)


def test_missing_packages(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(rl2ml.MissingExtra, match=r"Reading rollouts needs .*rl2ml\[ingest\]"):
        rl2ml.read_rollouts(files)
