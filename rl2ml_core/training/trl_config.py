"""`GRPOConfig` with an objective. See docs/trl.md."""

from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

from rl2ml_core.errors import MissingExtra
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.objective import Objective

try:
    from trl import GRPOConfig, GRPOTrainer
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise MissingExtra("Training with TRL", "trl") from None

__all__ = ["GRPOTrainer", "RL2MLConfig", "SomeGRPOTrainer"]

SomeGRPOTrainer: Any = object  # what a mixin stands before: a base only once it is mixed in


@dataclass
class RL2MLConfig(GRPOConfig):
    """`GRPOConfig` that names an objective and a reward, and divides the loss by a constant."""

    objective: str | None = field(default=None, metadata={"help": "File of the objective; an Objective in code."})
    correctness: str | None = field(default=None, metadata={"help": "Name of the reward function that gives 0 or 1."})
    loss_type: str = field(default="dr_grpo", metadata={"help": "dr_grpo or luspo; others divide by lengths."})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are saved and logged."""
        return {**super().to_dict(), "objective": _plain(self.objective)}


def _plain(objective: Any) -> Any:
    if isinstance(objective, Objective):
        return objective.to_dict()
    if isinstance(objective, AdvantageTable):
        return {"success": objective.success.tolist(), "failure": objective.failure.tolist()}
    if isinstance(objective, PathLike):
        return fspath(objective)
    return objective if isinstance(objective, str | None) else repr(objective)
