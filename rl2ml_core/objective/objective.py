"""An objective to train with: small, immutable, saved as JSON, and good for whatever group size turns up."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import resolve_baseline, rl2ml_table
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS, update_scales
from rl2ml_core.objective.population import BetaPrior, HasPopulation, Population, ScoreModel, as_population

__all__ = ["SCHEMA", "Objective"]

#: Version of the JSON form. A reader refuses versions that it does not know.
SCHEMA = 1


@dataclass(frozen=True)
class Objective:
    """γ with its truncation order and the estimator that optimizes it: everything a trainer's adapter needs.

    Args:
        gamma: γ ∈ [0, 20].
        baseline: a key of `BASELINES`; "bayes" when a population is given, else "leave_one_out". With
            "group_centered" a group of N optimizes J_{γ,N−1}, and a group of one nothing.
        population: a PilotHistogram or Population; kept as a Population. "bayes" and "minimum_variance" need one.
        score_model: the score model that the choice assumed, and that "minimum_variance" weighs noise by; None means
            the default.
        order: M, the truncation order. Groups smaller than M use their own size, larger ones keep the objective
            J_{γ,M}. None: every group uses its own size.
        num_rollouts: N it was chosen for; the table that `save` writes out.
        filter_groups: whether the trainer drops groups of equal rewards; as in `rl2ml_table`.

    Raises:
        InvalidInput: a value outside its range, or a baseline that needs a population without one.
    """

    gamma: float
    baseline: str | None = None
    population: "Population | HasPopulation | None" = None
    score_model: ScoreModel | None = None
    order: int | None = None
    num_rollouts: int | None = None
    filter_groups: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", finite_number(self.gamma, "gamma", minimum=0, maximum=MAX_GAMMA))
        object.__setattr__(self, "baseline", resolve_baseline(self.baseline, self.population))
        if self.score_model is not None:
            if not isinstance(self.score_model, ScoreModel):
                raise InvalidInput(
                    f"score_model must be a ScoreModel; got {self.score_model!r:.60}", field="score_model"
                )
            if self.score_model.is_default:
                object.__setattr__(self, "score_model", None)
        if self.population is not None:
            object.__setattr__(self, "population", as_population(self.population))
        for name in ("order", "num_rollouts"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, integer(value, name, minimum=1, maximum=MAX_ROLLOUTS))
        if not isinstance(self.filter_groups, bool):
            raise InvalidInput(
                f"filter_groups must be true or false; got {self.filter_groups!r:.60}", field="filter_groups"
            )

    def table(self, num_rollouts: int) -> AdvantageTable:
        """The advantages for a group of `num_rollouts`, for whatever N a group turns out to have. Kept by N."""
        num_rollouts = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
        kept = self._tables()
        if num_rollouts not in kept:
            kept[num_rollouts] = rl2ml_table(
                self.gamma,
                num_rollouts,
                self.baseline,
                self.population,
                self.score_model,
                None if self.order is None else min(self.order, num_rollouts),
                filter_groups=self.filter_groups,
            )
        return kept[num_rollouts]

    def update_scales(self, num_rollouts: int) -> Array:
        """α_K, K = 1..N, [N], of the objective that a group of `num_rollouts` optimizes, as `AdvantageTable` has them.

        With "group_centered" they are those of J_{γ,N−1} estimated from N rollouts (App. C with M = N−1), not the N−1
        scales of a group of N−1, by which it multiplies r/r̄ − 1. Where nothing is optimized they are zeros.
        """
        n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
        centered = self.baseline == "group_centered"
        if n == 1 and (centered or self.filter_groups):
            return np.zeros(1)
        largest = n - 1 if centered else n
        return update_scales(self.gamma, n, largest if self.order is None else min(self.order, largest))

    def to_dict(self, num_rollouts: int | None = None) -> dict[str, Any]:
        """The JSON form, with the table for `num_rollouts` (default: the N it was chosen for) written out."""
        n = num_rollouts or self.num_rollouts
        people = self.population if isinstance(self.population, Population) else None
        scores = self.score_model or ScoreModel()
        model = {**scores.to_dict(), "source": "default" if scores.is_default else "given"}
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "gamma": self.gamma,
            "order": self.order,
            "num_rollouts": n,
            "baseline": self.baseline,
            "filter_groups": self.filter_groups,
        }
        if n is not None:
            table = self.table(n)
            content["advantages"] = {
                "success": [None, *table.success[1:].tolist()],
                "failure": [*table.failure[:-1].tolist(), None],
            }
            content["update_scales"] = self.update_scales(n).tolist()
        prior = people.prior if people else None
        content["prior"] = None if prior is None else {"alpha": prior.alpha, "beta": prior.beta}
        content["score_model"] = model
        content["population"] = None if people is None else {"cells": _cells(people)}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The objective of a JSON form.

        Raises:
            InvalidInput: not such a form, another schema version, or advantages that its own γ does not give.
        """
        if not isinstance(content, Mapping) or "schema" not in content:
            raise InvalidInput("an objective needs a 'schema' field; is this a file that `Objective.save` wrote?")
        if content["schema"] != SCHEMA:
            raise InvalidInput(f"this version reads objectives of schema {SCHEMA}; got {content['schema']!r:.40}")
        try:
            objective = cls(
                gamma=content["gamma"],
                baseline=content["baseline"],
                population=_population(content.get("population"), content.get("prior")),
                score_model=_score_model(content.get("score_model")),
                order=content.get("order"),
                num_rollouts=content.get("num_rollouts"),
                filter_groups=content.get("filter_groups", False),
            )
            written = content.get("advantages")
            if written is not None:
                objective._verify([0.0, *written["success"][1:]], [*written["failure"][:-1], 0.0])
        except InvalidInput:
            raise
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise InvalidInput(f"an objective of schema {SCHEMA} is incomplete or malformed: {error!r:.80}") from None
        return objective

    def save(self, path: str | Path) -> None:
        """Write the objective as JSON, one line per field."""
        lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in self.to_dict().items())
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an objective that `save`, the service or the command line wrote.

        Raises:
            InvalidInput: not JSON, or not an objective; see `from_dict`.
            OSError: the file cannot be read.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise InvalidInput(f"{path} is not JSON; expected a file that `Objective.save` wrote") from None
        try:
            return cls.from_dict(content)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}", field=error.field) from None

    def _with_table(self, table: AdvantageTable) -> Self:
        """Itself, sparing the computation of a table that the caller has computed from the same parts."""
        self._tables()[table.num_rollouts] = table
        return self

    def _tables(self) -> dict[int, AdvantageTable]:
        kept: dict[int, AdvantageTable] = self.__dict__.setdefault("_kept_tables", {})
        return kept

    def _verify(self, success: list[float], failure: list[float]) -> None:
        table = self.table(integer(self.num_rollouts or 0, "num_rollouts", minimum=1))
        for written, computed in ((success, table.success), (failure, table.failure)):
            if len(written) != computed.size or not np.allclose(written, computed, rtol=1e-9, atol=1e-12):
                raise InvalidInput("the advantages written in this objective are not those of its γ and baseline")


def _cells(people: Population) -> list[list[float]]:
    totals = people.successes + people.failures
    rows = zip(totals.tolist(), people.successes.tolist(), people.weights.tolist(), strict=True)
    return [[int(x) if x.is_integer() else x for x in row] for row in rows]


def _population(content: Any, prior: Any) -> Population | None:
    if content is None:
        return None
    n, k, weights = np.array([[float(x) for x in cell] for cell in content["cells"]]).T
    return Population(k, n - k, weights, None if prior is None else BetaPrior(prior["alpha"], prior["beta"]))


def _score_model(content: Any) -> ScoreModel | None:
    if content is None or content.get("source") == "default":
        return None
    if content.get("name") == "paper":
        return ScoreModel.paper()
    return ScoreModel(content["kappa"], content.get("kappa_spread"))
