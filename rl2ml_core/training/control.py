"""A controller that lives in a trainer's process: groups in, the objective in force out. See docs/controller.md."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.objective import Objective
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.controller import ControllerSettings, ControllerState, Decision, start, step
from rl2ml_core.training.advantages import GroupAdvantages

__all__ = ["RunController", "RunsObjective"]


@runtime_checkable
class RunsObjective(Protocol):
    """What adapters ask of whoever decides over a run's γ, in this process or elsewhere."""

    @property
    def objective(self) -> Objective:
        """The objective to train with now."""
        ...

    def count(self, groups: GroupAdvantages) -> None:
        """Take in the groups of a batch, all that were drawn for training."""
        ...

    def decide(self) -> Decision:
        """Close the window; from then on `objective` is that of the decision."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON, for a checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...


class RunController:
    """γ over a run, decided in this process by the counts of its own groups.

    Where ranks see the counts of all groups, as with `process_group`, each may have a controller of its own: the same
    counts give the same decisions.

    Args:
        settings: of the run.
        pilot: counts measured before training; see `rl2ml_core.start_controller`.

    Raises:
        InvalidInput: as `start_controller`.
    """

    def __init__(self, settings: ControllerSettings, pilot: PilotHistogram | None = None) -> None:
        if not isinstance(settings, ControllerSettings):
            raise InvalidInput(f"settings must be ControllerSettings; got {type(settings).__name__}", field="settings")
        self._state, _ = start(settings, pilot)
        self._window: PilotHistogram | None = None

    @property
    def objective(self) -> Objective:
        """The objective of the window that is open."""
        return self.decision.objective

    @property
    def decision(self) -> Decision:
        """The last decision, with its reason."""
        return self._state.decision

    def count(self, groups: GroupAdvantages) -> None:
        """Take in the groups of a batch. They must be all that were drawn, before any filter."""
        if not len(groups.num_successes):
            return
        drawn = groups.histogram()
        self._window = drawn if self._window is None else self._window + drawn

    def decide(self) -> Decision:
        """Close the window and choose the objective of the next one."""
        self._state, decision = step(self._state, self._window)
        self._window = None
        return decision

    def state_dict(self) -> dict[str, Any]:
        """The state between two windows and the window that is open, as plain JSON."""
        cells = None if self._window is None else [list(cell) for cell in self._window.cells()]
        return {"state": self._state.to_dict(), "window": cells}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with the settings that are in it.

        Raises:
            InvalidInput: not a state of `state_dict`.
        """
        if not isinstance(state, Mapping) or set(state) != {"state", "window"}:
            raise InvalidInput(f"state must be what `state_dict` gave; got {state!r:.60}", field="state")
        restored = ControllerState.from_dict(state["state"])
        self._window = None if state["window"] is None else PilotHistogram.from_cells(state["window"])
        self._state = restored
