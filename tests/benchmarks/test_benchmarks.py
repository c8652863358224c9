"""The benchmarks run from a checkout, and find no miss of ours. Their times are not judged here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_solver():
    printed = run("benchmarks/solver.py", "--quick")
    assert re.search(r"^  ok +no miss of ours +0$", printed, re.MULTILINE)
    misses = {name.strip(): int(count) for name, count in re.findall(r"^(.+?) {2,}(\d+) of \d+", printed, re.MULTILINE)}
    assert misses["ours, on RMS gain"] == misses["ours (Eq. 4, λ = 0), on U = A/√B"] == 0
    # The comparison has teeth: the unsafeguarded listing misses some of the same instances.
    assert misses["App. B.3, on U = A/√B"] > 0
    assert "scaled from" in printed


def test_coverage():
    printed = run("benchmarks/coverage.py", "--quick")
    share = re.search(r"where the prior family holds \(\d+ rows\): covered (\d+\.\d)%", printed)
    assert share
    assert float(share[1]) > 60  # 4 repeats a row: far from 90 % only where something is broken
    assert re.search(r"^half at \.05, half at \.9 .*100\.0%$", printed, re.MULTILINE)  # and it can tell


def test_planning():
    printed = run("benchmarks/planning.py", "--quick")
    assert re.search(r"exhaustive search beats the plan by at most \d\.\de[-+]\d+ of the criterion", printed)
    assert printed.count(" ms ") >= 3


def test_imports():
    printed = run("benchmarks/imports.py", "--repeats", "1")
    assert re.search(r"median ratio \d+\.\d\d; target", printed)


def test_rollouts(tmp_path):
    pytest.importorskip("polars")
    pytest.importorskip("duckdb")
    printed = run("benchmarks/rollouts.py", "--quick", "--folder", str(tmp_path), "--readings", "rl2ml", "polars")
    assert printed.count("the same cells from all") == 2
    assert "200,000 rollouts" in printed
