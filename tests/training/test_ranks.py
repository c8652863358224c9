"""Two processes train as one: exact gradients, groups that span them, errors that leave none waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
if not torch.distributed.is_available():
    pytest.skip("torch is built without distributed training", allow_module_level=True)

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes of ranks.py found: one run for all tests."""
    directory = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / "ranks.py"), str(rank), str(directory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("layout", ["sharded groups", "whole groups"])
def test_gradients_averaged_over_ranks_are_exact(ranks, layout):
    assert max(found[layout] for found in ranks) <= 1e-10


@pytest.mark.parametrize("case", ["even ranks", "uneven ranks", "accumulation"])
def test_data_parallel_training_has_the_gradient_of_one_process(ranks, case):
    assert max(found[case] for found in ranks) <= 1e-12


def test_every_rank_sees_all_groups(ranks):
    # The ranks hold (7, 3, 7) and (3, 9, 3, 3) with rewards (1, 0, 0) and (1, 1, missing, 0).
    table = rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8)).table
    for found in ranks:
        groups = found["groups"]
        assert groups["ids"] == [3, 7, 9]
        assert groups["successes"] == [1, 1, 1]
        assert groups["sizes"] == [3, 2, 1]
        assert groups["pass_rate"] == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
        assert groups["alone"]["ids"] == ["b", "a"]
        assert groups["alone"]["successes"] == [1, 0]
    assert [found["groups"]["alone"]["rows"] for found in ranks] == [3, 0]
    first, second = (found["groups"]["advantages"] for found in ranks)
    assert first == [table(2).success[1], table(3).failure[1], table(2).failure[1]]
    assert second == [table(3).success[1], table(1).success[1], 0.0, table(3).failure[1]]


def test_shaping_is_centered_over_ranks(ranks):
    # 1, 4, 0 and 3 have the mean 2; the weight is ½.
    assert ranks[0]["shaping"] == pytest.approx([-0.5, 1.0])
    assert ranks[1]["shaping"] == pytest.approx([-1.0, 0.5])


def test_an_error_of_one_rank_is_an_error_of_all(ranks):
    first, second = (found["errors"] for found in ranks)
    assert second["binary"].startswith("rewards must be 0, 1 or NaN")
    assert "got 0.5 at index 1" in second["binary"]
    assert first["binary"] == f"on rank 1: {second['binary']}"
    assert second["shape"] == "group_ids must be one per reward, 2; got 3"
    assert first["shape"] == f"on rank 1: {second['shape']}"
    assert "got 2 at index 0" in first["both"]
    assert "got 3 at index 1" in second["both"]
    for found in (first, second):
        assert "got none in group 1 (id 'b')" in found["empty"]
        assert "for groups of 4, such as group 0 (id 'a'); got one for groups of 2" in found["table"]
        assert "group_ids must be given with a process_group" in found["no ids"]


def test_multipliers_agree_over_ranks(ranks):
    assert ranks[0]["scale"]["state"] == ranks[1]["scale"]["state"]
    assert ranks[0]["scale"]["together"] == pytest.approx(ranks[0]["scale"]["single"], rel=1e-12)
