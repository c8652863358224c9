"""The evidence for plans: its accounts are fair, and its quick form runs and says what it should."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rl2ml_core as rl2ml
from benchmarks.evidence.arms import GAMMAS
from benchmarks.evidence.difficulties import draw_pilot, draw_rates
from benchmarks.evidence.environments import World, geometry
from benchmarks.evidence.planning import (
    BUDGET,
    CONSTANT,
    HABIT,
    MEASURED,
    NUM_ROLLOUTS,
    OWN,
    PLANNED,
    ROWS,
    WITH_RUN,
    _case,
    plans,
    table,
)
from benchmarks.evidence.regret import halves
from benchmarks.evidence.settings import QUICK
from benchmarks.evidence.simulate import METRICS

ROOT = Path(__file__).resolve().parents[2]
TINY = replace(QUICK, seeds=4, num_train=64, num_held_out=0)


def test_losses_are_shares_of_the_best_pair():
    """Gains without noise: N = 8 with γ = 1 is best, and everything else loses what was put in."""
    gammas = np.array(GAMMAS)
    of_n = {2: 0.5, 4: 0.8, 8: 1.0, 16: 0.9, 32: 0.6}
    gains = np.concatenate([of_n[n] * (1 - 0.1 * np.abs(gammas - 1)) for n in NUM_ROLLOUTS])
    split = list(halves(np.repeat(gains[None, :, None], 4, axis=2)))
    chosen = {
        PLANNED: np.array([[8, 1.0], [8, 1.0], [4, 1.0], [4, 0.5]]),
        WITH_RUN: np.array([[16, 1.25]] * 4),
        MEASURED: np.array([[2, 1.0]] * 4),
        HABIT: np.array([[8, 1.0]] * 4),
    }
    case = _case(("softmax", "hard"), "trained", "pass@1", split, chosen)
    assert case.lost[CONSTANT.format(4)] == pytest.approx(0.2)
    assert case.lost[PLANNED] == pytest.approx((0 + 0 + 0.2 + (1 - 0.8 * 0.95)) / 4)
    assert case.lost[WITH_RUN] == pytest.approx(1 - 0.9 * 0.975)
    assert case.lost[MEASURED] == pytest.approx(0.5)
    assert case.lost[HABIT] == pytest.approx(0)
    assert case.lost[OWN] == pytest.approx(0.1)
    assert case.best == 8
    assert all(f"| {row} |" in table([case]) for row in ROWS)


def test_plans_know_what_they_are_told():
    world = World.draw("linear_weak", "hard", range(4), 64, 0)
    found = plans(("linear_weak", "hard"), TINY, geometry(world))
    for pairs in found.values():
        assert pairs.shape == (3, 4, 2)
        assert set(pairs[..., 0].ravel().tolist()) <= set(NUM_ROLLOUTS)
    np.testing.assert_array_equal(found[PLANNED][..., 0], found[WITH_RUN][..., 0])
    pilot = draw_pilot("hard", 1, draw_rates("hard", 1, 64), 8)
    n, gamma = found[WITH_RUN][1, 1]
    assert gamma == pytest.approx(rl2ml.recommend(pilot, METRICS[1], int(n), bootstrap=0).gamma, abs=1e-9)
    # κ is 1 there, which a plan that is told takes into account.
    assert found[MEASURED][..., 0].mean() < found[PLANNED][..., 0].mean()
    assert BUDGET % max(NUM_ROLLOUTS) == 0


def test_the_quick_form_runs(tmp_path):
    arguments = ["-m", "benchmarks.evidence.planning", "--quick", "--workers", "1", "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+?) \| (-?\d\.\d+) \[", done.stdout, re.MULTILINE)
    means = {name: float(mean) for name, mean in rows}
    assert set(means) == set(ROWS)
    # Told κ and ρ, a plan from a pilot is better than the worst of the constants with the best γ in hindsight.
    assert means[MEASURED] < max(means[CONSTANT.format(n)] for n in NUM_ROLLOUTS) - 0.1
    assert (tmp_path / "planning-quick.json").is_file()
