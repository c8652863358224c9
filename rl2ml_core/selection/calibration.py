"""How to rescale a learning rate that was tuned under another objective. App. B.3; docs/equations.md, E14."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LearningRate", "calibrate"]


@dataclass(frozen=True)
class LearningRate:
    """Multiply the rate tuned under `relative_to` by `multiplier`; for SGD-like optimizers only.

    Adam and AdamW are scale-invariant: multiplying there corrects twice.
    """

    multiplier: float | None  # RMS of the reference's advantages over ours; None where the reference has none
    relative_to: str
    advantage_rms: float
    applies_to: str = "sgd_like"
    assumes: str = "length_controlled_step"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(reference_rms: float | None, advantage_rms: float, relative_to: str) -> LearningRate:
    """RMS_reference / RMS_γ of the advantages, over rollouts of the pilot's population."""
    usable = reference_rms is not None and reference_rms > 0 and advantage_rms > 0
    multiplier = reference_rms / advantage_rms if usable and reference_rms is not None else None
    return LearningRate(multiplier, relative_to, advantage_rms)
