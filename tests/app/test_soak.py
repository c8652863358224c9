"""A minute of windows: the service's memory stays where it is. Part of the whole run alone, `RL2ML_REQUIRE_ALL=1`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MOST_GROWTH = 60, 5.0

pytestmark = [
    pytest.mark.skipif(os.environ.get("RL2ML_REQUIRE_ALL") != "1", reason="a minute long: set RL2ML_REQUIRE_ALL=1"),
    pytest.mark.timeout(240),
]


def test_memory_of_a_minute() -> None:
    command = [sys.executable, "benchmarks/service.py", "--soak", str(SECONDS), "--rate", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (growth,) = re.findall(r"at the end: ([+-][0-9.]+)%", done.stdout)
    assert float(growth) <= MOST_GROWTH, done.stdout
