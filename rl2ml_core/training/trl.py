"""TRL's `GRPOTrainer` with an objective: its advantages are replaced, everything else stays TRL's. See docs/trl.md.

TRL shuffles and splits the batch right after `_generate_and_score_completions`: that is the last place where groups are
whole. There rewards are gathered already, and a group's rows lie side by side, whatever ranks they come from.
"""

from inspect import signature
from typing import Any

import torch

from rl2ml_core.training.lookup import Tables
from rl2ml_core.training.settings import objective_of, warn_of
from rl2ml_core.training.trl_batch import Batch, correct_logs, reward_columns, rows_of_rank
from rl2ml_core.training.trl_config import GRPOTrainer, RL2MLConfig, SomeGRPOTrainer
from rl2ml_core.training.trl_controller import RL2MLController, controller_among
from rl2ml_core.training.trl_settings import check_arguments, check_bases, reward_roles, trl_settings

__all__ = ["RL2MLConfig", "RL2MLController", "RL2MLMixin", "RL2MLTrainer"]


class RL2MLMixin(SomeGRPOTrainer):
    """For subclasses of `GRPOTrainer`: `class Mine(RL2MLMixin, MyTrainer)`. Arguments are theirs and two more.

    Args:
        objective: an `Objective`, its file, or a known trainer's name; default: `args.objective`. None where
            `callbacks` has an `RL2MLController`.
        correctness: the reward function that gives 0, 1 or None (missing); default: `args.correctness`, or the only
            one. Other functions are logged, and trained on only as shaping, if `args.reward_weights` weighs them.

    Raises:
        InvalidInput: no objective or no such reward function; in training, a reward that is not 0, 1 or None.
    """

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        check_bases(cls, RL2MLMixin, GRPOTrainer)

    def __init__(self, *given: Any, objective: Tables | None = None, correctness: str | None = None, **named: Any):
        arguments = dict(zip(signature(GRPOTrainer).parameters, given, strict=False)) | named
        args = arguments.get("args")
        chosen = getattr(args, "objective", None) if objective is None else objective
        controller = controller_among(arguments.get("callbacks"), chosen)
        self._objective = controller.control.objective if controller else objective_of(chosen)
        check_arguments(args, self._objective)  # all that can be refused before a model is loaded
        super().__init__(*given, **named)
        main = self.accelerator.is_main_process
        name = correctness or getattr(self.args, "correctness", None)
        weights = None if self.args.reward_weights is None else self.reward_weights.tolist()
        self._correct, self._shaping = reward_roles(self.reward_func_names, name, weights, warn=main)
        warn_of(trl_settings(self.args, self.model) if main else (), stacklevel=2)

    @property
    def objective(self) -> Tables:
        """What is trained with now: the controller's choice, if there is one."""
        controller = controller_among(self.callback_handler.callbacks)
        return controller.control.objective if controller else self._objective

    def _calculate_rewards(self, *given: Any, **named: Any) -> torch.Tensor:
        self._rewards.append(super()._calculate_rewards(*given, **named))  # of all ranks, [rows, functions]
        return self._rewards[-1]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        training = self.model.training  # a backend may leave the model in another mode
        self._rewards: list[torch.Tensor] = []
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        size = self.num_generations if training else self.num_generations_eval
        columns = reward_columns(self._rewards, self.reward_func_names, self._correct, size)
        batch = Batch.of(self.objective, columns, self._correct, self._shaping)
        output["advantages"] = rows_of_rank(batch.advantages, self.accelerator.process_index, len(inputs), output)
        correct_logs(self._metrics["train" if training else "eval"], self._logs, batch)
        if training and (controller := controller_among(self.callback_handler.callbacks)):
            controller.control.count(batch.groups)
        return output


class RL2MLTrainer(RL2MLMixin, GRPOTrainer):
    """`GRPOTrainer` that trains with an objective."""

    _tag_names, _name = ["trl", "rl2ml"], "RL2ML"  # on model cards
