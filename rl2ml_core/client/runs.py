"""A run that the service decides over, and that goes on without it.

Every decision is also made here, in a few milliseconds. For the same counts the two are the same, so a service that is
away is not missed, and what it missed is put once it is back.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from rl2ml_core.client.blocking import Client
from rl2ml_core.client.errors import ServiceDown, ServiceError
from rl2ml_core.client.shared import taking_over
from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.controller import ControllerSettings, ControllerState, Decision, start, step

__all__ = ["Run"]

#: Seconds that a window may spend on putting what the service missed; the rest waits for the next window.
_CATCHING_UP: Final = 5.0
#: The last digits may differ between processors; more is another version of the method.
_SAME: Final = 1e-6
_FIELDS: Final = ("run", "key", "sent", "unsent", "state")


class Run:
    """γ over a run by a service, with a state for checkpoints. It has no torch in it.

    Every window is kept by this process, so that a service which lost some of them gets them again.

    Args:
        client: where to ask.
        settings: of the run.
        pilot: counts measured before training; see `rl2ml_core.start_controller`.
        key: names the run among those of the API key, so that starting again gives the same run. A new one by default.

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
        if not isinstance(settings, ControllerSettings):
            raise InvalidInput(f"settings must be ControllerSettings; got {type(settings).__name__}", field="settings")
        self._client = client
        self._state, _ = start(settings, pilot)
        self._settings, self._pilot = settings, pilot
        self._key = key or uuid.uuid4().hex
        self._id: str | None = None
        self._windows: list[PilotHistogram | None] = []  # those from `_first` on
        self._first = self._sent = 0  # _sent: the window that the service takes next
        self._rewind = False  # whether it may have windows beyond
        self._alone = False  # whether it was given up
        try:
            self._catch_up()
        except ServiceDown as error:
            self._say(error)

    @property
    def decision(self) -> Decision:
        """The last decision, with its reason."""
        return self._state.decision

    @property
    def id(self) -> str | None:
        """The run's, once the service has it."""
        return self._id

    @property
    def is_current(self) -> bool:
        """Whether the service has every window."""
        return self._id is not None and not self._rewind and self._sent == self._state.index

    def put(self, window: PilotHistogram | None) -> Decision:
        """Close a window and choose the objective of the next one. The service being away or refusing is no failure.

        Args:
            window: the counts of all groups that were drawn in it; None where there were none.

        Raises:
            InvalidInput: as `rl2ml_core.step_controller`; nothing has changed then.
        """
        self._state, _ = step(self._state, window)
        self._windows.append(window)
        try:
            self._catch_up()
        except ServiceError as error:
            self._say(error)
        return self._state.decision

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: the run's name, how far the service is, what it lacks, and the controller's state."""
        unsent = self._windows[self._sent - self._first :]
        return {
            "run": self._id,
            "key": self._key,
            "sent": self._sent,
            "unsent": [None if window is None else [list(cell) for cell in window.cells()] for window in unsent],
            "state": self._state.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with the settings that are in it: the service's run is rewound to it.

        Raises:
            InvalidInput: not a state of `state_dict`.
        """
        if not isinstance(state, Mapping) or set(state) != set(_FIELDS):
            raise InvalidInput(f"state must be what `state_dict` gave; got {state!r:.60}", field="state")
        restored = ControllerState.from_dict(state["state"])
        windows = [None if cells is None else PilotHistogram.from_cells(cells) for cells in state["unsent"]]
        if state["sent"] + len(windows) != restored.index:
            raise InvalidInput("state must have windows up to its index; got others", field="state")
        self._state, self._settings = restored, restored.settings
        self._id, self._key = state["run"], str(state["key"])
        self._first = self._sent = state["sent"]
        self._windows = windows
        self._rewind, self._alone = self._id is not None, False
        if self._id is None and self._first:
            self._alone = True  # windows are missing that no one has
        try:
            self._catch_up()
        except ServiceError as error:
            self._say(error)

    def _catch_up(self) -> None:
        """Give the service what it lacks, within some seconds, and take its decision once it has everything."""
        if self._alone or self._client.health.is_out:
            return
        try:
            self._put_all()
        except ServiceDown:
            raise
        except ServiceError as error:
            if not self._mend(error):
                self._alone = bool(self._state.index)  # at the start a refusal is raised instead
                raise
            self._put_all()

    def _put_all(self) -> None:
        began, decision = time.monotonic(), None
        if self._id is None:
            created = self._client.create_run(self._settings, self._pilot, key=self._key)
            # A run of this key may be further on, by another rank or an earlier start. The first of its windows that is
            # not ours refuses our own, and then it is rewound.
            self._id, decision = created.id, created.decision
        if self._rewind:
            decision = self._client.rewind(self._id, self._sent).decision
            self._rewind = False
        while self._sent < self._state.index and time.monotonic() - began < _CATCHING_UP:
            decision = self._client.put_window(self._id, self._sent, self._windows[self._sent - self._first]).decision
            self._sent += 1
        if decision is not None and decision.index == self._state.index:
            self._follow(decision)

    def _mend(self, error: ServiceError) -> bool:
        """Put right what a refusal shows; whether another attempt may succeed."""
        expected = error.expected_index
        if expected is not None and expected > self._sent:
            self._rewind = True  # windows of a run that this one resumes, or of another process
            return True
        if expected is not None and expected >= self._first:
            self._sent = expected  # it was restored from a backup
            return True
        if error.status == 404 and self._first == 0 and self._id is not None:
            # It was lost, or never written to disk, and its key with it: all ranks find each other under that again.
            self._id, self._sent, self._rewind = None, 0, False
            return True
        return False

    def _follow(self, decision: Decision) -> None:
        """Take over the service's decision where it is not the one made here."""
        ours = self._state.decision
        if decision.gamma == ours.gamma:
            return
        if abs(decision.gamma - ours.gamma) > _SAME:
            self._client.health.warn(
                f"{self._client.url} decides for γ = {decision.gamma:.4g} where this process would for "
                f"{ours.gamma:.4g}: their versions differ. The service's decision is taken.",
                stacklevel=5,
                kind=f"differs {self._key}",
            )
        content = self._state.to_dict()
        said = {"gamma": decision.gamma, "code": decision.code, "reason": decision.reason, "status": decision.status}
        content["decision"] = said | {"diagnostics": [found.to_dict() for found in decision.diagnostics]}
        self._state = ControllerState.from_dict(content)

    def _say(self, error: ServiceError) -> None:
        if isinstance(error, ServiceDown):
            self._client.health.warn(taking_over(error), stacklevel=3)
        else:
            self._client.health.warn(
                f"{error}. From now on the solver in this process decides over this run alone.",
                stacklevel=3,
                kind=f"alone {self._key}",
            )
