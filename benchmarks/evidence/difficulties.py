"""Where training starts: distributions of initial pass rates, synthetic and resampled from real pilots.

Rates depend on the difficulty and the seed alone, so that every environment, N and step rule meets the same ones.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

import rl2ml_core as rl2ml
from rl2ml_core.checks import Array

PILOTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "pilots"

#: Mixtures of Beta distributions: (share, a, b).
SYNTHETIC = {
    "hard": ((1.0, 0.3, 1.5),),
    "very_hard": ((1.0, 0.1, 4.9),),
    "easy": ((1.0, 2.0, 1.0),),
    "bimodal": ((0.5, 2.0, 38.0), (0.5, 36.0, 4.0)),
}
#: Of no setting: step sizes are chosen on it.
UNIFORM = "uniform"
REAL = {
    "dsr1209": "dsr1209_qwen25math1.5b_first4epochs_n32",
    "deepscaler": "deepscaler_qwen25math7b_n128_uniform",
    "lcb_codegen": "lcb_codegen_gpt35turbo0125_n10",
}

#: Prompts drawn for a seed: training prompts, then held-out ones. Pilots take the first of them.
POOL = 256

_MIXTURES = SYNTHETIC | {UNIFORM: ((1.0, 1.0, 1.0),)}
#: Logits stay finite.
_LEAST = 1e-6


def why_absent(difficulty: str) -> str | None:
    """Why a difficulty cannot be drawn here, or None."""
    if difficulty in _MIXTURES or _path(difficulty).is_file():
        return None
    return f"{_path(difficulty)} is absent"


def key(name: str) -> int:
    """A name as a number for seeding."""
    return zlib.crc32(name.encode())


def draw_rates(difficulty: str, seed: int, size: int) -> Array:
    """Pass rates of a seed's first prompts, [size]. A real prompt's comes from its posterior: k/n is not its rate."""
    rng = np.random.default_rng([key(difficulty), seed])
    if difficulty in _MIXTURES:
        share, a, b = np.array(_MIXTURES[difficulty]).T
        part = rng.choice(share.size, POOL, p=share)
        rates = rng.beta(a[part], b[part])
    else:
        cells = _posterior(difficulty)
        prompt = rng.choice(cells.weights.size, POOL, p=cells.weights / cells.weights.sum())
        rates = rng.beta(cells.shape_success[prompt], cells.shape_failure[prompt])
    return np.clip(rates[:size], _LEAST, 1 - _LEAST)


def draw_pilot(difficulty: str, seed: int, rates: Array, num_rollouts: int) -> rl2ml.PilotHistogram:
    """A pilot of these prompts."""
    rng = np.random.default_rng([key(difficulty), seed, rates.size, num_rollouts])
    return rl2ml.PilotHistogram.from_counts(rng.binomial(num_rollouts, rates), num_rollouts)


@lru_cache
def _posterior(difficulty: str) -> rl2ml.Population:
    return rl2ml.read_pilot(_path(difficulty)).population()


def _path(difficulty: str) -> Path:
    return PILOTS / f"{REAL[difficulty]}.csv"
