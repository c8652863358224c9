"""Under which conditions a pilot was sampled, and whether training samples under the same.

Success rates belong to a policy at a temperature: a pilot from another one describes other rates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from rl2ml_core.checks import finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.diagnostics import Diagnostic

__all__ = ["Conditions", "conditions_diagnostics"]

#: Room for a repository, a revision and a checkpoint; no room for prose.
MAX_POLICY_LENGTH = 200
#: Every step up to it is exact as a JSON number.
MAX_STEP = 1 << 53

_SHOWN = 60  # characters of a policy's name that a sentence repeats
_EXAMPLE = "temperature=0.6,policy=sft-3,step=0"


@dataclass(frozen=True)
class Conditions:
    """What rollouts are sampled from. None stands for "not said".

    Args:
        temperature: of sampling, at least 0.
        policy: a name for the weights, such as a checkpoint's; up to 200 printable characters.
        step: the training step of those weights, 0 to 2^53.

    Raises:
        InvalidInput: a value outside these ranges; `field` is its name.
    """

    temperature: float | None = None
    policy: str | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            object.__setattr__(self, "temperature", finite_number(self.temperature, "temperature", minimum=0))
        if self.policy is not None:
            object.__setattr__(self, "policy", _name(self.policy))
        if self.step is not None:
            object.__setattr__(self, "step", integer(self.step, "step", minimum=0, maximum=MAX_STEP))

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a command line: "temperature=0.6,policy=sft-3,step=0", in any order, each at most once.

        Raises:
            InvalidInput: another name, a name twice, a part without "=", or a value outside its range.
        """
        said: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in _READERS:
                raise InvalidInput(f"conditions must read like {_EXAMPLE}; got {part.strip()!r:.60}")
            if name in said:
                raise InvalidInput(f"conditions must give {name} once; got it twice", field=name)
            said[name] = _READERS[name](value)
        return cls(**said)

    def to_dict(self) -> dict[str, Any]:
        """What is said, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def conditions_diagnostics(sampled: Conditions | None, training: Conditions | None) -> list[Diagnostic]:
    """What is not said of the pilot (`metadata_missing`), and where training differs (`metadata_mismatch`, one each).

    Args:
        sampled: the conditions of the pilot.
        training: the conditions of training's own rollouts, at its start.
    """
    pilot, trainer = sampled or Conditions(), training or Conditions()
    found = []
    missing = [words for name, words in _WORDS.items() if getattr(pilot, name) is None]
    if missing:
        listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        detail = f"The pilot does not say its {listed}, on which success rates depend."
        found.append(Diagnostic("metadata_missing", "info", detail))
    for differs in (_temperatures, _policies, _steps):
        detail = differs(pilot, trainer)
        if detail:
            found.append(Diagnostic("metadata_mismatch", "warning", detail))
    return found


def _temperatures(pilot: Conditions, training: Conditions) -> str:
    if pilot.temperature is None or training.temperature is None:
        return ""
    if math.isclose(pilot.temperature, training.temperature, rel_tol=1e-9):  # .1 · 6 is .6
        return ""
    return (
        f"The pilot was sampled at temperature {pilot.temperature:g}, training samples at {training.temperature:g}: "
        "success rates differ."
    )


def _policies(pilot: Conditions, training: Conditions) -> str:
    if pilot.policy is None or training.policy is None or pilot.policy == training.policy:
        return ""
    return (
        f"The pilot was sampled from policy {_shown(pilot.policy)}, training starts from {_shown(training.policy)}: "
        "success rates differ."
    )


def _steps(pilot: Conditions, training: Conditions) -> str:
    if pilot.step is None or training.step is None or pilot.step == training.step:
        return ""
    if training.step < pilot.step:
        return f"The pilot was sampled at step {pilot.step}, training is at step {training.step}: success rates differ."
    old = training.step - pilot.step
    return f"The pilot is {old} step{'s' * (old > 1)} old: success rates have moved since."


def _name(value: object) -> str:
    expected = f"policy must be a name of 1 to {MAX_POLICY_LENGTH} printable characters"
    if not isinstance(value, str):
        raise InvalidInput(f"{expected}; got {value!r:.60}", field="policy")
    name = value.strip()
    if not 0 < len(name) <= MAX_POLICY_LENGTH:
        raise InvalidInput(f"{expected}; got {len(name)}", field="policy")
    # Names are repeated in sentences that terminals and pages show: no line breaks, escapes or direction marks.
    if not name.isprintable():
        raise InvalidInput(f"{expected}; got {name!r:.60}", field="policy")
    return name


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"temperature must be a number; got {text!r:.60}", field="temperature") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"step must be an integer; got {text!r:.60}", field="step") from None


#: How each condition is read from a command line, and what a sentence calls it.
_READERS: dict[str, Callable[[str], float | str]] = {"temperature": _number, "policy": str, "step": _integer}
_WORDS = {"temperature": "temperature", "policy": "policy", "step": "training step"}
