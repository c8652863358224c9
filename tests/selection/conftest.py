"""Oracles that several files share: dense quadrature over a Beta law, and the pilots that were really measured."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import gammaln

import rl2ml_core as rl2ml

PILOTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "pilots"


class Nodes(NamedTuple):
    """Points of [0, 1] with the probabilities of a Beta law at them; logs, as p or 1−p may be tiny."""

    log_p: np.ndarray
    log_q: np.ndarray
    law: np.ndarray

    @property
    def p(self) -> np.ndarray:
        return np.exp(self.log_p)

    @property
    def q(self) -> np.ndarray:
        return np.exp(self.log_q)

    def bernstein(self, m: int, degree: int) -> np.ndarray:
        """B_m(p) = C(degree, m) p^m (1−p)^(degree−m)."""
        log_choose = gammaln(degree + 1) - gammaln(m + 1) - gammaln(degree - m + 1)
        return np.exp(log_choose + m * self.log_p + (degree - m) * self.log_q)


def _beta_nodes(a: float, b: float, degree: int = 0) -> Nodes:
    """The trapezoidal rule in x = log(p/(1−p)), where Beta(a, b) has density ∝ p^a (1−p)^b.

    The integrand decays exponentially at both ends and is analytic for |Im x| < π, whatever a, b > 0, so the rule
    converges exponentially; the step is at most 0.4 standard deviations of the narrowest law, p^a (1−p)^b B_m.
    """
    step = min(0.2, 0.8 / np.sqrt(a + b + degree))
    x = np.arange(np.log(a / (b + degree)) - 60 / a - 10, np.log((a + degree) / b) + 60 / b + 10, step)
    log_p, log_q = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    logs = a * log_p + b * log_q
    law = np.exp(logs - logs.max())
    return Nodes(log_p, log_q, law / law.sum())


@pytest.fixture(scope="session")
def beta_nodes() -> Callable[..., Nodes]:
    return _beta_nodes


@pytest.fixture(scope="session")
def real_pilots() -> dict[str, rl2ml.PilotHistogram]:
    if not PILOTS.is_dir():
        pytest.skip("../shared/data/pilots is absent")
    return {path.stem: rl2ml.read_pilot(path) for path in sorted(PILOTS.glob("*.csv"))}
