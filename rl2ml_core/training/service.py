"""A controller whose decisions are the service's: groups in, the objective in force out. See docs/client.md."""

from collections.abc import Mapping
from typing import Any

from rl2ml_core.client import Client, Run
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.objective import Objective
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.controller import ControllerSettings, Decision
from rl2ml_core.training.advantages import GroupAdvantages

__all__ = ["ServiceController"]


class ServiceController:
    """`RunController` by a service: the same decisions for the same counts, kept there, and made here while it is away.

    Args:
        client: where to ask. It stays open.
        settings: of the run.
        pilot: counts measured before training; see `rl2ml_core.start_controller`.
        key: names the run. Where every rank has a controller, give all ranks the same one.

    Raises:
        InvalidInput: as `start_controller`.
        ServiceError: the service is there and refuses, for want of a key for example.
    """

    def __init__(
        self,
        client: Client,
        settings: ControllerSettings,
        pilot: PilotHistogram | None = None,
        *,
        key: str | None = None,
    ) -> None:
        self.run = Run(client, settings, pilot, key=key)
        self._window: PilotHistogram | None = None

    @property
    def objective(self) -> Objective:
        """The objective of the window that is open."""
        return self.run.decision.objective

    @property
    def decision(self) -> Decision:
        """The last decision, with its reason."""
        return self.run.decision

    def count(self, groups: GroupAdvantages) -> None:
        """Take in the groups of a batch. They must be all that were drawn, before any filter."""
        if not len(groups.num_successes):
            return
        drawn = groups.histogram()
        self._window = drawn if self._window is None else self._window + drawn

    def decide(self) -> Decision:
        """Close the window and choose the objective of the next one."""
        decision = self.run.put(self._window)
        self._window = None
        return decision

    def state_dict(self) -> dict[str, Any]:
        """The run between two windows and the window that is open, as plain JSON."""
        cells = None if self._window is None else [list(cell) for cell in self._window.cells()]
        return {"run": self.run.state_dict(), "window": cells}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: the service's run is rewound to it.

        Raises:
            InvalidInput: not a state of `state_dict`.
        """
        if not isinstance(state, Mapping) or set(state) != {"run", "window"}:
            raise InvalidInput(f"state must be what `state_dict` gave; got {state!r:.60}", field="state")
        window = None if state["window"] is None else PilotHistogram.from_cells(state["window"])
        self.run.load_state_dict(state["run"])
        self._window = window
