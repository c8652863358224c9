"""Ray Data gives what DuckDB gives, to the row; in a network of its own, as Ray listens beyond loopback."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, os, sys
import rl2ml_core as rl2ml

def outcome(**options):
    try:
        return rl2ml.read_rollouts(**options)
    except rl2ml.RL2MLError as error:
        return type(error).__name__, str(error)

seen = []
for case in json.loads(sys.argv[1]):
    told = []
    here = outcome(**case)
    there = outcome(**case, engine="ray", progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and (not told or told[-1][0] == told[-1][1] or isinstance(there, tuple)), told
    shown = {"here": str(here)[:300], "there": str(there)[:300]}
    seen.append({"same": here == there, "error": isinstance(here, tuple), **shown})
    import ray
    if not ray.is_initialized():  # the first call had a cluster of its own, which is gone; the others share this one
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
print("RESULT " + json.dumps(seen))
"""


@pytest.fixture
def alone():
    """Runs Python in a network namespace that has nothing but loopback."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    pytest.importorskip("duckdb")
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: unshare --net failed")

    def run(*arguments: str) -> list[dict[str, object]]:
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *arguments],
            cwd=ROOT,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/tmp"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return json.loads(line.removeprefix("RESULT "))

    return run


@pytest.mark.timeout(300)
def test_the_same_to_the_row(alone, write, tmp_path):
    rng = random.Random(0)
    rows = [
        {"prompt_id": f"p{rng.randrange(40)}", "reward": rng.choice([0, 1]), "completion": f"c{rng.randrange(9)}"}
        for _ in range(600)
    ]
    for i in range(6):
        write(f"many/{i}.jsonl", rows[100 * i : 100 * i + 100])
        write(f"flat/{i}.parquet", [{"prompt_id": row["prompt_id"], "reward": row["reward"]} for row in rows[i::6]])
        verl = [
            {"input": row["prompt_id"], "output": row["completion"], "score": row["reward"], "step": i} for row in rows
        ]
        write(f"steps/{i}.jsonl", verl[: 50 * i + 50])
    write("broken/1.jsonl", rows[:50])
    write("broken/2.jsonl", [*rows[:50], {"prompt_id": "p1", "reward": "much"}])
    write("partial/1.jsonl", [{"prompt_id": "a", "reward": 0.5}, {"prompt_id": "a", "reward": 1}])
    folder = str(tmp_path)
    cases = [
        {"paths": f"{folder}/many"},
        {"paths": f"{folder}/flat"},
        {"paths": f"{folder}/steps"},
        {"paths": f"{folder}/steps", "steps": "1:4", "merge_steps": True},
        {"paths": f"{folder}/broken"},
        {"paths": f"{folder}/broken", "on_error": "skip"},
        {"paths": f"{folder}/partial"},
        {"paths": [f"{folder}/many", f"{folder}/partial"], "success": "score >= 0.5", "cache": f"{folder}/cache"},
        {"paths": [f"{folder}/many", f"{folder}/partial"], "success": "score >= 0.5", "cache": f"{folder}/cache"},
    ]
    shared = ROOT.parent / "shared" / "data" / "dumps"
    if shared.is_dir():
        cases.append({"paths": str(shared), "success": "score >= 1", "on_error": "skip"})
    found = alone("-c", SCRIPT, json.dumps(cases))
    assert [one for one in found if not one["same"]] == []
    assert [one["error"] for one in found[:9]] == [i in (4, 6) for i in range(9)]


def test_without_ray(monkeypatch, write):
    path = write("a.csv", [{"prompt_id": "a", "reward": 1}])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(rl2ml.MissingExtra, match=r"rl2ml\[cluster\]"):
        rl2ml.read_rollouts(path, engine="ray")
    with pytest.raises(rl2ml.InvalidInput, match="engine must be"):
        rl2ml.read_rollouts(path, engine="spark")
