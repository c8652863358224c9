"""What people are judged on, as functions of a prompt's pass rate: pass@k, log-success and mixtures of them.

A metric is V = Σ ω_x v(p_x). Selection needs the expectations E[v'(p) p² (1−p)² B_m(p)] per cell, [C, N], and the value
itself; both in closed form for pass@k, by quadrature for the logarithm. Shapes: C cells, N rollouts, m = 0..N−1.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import Population
from rl2ml_core.objective.quadrature import expectations, quadrature_nodes

__all__ = ["LogSuccess", "Metric", "Mixture", "PassAtK", "parse_metric", "quadrature_nodes"]

MAX_K = 1_000_000
MAX_PARTS = 64


class Metric(Protocol):
    """A prompt-separable metric, increasing in every pass rate."""

    @property
    def name(self) -> str: ...  # "pass@8", "log:0.01", "0.5*pass@1+0.5*pass@16": `parse_metric` reads it back

    def value(self, pass_rate: Array) -> Array: ...  # v(p), [...] → [...]

    def slope(self, pass_rate: Array) -> Array: ...  # v'(p), [...] → [...]

    def headroom(self, population: Population) -> Array: ...  # E[v(1) − v(p)] / (v(1) − v(0)) per cell, [C]

    def signal(self, population: Population, num_rollouts: int) -> Array: ...  # E[v' p² (1−p)² B_m], [C, N]

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class PassAtK:
    """pass@k = 1 − (1−p)^k: at least one of k independent attempts succeeds; k from 1 to 1,000,000."""

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", integer(self.k, "metric.k", minimum=1, maximum=MAX_K))

    @property
    def name(self) -> str:
        return f"pass@{self.k}"

    def value(self, pass_rate: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(self.k * np.log1p(-pass_rate)))

    def slope(self, pass_rate: Array) -> Array:
        return self.k * (1 - pass_rate) ** (self.k - 1)

    def headroom(self, population: Population) -> Array:
        logs, _ = population.raised(0, self.k)
        return np.exp(logs)

    def signal(self, population: Population, num_rollouts: int) -> Array:
        # E[k q^(k−1) p² q² B_m] = k E[p² q^(k+1)] · E'[B_m], E' under the population tilted by p² q^(k+1).
        logs, tilted = population.raised(2, self.k + 1)
        return self.k * np.exp(logs[:, None] + tilted.log_bernstein(num_rollouts - 1))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "pass_at_k", "k": self.k}


@dataclass(frozen=True)
class LogSuccess:
    """Smoothed log-success log(p + tau), tau ∈ [1e-9, 1e3]: likelihood, with unsolved prompts kept finite."""

    tau: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", finite_number(self.tau, "metric.tau", minimum=1e-9, maximum=1e3))

    @property
    def name(self) -> str:
        return f"log:{self.tau!r}"

    def value(self, pass_rate: Array) -> Array:
        return np.log(pass_rate + self.tau)

    def slope(self, pass_rate: Array) -> Array:
        return 1 / (pass_rate + self.tau)

    def headroom(self, population: Population) -> Array:
        span = math.log1p(1 / self.tau)
        if population.prior is None:
            return (math.log1p(self.tau) - self.value(population.pass_rates)) / span

        def rest(p: Array, q: Array) -> Array:
            return (-np.log1p(-q / (1 + self.tau)) - span * q) / (p * q)

        # v(1) − v(p) less its chord vanishes at both ends: what is left over p q is smooth under the tilted law.
        (log_q, _), (log_pq, tilted) = population.raised(0, 1), population.raised(1, 1)
        return np.asarray(np.exp(log_q) + np.exp(log_pq) * expectations(tilted, rest, 0)[:, 0] / span)

    def signal(self, population: Population, num_rollouts: int) -> Array:
        logs, tilted = population.raised(2, 2)
        if population.prior is None:
            scales = np.exp(logs + np.log(self.slope(population.pass_rates)))
            return np.asarray(scales[:, None] * population.bernstein(num_rollouts - 1).law)
        return np.exp(logs)[:, None] * expectations(tilted, lambda p, _: self.slope(p), num_rollouts - 1)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "log_success", "tau": self.tau}


class Mixture:
    """A non-negative mixture Σ weight · metric, such as {PassAtK(1): 0.5, PassAtK(16): 0.5}; not all weights zero."""

    def __init__(self, parts: Mapping[Any, float]) -> None:
        if not isinstance(parts, Mapping) or not parts:
            raise InvalidInput("a mixture needs at least one {metric: weight}; got none", field="metric.parts")
        merged: dict[Metric, float] = {}
        for part, weight in parts.items():
            metric = parse_metric(part)
            share = _weight(weight, metric)
            inner = metric.parts.items() if isinstance(metric, Mixture) else [(metric, 1.0)]
            for leaf, scale in inner:
                merged[leaf] = merged.get(leaf, 0.0) + share * scale
        if len(merged) > MAX_PARTS:
            raise InvalidInput(
                f"a mixture must have at most {MAX_PARTS} parts; got {len(merged)}", field="metric.parts"
            )
        if not sum(merged.values()) > 0:
            raise InvalidInput("a mixture needs a positive weight; got only zeros", field="metric.parts")
        self.parts: dict[Metric, float] = dict(
            sorted(((m, w) for m, w in merged.items() if w > 0), key=lambda item: item[0].name)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts.items()))

    def __repr__(self) -> str:
        return f"Mixture({self.name!r})"

    @property
    def name(self) -> str:
        return "+".join(f"{weight!r}*{metric.name}" for metric, weight in self.parts.items())

    def value(self, pass_rate: Array) -> Array:
        return self._sum(metric.value(pass_rate) for metric in self.parts)

    def slope(self, pass_rate: Array) -> Array:
        return self._sum(metric.slope(pass_rate) for metric in self.parts)

    def headroom(self, population: Population) -> Array:
        # Each part has its own range v(1) − v(0); shares of the whole range.
        ends = [float(np.ptp(metric.value(np.array([0.0, 1.0])))) for metric in self.parts]
        spans = [weight * end for weight, end in zip(self.parts.values(), ends, strict=True)]
        rooms = [span * metric.headroom(population) for span, metric in zip(spans, self.parts, strict=True)]
        return np.asarray(sum(rooms) / sum(spans))

    def signal(self, population: Population, num_rollouts: int) -> Array:
        return self._sum(metric.signal(population, num_rollouts) for metric in self.parts)

    def to_dict(self) -> dict[str, Any]:
        parts = [{"weight": weight, "metric": metric.to_dict()} for metric, weight in self.parts.items()]
        return {"name": "mixture", "parts": parts}

    def _sum(self, values: Any) -> Array:
        return np.asarray(sum(weight * value for weight, value in zip(self.parts.values(), values, strict=True)))


_PART = re.compile(r"(?:(?P<weight>[^*]+)\*)?(?:pass@(?P<k>\d{1,7})|log:(?P<tau>[^*]+))")


def parse_metric(metric: "Metric | str") -> "Metric":
    """A metric from its name: "pass@8", "log:0.01", or a mixture such as "0.5*pass@1+0.5*pass@16".

    Raises:
        InvalidInput: anything else, or a parameter outside its range.
    """
    if isinstance(metric, (PassAtK, LogSuccess, Mixture)):
        return metric
    if not isinstance(metric, str):
        if all(hasattr(metric, name) for name in ("name", "value", "slope", "headroom", "signal")):
            return metric
        raise InvalidInput(f"metric must be a Metric or its name; got {metric!r:.60}", field="metric")
    parts: list[tuple[Metric, float]] = []
    # A plus sign inside an exponent ("1e+2") does not separate parts.
    for text in re.split(r"(?<![eE])\+", metric.replace(" ", "")):
        match = _PART.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            leaf: Metric = PassAtK(int(match["k"])) if match["k"] else LogSuccess(float(match["tau"]))
            parts.append((leaf, 1.0 if match["weight"] is None else float(match["weight"])))
        except InvalidInput:
            raise
        except ValueError:
            raise InvalidInput(
                f"metric must look like pass@8, log:0.01 or 0.5*pass@1+0.5*pass@16; got {metric!r:.60}",
                field="metric",
            ) from None
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    total: dict[Metric, float] = {}
    for leaf, weight in parts:
        # Checked here, before equal parts add up and a negative one could hide.
        total[leaf] = total.get(leaf, 0.0) + _weight(weight, leaf)
    return Mixture(total)


def _weight(weight: float, metric: Metric) -> float:
    """A weight of a mixture: 0, or from 1e-12 to 1e12, so that no part drowns in rounding."""
    try:
        least = 0.0 if weight == 0 else 1e-12
        return finite_number(weight, f"the weight of {metric.name}", minimum=least, maximum=1e12)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="metric.parts") from None
