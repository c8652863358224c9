"""What adapters to trainers share: which objective a trainer is given, and what its settings do to the estimator.

A trainer's settings are read by their names alone, so nothing here imports a trainer. docs/training.md says what each
kind of setting breaks, and docs/trl.md, docs/verl.md … which settings a trainer should have.
"""

import warnings
from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Final, NamedTuple

from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.objective.objective import Objective
from rl2ml_core.training.lookup import Tables, require_tables

__all__ = ["EstimatorWarning", "Setting", "objective_of", "warn_of"]

# What a setting does to the estimator: the first half of the sentence that users read.
LENGTHS: Final = "divides by response lengths, so baselines no longer cancel and the objective is another one"
OFF_POLICY: Final = "takes steps on rollouts of an older policy, where clipping treats successes and failures unequally"
DROPS_GROUPS: Final = "drops groups of equal rewards, and with them weight that the objective gives to hard prompts"
DROPS_TERMS: Final = "leaves responses or tokens out of the loss whose successes the advantages count"
SAMPLER: Final = "samples from another distribution than the one whose log-probabilities are trained"


class EstimatorWarning(UserWarning):
    """A trainer's setting under which the gradient is no longer an unbiased estimate of the objective's."""


class Setting(NamedTuple):
    """A setting that breaks something, and what to set instead, both as the trainer's users write them."""

    written: str
    does: str
    instead: str

    def __str__(self) -> str:
        return f"{self.written} {self.does}. Set {self.instead}."


def warn_of(settings: Iterable[Setting], *, stacklevel: int = 2) -> None:
    """One `EstimatorWarning` per setting."""
    for setting in settings:
        warnings.warn(str(setting), EstimatorWarning, stacklevel=stacklevel + 1)


def objective_of(given: "Tables | str | PathLike[str] | None", name: str = "objective") -> Tables:
    """What to train with: an objective as it is, a known trainer by name, or the file that `Objective.save` wrote.

    Raises:
        InvalidInput: none of them, or a file that is not there or holds no objective.
    """
    if isinstance(given, str) and given in KNOWN_TRAINERS:
        return given
    if isinstance(given, str | PathLike):
        path = Path(fspath(given)).expanduser()
        try:
            return Objective.load(path)
        except OSError as error:
            raise InvalidInput(
                f"{name} must be a file that `Objective.save` or `rl2ml recommend` wrote, or one of "
                f"{', '.join(KNOWN_TRAINERS)}; got {str(path)!r}: {error.strerror or error}",
                field=name,
            ) from None
    if given is None:
        raise InvalidInput(f"{name} must be an Objective or the path of its file; got none", field=name)
    require_tables(given, name)
    return given
