"""γ over a TRL run, as a callback: the trainer counts groups into it and takes its objective. See docs/trl.md."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from rl2ml_core.checks import integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.controller import ControllerSettings
from rl2ml_core.training.control import RunController, RunsObjective

__all__ = ["RL2MLController", "controller_among"]

logger = logging.get_logger(__name__)
_SAVED_AS = "rl2ml_controller"


class RL2MLController(TrainerCallback):
    """Closes a window every `steps_per_window` optimizer steps. Its state is saved with every checkpoint.

    Every rank has one, and all decide alike, as all see the counts of all groups.

    Args:
        control: the settings of a run, or who decides about it.
        pilot: counts measured before training; with settings only.
        steps_per_window: optimizer steps from one decision to the next. Windows of 64 groups or more are best.

    Raises:
        InvalidInput: a value outside its range.
    """

    def __init__(
        self,
        control: ControllerSettings | RunsObjective,
        pilot: PilotHistogram | None = None,
        *,
        steps_per_window: int = 8,
    ) -> None:
        if isinstance(control, ControllerSettings):
            control = RunController(control, pilot)
        elif pilot is not None:
            raise InvalidInput("pilot must come with ControllerSettings; got another controller", field="pilot")
        elif not isinstance(control, RunsObjective):
            raise InvalidInput(f"control must be ControllerSettings; got {type(control).__name__}", field="control")
        self.control: RunsObjective = control
        self.steps_per_window = integer(steps_per_window, "steps_per_window", minimum=1)

    # transformers restores callbacks only if told to, and by making new ones; an entry of its own is always there.
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Go on where the checkpoint was saved, if this is a resumed run."""
        if state.global_step and _SAVED_AS in state.stateful_callbacks:
            self.control.load_state_dict(state.stateful_callbacks[_SAVED_AS])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Close the window when it is full."""
        if state.global_step % self.steps_per_window == 0:
            decision = self.control.decide()
            if state.is_world_process_zero:
                say = logger.warning if decision.moved else logger.info
                say(f"Step {state.global_step}: {decision.reason}")
        state.stateful_callbacks[_SAVED_AS] = self.control.state_dict()


def controller_among(callbacks: Sequence[Any] | None, objective: Any = None) -> RL2MLController | None:
    """The controller that a trainer was given.

    Raises:
        InvalidInput: more than one, or one and an objective.
    """
    found = [each for each in callbacks or () if isinstance(each, RL2MLController)]
    if len(found) > 1:
        raise InvalidInput(f"callbacks must have one RL2MLController at most; got {len(found)}", field="callbacks")
    if found and objective is not None:
        raise InvalidInput(
            "objective must be left out with RL2MLController, which chooses it; got both", field="objective"
        )
    return found[0] if found else None
