"""Training with an objective: rewards → advantages → loss, and the scale that an optimizer feels.

The only part of the library that imports torch. All that a loop needs from γ is a table, so nothing here knows about γ:
advantages are looked up, and the loss weighs log-probabilities with them. See docs/training.md.
"""

from rl2ml_core.errors import MissingExtra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtra("Training", "training") from None

from rl2ml_core.training.advantages import GroupAdvantages, group_advantages
from rl2ml_core.training.calibration import AdvantageScale
from rl2ml_core.training.geometry import Estimate, MeasuredGeometry, PromptGeometry, measure_geometry
from rl2ml_core.training.lookup import HasTables, Tables
from rl2ml_core.training.loss import RL2MLLoss
from rl2ml_core.training.sketches import ScoreSketches

__all__ = [
    "AdvantageScale",
    "Estimate",
    "GroupAdvantages",
    "HasTables",
    "MeasuredGeometry",
    "PromptGeometry",
    "RL2MLLoss",
    "ScoreSketches",
    "Tables",
    "group_advantages",
    "measure_geometry",
]
